"""How a file stands, for a person: what waits, for whom, and who works on it."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from butter_middleware.outbox.base import Counts
from butter_middleware.outbox.sqlite import statements
from butter_middleware.outbox.sqlite.locks import LEADER, LockFile


@dataclass(frozen=True, slots=True)
class Overview:
    """How a file stands."""

    counts: Counts
    parked: Mapping[str, int]
    """By reason."""
    dead: Mapping[str, int]
    """By the answer that they died of."""
    oldest_captured_at: float | None
    next_due_at: float | None
    """When the next pending record is to be sent."""
    unread: int
    """Captures that no living process is going to read."""
    readers: int
    """Living processes with the app's extractors, or outboxes in them."""
    deliverer: int | None
    """The process that delivers; 0 where it cannot be told which; None where there is none."""


def overview(connection: sqlite3.Connection, locks: LockFile) -> Overview:
    """Look at a file."""
    living = {
        pile: slot
        for pile, slot in connection.execute("SELECT id, slot FROM piles WHERE slot IS NOT NULL").fetchall()
        if locks.owner(slot) is not None
    }
    # By an index alone: the bodies of a backlog are not read.
    sql = "SELECT pile, count(*), min(id) FROM captures WHERE reason IS NULL GROUP BY pile"
    piles = connection.execute(sql).fetchall()
    oldest = min((number for _pile, _count, number in piles), default=0)
    return Overview(
        counts=statements.counts(connection),
        parked=_by_reason(connection, "captures WHERE reason IS NOT NULL"),
        dead=_by_reason(connection, "records WHERE dead_at IS NOT NULL"),
        oldest_captured_at=_captured_at(connection, oldest),
        next_due_at=statements.next_due(connection),
        unread=sum(count for pile, count, _number in piles if pile not in living),
        readers=len(set(living.values())),
        deliverer=locks.owner(LEADER),
    )


def _by_reason(connection: sqlite3.Connection, source: str) -> dict[str, int]:
    sql = f"SELECT coalesce(reason, '?'), count(*) FROM {source} GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608 - constants
    return dict(connection.execute(sql).fetchall())


def _captured_at(connection: sqlite3.Connection, number: int) -> float | None:
    row = connection.execute("SELECT captured_at FROM captures WHERE id = ?", (number,)).fetchone()
    return None if row is None else float(row[0])
