"""The state of a file, for a person: what waits, for what, and which process works on it."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from butter_middleware.outbox.base import Counts
from butter_middleware.outbox.sqlite.listing import ROWS, Waiting
from butter_middleware.outbox.sqlite.locks import LEAD, Locks
from butter_middleware.outbox.sqlite.store import SQLiteStore, counts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a file."""

    counts: Counts
    parked: Mapping[str, int]
    """Their number by reason."""
    dead: Mapping[str, int]
    """Their number by the answer that made them dead."""
    oldest_captured_at: float | None
    next_due_at: float | None
    """When the next pending record is due."""
    readers: bool
    """Whether a process is alive that reads captures with the app's extractors."""
    deliverer: int | None
    """The ID of the process that delivers. 0: it is not known which. None: no process delivers."""

    @property
    def unread(self) -> int:
        """Captures that no living process will read."""
        return 0 if self.readers else self.counts.captured


def snapshot(store: SQLiteStore) -> Snapshot:
    """Look at a file.

    Raises:
        OutboxBrokenError: it cannot be read.
    """
    with store.explaining():
        deliverer, readers = store.locks.holder(LEAD), store.locks.has_readers()

    def look(connection: sqlite3.Connection) -> Snapshot:
        return Snapshot(
            counts=counts(connection),
            parked=_by_reason(connection, Waiting.PARKED),
            dead=_by_reason(connection, Waiting.DEAD),
            # With an index on the number, so that the bodies of a backlog are not read.
            oldest_captured_at=_number(
                connection,
                "SELECT captured_at FROM captures WHERE id = (SELECT min(id) FROM captures WHERE reason IS NULL)",
            ),
            next_due_at=_number(connection, "SELECT min(due_at) FROM records WHERE dead_at IS NULL"),
            readers=readers or _an_old_process_reads(connection, store.locks),
            deliverer=deliverer,
        )

    return store.read(look)


def _an_old_process_reads(connection: sqlite3.Connection, locks: Locks) -> bool:
    """Whether a process of an earlier release is alive. Each has its own lock."""
    slots = connection.execute("SELECT DISTINCT slot FROM piles WHERE slot IS NOT NULL").fetchall()
    return any(locks.holder(slot) is not None for (slot,) in slots)


def _by_reason(connection: sqlite3.Connection, state: Waiting) -> dict[str, int]:
    sql = f"SELECT coalesce(reason, '?'), count(*) FROM {ROWS[state]} GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608 - constants
    return dict(connection.execute(sql).fetchall())


def _number(connection: sqlite3.Connection, sql: str) -> float | None:
    row = connection.execute(sql).fetchone()
    return None if row is None or row[0] is None else float(row[0])
