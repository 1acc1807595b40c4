"""The outbox that lives in the process: for tests, development, and those who want nothing on disk."""

import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final, TypeVar

from butter_middleware.checkout import Record
from butter_middleware.errors import OutboxFullError
from butter_middleware.exchange import Capture
from butter_middleware.outbox.protocol import Counts, Parked, Pending, Settled, Settlement, StoredCapture

T = TypeVar("T")

TOMBSTONE_SECONDS: Final = 7 * 86400.0
"""For how long a delivered record's key is remembered."""
TOMBSTONES: Final = 100_000


@dataclass(slots=True)
class _Entry:
    record: Record
    attempts: int = 0
    due_at: float = 0.0


class MemoryOutbox:
    """Keeps up to `limit` captures and records in memory; all of them are lost with the process.

    Its futures are done when they are given. `append` and `add` fail with `OutboxFullError` beyond the limit.
    """

    def __init__(self, limit: int = 10_000, *, clock: Callable[[], float] = time.time) -> None:
        self.durable = False
        self._limit = limit
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._lock = RLock()
        self._ids = itertools.count(1)
        self._captures: OrderedDict[int, Capture] = OrderedDict()
        self._taken: dict[int, Capture] = {}
        self._parked: dict[int, tuple[Capture, Parked]] = {}
        self._pending: dict[int, _Entry] = {}
        self._due: list[tuple[float, int]] = []
        self._dead: dict[int, Record] = {}
        self._keys: set[str] = set()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self._delivered = 0
        self._last_delivered_at: float | None = None
        self._hold: str | None = None

    def validate(self) -> Sequence[str]:
        """Give the one warning that there is."""
        message = (
            "no durable outbox: records are kept in memory only, and those not yet delivered are lost when this "
            "process ends. Set outbox= to the path of an SQLite file on a disk that lasts."
        )
        return (message,)

    def open(self) -> None:
        """Do nothing: there is nothing to open."""

    def append(self, capture: Capture) -> "Future[None]":
        """Take a capture."""
        with self._lock:
            if self._full(1):
                return _failed()
            self._captures[next(self._ids)] = capture
        return _done(None)

    def captures(self, limit: int) -> "Future[Sequence[StoredCapture]]":
        """Give captures, none of them twice."""
        with self._lock:
            given: list[StoredCapture] = []
            while self._captures and len(given) < limit:
                number, capture = self._captures.popitem(last=False)
                self._taken[number] = capture
                given.append(StoredCapture(number, capture))
        return _done(given)

    def resolve(self, capture_id: int, outcome: Sequence[Record] | Parked) -> "Future[int]":
        """Replace a capture by its records, or park it."""
        with self._lock:
            capture = self._taken.pop(capture_id)
            if isinstance(outcome, Parked):
                self._parked[capture_id] = (capture, outcome)
                return _done(0)
            return self.add(outcome)

    def add(self, records: Sequence[Record]) -> "Future[int]":
        """Add records; gives how many were known."""
        known = 0
        with self._lock:
            if self._full(len(records)):
                return _failed()
            self._bury()
            for record in records:
                if record.key in self._keys or record.key in self._tombstones:
                    known += 1
                    continue
                number = next(self._ids)
                self._keys.add(record.key)
                self._pending[number] = _Entry(record)
                heapq.heappush(self._due, (0.0, number))
        return _done(known)

    def adopt(self) -> "Future[int]":
        """Give 0: nobody can leave anything behind in memory."""
        return _done(0)

    def lead(self) -> bool:
        """Give True: no other process shares this memory."""
        return True

    def claim(self, limit: int) -> "Future[Sequence[Pending]]":
        """Give due records, those due longest first."""
        now = self._clock()
        claimed: list[Pending] = []
        with self._lock:
            while self._due and len(claimed) < limit and self._due[0][0] <= now:
                _due_at, number = heapq.heappop(self._due)
                entry = self._pending[number]
                claimed.append(Pending(number, entry.record, entry.attempts))
        return _done(claimed)

    def settle(self, settlements: Sequence[Settlement]) -> "Future[None]":
        """End claims."""
        with self._lock:
            for settlement in settlements:
                self._settle(settlement)
        return _done(None)

    def _settle(self, settlement: Settlement) -> None:
        number, now = settlement.id, self._clock()
        entry = self._pending[number]
        if settlement.settled in {Settled.RETRY, Settled.RELEASED}:
            entry.attempts += settlement.settled is Settled.RETRY
            entry.due_at = settlement.due_at
            heapq.heappush(self._due, (settlement.due_at, number))
            return
        del self._pending[number]
        if settlement.settled is Settled.DEAD:
            self._dead[number] = entry.record
            return
        self._keys.discard(entry.record.key)
        self._tombstones[entry.record.key] = now
        self._delivered += 1
        self._last_delivered_at = now

    def set_hold(self, reason: str | None) -> "Future[None]":
        """Keep the hold's reason while the process lives."""
        self._hold = reason
        return _done(None)

    def hold(self) -> "Future[str | None]":
        """Give the hold's reason."""
        return _done(self._hold)

    def counts(self) -> "Future[Counts]":
        """Count."""
        with self._lock:
            oldest = next(iter(self._pending.values()), None)
            return _done(
                Counts(
                    captured=len(self._captures) + len(self._taken),
                    pending=len(self._pending),
                    parked=len(self._parked),
                    dead=len(self._dead),
                    delivered=self._delivered,
                    oldest_pending_at=None if oldest is None else oldest.record.captured_at,
                    last_delivered_at=self._last_delivered_at,
                )
            )

    def close(self) -> None:
        """Do nothing: what lies here lies here until the object goes."""

    def abandon(self) -> None:
        """Forget, in a forked child, what the parent is going to deliver."""
        self._reset()

    def _full(self, more: int) -> bool:
        captures = len(self._captures) + len(self._taken) + len(self._parked)
        return captures + len(self._pending) + len(self._dead) + more > self._limit

    def _bury(self) -> None:
        oldest = self._clock() - TOMBSTONE_SECONDS
        while self._tombstones and (
            len(self._tombstones) > TOMBSTONES or next(iter(self._tombstones.values())) < oldest
        ):
            self._tombstones.popitem(last=False)


def _done(result: T) -> "Future[T]":
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _failed() -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(OutboxFullError("the memory outbox is full"))
    return future
