"""Counts of the events, in this process and on this host."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Final

Key = tuple[str, str, str]
"""Name, route and reason."""

HOST: Final = frozenset(
    {
        "captured",
        "conflicting",
        "covered",
        "faulted",
        "lost",
        "not_durable_in_time",
        "parked",
        "recorded",
        "skipped",
    }
)
"""The names that the outbox counts for all processes of the host. It counts deliveries without these events."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by name, route and reason."""

    counts: Mapping[Key, int]

    def total(self, name: str) -> int:
        """Return how often something happened."""
        return sum(self.by_reason(name).values())

    def by_reason(self, name: str) -> Mapping[str, int]:
        """Return how often something happened for each reason, the most frequent first."""
        return self._by(name, 2)

    def by_route(self, name: str) -> Mapping[str, int]:
        """Return how often something happened for each route, the most frequent first."""
        return self._by(name, 1)

    def _by(self, name: str, part: int) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for key, count in self.counts.items():
            if key[0] == name:
                found[key[part]] += count
        return dict(found.most_common())

    def skipped(self) -> Mapping[str, int]:
        """Return how many responses did not become a record, by reason. Parked ones are included."""
        found = Counter(self.by_reason("skipped"))
        for reason, count in self.by_reason("parked").items():
            found[reason if reason.startswith("no_address:") else f"parked:{reason}"] += count
        return dict(found.most_common())


class Counters:
    """The counts of one process. Any thread may use them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start again in a forked child, because the parent may have held the lock."""
        self._lock = RLock()  # the garbage collector may end a request, which counts, on the lock's thread
        self._counts: dict[Key, int] = defaultdict(int)
        self._written: dict[Key, int] = defaultdict(int)
        """The part of `_counts` that the outbox has already."""

    def add(self, name: str, route: str = "", reason: str = "", times: int = 1, *, written: bool = False) -> None:
        """Count an event `times` times. If `written`, the outbox has already counted it."""
        key = name, route, reason
        with self._lock:
            self._counts[key] += times
            if written:
                self._written[key] += times

    def counts(self) -> Mapping[Key, int]:
        """Return all counts of this process."""
        with self._lock:
            return dict(self._counts)

    def elsewhere(self, written: Mapping[Key, int]) -> Mapping[Key, int]:
        """Return the part of the outbox's counts that other processes, and earlier ones, have counted."""
        with self._lock:
            counts, unwritten = self._counts.copy(), self._unwritten()
        found = Counter(written)
        found.update(unwritten)
        found.subtract(counts)
        return {key: times for key, times in found.items() if times}  # below 0 if parked here and read later

    def with_unwritten(self, written: Mapping[Key, int]) -> Mapping[Key, int]:
        """Return the outbox's counts and those that it does not have yet."""
        with self._lock:
            unwritten = self._unwritten()
        return Counter(written) + Counter(unwritten)

    def take_unwritten(self) -> Mapping[Key, int]:
        """Take the counts that must be written to the outbox."""
        with self._lock:
            taken = self._unwritten()
            for key, times in taken.items():
                self._written[key] += times
        return taken

    def _unwritten(self) -> dict[Key, int]:
        counts = self._counts.copy()
        host = ((key, times - self._written.get(key, 0)) for key, times in counts.items() if key[0] in HOST)
        return {key: times for key, times in host if times}

    def put_back(self, taken: Mapping[Key, int]) -> None:
        """Take back counts that could not be written."""
        with self._lock:
            for key, times in taken.items():
                self._written[key] -= times
