"""What people see and do: entries that wait for them, tried again or dropped."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from butter_middleware.models.http import Capture
from butter_middleware.outbox.sqlite.schema import UNOWNED


class Waiting(StrEnum):
    """What waits for a person."""

    PARKED = "parked"
    """Captures that could not be read as they should."""
    DEAD = "dead"
    """Records that Butter will not accept."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One of them, without personal data."""

    id: int
    captured_at: float
    """Seconds since the epoch."""
    reason: str
    """A `ParkReason`, or the answer that the record died of."""
    detail: str
    """For a person; for a dead record its key."""
    attempts: int


_LIST = {
    Waiting.PARKED: """SELECT id, captured_at, reason, detail, 0 FROM captures
        WHERE reason IS NOT NULL AND id > ? ORDER BY id LIMIT ?""",
    Waiting.DEAD: """SELECT id, captured_at, reason, key, attempts FROM records
        WHERE dead_at IS NOT NULL AND id > ? ORDER BY id LIMIT ?""",
}
_SHOW = {
    Waiting.PARKED: "SELECT head, body FROM captures WHERE reason IS NOT NULL AND id = ?",
    Waiting.DEAD: "SELECT payload, x'' FROM records WHERE dead_at IS NOT NULL AND id = ?",
}
_DROP = {
    Waiting.PARKED: "DELETE FROM captures WHERE reason IS NOT NULL AND id = ?",
    Waiting.DEAD: "DELETE FROM records WHERE dead_at IS NOT NULL AND id = ?",
}


def entries(connection: sqlite3.Connection, state: Waiting, limit: int, after: int) -> list[Entry]:
    """List up to `limit` entries with a number above `after`."""
    return [Entry(*row) for row in connection.execute(_LIST[state], (after, limit))]


def content(connection: sqlite3.Connection, state: Waiting, number: int) -> tuple[str, bytes] | None:
    """Give an entry's stored JSON text and its body: personal data. None if it is not there."""
    row = connection.execute(_SHOW[state], (number,)).fetchone()
    return None if row is None else (str(row[0]), bytes(row[1]))


def numbers(connection: sqlite3.Connection, state: Waiting) -> list[int]:
    """Give the numbers of all entries."""
    rows = connection.execute(_LIST[state], (0, -1))
    return [row[0] for row in rows]


def capture(connection: sqlite3.Connection, number: int) -> Capture | None:
    """Give a parked capture, with both of its bodies; None if it is not there, or another version's."""
    sql = "SELECT head, body, request_body FROM captures WHERE reason IS NOT NULL AND id = ?"
    row = connection.execute(sql, (number,)).fetchone()
    try:
        return None if row is None else Capture.from_head(*row)
    except (KeyError, TypeError, ValueError):
        return None


def drop(connection: sqlite3.Connection, state: Waiting, numbers: Iterable[int]) -> int:
    """Delete entries for good; gives how many there were."""
    return sum(connection.execute(_DROP[state], (number,)).rowcount for number in numbers)


def retry(connection: sqlite3.Connection, state: Waiting, numbers: Iterable[int], now: float) -> int:
    """Have entries tried once more; gives how many there were. The leader reads parked ones within seconds."""
    if state is Waiting.DEAD:
        sql = """UPDATE records SET dead_at = NULL, reason = NULL, attempts = 0, due_at = ?
            WHERE dead_at IS NOT NULL AND id = ?"""
        return sum(connection.execute(sql, (now, number)).rowcount for number in numbers)
    # Captures without an owner are read by the leader at once, and it may skip them.
    sql = "UPDATE captures SET reason = NULL, detail = NULL, pile = ? WHERE reason IS NOT NULL AND id = ?"
    return sum(connection.execute(sql, (UNOWNED, number)).rowcount for number in numbers)
