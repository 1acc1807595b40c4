"""A backfill put together: its input, its journal, and what a run that goes on must have in common with the first."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from butter_middleware.backfill.ahead import Ahead
from butter_middleware.backfill.columns import Columns
from butter_middleware.backfill.journal import Journal
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import Source
from butter_middleware.backfill.totals import Totals
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import Record
from butter_middleware.reader.evidence import ids_of

SAMPLE: Final = 3
"""Records that a rehearsal shows."""
PATIENCE: Final = 25.0
"""Seconds for another sender of the same file to end: one whose command was killed finishes what is on its way."""


@dataclass(frozen=True)
class Job:
    """What is sent, by which reading, to whom, and where it is noted.

    Args:
        reread: Read the input from its beginning once more; what is known is not sent again.
        resend_uncertain: Send again what was on its way when a run was killed.
        same_account: The account is the one that got the earlier lines, though it does not look so.
    """

    source: Source
    columns: Columns
    destination: str
    journal: Path
    rejects: Path
    reread: bool = False
    resend_uncertain: bool = False
    same_account: bool = False

    @contextmanager
    def opened(self, waiting: Callable[[], None]) -> Generator[Journal]:
        """Open the journal, at the place where an earlier run ended, and begin to read.

        Raises:
            OutboxBusyError: another process sends this input.
            ConfigurationError: this run does not go with the earlier one; in what, and the remedy.
        """
        with ExitStack() as stack:
            journal = Journal(self.journal, patience=PATIENCE, waiting=waiting)
            stack.callback(journal.close)
            journal.recover()
            # Of another file nothing is known: what lies there is not written over.
            size = journal.totals.rejects if journal.identity().get("rejects") == self.rejects.name else 0
            anew = self._begins_anew(journal)
            rejects = Rejects(
                self.rejects, self.source.form, self.source.columns, self.source.delimiter, size=size, anew=anew
            )
            stack.callback(rejects.close)
            if anew:
                journal.begin_pass(forget_waiting=self.source.size is not None)
            else:
                self._go_on(journal)
            kept = {"reading": self._reading, "destination": self.destination, "rejects": self.rejects.name}
            journal.set_identity(kept)
            ahead = Ahead(self.source, self.columns, lambda: journal.wake())  # noqa: PLW0108 - the engine sets it later
            journal.attach(ahead, rejects, lambda raw: self.columns.record(self.source.values(json.loads(raw))))
            if self.resend_uncertain:
                journal.resend_uncertain()
            stack.callback(ahead.stop)
            ahead.start()
            yield journal

    def _begins_anew(self, journal: Journal) -> bool:
        """Say whether the input is to be read from its beginning though it was read before."""
        kept, totals = journal.identity(), journal.totals
        if not kept:
            return False
        if totals.delivered + totals.dead + totals.uncertain and kept["destination"] != self.destination:
            self._refuse_other_account(kept["destination"])
        if kept["reading"] != self._reading:
            if totals.admitted and not self.reread:
                msg = (
                    f"this backfill was begun with other columns, values or format ({self.journal} has them). Give "
                    "the same, or --reread to read all lines anew: what was sent is known, and not sent again."
                )
                raise ConfigurationError(msg)
            return True
        return self.reread or (self.source.size is None and bool(totals.read))

    def _go_on(self, journal: Journal) -> None:
        position, checked = journal.place
        if position.offset and not self.source.resume(position, checked):
            msg = (
                f"the input is not the one that {self.journal} is about: its first {position.number} lines have "
                "changed since they were read. Give the old file back, or --reread to read it anew: what was sent is "
                "known by its IDs, and not sent again."
            )
            raise ConfigurationError(msg)

    def _refuse_other_account(self, other: str) -> None:
        if not self.same_account:
            msg = (
                f"{self.journal} is about another account ({other.rpartition(' ')[0]}, where this is "
                f"{self.destination.rpartition(' ')[0]}, or another username). To send to this one too, give it a "
                "journal of its own with --progress; where only the username has changed, say --same-account."
            )
            raise ConfigurationError(msg)

    @property
    def _reading(self) -> dict[str, Any]:
        columns = self.columns
        return {"form": self.source.form, "columns": dict(columns.given), "values": dict(columns.constants)}


def destination(base_url: str, environment: str, username: str) -> str:
    """Name an account, without its username."""
    return f"{environment} at {base_url} {hashlib.blake2b(username.encode(), digest_size=8).hexdigest()}"


@dataclass(slots=True)
class DryRun:
    """What a run would do."""

    totals: Totals = field(default_factory=Totals)
    sample: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    """The first payloads: personal data."""
    keys: list[str] = field(default_factory=list[str])
    """Of the first object, in JSON lines."""
    strength: Counter[str] = field(default_factory=Counter[str])
    """Records by the IDs that they carry."""


def dry_run(source: Source, columns: Columns, rejects: Rejects | None) -> Iterator[DryRun]:
    """Read all lines and send none; gives the same rehearsal after each.

    Raises:
        InputError: the input cannot be read beyond a line.
    """
    found = DryRun()
    totals = found.totals
    known = sqlite3.connect("", isolation_level=None)  # on the disk, without a name, and gone when it is closed
    known.execute("PRAGMA synchronous = OFF").close()
    known.execute("CREATE TABLE keys (key BLOB PRIMARY KEY) WITHOUT ROWID")
    known.execute("BEGIN")
    try:
        for line in source:
            totals.read += 1
            totals.offset, totals.number = line.after
            found.keys = found.keys or list(line.values)
            record = line.problem or columns.record(line.values)
            if not isinstance(record, Record):
                totals.rejected += 1
                totals.reject(record)
                if rejects is not None:
                    rejects.add(line.number, record, line.raw)
            elif not known.execute("INSERT OR IGNORE INTO keys VALUES (?)", (bytes.fromhex(record.key),)).rowcount:
                totals.duplicates += 1
            else:
                totals.admitted += 1
                found.strength[ids_of(record)] += 1
                if len(found.sample) < SAMPLE:
                    found.sample.append(json.loads(record.payload))
            yield found
    finally:
        known.close()
