"""The outbox that lives in the process: for tests, development, and those who want nothing on disk."""

import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeVar

from butter_middleware import config
from butter_middleware._utils.futures import done, failed
from butter_middleware.errors import OutboxFullError
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part, joined
from butter_middleware.outbox.base import FAR_FUTURE, Counts, Parked, Pending, Settled, Settlement, StoredCapture

T = TypeVar("T")

TOMBSTONE_SECONDS: Final = 7 * 86400.0
"""For how long a delivered record's key is remembered."""
MOST: Final = 10_000_000
"""What `limit` may be: far more than the memory of a web process holds."""
TOMBSTONES: Final = 100_000
"""How many keys are remembered at most."""


@dataclass(slots=True)
class _Entry:
    record: Record
    due_at: float
    attempts: int = 0


class MemoryOutbox:
    """Keeps up to `limit` captures and records in memory; all of them are lost with the process.

    Its futures are done when they are given. `append` and `add` fail with `OutboxFullError` beyond the limit, in which
    parked and dead count too. What one checkout resolves to is always taken.

    Args:
        limit: Captures and records in all.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: the limit is no whole number, or below 1; or the clock gives no time.
    """

    durable: bool = False

    def __init__(self, limit: int = 10_000, *, clock: Callable[[], float] = time.time) -> None:
        config.whole_number("limit", limit, 1, MOST)
        config.clock(clock)
        self._limit = limit
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()
        self._ids = itertools.count(1)
        self._captures: OrderedDict[int, Capture] = OrderedDict()
        self._given: dict[int, Capture] = {}
        self._left = 0
        self._parked: dict[int, tuple[Capture, Parked]] = {}
        self._parts: dict[tuple[str, bool], Part] = {}
        self._pending: dict[int, _Entry] = {}
        self._claimed: set[int] = set()
        self._due: list[tuple[float, int]] = []
        self._seen_at = self._clock()
        self._dead: dict[int, Record] = {}
        self._keys: set[str] = set()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self._delivered = 0
        self._last_delivered_at: float | None = None
        self._hold: str | None = None

    def __repr__(self) -> str:
        return f"MemoryOutbox(limit={self._limit})"

    def validate(self) -> Sequence[str]:
        """Warn of what memory cannot keep."""
        warning = (
            "records are kept in memory only: what is not yet delivered is lost when this process is killed, and after "
            "drain_timeout when it stops. Set outbox= to the path of an SQLite file to keep them."
        )
        return (warning,)

    def open(self) -> None:
        """Do nothing: there is nothing to open."""

    def append(self, capture: Capture) -> "Future[None]":
        """Take a capture."""
        with self._lock:
            if self._size() >= self._limit:
                return _full()
            self._captures[next(self._ids)] = capture
        return _APPENDED

    def captures(self, limit: int) -> "Future[Sequence[StoredCapture]]":
        """Give captures, oldest first, none of them twice."""
        with self._lock:
            given: list[StoredCapture] = []
            while self._captures and len(given) < limit:
                number, capture = self._captures.popitem(last=False)
                self._given[number] = capture
                given.append(StoredCapture(number, capture))
        return done(given)

    def resolve(self, capture_id: int, outcome: Sequence[Record] | Parked | Part) -> "Future[int]":
        """Replace a capture by its records or a part, or park it; gives how many were known."""
        with self._lock:
            capture = self._given.pop(capture_id, None)
            if isinstance(outcome, Parked):
                if capture is not None:
                    self._parked[capture_id] = (capture, outcome)
                return done(self._add(outcome.records))
            return done(self._join(outcome) if isinstance(outcome, Part) else self._add(outcome))

    def _join(self, part: Part) -> int:
        now = self._clock()
        self._forget_tombstones(now - TOMBSTONE_SECONDS)
        if part.key in self._tombstones:
            return 1
        place = part.key, part.shopper
        self._parts[place] = part.after(self._parts.get(place))
        record = joined(self._parts.get((part.key, True)), self._parts.get((part.key, False)))
        if record is None:
            return 0
        for shopper in (True, False):
            del self._parts[part.key, shopper]
        self._tombstones[part.key] = now
        return self._add([record])

    def expire(self, before: float) -> "Future[int]":
        """Delete old parts; gives how many there were."""
        with self._lock:
            old = [place for place, part in self._parts.items() if part.captured_at < before]
            for place in old:
                del self._parts[place]
        return done(len(old))

    def add(self, records: Sequence[Record]) -> "Future[int]":
        """Add records; gives how many were known."""
        with self._lock:
            if self._size() + len(records) > self._limit:
                return _full()
            return done(self._add(records))

    def _add(self, records: Sequence[Record]) -> int:
        now, known = self._clock(), 0
        self._forget_tombstones(now - TOMBSTONE_SECONDS)
        for record in records:
            if record.key in self._keys or record.key in self._tombstones:
                known += 1
                continue
            number = next(self._ids)
            self._keys.add(record.key)
            self._pending[number] = _Entry(record, min(record.captured_at, now))
            self._make_due(number)
        return known

    def _forget_tombstones(self, before: float) -> None:
        while self._tombstones and (
            len(self._tombstones) > TOMBSTONES or next(iter(self._tombstones.values())) <= before
        ):
            self._tombstones.popitem(last=False)

    def adopt(self) -> "Future[int]":
        """Give how many captures an earlier worker of this process left behind, once."""
        with self._lock:
            left, self._left = self._left, 0
        return done(left)

    def lead(self) -> bool:
        """Give True: no other process shares this memory."""
        return True

    def claim(self, limit: int) -> "Future[Sequence[Pending]]":
        """Give due records, those due longest first."""
        claimed: list[Pending] = []
        with self._lock:
            now = self._clock()
            self._clamp(now)
            while self._due and len(claimed) < limit and self._due[0][0] <= now:
                number = heapq.heappop(self._due)[1]
                entry = self._pending[number]
                self._claimed.add(number)
                claimed.append(Pending(number, entry.record, entry.attempts))
        return done(claimed)

    def _clamp(self, now: float) -> None:
        """Where the clock went back, bring back from the far future what was to be due soon."""
        if now < self._seen_at:
            self._due = [(due if due <= now + FAR_FUTURE else now, number) for due, number in self._due]
            heapq.heapify(self._due)
        self._seen_at = now

    def _make_due(self, number: int) -> None:
        heapq.heappush(self._due, (self._pending[number].due_at, number))

    def settle(self, settlements: Sequence[Settlement]) -> "Future[None]":
        """End claims."""
        with self._lock:
            now = self._clock()
            for settlement in settlements:
                if settlement.id in self._claimed:
                    self._claimed.remove(settlement.id)
                    self._settle(settlement, now)
        return done(None)

    def _settle(self, settlement: Settlement, now: float) -> None:
        number = settlement.id
        entry = self._pending[number]
        match settlement.settled:
            case Settled.RETRY | Settled.RELEASED:
                retried = settlement.settled is Settled.RETRY
                due_at = settlement.due_at or (now if retried else entry.due_at)
                entry.due_at = due_at if due_at <= now + FAR_FUTURE else now
                entry.attempts += retried
                self._make_due(number)
            case Settled.DEAD:
                self._dead[number] = self._pending.pop(number).record
            case Settled.DELIVERED:
                key = self._pending.pop(number).record.key
                self._keys.discard(key)
                self._tombstones[key] = now
                self._tombstones.move_to_end(key)
                self._delivered += 1
                self._last_delivered_at = now

    def set_hold(self, reason: str | None) -> "Future[None]":
        """Keep the hold's reason while the process lives."""
        self._hold = reason
        return done(None)

    def hold(self) -> "Future[str | None]":
        """Give the hold's reason."""
        return done(self._hold)

    def counts(self) -> "Future[Counts]":
        """Count."""
        with self._lock:
            oldest = next(iter(self._pending.values()), None)
            counts = Counts(
                captured=len(self._captures) + len(self._given),
                pending=len(self._pending),
                parts=len(self._parts),
                parked=len(self._parked),
                dead=len(self._dead),
                delivered=self._delivered,
                oldest_pending_at=None if oldest is None else oldest.record.captured_at,
                last_delivered_at=self._last_delivered_at,
                hold=self._hold,
            )
        return done(counts)

    def close(self, timeout: float = 5.0) -> None:  # noqa: ARG002 - as `LocalOutbox`: there is nothing to wait for
        """Give up what was given and claimed: after the next `open` it is given again. The rest lies here as before."""
        with self._lock:
            self._captures = OrderedDict(sorted([*self._given.items(), *self._captures.items()]))
            self._given = {}
            self._left = len(self._captures)
            for number in sorted(self._claimed):
                self._make_due(number)
            self._claimed = set()

    def abandon(self) -> None:
        """Forget, in a forked child, what the parent is going to deliver."""
        self._reset()

    def _size(self) -> int:
        captures = len(self._captures) + len(self._given) + len(self._parked)
        return captures + len(self._parts) + len(self._pending) + len(self._dead)


def _full() -> "Future[Any]":
    return failed(OutboxFullError("the memory outbox is full"))


_APPENDED: Final = done(None)
"""One for all: making a Future takes longer than all else that a capture costs here."""
