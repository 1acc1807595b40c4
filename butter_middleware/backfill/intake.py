"""Makes records of lines. Leaves out what an earlier line or run has sent, and rejects invalid lines."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from butter_middleware.backfill.columns import REASONS_APART, Columns, ids_in
from butter_middleware.backfill.journal import Journal, State
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import Line, Source
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import Record, key_of
from butter_middleware.models.seen_ids import seen_ids

MOST_REASONS: Final = 100
MOST_NAMED: Final = 20
"""The most line numbers that a result lists."""
_OF_ONE_CHECKOUT: Final = frozenset({"invoice_id", "charge_id", "transaction_id"})
"""IDs that belong to one checkout only."""
OTHER_ADDRESS: Final = (
    "ipv4_address: an earlier line has one of its IDs with another address, and no checkout is sent with two. If they "
    "are several payments of one subscription, give an invoice_id, charge_id or transaction_id with each"
)


@dataclass(slots=True)
class Totals:
    """The counts of a run so far."""

    offset: int = 0
    """The size of the input."""
    read: int = 0
    """Lines that are neither blank nor a header."""
    rejected: int = 0
    """Invalid lines, and records that Butter will not accept, in all runs."""
    duplicates: int = 0
    """Lines with the PSP and the IDs of an earlier one."""
    strangers: int = 0
    """Lines with an ID of an earlier line, and another person's e-mail address."""
    stranger_lines: list[int] = field(default_factory=list[int])
    """The first of them."""
    waiting: int = 0
    """Records that must be sent."""
    waiting_lines: list[int] = field(default_factory=list[int])
    """The first of those lines, set when the run ends."""
    sent: int = 0
    """Records of all runs, as in `uncertain`."""
    sent_before: int = 0
    """Those of them that earlier runs sent."""
    uncertain: int = 0
    broken_off: int = 0
    """Posts that ended without an answer. Their lines are sent again."""
    last_failure: str = ""
    """Butter's last answer that did not accept a record, in a few words."""
    reasons: Counter[str] = field(default_factory=Counter[str])
    """The reasons for rejected lines. A line may have several."""


@dataclass(slots=True)
class Waiting:
    """A line that must be sent."""

    record: Record
    line: Line
    attempts: int = 0

    @property
    def key(self) -> bytes:
        """The record's key in the journal."""
        return bytes.fromhex(self.record.key)


class Intake:
    """One pass through an input. Without `rejects`, invalid lines are only counted."""

    def __init__(self, source: Source, columns: Columns, journal: Journal, rejects: Rejects | None = None) -> None:
        self.source = source
        self._columns = columns
        self.journal = journal
        self._rejects = rejects
        self.names = source.columns
        """The columns, or the keys of the first object."""
        journal.begin_run()
        counts = journal.counts()
        sent = counts[State.DELIVERED]
        self.totals = Totals(
            sent=sent, sent_before=sent, rejected=counts[State.DEAD], uncertain=counts[State.UNCERTAIN]
        )

    def __iter__(self) -> Iterator[Waiting]:
        """Yield all records to send. Raises what `Source.read` and `take` raise."""
        while lines := self.source.read():
            yield from self.take(lines)

    def take(self, lines: Sequence[Line]) -> list[Waiting]:
        """Return the records to send of these lines.

        Raises:
            OSError, sqlite3.Error: the file of rejects or the journal cannot be written.
        """
        with self.journal.transaction(durable=False):
            taken = [waiting for line in lines if (waiting := self._take(line)) is not None]
        self.totals.waiting += len(taken)
        return taken

    def reject(self, line: Line, reason: str) -> None:
        """Count and keep a line that will not be sent. Raises what `Rejects.add` raises."""
        reasons = self.totals.reasons
        for one in reason.split(REASONS_APART):
            reasons[one if one in reasons or len(reasons) < MOST_REASONS else "other reasons"] += 1
        if self._rejects is not None:
            self._rejects.add(line.number, reason, line.raw)

    def _take(self, line: Line) -> Waiting | None:
        """Return the record of a line, if this run must send it."""
        self.totals.offset = line.end
        self.totals.read += 1
        self.names = self.names or list(line.values)
        try:
            fields = {} if line.problem else self._columns.fields(line.values)
        except ConfigurationError as error:
            self._refuse(line, str(error))
            return None
        key = bytes.fromhex(key_of({"psp": str(fields.get("psp", "")), **ids_in(fields)}))
        entry = self.journal.entry(key)
        is_known = entry is not None and entry.state != State.WAITING
        record: Record | None = None
        # A settled line was valid, so its record is not made: the key alone costs a twentieth of that.
        is_settled = entry is not None and entry.state in {State.DELIVERED, State.DEAD}
        if entry is None or not is_settled or entry.run == self.journal.run or entry.number != line.number:
            found = line.problem or self._columns.record(fields)
            if not isinstance(found, Record):
                self._refuse(line, found)
                return None
            record = found
        self._compare(line, fields)
        if entry is not None and entry.run == self.journal.run:
            self.totals.duplicates += 1
            return None
        if record is not None and not self.journal.may_send(seen_ids(record.fields)) and not is_known:
            self._refuse(line, OTHER_ADDRESS)
            return None
        self.journal.note(key, line.number)
        if is_known or record is None:
            if entry is not None and entry.state == State.DEAD:
                self.reject(line, entry.reason or "")
            return None
        return Waiting(record, line)

    def _refuse(self, line: Line, reason: str) -> None:
        self.totals.rejected += 1
        self.reject(line, reason)

    def _compare(self, line: Line, fields: dict[str, Any]) -> None:
        psp, email = str(fields.get("psp", "")), str(fields.get("customer_email", "")).strip()
        strange = [
            self.journal.is_stranger(psp, name, value, email)
            for name, value in ids_in(fields).items()
            if name in _OF_ONE_CHECKOUT
        ]
        if any(strange):
            self.totals.strangers += 1
            if len(self.totals.stranger_lines) < MOST_NAMED:
                self.totals.stranger_lines.append(line.number)
