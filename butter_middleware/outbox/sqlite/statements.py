"""What is done to the file, each in the transaction that its caller began. States are those of `protocol`."""

import json
import logging
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import RawHeaders
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import CREDENTIAL_HEADERS, Capture
from butter_middleware.models.partial import Part, joined
from butter_middleware.outbox.base import FAR_FUTURE, Counts, Parked, Pending, Settled, Settlement, StoredCapture
from butter_middleware.outbox.sqlite.locks import ADOPTER, LockFile
from butter_middleware.outbox.sqlite.seats import SHARED, Seat

PRUNE_STEP: Final = 500
"""Rows a transaction."""
MOST_ROWS: Final = 64
"""Captures a statement; SQLite may take no more than 999 values."""

CaptureRow = tuple[float, str, bytes, bytes | None]
"""`captured_at`, `head`, `body`, `request_body`."""


def new_pile(connection: sqlite3.Connection, slot: int) -> int | None:
    """Insert the pile of whoever holds a slot. Whoever had it before is dead, or the byte could not have been taken."""
    connection.execute("UPDATE piles SET slot = NULL WHERE slot = ?", (slot,))
    return connection.execute("INSERT INTO piles (slot) VALUES (?)", (slot,)).lastrowid


def row_of(capture: Capture) -> CaptureRow:
    """Return a capture as it is stored. What waits on disk holds no credential, whoever made the capture.

    Raises:
        Exception: an annotation is no JSON, or a part is of another type than it should be.
    """
    headers, response_headers = _harmless(capture.headers), _harmless(capture.response_headers)
    if len(headers) + len(response_headers) < len(capture.headers) + len(capture.response_headers):
        capture = capture._replace(headers=headers, response_headers=response_headers)
    return capture.captured_at, capture.head(), capture.body, capture.request_body


def _harmless(headers: RawHeaders) -> RawHeaders:
    return [header for header in headers if header[0].lower() not in CREDENTIAL_HEADERS]


def append(connection: sqlite3.Connection, rows: Sequence[tuple[int, CaptureRow]]) -> None:
    """Insert captures, each with its pile.

    Many rows a statement, since each statement lets go of the interpreter's lock and has to wait for it again. The
    numbers of rows are powers of two, so that few statements are prepared.
    """
    start = 0
    while start < len(rows):
        count = min(1 << ((len(rows) - start).bit_length() - 1), MOST_ROWS)
        values = [value for pile, row in rows[start : start + count] for value in (pile, *row)]
        connection.execute(_insert(count), values)
        start += count


@cache
def _insert(count: int) -> str:
    places = ", ".join(["(?, ?, ?, ?, ?)"] * count)
    return f"INSERT INTO captures (pile, captured_at, head, body, request_body) VALUES {places}"  # noqa: S608 - a constant


def captures(connection: sqlite3.Connection, seat: Seat, limit: int) -> list[StoredCapture]:
    """Give captures of the seat's piles, oldest first, then parked ones that it has not tried."""
    found = dict(_captured(connection, seat, limit))
    shared = {number for number, pile in found.items() if pile == SHARED}
    coming = seat.parked or deque()
    parked = list(islice(coming, max(0, limit - len(found))))
    # A person may have had a parked one tried already.
    numbers = [*found, *(number for number in parked if number not in seat.given and number not in found)]
    stored = [one for number in numbers if (one := _load(connection, number, shared=number in shared)) is not None]
    in_vain = set(numbers) - {one.id for one in stored}
    seat.given.update(numbers)
    seat.unreadable |= in_vain & found.keys()
    seat.owed -= len(in_vain - shared) + len(found) + len(parked) - len(numbers)
    for _number in parked:
        coming.popleft()
    return stored


def _captured(connection: sqlite3.Connection, seat: Seat, limit: int) -> list[tuple[int, int]]:
    """Give numbers of captures, each with its pile."""
    numbers: list[tuple[int, int]] = []
    piles = connection.execute("SELECT id FROM piles WHERE slot = ? ORDER BY id", (seat.slot,)).fetchall()
    sql = "SELECT id FROM captures WHERE pile = ? AND reason IS NULL ORDER BY id LIMIT ?"
    for (pile,) in piles:
        wanted = limit - len(numbers)
        if wanted <= 0:
            break
        rows = connection.execute(sql, (pile, wanted + len(seat.given)))
        numbers += [(number, pile) for (number,) in rows if number not in seat.given][:wanted]
    return numbers


def _load(connection: sqlite3.Connection, number: int, *, shared: bool) -> StoredCapture | None:
    row = connection.execute("SELECT head, body, request_body FROM captures WHERE id = ?", (number,)).fetchone()
    if row is None:
        return None
    try:
        return StoredCapture(number, Capture.from_head(*row), shared)
    except (KeyError, TypeError, ValueError) as error:
        message = f"capture {number} cannot be read by this version ({type(error).__name__}); it stays"
        log_thread.log(logging.ERROR, message, name="outbox", event="outbox", reason="capture_unreadable")
        return None


def resolve(
    connection: sqlite3.Connection, capture_id: int, outcome: Sequence[Record] | Parked | Part, now: float, since: float
) -> int:
    """Park a capture, or replace it by its records or a part; gives how many were known."""
    made = _made(connection, capture_id)
    if isinstance(outcome, Parked):
        records = outcome.records
        there = _park(connection, capture_id, outcome, made | {record.key for record in records})
    else:
        records = () if isinstance(outcome, Part) else outcome
        there = connection.execute("DELETE FROM captures WHERE id = ?", (capture_id,)).rowcount
    if not there and connection.execute("SELECT 1 FROM tombstones WHERE key = ?", (erased(capture_id),)).fetchone():
        return 0
    if isinstance(outcome, Part):
        return join(connection, outcome, now, since)
    new = [record for record in records if record.key not in made]
    return len(records) - len(new) + add(connection, new, now, since)


def _made(connection: sqlite3.Connection, capture_id: int) -> set[str]:
    """Give the keys of the records that a capture gave when it was parked."""
    sql = "SELECT head FROM captures WHERE id = ? AND instr(head, ?)"
    row = connection.execute(sql, (capture_id, '"made": [')).fetchone()
    return set() if row is None else set(json.loads(row[0]).get("made", ()))


def _park(connection: sqlite3.Connection, capture_id: int, parked: Parked, made: set[str]) -> int:
    """Park a capture, with the keys of what it gave already in its head; says whether it is there."""
    if made:
        (head,) = connection.execute("SELECT head FROM captures WHERE id = ?", (capture_id,)).fetchone() or ("{}",)
        head = json.dumps(json.loads(head) | {"made": sorted(made)})
        connection.execute("UPDATE captures SET head = ? WHERE id = ?", (head, capture_id))
    row = (parked.reason, parked.detail, capture_id)
    return connection.execute("UPDATE captures SET reason = ?, detail = ? WHERE id = ?", row).rowcount


def erased(capture_id: int) -> str:
    """Return the tombstone's key of a capture that a person deleted: who was just reading it makes no record of it."""
    return f"capture:{capture_id}"


def join(connection: sqlite3.Connection, part: Part, now: float, since: float) -> int:
    """Keep a part, or make the record that it completes; gives how many were known."""
    sql = "SELECT 1 FROM tombstones WHERE key = ? AND delivered_at > ?"
    if connection.execute(sql, (part.key, since)).fetchone():
        return 1
    sql = "SELECT shopper, fields, captured_at FROM parts WHERE key = ?"
    rows = connection.execute(sql, (part.key,)).fetchall()
    parts = {bool(shopper): Part(part.key, bool(shopper), json.loads(fields), at) for shopper, fields, at in rows}
    parts[part.shopper] = kept = part.after(parts.get(part.shopper))
    record = joined(parts.get(True), parts.get(False))
    if record is None:
        row = (kept.key, kept.shopper, json.dumps(dict(kept.fields), default=_text), kept.captured_at)
        connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", row)
        return 0
    connection.execute("DELETE FROM parts WHERE key = ?", (part.key,))
    connection.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?)", (part.key, now))
    return add(connection, [record], now, since)


def _text(value: bytes | bytearray) -> str:
    """Return as text the only values that pass for text in a `Checkout` and are no JSON."""
    return value.decode()


def expire(connection: sqlite3.Connection, before: float) -> int:
    """Delete old parts; gives how many there were."""
    return connection.execute("DELETE FROM parts WHERE captured_at < ?", (before,)).rowcount


def add(connection: sqlite3.Connection, records: Iterable[Record], now: float, since: float) -> int:
    """Insert records that are unknown by key here and among those delivered after `since`; gives how many were known.

    A record is due at once; what was captured first goes first.
    """
    sql = """INSERT OR IGNORE INTO records (key, captured_at, due_at, payload, traceparent)
        SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE key = ? AND delivered_at > ?)"""
    known = 0
    for record in records:
        due_at = min(record.captured_at, now)
        row = (record.key, record.captured_at, due_at, record.payload, record.traceparent, record.key, since)
        known += not connection.execute(sql, row).rowcount
    return known


def adopt(connection: sqlite3.Connection, seat: Seat, locks: LockFile) -> int:
    """Take over the piles of the dead and, once and where it is this seat's turn, what is parked.

    Gives how many more are to be given: fewer than none, where some that were counted will not be.
    """
    adopted = 0
    # Who was slow to see that the lock file was replaced may have added to a pile that looked dead and was deleted.
    connection.execute(
        """INSERT INTO piles (id, slot) SELECT DISTINCT pile, NULL FROM captures
            WHERE reason IS NULL AND pile NOT IN (SELECT id FROM piles)"""
    )
    for pile, slot in connection.execute("SELECT id, slot FROM piles WHERE slot IS NOT ?", (seat.slot,)).fetchall():
        if slot is not None and not locks.is_free(slot):
            continue
        sql = "SELECT count(*) FROM captures WHERE pile = ? AND reason IS NULL"
        left = int(connection.execute(sql, (pile,)).fetchone()[0])
        if left:
            connection.execute("UPDATE piles SET slot = ? WHERE id = ?", (seat.slot, pile))
        else:
            connection.execute("DELETE FROM piles WHERE id = ?", (pile,))
        # To the shared pile more is added while it is read: what is there counts when it is given.
        adopted += 0 if pile == SHARED else left
    if seat.parked is None and locks.take(ADOPTER, seat):
        rows = connection.execute("SELECT id FROM captures WHERE reason IS NOT NULL ORDER BY id")
        seat.parked = deque(number for (number,) in rows)
        seat.owed += len(seat.parked)
    return adopted + seat.owed


def claim(connection: sqlite3.Connection, seat: Seat, limit: int, now: float) -> list[Pending]:
    """Give records that are due and not claimed, those due longest first, those of another clock's future last."""
    wanted = limit + len(seat.claimed)
    due = _due(connection, "due_at <= ?", now, wanted)
    if len(due) < wanted:
        due += _due(connection, "due_at > ?", now + FAR_FUTURE, wanted - len(due))
    claimed = [pending for pending in due if pending.id not in seat.claimed][:limit]
    seat.claimed.update(pending.id for pending in claimed)
    return claimed


def _due(connection: sqlite3.Connection, condition: str, bound: float, limit: int) -> list[Pending]:
    sql = f"""SELECT id, attempts, key, payload, captured_at, coalesce(traceparent, '') FROM records
        WHERE dead_at IS NULL AND {condition} ORDER BY due_at, id LIMIT ?"""  # noqa: S608 - a constant of `claim`
    rows = connection.execute(sql, (bound, limit))
    return [Pending(number, Record(*record), attempts) for number, attempts, *record in rows]


def settle(connection: sqlite3.Connection, settlements: Iterable[Settlement], now: float) -> None:
    """End claims. What a person dropped meanwhile is passed over."""
    delivered = 0
    for settlement in settlements:
        delivered += _settle(connection, settlement, now)
    if delivered:
        connection.execute("UPDATE meta SET value = value + ? WHERE name = 'delivered'", (delivered,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'last_delivered_at'", (now,))


def _settle(connection: sqlite3.Connection, settlement: Settlement, now: float) -> int:
    number = settlement.id
    match settlement.settled:
        case Settled.DELIVERED:
            connection.execute(
                "INSERT OR REPLACE INTO tombstones SELECT key, ? FROM records WHERE id = ?", (now, number)
            )
            return connection.execute("DELETE FROM records WHERE id = ?", (number,)).rowcount
        case Settled.DEAD:
            sql = "UPDATE records SET dead_at = ?, reason = ?, attempts = attempts + 1 WHERE id = ?"
            connection.execute(sql, (now, settlement.reason, number))
        case Settled.RETRY:
            sql = "UPDATE records SET due_at = ?, reason = ?, attempts = attempts + 1 WHERE id = ?"
            connection.execute(sql, (settlement.due_at or now, settlement.reason, number))
        case Settled.RELEASED:
            if settlement.due_at:
                connection.execute("UPDATE records SET due_at = ? WHERE id = ?", (settlement.due_at, number))
    return 0


def set_hold(connection: sqlite3.Connection, reason: str | None) -> None:
    """Keep why nothing is sent."""
    connection.execute("UPDATE meta SET value = ? WHERE name = 'hold'", (reason,))


def hold(connection: sqlite3.Connection) -> str | None:
    """Give why nothing is sent."""
    reason = connection.execute("SELECT value FROM meta WHERE name = 'hold'").fetchone()[0]
    return None if reason is None else str(reason)


def to_read(connection: sqlite3.Connection, seat: Seat) -> int:
    """Count what a seat is to read now, or could adopt where nobody lived; parked captures while it tries them."""
    sql = """SELECT count(*) FROM captures WHERE reason IS NULL
        AND pile NOT IN (SELECT id FROM piles WHERE slot IS NOT NULL AND slot IS NOT ?)"""
    waiting = int(connection.execute(sql, (seat.slot,)).fetchone()[0])
    return max(0, waiting - len(seat.unreadable)) + len(seat.parked or ())


def next_due(connection: sqlite3.Connection) -> float | None:
    """Give when the next record is due."""
    due = connection.execute("SELECT min(due_at) FROM records WHERE dead_at IS NULL").fetchone()[0]
    return None if due is None else float(due)


def counts(connection: sqlite3.Connection) -> Counts:
    """Count."""
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    captured, parked, dead, parts = connection.execute(
        """SELECT (SELECT count(*) FROM captures WHERE reason IS NULL),
            (SELECT count(*) FROM captures WHERE reason IS NOT NULL),
            (SELECT count(*) FROM records WHERE dead_at IS NOT NULL),
            (SELECT count(*) FROM parts)"""
    ).fetchone()
    oldest = connection.execute("SELECT captured_at FROM records WHERE dead_at IS NULL ORDER BY id LIMIT 1").fetchone()
    return Counts(
        captured=captured,
        pending=meta["pending"],
        parked=parked,
        dead=dead,
        parts=parts,
        delivered=meta["delivered"],
        oldest_pending_at=None if oldest is None else oldest[0],
        last_delivered_at=meta["last_delivered_at"],
        hold=meta["hold"],
    )


def prune(connection: sqlite3.Connection, buried_before: float, kept_since: float | None) -> bool:
    """Delete a step of old tombstones and, where there is a retention, of parked and dead; say if there is more."""
    steps = ["DELETE FROM tombstones WHERE key IN (SELECT key FROM tombstones WHERE delivered_at < ? LIMIT ?)"]
    bounds = [buried_before]
    if kept_since is not None:
        for table, state in (("captures", "reason IS NOT NULL"), ("records", "dead_at IS NOT NULL")):
            old = f"SELECT id FROM {table} WHERE {state} AND captured_at < ? LIMIT ?"  # noqa: S608 - constants
            steps.append(f"DELETE FROM {table} WHERE id IN ({old})")  # noqa: S608 - constants
            bounds.append(kept_since)
    deleted = [connection.execute(sql, (bound, PRUNE_STEP)).rowcount for sql, bound in zip(steps, bounds, strict=True)]
    return PRUNE_STEP in deleted
