"""The outbox on a disk: plain methods over SQL. Each of them is one transaction.

Writes that must survive a power cut wait for the disk (`full`): captures, and the changes of a person. Writes that can
be repeated after a power cut do not. Then a record may be sent twice.
"""

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import RawHeaders
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import CREDENTIAL_HEADERS, Capture
from butter_middleware.models.partial import Part, joined
from butter_middleware.models.reasons import Skip
from butter_middleware.models.seen_ids import SeenID, after, seen_ids
from butter_middleware.outbox.base import (
    COUNTED_SECONDS,
    FAR_FUTURE,
    HOUR,
    TOKEN_SECONDS,
    Count,
    Counts,
    Outcome,
    Parked,
    Pending,
    Resolution,
    Resolved,
    Settled,
    Settlement,
    StoredCapture,
)
from butter_middleware.outbox.faults import checked
from butter_middleware.outbox.sqlite.database import Database
from butter_middleware.outbox.sqlite.locks import LEAD, READERS
from butter_middleware.outbox.sqlite.schema import UNOWNED, own_pile
from butter_middleware.outbox.steady import Look

if TYPE_CHECKING:
    from butter_middleware.outbox.sqlite.outbox import SQLiteOutbox

CaptureRow = tuple[float, str, bytes, bytes | None]
"""`captured_at`, `head`, `body`, `request_body`."""

HourKey = tuple[int, str, str, str]
"""Hour, name, route and reason of a count."""

DAY: Final = 86400.0
MOST_ROWS: Final = 64
"""Captures in one statement, and numbers in one query. SQLite may accept only 999 values."""
UNREAD_BYTES: Final = 16 * 1024**2
"""The size of the captures that `unread` returns at once. The last one may exceed it."""
PRUNE_STEP: Final = 500
"""Rows in one transaction."""
MOST_MARKS: Final = 2
"""How often a capture is taken over from a process that died while reading it."""
_OLDEST: Final = "SELECT captured_at FROM records WHERE dead_at IS NULL ORDER BY captured_at LIMIT 1"


class SQLiteStore(Database):
    """Captures and records in an SQLite file that any number of processes of a host share.

    Args:
        outbox: The file, and its limits.
        reads: Whether this process reads what it captures.
        by_person: Whether the command line opens it.
        give_up: Called while the store waits for the write lock. If it returns True, the wait ends after a second.
    """

    durable = True

    def __init__(
        self,
        outbox: "SQLiteOutbox",
        *,
        reads: bool = True,
        by_person: bool = False,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(outbox.path, outbox.max_bytes, reads=reads, by_person=by_person, give_up=give_up)
        self._outbox = outbox
        self._clock = checked(outbox.clock)
        self._unreadable: set[int] = set()

    # Captures.

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        """Insert captures. Return their numbers.

        Raises:
            Exception: one of them cannot be stored, for example because an annotation is not JSON.
        """
        rows = [_row_of(capture) for capture in captures]

        def insert(connection: sqlite3.Connection) -> list[int]:
            if owned and self._pile is None:
                self._pile = own_pile(connection)
            pile = self._pile if owned else UNOWNED
            numbers: list[int] = []
            for count, few in _in_powers(rows):
                values = [value for row in few for value in (pile, *row)]
                last = connection.execute(_insert(count), values).lastrowid or 0
                numbers += range(last - count + 1, last + 1)
            return numbers

        return self._write(insert, full=True)

    @property
    def unreadable(self) -> int:
        """How many captures it found that another version wrote."""
        return len(self._unreadable)

    def load(self, ids: Sequence[int]) -> Sequence[StoredCapture]:
        """Return those of the captures that are still there, in order."""
        return self._read(lambda connection: self._load(connection, ids))

    def _load(self, connection: sqlite3.Connection, ids: Sequence[int]) -> list[StoredCapture]:
        found: dict[int, StoredCapture] = {}
        for start in range(0, len(ids), MOST_ROWS):
            few = ids[start : start + MOST_ROWS]
            sql = f"""SELECT captures.id, pile, coalesce(reason, ''), coalesce(tries, 0), head, body, request_body
                FROM captures LEFT JOIN tries ON tries.id = captures.id
                WHERE captures.id IN ({_places(len(few))})"""  # noqa: S608 - question marks
            for number, pile, reason, tries, *stored in connection.execute(sql, few):
                try:
                    capture = Capture.from_head(*stored)
                except (KeyError, TypeError, ValueError) as error:  # another version stored it
                    if number not in self._unreadable:
                        self._unreadable.add(number)
                        message = (
                            f"capture {number} cannot be read by this version ({type(error).__name__}); it is kept"
                        )
                        log_thread.log(
                            logging.ERROR, message, name="outbox", event="outbox", reason="capture_unreadable"
                        )
                else:
                    found[number] = StoredCapture(number, capture, pile != UNOWNED, reason, tries)
        return [found[number] for number in ids if number in found]

    def unread(self, limit: int, *, below: int, exclude: Collection[int] = ()) -> Sequence[StoredCapture]:
        """Return unread captures, oldest first: unowned ones, and others up to the number `below`."""
        passed = {*exclude, *self._unreadable}

        def look(connection: sqlite3.Connection) -> list[StoredCapture]:
            numbers: list[int] = []
            next_pile = "SELECT min(pile) FROM captures WHERE reason IS NULL AND pile > ?"  # one index step
            sql = "SELECT id FROM captures WHERE reason IS NULL AND pile = ? AND id <= ? ORDER BY id LIMIT ?"
            pile = -1
            while (pile := connection.execute(next_pile, (pile,)).fetchone()[0]) is not None:
                highest = 2**62 if pile == UNOWNED else below
                rows = connection.execute(sql, (pile, highest, limit + len(passed)))
                numbers += [number for (number,) in rows if number not in passed][:limit]
            return self._load(connection, _within_bytes(connection, sorted(numbers)[:limit]))

        return self._read(look)

    def mark_taken_over(self, ids: Sequence[int]) -> Sequence[int]:
        """Mark captures before they are read. Return those that had two marks."""

        def mark(connection: sqlite3.Connection) -> list[int]:
            sql = "SELECT 1 FROM captures WHERE id = ?"
            there = [(number,) for number in ids if connection.execute(sql, (number,)).fetchone()]
            connection.executemany("INSERT OR IGNORE INTO tries (id) VALUES (?)", there)
            connection.executemany("UPDATE tries SET tries = tries + 1 WHERE id = ?", there)
            sql = "SELECT 1 FROM tries WHERE id = ? AND tries > ?"
            return [number for (number,) in there if connection.execute(sql, (number, MOST_MARKS)).fetchone()]

        return self._write(mark, reserve=True)

    def parked_to_try(self, limit: int, *, configuration: str, before: float) -> Sequence[StoredCapture]:
        """Return parked captures that this configuration did not try since `before`, those tried longest ago first."""

        def mark(connection: sqlite3.Connection) -> list[StoredCapture]:
            # The index finds the first ones. Few were tried since then.
            sql = """SELECT id FROM tries WHERE (tried_at < ? OR tried_by <> ?)
                AND EXISTS (SELECT 1 FROM captures WHERE captures.id = tries.id AND reason IS NOT NULL)
                ORDER BY tried_at, id LIMIT ?"""
            numbers = [number for (number,) in connection.execute(sql, (before, configuration, limit))]
            sql = "UPDATE tries SET tries = tries + 1, tried_at = ?, tried_by = ? WHERE id = ?"
            connection.executemany(sql, [(self._clock(), configuration, number) for number in numbers])
            return self._load(connection, numbers)

        return self._write(mark, reserve=True)

    # The reader's results.

    def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolved]:
        """Resolve captures: replace each by its records or a part, or park it."""

        def change(connection: sqlite3.Connection) -> list[Resolved]:
            times = Counter[HourKey]()
            resolved = [self._resolve(connection, resolution, times) for resolution in resolutions]
            _add_counts(connection, times)
            return resolved

        return self._write(change, reserve=True)

    def _resolve(self, connection: sqlite3.Connection, resolution: Resolution, times: Counter[HourKey]) -> Resolved:
        """Resolve one capture. The head of a parked one has the keys of its records so far, and its counts."""
        number, parked, row = resolution.id, resolution.parked, None
        # This one statement is sufficient for most of them.
        is_gone = parked is None and not resolution.token and _delete_never_parked(connection, number)
        if not is_gone:
            row = connection.execute("SELECT head FROM captures WHERE id = ?", (number,)).fetchone()
            if row is None:
                return Resolved(number, there=False)
        if resolution.token and not self._redeem(connection, resolution):
            return Resolved(number, there=True, replayed=True)
        head: dict[str, Any] = {} if row is None else json.loads(row[0])
        made = frozenset[str](head.get("made", ()))
        # The counts from when it was parked are taken back, and the new ones are added in that same hour.
        hour, before = head.get("counted", (int(self._clock() // HOUR), ()))
        for *key, more in before:
            times[hour, *key] -= more
        for count in resolution.counts:
            times[hour, *count[:3]] += count.times
        if parked is not None:
            if parked.records:
                head["made"] = sorted(made | {record.key for record in parked.records})
            self._park(connection, resolution, parked, head | {"counted": (hour, resolution.counts)})
        elif not is_gone:
            connection.execute("DELETE FROM captures WHERE id = ?", (number,))
        if resolution.part is not None:
            outcomes = self._join(connection, resolution.part)
        else:
            outcomes = [
                Skip.DUPLICATE if record.key in made else self._add(connection, record) for record in resolution.made
            ]
        return Resolved(number, there=True, outcomes=outcomes)

    def _park(
        self, connection: sqlite3.Connection, resolution: Resolution, parked: Parked, head: Mapping[str, Any]
    ) -> None:
        number = resolution.id
        sql = "UPDATE captures SET head = ?, reason = ?, detail = ? WHERE id = ?"
        connection.execute(sql, (json.dumps(head), parked.reason, parked.detail, number))
        sql = "UPDATE tries SET tried_at = ?, tried_by = coalesce(nullif(?, ''), tried_by) WHERE id = ?"
        connection.execute(sql, (self._clock(), resolution.configuration, number))

    def _redeem(self, connection: sqlite3.Connection, resolution: Resolution) -> bool:
        """Return whether a token may prove this checkout: it did not prove that of another capture before."""
        part = () if resolution.part is None else (resolution.part,)
        keys = " ".join(sorted({made.key for made in (*resolution.made, *part)}))
        if not keys:
            return True
        row = (resolution.token, resolution.id, keys, self._clock())
        if connection.execute("INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?)", row).rowcount:
            return True
        sql = "SELECT 1 FROM tokens WHERE token = ? AND (capture = ? OR keys = ?)"
        return connection.execute(sql, row[:3]).fetchone() is not None

    def _join(self, connection: sqlite3.Connection, part: Part) -> list[Outcome]:
        """Store a part, or make the record that it completes."""
        if connection.execute("SELECT 1 FROM tombstones WHERE key = ?", (part.key,)).fetchone():
            return [Skip.DUPLICATE]
        sql = "SELECT shopper, fields, captured_at FROM parts WHERE key = ?"
        rows = connection.execute(sql, (part.key,)).fetchall()
        parts = {bool(shopper): Part(part.key, bool(shopper), json.loads(fields), at) for shopper, fields, at in rows}
        parts[part.shopper] = kept = part.after(parts.get(part.shopper))
        record = joined(parts.get(True), parts.get(False), part.traceparent)
        if record is None:
            row = (kept.key, kept.shopper, json.dumps(dict(kept.fields), default=_text), kept.captured_at)
            connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", row)
            return []
        connection.execute("DELETE FROM parts WHERE key = ?", (part.key,))
        connection.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?)", (part.key, self._clock()))
        return [self._add(connection, record)]

    def expire(self, before: float) -> int:
        """Delete the parts that were captured before this time, by the confirmed time (`Look`). Return their number."""
        age = self._clock() - before

        def change(connection: sqlite3.Connection) -> int:
            sql = "DELETE FROM parts WHERE captured_at < ?"
            return connection.execute(sql, (self._look(connection).confirmed - age,)).rowcount

        return self._write(change, reserve=True)

    # Records.

    def add(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """Add records made outside a request. Return the result for each."""
        return self._write(lambda connection: [self._add(connection, record) for record in records], full=True)

    def _add(self, connection: sqlite3.Connection, record: Record) -> Outcome:
        """Insert a record, unless its key is known, or its checkout is known with another address.

        It is due at once. Earlier captures come first.
        """
        now, ids = self._clock(), seen_ids(record.fields)
        sql = f"SELECT id, address, payment_ids FROM seen_ids WHERE id IN ({_places(len(ids))})"  # noqa: S608 - question marks
        known = {row[0]: SeenID(*row) for row in connection.execute(sql, [one.id for one in ids])}
        may_be_sent, changed = after(known, ids)
        if may_be_sent:
            sql = """INSERT OR IGNORE INTO records (key, captured_at, due_at, payload, traceparent, sources)
                SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE key = ?)"""
            row = (record.key, record.captured_at, min(record.captured_at, now), record.payload, record.traceparent)
            cursor = connection.execute(sql, (*row, record.sources or None, record.key))
            is_known = not cursor.rowcount
        else:
            sql = "SELECT 1 FROM records WHERE key = ? UNION ALL SELECT 1 FROM tombstones WHERE key = ?"
            cursor = connection.execute(sql, (record.key, record.key))
            is_known = cursor.fetchone() is not None
        if is_known:
            return Skip.DUPLICATE
        if changed:
            rows = ", ".join(["(?, ?, ?, ?)"] * len(changed))
            values = [value for one in changed for value in (*one, now)]
            connection.execute(f"INSERT OR REPLACE INTO seen_ids VALUES {rows}", values)  # noqa: S608 - question marks
        return Pending(cursor.lastrowid or 0, record, 0) if may_be_sent else Skip.OTHER_ADDRESS

    def due(self, limit: int, exclude: Collection[int] = ()) -> Sequence[Pending]:
        """Return records that are due, those due longest first. Due times in another clock's future come last."""

        def look(connection: sqlite3.Connection) -> list[Pending]:
            now, wanted = self._clock(), limit + len(exclude)
            numbers = _due(connection, "due_at <= ?", now, wanted)
            if len(numbers) < wanted:
                numbers += _due(connection, "due_at > ?", now + FAR_FUTURE, wanted - len(numbers))
            sql = """SELECT id, attempts, key, payload, captured_at, coalesce(traceparent, ''),
                coalesce(sources, '') FROM records WHERE id = ?"""
            few = [number for number in numbers if number not in exclude][:limit]
            rows = [connection.execute(sql, (number,)).fetchone() for number in few]
            return [Pending(number, Record(*record), attempts) for number, attempts, *record in rows]

        return self._read(look)

    def next_due(self) -> float | None:
        """Return when the next record is due."""
        sql = "SELECT min(due_at) FROM records WHERE dead_at IS NULL"
        found: float | None = self._read(lambda connection: connection.execute(sql).fetchone()[0])
        return found

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Store the results of records. Those that a person dropped meanwhile are ignored."""

        def change(connection: sqlite3.Connection) -> None:
            now = self._clock()
            _settle_delivered(connection, [one.id for one in settlements if one.settled is Settled.DELIVERED], now)
            for settlement in settlements:
                _settle(connection, settlement, now)

        self._write(change, reserve=True)

    # The host.

    def set_hold(self, reason: str | None) -> None:
        """Store why only probes are sent. None ends the hold."""
        self._write(lambda connection: set_hold(connection, reason), full=True, reserve=True)

    def prune(self) -> bool:
        """Delete one step of data that is too old by the confirmed time. Return whether there is more."""

        def change(connection: sqlite3.Connection) -> bool:
            look = self._look(connection).again(self._clock())
            kept = json.dumps(astuple(look))
            connection.execute("UPDATE meta SET value = ? WHERE name = 'look' AND value IS NOT ?", (kept, kept))
            oldest = connection.execute(_OLDEST).fetchone()
            _sum_up(connection, int((look.confirmed - COUNTED_SECONDS) // HOUR))
            return PRUNE_STEP in [
                connection.execute(sql, (bound, PRUNE_STEP)).rowcount
                for sql, bound in self._old(look.confirmed, look.confirmed if oldest is None else oldest[0])
            ]

        return self._write(change, reserve=True)

    def _look(self, connection: sqlite3.Connection) -> Look:
        (kept,) = connection.execute("SELECT value FROM meta WHERE name = 'look'").fetchone()
        return Look.first(self._clock()) if kept is None else Look(*json.loads(kept))

    def _old(self, now: float, oldest_pending_at: float) -> Iterator[tuple[str, float]]:
        """Yield the statement that deletes a step of each kind, and its limit."""
        delivered_before = now - self._outbox.tombstone_days * DAY
        for table, key, at, before in (
            ("tombstones", "key", "delivered_at", delivered_before),
            ("seen_ids", "id", "seen_at", min(delivered_before, oldest_pending_at)),
            ("tokens", "token", "used_at", now - TOKEN_SECONDS),
        ):
            old = f"SELECT {key} FROM {table} WHERE {at} < ? LIMIT ?"  # noqa: S608 - constants
            yield f"DELETE FROM {table} WHERE {key} IN ({old})", before  # noqa: S608 - constants
        if self._outbox.retention_days is not None:  # otherwise parked captures and dead records are kept
            for table, state in (("captures", "reason IS NOT NULL"), ("records", "dead_at IS NOT NULL")):
                old = f"SELECT id FROM {table} WHERE {state} AND captured_at < ? LIMIT ?"  # noqa: S608 - constants
                yield f"DELETE FROM {table} WHERE id IN ({old})", now - self._outbox.retention_days * DAY  # noqa: S608 - constants

    def counts(self) -> Counts:
        """Return the counts, which the triggers keep."""
        return self._read(counts)

    def count(self, counts: Sequence[Count]) -> None:
        """Add to the counts of the host."""
        hour, times = int(self._clock() // HOUR), Counter[HourKey]()
        for count in counts:
            times[hour, *count[:3]] += count.times
        self._write(lambda connection: _add_counts(connection, times), reserve=True)

    def counted(self, since: float | None = None) -> Mapping[tuple[str, str, str], int]:
        """Return the counts of the host by name, route and reason: the total, or those since a given hour."""
        first = 0 if since is None else max(1, int(since // HOUR))
        sql = """SELECT name, route, reason, sum(times) FROM counted WHERE hour >= ?
            GROUP BY 1, 2, 3 HAVING sum(times) > 0"""
        rows = self._read(lambda connection: connection.execute(sql, (first,)).fetchall())
        return {(name, route, reason): times for name, route, reason, times in rows}

    def lead(self) -> bool:
        """Take the lead if it is free. Return whether this process leads. The kernel frees it when the process ends."""
        return self.locks.take(LEAD)

    def leader(self) -> int | None:
        """Return the ID of the process that leads. 0: it is not known which. None: no process leads."""
        return self.locks.holder(LEAD)

    def alone(self) -> bool:
        """Whether no other process is alive that reads what it captures."""
        return not self.locks.has_others(READERS)

    def release_lead(self) -> None:
        """Release the lead."""
        self.locks.release(LEAD)

    def changed(self) -> bool:
        """Whether another process wrote since the last call. True for the first call."""
        before = self._version
        self._version = self._read(lambda connection: connection.execute("PRAGMA data_version").fetchone()[0])
        return self._version != before


def _add_counts(connection: sqlite3.Connection, times: Mapping[HourKey, int]) -> None:
    """Add to the counts of each hour."""
    sql = """INSERT INTO counted VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (hour, name, route, reason) DO UPDATE SET times = times + excluded.times"""
    connection.executemany(sql, [(*key, more) for key, more in times.items() if more])


def _sum_up(connection: sqlite3.Connection, hour: int) -> None:
    """Replace the hours before this one by their sums."""
    sql = """INSERT INTO counted SELECT 0, name, route, reason, sum(times) FROM counted WHERE hour BETWEEN 1 AND ?
        GROUP BY 2, 3, 4
        ON CONFLICT (hour, name, route, reason) DO UPDATE SET times = times + excluded.times"""
    connection.execute(sql, (hour - 1,))
    connection.execute("DELETE FROM counted WHERE hour BETWEEN 1 AND ?", (hour - 1,))


def set_hold(connection: sqlite3.Connection, reason: str | None) -> None:
    """Store why only probes are sent."""
    connection.execute("UPDATE meta SET value = ? WHERE name = 'hold'", (reason,))


def counts(connection: sqlite3.Connection) -> Counts:
    """Return the counts."""
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    oldest = connection.execute(_OLDEST).fetchone()
    newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'captures'").fetchone()
    numbers = {name: meta[name] for name in ("captured", "pending", "parked", "dead", "delivered", "parts", "epoch")}
    return Counts(
        **numbers,
        oldest_pending_at=None if oldest is None else oldest[0],
        last_delivered_at=meta["last_delivered_at"],
        hold=meta["hold"],
        newest_capture=0 if newest is None else newest[0],
    )


def _row_of(capture: Capture) -> CaptureRow:
    """Return a capture's row. Credentials are removed here too, so that none is ever on disk."""
    headers, response_headers = _harmless(capture.headers), _harmless(capture.response_headers)
    if len(headers) + len(response_headers) < len(capture.headers) + len(capture.response_headers):
        capture = capture._replace(headers=headers, response_headers=response_headers)
    return capture.captured_at, capture.head(), capture.body, capture.request_body


def _harmless(headers: RawHeaders) -> RawHeaders:
    return [header for header in headers if header[0].lower() not in CREDENTIAL_HEADERS]


def _in_powers(rows: Sequence[CaptureRow]) -> Iterator[tuple[int, Sequence[CaptureRow]]]:
    """Split rows into few statements. Each statement releases the interpreter's lock and must wait for it again.

    Their sizes are powers of two, so that few statements are prepared.
    """
    start = 0
    while start < len(rows):
        count = min(1 << ((len(rows) - start).bit_length() - 1), MOST_ROWS)
        yield count, rows[start : start + count]
        start += count


@cache
def _insert(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?)"] * count)
    return f"INSERT INTO captures (pile, captured_at, head, body, request_body) VALUES {rows}"  # noqa: S608 - question marks


@cache
def _places(count: int) -> str:
    return ", ".join("?" * count)


def _within_bytes(connection: sqlite3.Connection, numbers: Sequence[int]) -> Sequence[int]:
    """Return the first of these captures, up to `UNREAD_BYTES` in total."""
    sql = "SELECT length(head) + length(body) + coalesce(length(request_body), 0) FROM captures WHERE id = ?"
    total = 0
    for place, number in enumerate(numbers):
        if total >= UNREAD_BYTES:
            return numbers[:place]
        total += connection.execute(sql, (number,)).fetchone()[0]
    return numbers


def _due(connection: sqlite3.Connection, condition: str, bound: float, limit: int) -> list[int]:
    sql = f"SELECT id FROM records WHERE dead_at IS NULL AND {condition} ORDER BY due_at, id LIMIT ?"  # noqa: S608 - a constant
    return [number for (number,) in connection.execute(sql, (bound, limit))]


def _delete_never_parked(connection: sqlite3.Connection, number: int) -> bool:
    """Delete a capture whose head has no data of an earlier reading. Return whether there was one."""
    sql = """DELETE FROM captures
        WHERE id = ? AND NOT instr(head, '"made": [') AND NOT instr(head, '"counted": [')"""
    return connection.execute(sql, (number,)).rowcount > 0


def _settle_delivered(connection: sqlite3.Connection, ids: Sequence[int], now: float) -> None:
    """Delete delivered records, and keep their keys."""
    for start in range(0, len(ids), MOST_ROWS):
        few = ids[start : start + MOST_ROWS]
        these = f"FROM records WHERE id IN ({_places(len(few))})"
        connection.execute(f"INSERT OR REPLACE INTO tombstones SELECT key, ? {these}", (now, *few))
        delivered = connection.execute(f"DELETE {these}", few).rowcount
        sql = """UPDATE meta SET value = CASE name WHEN 'delivered' THEN value + ? ELSE ? END
            WHERE name IN ('delivered', 'last_delivered_at')"""
        if delivered:
            connection.execute(sql, (delivered, now))


def _settle(connection: sqlite3.Connection, settlement: Settlement, now: float) -> None:
    """Store the result of a record that was not delivered."""
    number = settlement.id
    match settlement.settled:
        case Settled.DELIVERED:
            pass  # handled together with the others
        case Settled.DEAD:
            sql = "UPDATE records SET dead_at = ?, reason = ?, attempts = attempts + 1 WHERE id = ?"
            connection.execute(sql, (now, settlement.reason, number))
        case Settled.RETRY:
            sql = "UPDATE records SET due_at = ?, reason = ?, attempts = attempts + 1 WHERE id = ?"
            connection.execute(sql, (settlement.due_at or now, settlement.reason, number))
        case Settled.RELEASED:
            if settlement.due_at:
                connection.execute("UPDATE records SET due_at = ? WHERE id = ?", (settlement.due_at, number))


def _text(value: bytes | bytearray) -> str:
    """Return bytes as text: a `Checkout` accepts them as text, but they are not JSON."""
    return value.decode()
