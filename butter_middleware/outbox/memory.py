"""The outbox in the memory of the process: for tests, development, and shops that want nothing on disk."""

import heapq
import itertools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from butter_middleware import config
from butter_middleware.errors import OutboxFullError
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part, joined
from butter_middleware.models.reasons import ParkReason, Skip
from butter_middleware.models.seen_ids import SeenID, after, seen_ids
from butter_middleware.outbox.base import (
    COUNTED_SECONDS,
    FAR_FUTURE,
    HOUR,
    TOKEN_SECONDS,
    Count,
    Counts,
    Outcome,
    Pending,
    Resolution,
    Resolved,
    Settled,
    Settlement,
    Store,
    StoredCapture,
    size_of,
)
from butter_middleware.outbox.faults import Alerts, checked
from butter_middleware.outbox.steady import Look

TOMBSTONE_SECONDS: Final = 7 * 86400.0
"""For how long a delivered record's key is remembered."""
MOST: Final = 10_000_000
"""The upper bound of `limit`: far more than a web process has memory for."""
SPARE: Final = 1_000
"""A heap is rebuilt if it has more entries than this plus twice the pending ones."""
MOST_BYTES: Final = 128 * 1024**2
"""The most bytes of captures, with their headers."""
TOMBSTONES: Final = 100_000
"""The most keys, and the most tokens, that are remembered."""
SEEN_IDS: Final = 200_000
"""The most IDs of records that are remembered."""
KEPT: Final = 1_000
"""The most parked and the most dead entries that are remembered. All are counted."""


@dataclass(frozen=True)
class MemoryOutbox:
    """Keeps up to `limit` captures and records in memory. All of them are lost with the process.

    The captures together may have 128 MiB at most. Beyond a limit, new captures and records are refused.
    Parked and dead entries are only counted and do not use the limit, because no later process could read them again.

    Args:
        limit: The most captures, parts of checkouts and records together.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigurationError: the limit is not a whole number from 1 to 10,000,000, or the clock does not return a time.
    """

    limit: int = 10_000
    clock: Callable[[], float] = field(default=time.time, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        config.whole_number("limit", self.limit, 1, MOST)
        config.clock(self.clock)

    @property
    def durable(self) -> bool:
        """Whether its content outlives the process: no."""
        return False

    def validate(self) -> Sequence[str]:
        """Warn that memory does not outlive the process."""
        warning = (
            "records are kept in memory only: what is not yet delivered is lost when this process is killed, and after "
            "drain_timeout when it stops. Set outbox= to the path of an SQLite file to keep them."
        )
        return (warning,)

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> "MemoryStore":  # noqa: ARG002 - there is no lock, and no other process reads
        """Return a store with these options."""
        return MemoryStore(self.limit, self.clock)


class Head(NamedTuple):
    """A remembered parked or dead entry."""

    id: int
    captured_at: float
    reason: str
    detail: str
    """For a person. For a dead record, its key."""


@dataclass(slots=True)
class _Waiting:
    record: Record
    due_at: float
    attempts: int = 0


class MemoryStore(Store):
    """The store of a `MemoryOutbox`. `append` and `add` fail with `OutboxFullError` beyond its limit.

    Results of a capture are always accepted. `close` keeps the content for the next `open`.

    Args:
        limit: The most captures, parts of checkouts and records together.
        clock: Returns seconds since the epoch.
    """

    durable = False

    def __init__(self, limit: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self.alerts = Alerts("in memory")
        self._limit = limit
        self._clock = checked(clock)
        self.forget()

    def forget(self) -> None:
        """In a forked child, forget the parent's records, because the parent delivers them."""
        self._ids = itertools.count(1)
        self._newest = 0
        self._captures: OrderedDict[int, StoredCapture] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._parts: dict[tuple[str, bool], Part] = {}
        self._pending: dict[int, _Waiting] = {}
        self._due: list[tuple[float, int]] = []
        self._oldest: list[tuple[float, int]] = []
        """The times of pending records, and of some that are already gone."""
        self._seen_at = self._now = self._clock()
        """The start of the transaction. It is read first, so that a failing clock leaves no change half done."""
        self._look = Look.first(self._now)
        self._keys: set[str] = set()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self._seen_ids: OrderedDict[int, tuple[SeenID, float]] = OrderedDict()
        self._tokens: OrderedDict[str, tuple[frozenset[str], float]] = OrderedDict()
        self._counted: Counter[tuple[int, str, str, str]] = Counter()
        self._ended = Counter[str]()
        self._last_delivered_at: float | None = None
        self._hold: str | None = None
        self.parked: deque[Head] = deque(maxlen=KEPT)
        self.dead: deque[Head] = deque(maxlen=KEPT)
        """The newest entries, for a person in the process."""

    # Captures.

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        """Take captures, all or none."""
        sizes = [size_of(capture) for capture in captures]
        if self._size() + len(captures) > self._limit or self._bytes + sum(sizes) > MOST_BYTES:
            raise _full()
        numbers = list(itertools.islice(self._ids, len(captures)))
        for number, capture, size in zip(numbers, captures, sizes, strict=True):
            self._captures[number] = StoredCapture(number, capture, owned)
            self._sizes[number] = size
            self._newest = number
        self._bytes += sum(sizes)
        return numbers

    def load(self, ids: Sequence[int]) -> Sequence[StoredCapture]:
        """Return those that are still there."""
        return [self._captures[number] for number in ids if number in self._captures]

    def unread(self, limit: int, *, below: int, exclude: Collection[int] = ()) -> Sequence[StoredCapture]:
        """Return captures that were not read, oldest first."""
        left = (
            stored
            for stored in self._captures.values()
            if (stored.id <= below or not stored.owned) and stored.id not in exclude
        )
        return list(itertools.islice(left, limit))

    def mark_taken_over(self, ids: Sequence[int]) -> Sequence[int]:
        """Mark captures. Return those that had two marks."""
        for stored in self.load(ids):
            self._captures[stored.id] = replace(stored, tries=stored.tries + 1)
        return [stored.id for stored in self.load(ids) if stored.tries > 2]  # noqa: PLR2004 - the two marks

    def parked_to_try(self, limit: int, *, configuration: str, before: float) -> Sequence[StoredCapture]:  # noqa: ARG002 - as `Store`
        """Return nothing: parked captures are not kept."""
        return ()

    def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolved]:
        """Resolve captures."""
        self._now = self._clock()
        return [self._resolve(resolution) for resolution in resolutions]

    def _resolve(self, resolution: Resolution) -> Resolved:
        number = resolution.id
        if number not in self._captures:
            return Resolved(number, there=False)
        if self._is_replayed(resolution):
            return Resolved(number, there=True, replayed=True)
        capture = self._captures.pop(number).capture
        self._bytes -= self._sizes.pop(number)
        if (parked := resolution.parked) is not None:
            self.parked.append(Head(number, capture.captured_at, ParkReason(parked.reason).value, parked.detail))
            self._ended["parked"] += 1
        self._count(resolution.counts)
        if resolution.part is not None:
            outcomes = self._join(resolution.part)
        else:
            outcomes = [self._add(record) for record in resolution.made]
        return Resolved(number, there=True, outcomes=outcomes)

    def _is_replayed(self, resolution: Resolution) -> bool:
        if not resolution.token:
            return False
        part = () if resolution.part is None else (resolution.part,)
        keys = frozenset(made.key for made in (*resolution.made, *part))
        if not keys:
            return False
        first, _at = self._tokens.setdefault(resolution.token, (keys, self._now))
        if len(self._tokens) > TOMBSTONES:
            self._tokens.popitem(last=False)
        return first != keys

    def _join(self, part: Part) -> list[Outcome]:
        if part.key in self._tombstones:
            return [Skip.DUPLICATE]
        place = part.key, part.shopper
        self._parts[place] = part.after(self._parts.get(place))
        shopper, payment = self._parts.get((part.key, True)), self._parts.get((part.key, False))
        record = joined(shopper, payment, part.traceparent)
        if record is None:
            return []
        for is_shopper in (True, False):
            del self._parts[part.key, is_shopper]
        self._add_tombstone(part.key)
        return [self._add(record)]

    def expire(self, before: float) -> int:
        """Delete the parts that were captured before this time, by the confirmed time (`Look`). Return their number."""
        before = self._look.confirmed - (self._clock() - before)
        old = [place for place, part in self._parts.items() if part.captured_at < before]
        for place in old:
            del self._parts[place]
        return len(old)

    # Records.

    def add(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """Add records. Return the result for each."""
        if self._size() + len(records) > self._limit:
            raise _full()
        self._now = self._clock()
        return [self._add(record) for record in records]

    def _add(self, record: Record) -> Outcome:
        if record.key in self._keys or record.key in self._tombstones:
            return Skip.DUPLICATE
        now, ids = self._now, seen_ids(record.fields)
        known = {one.id: self._seen_ids[one.id][0] for one in ids if one.id in self._seen_ids}
        may_be_sent, changed = after(known, ids)
        for one in changed:
            self._seen_ids[one.id] = one, now
            self._seen_ids.move_to_end(one.id)
            if len(self._seen_ids) > SEEN_IDS:
                self._seen_ids.popitem(last=False)
        if not may_be_sent:
            return Skip.OTHER_ADDRESS
        number = next(self._ids)
        self._keys.add(record.key)
        self._pending[number] = _Waiting(record, 0.0)
        self._make_due(number, min(record.captured_at, now))
        heapq.heappush(self._oldest, (record.captured_at, number))
        return Pending(number, record, 0)

    def due(self, limit: int, exclude: Collection[int] = ()) -> Sequence[Pending]:
        """Return records that are due, those due longest first."""
        now = self._clock()
        self._clamp(now)
        given, passed = list[Pending](), set[tuple[float, int]]()
        while self._due and len(given) < limit and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            waiting = self._pending.get(entry[1])
            if waiting is None or waiting.due_at != entry[0] or entry in passed:
                continue  # it was settled, or its due time has changed
            passed.add(entry)
            if entry[1] not in exclude:
                given.append(Pending(entry[1], waiting.record, waiting.attempts))
        for entry in passed:
            heapq.heappush(self._due, entry)
        return given

    def next_due(self) -> float | None:
        """Return when the next record is due."""
        return min((waiting.due_at for waiting in self._pending.values()), default=None)

    def _clamp(self, now: float) -> None:
        """If the clock went back, correct due times that are now in the far future."""
        if now < self._seen_at:
            for number, waiting in self._pending.items():
                if waiting.due_at > now + FAR_FUTURE:
                    self._make_due(number, now)
        self._seen_at = now

    def _make_due(self, number: int, due_at: float) -> None:
        self._pending[number].due_at = due_at
        heapq.heappush(self._due, (due_at, number))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Store the results of records."""
        self._now = self._clock()
        for settlement in settlements:
            if settlement.id in self._pending:
                self._settle(settlement)

    def _settle(self, settlement: Settlement) -> None:
        now, number, waiting = self._now, settlement.id, self._pending[settlement.id]
        match settlement.settled:
            case Settled.RETRY | Settled.RELEASED:
                retried = settlement.settled is Settled.RETRY
                due_at = settlement.due_at or (now if retried else waiting.due_at)
                due_at = due_at if due_at <= now + FAR_FUTURE else now
                waiting.attempts += retried
                if due_at != waiting.due_at:
                    self._make_due(number, due_at)
            case Settled.DEAD:
                del self._pending[number]
                record = waiting.record
                self._keys.discard(record.key)
                self._add_tombstone(record.key)
                self.dead.append(Head(number, record.captured_at, settlement.reason, record.key))
                self._ended["dead"] += 1
            case Settled.DELIVERED:
                del self._pending[number]
                self._keys.discard(waiting.record.key)
                self._add_tombstone(waiting.record.key)
                self._ended["delivered"] += 1
                self._last_delivered_at = now

    def _add_tombstone(self, key: str) -> None:
        self._tombstones[key] = self._now
        if len(self._tombstones) > TOMBSTONES:
            self._tombstones.popitem(last=False)

    # The host.

    def set_hold(self, reason: str | None) -> None:
        """Store the hold's reason while the process lives."""
        self._hold = reason

    def prune(self) -> bool:
        """Forget old keys, tokens and counts, and entries of the heaps that are no longer pending."""
        self._look = self._look.again(self._clock())
        # Rarely, because sorting a backlog stops all other threads.
        if max(len(self._due), len(self._oldest)) > 2 * len(self._pending) + SPARE:
            self._due = sorted((waiting.due_at, number) for number, waiting in self._pending.items())
            self._oldest = sorted((waiting.record.captured_at, number) for number, waiting in self._pending.items())
        now = self._look.confirmed
        while self._tombstones and next(iter(self._tombstones.values())) < now - TOMBSTONE_SECONDS:
            self._tombstones.popitem(last=False)
        # The IDs of unsent records are kept.
        oldest = min(now - TOMBSTONE_SECONDS, self._oldest_pending_at() or now)
        while self._seen_ids and next(iter(self._seen_ids.values()))[1] < oldest:
            self._seen_ids.popitem(last=False)
        while self._tokens and next(iter(self._tokens.values()))[1] < now - TOKEN_SECONDS:
            self._tokens.popitem(last=False)
        first, before = int((now - COUNTED_SECONDS) // HOUR), self._counted
        self._counted = Counter()
        for (hour, name, route, reason), times in before.items():
            self._counted[hour if hour >= first else 0, name, route, reason] += times
        return False

    def counts(self) -> Counts:
        """Return the counts."""
        return Counts(
            **self._ended,
            last_delivered_at=self._last_delivered_at,
            hold=self._hold,
            captured=len(self._captures),
            pending=len(self._pending),
            parts=len(self._parts),
            oldest_pending_at=self._oldest_pending_at(),
            newest_capture=self._newest,
        )

    def _oldest_pending_at(self) -> float | None:
        while self._oldest and self._oldest[0][1] not in self._pending:
            heapq.heappop(self._oldest)
        return self._oldest[0][0] if self._oldest else None

    def count(self, counts: Sequence[Count]) -> None:
        """Add to the counts."""
        self._now = self._clock()
        self._count(counts)

    def _count(self, counts: Sequence[Count]) -> None:
        hour = int(self._now // HOUR)
        for name, route, reason, times in counts:
            self._counted[hour, name, route, reason] += times

    def counted(self, since: float | None = None) -> Mapping[tuple[str, str, str], int]:
        """Return the counts by name, route and reason."""
        found = Counter[tuple[str, str, str]]()
        for (hour, name, route, reason), times in self._counted.items():
            if since is None or (hour and hour >= since // HOUR):
                found[name, route, reason] += times
        return dict(found)

    def _size(self) -> int:
        return len(self._captures) + len(self._parts) + len(self._pending)


def _full() -> OutboxFullError:
    return OutboxFullError("the memory outbox is full")
