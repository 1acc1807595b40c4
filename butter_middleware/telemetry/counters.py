"""What happened in this process, counted."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock


class Counters:
    """Counts of one process by name, route and reason; safe from any thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child, whose parent may have held the lock."""
        self._lock = Lock()
        self._counts: dict[tuple[str, str, str], int] = {}

    def add(self, name: str, route: str = "", reason: str = "", times: int = 1) -> None:
        """Count."""
        key = name, route, reason
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + times

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return all counts, by name, route and reason."""
        with self._lock:
            return dict(self._counts)

    def total(self, name: str) -> int:
        """Return how often something happened."""
        return sum(self.by_reason(name).values())

    def by_reason(self, name: str) -> Mapping[str, int]:
        """Return how often something happened by its reason, the most frequent first."""
        return self._by(name, 2)

    def by_route(self, name: str) -> Mapping[str, int]:
        """Return how often something happened by its route, the most frequent first."""
        return self._by(name, 1)

    def _by(self, name: str, part: int) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for key, count in self.counts().items():
            if key[0] == name:
                found[key[part]] += count
        return dict(found.most_common())

    def skipped(self) -> Mapping[str, int]:
        """Return how many responses became no record, by reason: parked ones too."""
        parked = {_parked(reason): count for reason, count in self.by_reason("parked").items()}
        return dict(Counter(self.by_reason("skipped")) + Counter(parked))


def _parked(reason: str) -> str:
    return reason if reason.startswith("no_address:") else f"parked:{reason}"
