"""Of the successful responses on checkout routes: how many became records, and why the others did not."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from butter_middleware.events import CoverageFell, RouteFellSilent
from butter_middleware.models.reasons import missed
from butter_middleware.telemetry.counters import Counters
from butter_middleware.telemetry.dispatcher import EventDispatcher

HOUR: Final = 3600.0
SILENT_SECONDS: Final = 86400.0
BUSY: Final = 10
"""Records after which a route's silence is noticed."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the checkouts that this process saw, which became records. What is no paid checkout is not among them."""

    covered: int = 0
    """Responses that became records, or their part of one."""
    missed: Mapping[str, int] = field(default_factory=dict[str, int])
    """Responses that should have and did not, by reason, the most frequent first."""

    @property
    def ratio(self) -> float | None:
        """The covered share, 0 to 1; None where there were no checkouts."""
        total = self.covered + sum(self.missed.values())
        return self.covered / total if total else None

    def since(self, earlier: "Coverage") -> "Coverage":
        """Return what came after `earlier`."""
        left = Counter(self.missed)
        left.subtract(earlier.missed)
        return Coverage(self.covered - earlier.covered, dict((+left).most_common()))

    @classmethod
    def of(cls, counters: Counters) -> "Coverage":
        """Return the coverage since the process began."""
        lacking = Counter({reason: count for reason, count in counters.skipped().items() if missed(reason)})
        lacking["lost"] += counters.total("lost")
        faults = counters.by_reason("faulted").items()
        lacking["fault"] += sum(count for reason, count in faults if reason.startswith("request:"))
        return cls(counters.total("covered"), dict((+lacking).most_common()))

    def __str__(self) -> str:
        total = self.covered + sum(self.missed.values())
        why = ", ".join(f"{reason} {count}" for reason, count in self.missed.items())
        return f"{self.covered} of {total} checkouts became records" + (f" (not: {why})" if why else "")


class Watch:
    """Tells once an hour where too few checkouts became records, and where a route fell silent.

    Args:
        notices: Counts what is watched, and is told.
        clock: Seconds.
        threshold: The least coverage of which nothing is said, 0 to 1.
        routes: Gives the names of the checkout routes.
    """

    def __init__(
        self,
        events: EventDispatcher,
        clock: Callable[[], float],
        threshold: float,
        routes: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._events = events
        self._clock = clock
        self._threshold = threshold
        self._list_routes = routes
        self._began = self._looked_at = clock()
        self._unmatched = set[str]()
        self._before = self._then = Coverage()
        self._routes: dict[str, tuple[int, float]] = {}

    def look(self) -> None:
        """Look, where the last look is an hour ago."""
        now = self._clock()
        if abs(now - self._looked_at) < HOUR:
            return
        self._looked_at = now
        total = Coverage.of(self._events.counters)
        hour = total.since(self._then)
        self._before, self._then = self._then, total
        if hour.ratio is not None and hour.ratio < self._threshold:
            message = (
                f"evidence is missing: in the last hour {hour}. Each reason was said with its remedy when it first "
                "came up; docs/telemetry.md lists them."
            )
            self._events.emit(CoverageFell(ratio=hour.ratio, message=message))
        for route, count in self._events.counters.by_route("covered").items():
            self._listen(route, count, now)
        if now - self._began >= SILENT_SECONDS:
            self._find_unmatched()

    def _find_unmatched(self) -> None:
        """Tell once of each route that no request has matched since the process began."""
        counters = self._events.counters
        matched = counters.by_route("captured").keys() | counters.by_route("skipped").keys()
        for route in [each for each in self._list_routes() if each not in matched | self._unmatched]:
            self._unmatched.add(route)
            message = (
                f"{route} has matched no request for {SILENT_SECONDS / HOUR:.0f} hours. If it serves checkouts, its "
                "path or its methods= are not those of the app: a prefix or a trailing slash counts."
            )
            self._events.emit(RouteFellSilent(route=route, reason="unmatched", message=message))

    def _listen(self, route: str, count: int, now: float) -> None:
        before, since = self._routes.get(route, (0, now))
        if count != before:
            self._routes[route] = (count, now)
        elif count >= BUSY and now - since >= SILENT_SECONDS:
            self._routes[route] = (count, float("inf"))  # said once, until there is a record again
            message = (
                f"{route} has given no record for a day, after {count} before. If it still serves checkouts, the path, "
                "the response or the extractor has changed: see status().skipped."
            )
            self._events.emit(RouteFellSilent(route=route, message=message))

    @property
    def recent(self) -> Coverage:
        """The coverage of the last hour or two."""
        return Coverage.of(self._events.counters).since(self._before)

    @property
    def low(self) -> bool:
        """Whether too few of them became records."""
        ratio = self.recent.ratio
        return ratio is not None and ratio < self._threshold
