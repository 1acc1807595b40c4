"""What became of each line, on the disk: so that a run that was stopped or killed goes on, and sends nothing twice.

    read ──► waiting ──a──► sending ──b──► delivered
       │      ▲   │          │   │
       │      └───┼────c─────┘   └──d──► uncertain
       │          └──e──► dead
       └──► rejected

a  Before it is posted: the mark is on the disk when the first byte leaves.
b  Butter accepted it.
c  It did not, or did not answer: the delivery decides when it is tried again.
d  The run was killed between the two: nobody knows whether Butter has it. A person may have it sent again.
e  Butter will never accept it.

Only what waits or is uncertain is kept as it was read. Of the rest its key and line number remain: no personal data.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from butter_middleware._utils.futures import done
from butter_middleware.backfill.ahead import Ahead, Read
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import Checked, Position
from butter_middleware.backfill.store import Store
from butter_middleware.backfill.totals import Totals
from butter_middleware.errors import ButterError
from butter_middleware.models.answer import AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Pending, Settled, Settlement

MOST_LOOKED_AT: Final = 1024
"""Lines a transaction, where they are known already, so that others get their turn."""
FAR_FUTURE: Final = 3700.0
"""Seconds. No backoff is longer than an hour: what is due later was written under another clock."""


class State(IntEnum):
    """Of a line that is a record."""

    WAITING = 0
    SENDING = 1
    DELIVERED = 2
    DEAD = 3
    UNCERTAIN = 4


class Journal:
    """The lines of an input as a backlog for `Delivery`, with the marks that it needs round each post.

    Args:
        path: Its file.
        clock: Seconds since the epoch.
        patience: As of `Store`.
        waiting: As of `Store`.

    Raises:
        ConfigurationError: as `Store`.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        patience: float = 0.0,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.totals = Totals()
        self._sealed = _text(self.totals)
        self._store = Store(path, self._seal, patience=patience, waiting=waiting)
        self._clock = clock
        self._ahead: Ahead | None = None
        self._rejects: Rejects | None = None
        self._record: Callable[[str], Record | str] = lambda _raw: ""
        self._ids: dict[str, int] = {}
        """Of what is claimed, by key."""
        self._claimed: dict[int, str] = {}
        """And the other way round."""
        self._hold: str | None = None
        self.wake: Callable[[], None] = lambda: None
        """Called, on any thread, where `claim` gave nothing and might give something now."""
        self.sending = 0
        """How many posts have begun and not ended; the couriers count."""
        self.fault: ButterError | None = None
        """Why the input cannot be read on."""
        self.totals = self._store.put(_load).result()

    # Its life.

    def identity(self) -> dict[str, Any]:
        """Return what `set_identity` kept."""
        identity: dict[str, Any] = json.loads(self._store.put(lambda db: _meta(db, "identity")).result() or "{}")
        return identity

    def set_identity(self, identity: dict[str, Any]) -> None:
        """Keep what a later run must agree with."""
        self._store.put(lambda db: _set_meta(db, "identity", json.dumps(identity))).result()

    @property
    def place(self) -> tuple[Position, Checked]:
        """Where the input was read to, and what it was until there."""
        totals = self.totals
        return Position(totals.offset, totals.number), Checked(totals.checked, totals.digest)

    def begin_pass(self, *, forget_waiting: bool) -> None:
        """Read the input from its beginning once more: what is known is not sent again.

        With `forget_waiting` what was not sent yet is made anew, of the lines as they are now.
        """

        def run(db: sqlite3.Connection) -> None:
            gone = 0
            if forget_waiting:
                gone = db.execute("DELETE FROM lines WHERE state = ?", (State.WAITING,)).rowcount
            old = self.totals
            self.totals = Totals(
                passes=old.passes + 1,
                admitted=old.admitted - gone,
                delivered=old.delivered,
                dead=old.dead,
                uncertain=old.uncertain,
                broken_off=old.broken_off,
            )

        self._store.put(run).result()

    def recover(self) -> None:
        """See which lines were on their way when a run was killed."""

        def run(db: sqlite3.Connection) -> None:
            sql = "UPDATE lines SET state = ? WHERE state = ?"
            self.totals.uncertain += db.execute(sql, (State.UNCERTAIN, State.SENDING)).rowcount
            later = self._clock() + FAR_FUTURE
            db.execute("UPDATE lines SET due_at = 0 WHERE state = ? AND due_at > ?", (State.WAITING, later))

        self._store.put(run).result()

    def resend_uncertain(self) -> None:
        """Have sent again what was on its way when a run was killed."""

        def run(db: sqlite3.Connection) -> None:
            sql = "UPDATE lines SET state = ?, due_at = 0 WHERE state = ?"
            self.totals.uncertain -= db.execute(sql, (State.WAITING, State.UNCERTAIN)).rowcount

        self._store.put(run).result()

    def uncertain_lines(self, limit: int = 1000) -> list[int]:
        """Return the numbers of the lines of which nobody knows whether Butter has them."""
        sql = "SELECT number FROM lines WHERE state IN (?, ?) ORDER BY number LIMIT ?"
        states = (State.SENDING, State.UNCERTAIN)
        return self._store.put(lambda db: [number for (number,) in db.execute(sql, (*states, limit))]).result()

    def attach(self, ahead: Ahead, rejects: Rejects, record: Callable[[str], Record | str]) -> None:
        """Say where lines come from, where those that are no record go, and how a kept line becomes a record."""
        self._ahead, self._rejects, self._record = ahead, rejects, record

    def close(self) -> None:
        """Make durable what was put, and let go of the file."""
        self._store.close()

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be written any more."""
        return self._store.failure

    @property
    def exhausted(self) -> bool:
        """Whether all of the input was read."""
        return self._ahead is not None and self._ahead.ended

    # What `Delivery.run` drains.

    def lead(self) -> bool:
        """Give True: the file is open once."""
        return True

    def claim(self, limit: int) -> "Future[Sequence[Pending]]":
        """Give what waits and is due, then what the input has."""
        return self._store.put(lambda db: self._claim(db, limit))

    def settle(self, settlements: Sequence[Settlement]) -> "Future[None]":
        """End claims."""

        def run(db: sqlite3.Connection) -> None:
            for settlement in settlements:
                self._settle(db, settlement)

        return self._store.put(run)

    def set_hold(self, reason: str | None) -> "Future[None]":
        """Keep it in memory: a hold ends the run, and the next one begins with what a person mended."""
        self._hold = reason
        return done(None)

    def hold(self) -> "Future[str | None]":
        """Give what `set_hold` kept."""
        return done(self._hold)

    # Round each post.

    def begin(self, record: Record) -> "Future[None]":
        """Mark that a record is on its way; it must not be before this is done."""
        number = self._ids[record.key]
        return self._store.put(lambda db: _set_state(db, number, State.SENDING))

    def end(self, record: Record, kind: AnswerKind) -> None:
        """Mark what was answered. On the disk no later than the next mark of `begin`."""
        number = self._ids[record.key]
        self._store.put(lambda db: self._end(db, number, kind))

    def _end(self, db: sqlite3.Connection, number: int, kind: AnswerKind) -> None:
        if kind is AnswerKind.DELIVERED:
            db.execute("UPDATE lines SET state = ?, raw = NULL WHERE id = ?", (State.DELIVERED, number))
            self.totals.delivered += 1
            return
        self.totals.broken_off += kind in {AnswerKind.INTERRUPTED, AnswerKind.STALLED}
        _set_state(db, number, State.WAITING)

    # On the store's thread.

    def _claim(self, db: sqlite3.Connection, limit: int) -> list[Pending]:
        claimed = self._due(db, limit)
        looked_at = 0
        while len(claimed) < limit and looked_at < MOST_LOOKED_AT:
            try:
                read = None if self._ahead is None else self._ahead.take()
            except ButterError as error:
                self.fault, read = error, None
            if read is None:
                break
            looked_at += 1
            claimed += self._admit(db, read)
        self._claimed.update((pending.id, pending.record.key) for pending in claimed)
        self._ids.update((pending.record.key, pending.id) for pending in claimed)
        if looked_at and not claimed:
            self.wake()
        return claimed

    def _due(self, db: sqlite3.Connection, limit: int) -> list[Pending]:
        sql = """SELECT id, number, attempts, raw FROM lines WHERE state = 0 AND due_at <= ?
            ORDER BY due_at, id LIMIT ?"""
        due: list[Pending] = []
        for number, line, attempts, raw in db.execute(sql, (self._clock(), limit + len(self._claimed))).fetchall():
            if number in self._claimed or len(due) == limit:
                continue
            record = self._record(raw)
            if isinstance(record, Record):
                due.append(Pending(number, record, attempts))
            else:
                self._dead_letter(db, number, line, record, raw)
        return due

    def _admit(self, db: sqlite3.Connection, read: Read) -> list[Pending]:
        line, record, totals = read.line, read.outcome, self.totals
        totals.offset, totals.number = line.after
        totals.checked, totals.digest = line.checked
        totals.read += 1
        if not isinstance(record, Record):
            totals.rejected += 1
            self._reject(line.number, record, line.raw)
            return []
        key = bytes.fromhex(record.key)
        sql = "INSERT OR IGNORE INTO lines (number, pass, key, raw) VALUES (?, ?, ?, ?)"
        inserted = db.execute(sql, (line.number, totals.passes, key, json.dumps(line.raw)))
        if inserted.rowcount and inserted.lastrowid is not None:
            totals.admitted += 1
            return [Pending(inserted.lastrowid, record, 0)]
        sql = "SELECT id, pass, state, reason FROM lines WHERE key = ?"
        number, passed, state, reason = db.execute(sql, (key,)).fetchone()
        if passed == totals.passes:
            totals.duplicates += 1
            return []
        totals.known += 1
        db.execute("UPDATE lines SET pass = ?, number = ? WHERE id = ?", (totals.passes, line.number, number))
        if state == State.DEAD:
            self._reject(line.number, reason, line.raw)
        return []

    def _settle(self, db: sqlite3.Connection, settlement: Settlement) -> None:
        number = settlement.id
        if (key := self._claimed.pop(number, None)) is not None:
            del self._ids[key]
        match settlement.settled:
            case Settled.DEAD:
                line, raw = db.execute("SELECT number, raw FROM lines WHERE id = ?", (number,)).fetchone()
                self._dead_letter(db, number, line, f"Butter answers {settlement.reason}", raw)
            case Settled.RETRY:
                sql = "UPDATE lines SET due_at = ?, attempts = attempts + 1 WHERE id = ?"
                db.execute(sql, (settlement.due_at, number))
            case Settled.RELEASED if settlement.due_at:
                db.execute("UPDATE lines SET due_at = ? WHERE id = ?", (settlement.due_at, number))
            case _:
                pass

    def _dead_letter(self, db: sqlite3.Connection, number: int, line: int, reason: str, raw: str) -> None:
        sql = "UPDATE lines SET state = ?, reason = ?, raw = NULL WHERE id = ?"
        db.execute(sql, (State.DEAD, reason, number))
        self.totals.dead += 1
        self._reject(line, reason, json.loads(raw))

    def _reject(self, number: int, reason: str, raw: Any) -> None:  # noqa: ANN401 - a `Raw`, or what JSON made of it
        self.totals.reject(reason)
        if self._rejects is not None:
            self._rejects.add(number, reason, raw)

    def _seal(self, db: sqlite3.Connection) -> None:
        """Keep the totals, and before them what they count in the file of rejects."""
        if self._rejects is not None and self._rejects.size != self.totals.rejects:
            self._rejects.sync()
            self.totals.rejects = self._rejects.size
        sealed = _text(self.totals)
        if sealed != self._sealed:
            _set_meta(db, "totals", sealed)
            self._sealed = sealed


def _text(totals: Totals) -> str:
    return json.dumps(asdict(totals))


def _load(db: sqlite3.Connection) -> Totals:
    return Totals(**json.loads(_meta(db, "totals") or "{}"))


def _meta(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def _set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _set_state(db: sqlite3.Connection, number: int, state: State) -> None:
    db.execute("UPDATE lines SET state = ? WHERE id = ?", (state, number))
