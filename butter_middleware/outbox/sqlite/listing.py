"""The entries that wait for a person: lists them, drops them, or lets them be tried again."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from butter_middleware.models.http import Capture
from butter_middleware.outbox.sqlite.schema import UNOWNED


class Waiting(StrEnum):
    """The kinds of entries that wait for a person."""

    PARKED = "parked"
    """Captures that could not be read."""
    DEAD = "dead"
    """Records that Butter will not accept."""


ROWS: Final = {
    Waiting.PARKED: "captures WHERE reason IS NOT NULL",
    Waiting.DEAD: "records WHERE dead_at IS NOT NULL",
}
"""Their table and condition, as SQL."""
_FIELDS: Final = {
    Waiting.PARKED: "id, captured_at, reason, detail, 0",
    Waiting.DEAD: "id, captured_at, reason, key, attempts",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, without personal data."""

    id: int
    captured_at: float
    """Seconds since the epoch."""
    reason: str
    """A `ParkReason`, or the answer that made the record dead."""
    detail: str
    """For a person. For a dead record, its key."""
    attempts: int


def entries(connection: sqlite3.Connection, state: Waiting, limit: int, after: int) -> list[Entry]:
    """List up to `limit` entries with a number above `after`. A limit of -1 lists all of them."""
    sql = f"SELECT {_FIELDS[state]} FROM {ROWS[state]} AND id > ? ORDER BY id LIMIT ?"  # noqa: S608 - constants
    return [Entry(*row) for row in connection.execute(sql, (after, limit))]


def numbers(connection: sqlite3.Connection, state: Waiting) -> list[int]:
    """Return the numbers of all entries."""
    return [entry.id for entry in entries(connection, state, -1, 0)]


def payload(connection: sqlite3.Connection, number: int) -> str | None:
    """Return a dead record as JSON, which is personal data. None if it is not there."""
    row = connection.execute(f"SELECT payload FROM {ROWS[Waiting.DEAD]} AND id = ?", (number,)).fetchone()  # noqa: S608
    return None if row is None else str(row[0])


def capture(connection: sqlite3.Connection, number: int) -> Capture | None:
    """Return a parked capture with both bodies. None if it is not there, or another version's."""
    sql = f"SELECT head, body, request_body FROM {ROWS[Waiting.PARKED]} AND id = ?"  # noqa: S608 - a constant
    row = connection.execute(sql, (number,)).fetchone()
    try:
        return None if row is None else Capture.from_head(*row)
    except (KeyError, TypeError, ValueError):
        return None


def drop(connection: sqlite3.Connection, state: Waiting, numbers: Iterable[int]) -> int:
    """Delete entries for good. Return their number."""
    sql = f"DELETE FROM {ROWS[state]} AND id = ?"  # noqa: S608 - a constant
    return sum(connection.execute(sql, (number,)).rowcount for number in numbers)


def retry(connection: sqlite3.Connection, state: Waiting, numbers: Iterable[int], now: float) -> int:
    """Let entries be tried again. Return their number. The leader reads parked ones within seconds."""
    if state is Waiting.DEAD:
        sql = """UPDATE records SET dead_at = NULL, reason = NULL, attempts = 0, due_at = ?
            WHERE dead_at IS NOT NULL AND id = ?"""
        return sum(connection.execute(sql, (now, number)).rowcount for number in numbers)
    # The leader reads captures without an owner at once, and may skip them.
    sql = "UPDATE captures SET reason = NULL, detail = NULL, pile = ? WHERE reason IS NOT NULL AND id = ?"
    return sum(connection.execute(sql, (UNOWNED, number)).rowcount for number in numbers)
