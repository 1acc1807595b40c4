"""Keeps the state of each record, by its key, in an SQLite file, so that a later run sends nothing twice.

    waiting ──a──► sending ──b──► delivered
       ▲ ▲            │ │ └──c──► dead
       │ └─────d──────┘ │
       └──f── uncertain ◄──e

a  The state is on the disk before the first byte is posted.
b  Butter accepted the record.
c  Butter will never accept it.
d  Butter did not take it now, or did not answer. It is tried again.
e  The run was killed between a and the answer. Butter may have the record.
f  A person lets it be sent again.

The journal stores no lines. It has digests, line numbers, and the reasons of dead records.
"""

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from butter_middleware.errors import ConfigurationError, OutboxBusyError
from butter_middleware.models.seen_ids import SeenID, after

APPLICATION_ID: Final = 0x42757466
"""Marks the file as ours, in SQLite's own header field."""
VERSION: Final = 2
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # `run` is the last run whose input had the record, at line `number`.
    """CREATE TABLE IF NOT EXISTS lines (
        key BLOB PRIMARY KEY, number INTEGER NOT NULL, run INTEGER NOT NULL,
        state INTEGER NOT NULL DEFAULT 0, reason TEXT) WITHOUT ROWID""",
    # For the digest of one ID: sixteen bits of its e-mail address, which tell two addresses apart and reveal neither.
    "CREATE TABLE IF NOT EXISTS people (id INTEGER PRIMARY KEY, person INTEGER NOT NULL)",
    # The IDs of delivered records.
    """CREATE TABLE IF NOT EXISTS seen_ids (
        id INTEGER PRIMARY KEY, address INTEGER NOT NULL, payment_ids INTEGER NOT NULL)""",
    # The IDs that this run has read. A later run reads the input again, because it may have been corrected.
    """CREATE TEMP TABLE read_ids (
        id INTEGER PRIMARY KEY, address INTEGER NOT NULL, payment_ids INTEGER NOT NULL)""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
"""The tables of a new journal. They are also added to a journal of a release that had fewer."""


class State(IntEnum):
    """The state of one record."""

    WAITING = 0
    SENDING = 1
    DELIVERED = 2
    DEAD = 3
    UNCERTAIN = 4


class Entry(NamedTuple):
    """The journal's entry for one key."""

    number: int
    run: int
    state: int
    """A `State`."""
    reason: str | None


class Mark(NamedTuple):
    """A change of one record's state."""

    state: State
    reason: str | None
    key: bytes
    ids: Sequence[SeenID] = ()
    """The IDs of a delivered record: later runs check them against other addresses."""


class Journal:
    """An open journal, which no other process has open.

    Args:
        path: The file, created with mode 0600 if it does not exist. None makes a temporary one, for a dry run.

    Raises:
        OutboxBusyError: another process has it open.
        ConfigurationError: it cannot be created, or is not a journal.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._db = _open(path)
        self.run = int(self._get("run") or "0")
        """Counts the passes through the input."""
        self.mark_all(State.SENDING, State.UNCERTAIN)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Generator[None]:
        """Commit all changes within the block, or none. If not `durable`, a power cut may undo them."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}").close()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def begin_run(self) -> None:
        """Begin a pass through the input."""
        with self.transaction():
            self.run += 1
            self._set("run", str(self.run))
            self._db.execute("DELETE FROM people")
            self._db.execute("DELETE FROM read_ids")

    # Within a transaction.

    def entry(self, key: bytes) -> Entry | None:
        """Return the entry of a key."""
        row = self._db.execute("SELECT number, run, state, reason FROM lines WHERE key = ?", (key,)).fetchone()
        return None if row is None else Entry(*row)

    def note(self, key: bytes, number: int) -> None:
        """Note that a line of this run has a key."""
        self._db.execute(
            """INSERT INTO lines (key, number, run) VALUES (?, ?, ?)
            ON CONFLICT (key) DO UPDATE SET number = excluded.number, run = excluded.run""",
            (key, number, self.run),
        )

    def is_stranger(self, psp: str, name: str, value: str, email: str) -> bool:
        """Return whether an earlier line of this run had this ID with another e-mail address. The first one counts."""
        digest = hashlib.blake2b(f"{psp} {name} {value}".encode("utf-8", "replace"), digest_size=8).digest()
        # Salted, so that the bits of two IDs cannot be combined.
        bits = hashlib.blake2b(email.casefold().encode("utf-8", "replace"), digest_size=2, salt=digest).digest()
        number, person = int.from_bytes(digest, signed=True), int.from_bytes(bits)
        row = self._db.execute("SELECT person FROM people WHERE id = ?", (number,)).fetchone()
        if row is None:
            self._db.execute("INSERT INTO people VALUES (?, ?)", (number, person))
        return row is not None and row[0] != person

    def may_send(self, ids: Sequence[SeenID]) -> bool:
        """Return whether no line that was delivered, or read in this run, has one of these IDs with another address.

        It remembers them for this run.
        """
        known: dict[int, SeenID] = {}
        for table in ("seen_ids", "read_ids"):
            sql = f"SELECT id, address, payment_ids FROM {table} WHERE id IN ({', '.join('?' * len(ids))})"  # noqa: S608 - question marks
            known |= {row[0]: SeenID(*row) for row in self._db.execute(sql, [one.id for one in ids])}
        may_send, changed = after(known, ids)
        self._db.executemany("INSERT OR REPLACE INTO read_ids VALUES (?, ?, ?)", changed)
        return may_send

    # Each of these is a transaction.

    def mark(self, marks: Sequence[Mark]) -> None:
        """Write states to the disk."""
        with self.transaction():
            self._db.executemany("UPDATE lines SET state = ?, reason = ? WHERE key = ?", [mark[:3] for mark in marks])
            sql = "INSERT OR REPLACE INTO seen_ids SELECT * FROM read_ids WHERE id = ?"
            self._db.executemany(sql, [(one.id,) for mark in marks for one in mark.ids])

    def mark_all(self, state: State, becomes: State) -> None:
        """Change all records of one state to another."""
        with self.transaction():
            self._db.execute("UPDATE lines SET state = ? WHERE state = ?", (becomes, state))

    def agree(self, destination: str, ids: Mapping[str, str], *, same_account: bool) -> None:
        """Store the settings that all runs must share, and check that this run has the same.

        Args:
            destination: The account.
            ids: The source of the PSP and of each ID. With other sources, a record would have another key.
            same_account: Whether this is the account of the earlier runs, under another username.

        Raises:
            ConfigurationError: this run does not go with the earlier ones.
        """
        kept: dict[str, Any] = json.loads(self._get("agreed") or "{}")
        if kept and self.counts().total():
            if kept["destination"] != destination and not same_account:
                msg = (
                    f"{self.path} is about another account ({kept['destination'].rpartition(' ')[0]}, and this is "
                    f"{destination.rpartition(' ')[0]}, or another username). To send to this one too, give it a "
                    "journal of its own with --progress. If only the username has changed, say --same-account."
                )
                raise ConfigurationError(msg)
            if kept["ids"] != ids:
                other = sorted(dict(kept["ids"].items() ^ ids.items()))
                msg = (
                    f"this backfill was begun with other IDs ({self.path} has them; {', '.join(other)} came from "
                    "another column or value). What was sent would be sent again. Give the same --map and --set, or "
                    "a new journal with --progress, to send every line again."
                )
                raise ConfigurationError(msg)
        with self.transaction():
            self._set("agreed", json.dumps({"destination": destination, "ids": dict(ids)}))

    def rejects_size(self, path: str) -> int | None:
        """Return the size of the last run's file of rejects. None if that run was killed."""
        kept: dict[str, int | None] = json.loads(self._get("rejects") or "{}")
        return kept.get(path, 0)

    def keep_rejects_size(self, path: str, size: int | None) -> None:
        """Store the size of the file of rejects, for `rejects_size`."""
        with self.transaction():
            self._set("rejects", json.dumps({path: size}))

    def counts(self) -> Counter[State]:
        """Count the records that are not waiting, by state."""
        rows = self._db.execute("SELECT state, count(*) FROM lines WHERE state > 0 GROUP BY state")
        return Counter({State(state): count for state, count in rows})

    def uncertain_lines(self, limit: int = 1000) -> list[int]:
        """Return the numbers of the lines that Butter may have."""
        sql = "SELECT number FROM lines WHERE state IN (?, ?) ORDER BY number LIMIT ?"
        return [number for (number,) in self._db.execute(sql, (State.SENDING, State.UNCERTAIN, limit))]

    def _get(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def destination(base_url: str, environment: str, username: str) -> str:
    """Name an account, without its username."""
    return f"{environment} at {base_url} {hashlib.blake2b(username.encode(), digest_size=8).hexdigest()}"


def _open(path: Path | None) -> sqlite3.Connection:
    try:
        if path is not None:
            # SQLite gives its -wal the mode of the file, and would create the file itself readable for all.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path or "", timeout=0.0, isolation_level=None)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            msg = f"another process is sending this file ({path} is in use). Wait for its end, or stop it."
            raise OutboxBusyError(msg) from None
        raise _unusable(path, error.sqlite_errorname) from None
    except (OSError, sqlite3.DatabaseError) as error:
        raise _unusable(path, getattr(error, "strerror", None) or "it is not a journal") from None
    return connection


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    # The file stays locked while it is open.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()
    pragmas = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    application_id, version, tables = (int(connection.execute(sql).fetchone()[0]) for sql in pragmas)
    if application_id != APPLICATION_ID and (application_id or tables):
        msg = f"{path} is another program's database. Name another file with --progress."
        raise ConfigurationError(msg)
    if version not in {0, VERSION}:
        msg = f"{path} was written by another version of butter-middleware. Use that version, or a new --progress."
        raise ConfigurationError(msg)
    for pragma in ("journal_mode = WAL", "trusted_schema = OFF", "cache_size = -32768"):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _unusable(path: Path | None, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the journal {path} cannot be used ({reason}). Name another place for it with --progress, on a local disk."
    )
