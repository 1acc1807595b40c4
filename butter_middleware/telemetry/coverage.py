"""The coverage: how many successful responses on checkout routes became records, and why the others did not."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from butter_middleware.events import CoverageFell, RouteFellSilent
from butter_middleware.models.reasons import Skip, missed
from butter_middleware.telemetry.counters import Tally
from butter_middleware.telemetry.dispatcher import EventDispatcher

HOUR: Final = 3600.0
SILENT_SECONDS: Final = 86400.0
_SILENT: Final = (Skip.NOT_A_CHECKOUT, Skip.GATED, Skip.NOT_PAID)
BUSY: Final = 10
"""The number of records after which the silence of a route is reported."""
MANY: Final = 50
"""The number of unpaid responses after which a route without any record is reported."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many checkouts of this host became records. Responses that are not a paid checkout do not count."""

    covered: int = 0
    """Responses that became records, or a part of one."""
    missed: Mapping[str, int] = field(default_factory=dict[str, int])
    """Responses that should have become records but did not, by reason, the most frequent first."""

    @property
    def ratio(self) -> float | None:
        """The covered share, 0 to 1. None if there were no checkouts."""
        total = self.covered + sum(self.missed.values())
        return self.covered / total if total else None

    def is_below(self, threshold: float) -> bool:
        """Whether there were checkouts, and too few of them became records."""
        return self.ratio is not None and self.ratio < threshold

    @classmethod
    def of(cls, tally: Tally) -> "Coverage":
        """Return the coverage from counts."""
        lacking = Counter({reason: count for reason, count in tally.skipped().items() if missed(reason)})
        lacking["lost"] += tally.total("lost")
        faults = tally.by_reason("faulted").items()
        lacking["fault"] += sum(count for reason, count in faults if reason.startswith("request:"))
        return cls(tally.total("covered"), dict((+lacking).most_common()))

    def __str__(self) -> str:
        total = self.covered + sum(self.missed.values())
        why = ", ".join(f"{reason} {count}" for reason, count in self.missed.items())
        return f"{self.covered} of {total} checkouts became records" + (f" (not: {why})" if why else "")


class Watch:
    """Looks once an hour whether enough checkouts became records, and whether each route gives records.

    It reports each hour in which less than `threshold` (0 to 1) of the checkouts became records. It reports once that a
    route gives no records. One process of the host does this, with the counts of all processes.
    """

    def __init__(
        self,
        events: EventDispatcher,
        clock: Callable[[], float],
        threshold: float,
        routes: Iterable[str] = (),
    ) -> None:
        self._events = events
        self._threshold = threshold
        self._names = tuple(routes)
        self._began = clock()
        self._hour = self._began // HOUR
        self._told: set[tuple[str, str]] = set()
        self._routes: dict[str, tuple[int, float]] = {}
        """The number of records of each route, and since when it has not changed."""

    def is_due(self, now: float) -> bool:
        """Whether another hour has begun since the last look."""
        return now // HOUR != self._hour

    def look(self, now: float, total: Tally, hour: Coverage) -> None:
        """Check the counts of all time, and the coverage of the last hour."""
        self._hour = now // HOUR
        if hour.is_below(self._threshold):
            message = (
                f"evidence is missing: in the last hour {hour}. The log named each reason with its remedy when it "
                "first occurred. docs/telemetry.md lists the reasons."
            )
            self._events.emit(CoverageFell(ratio=hour.ratio or 0.0, message=message))
        for route, count in total.by_route("covered").items():
            before, since = self._routes.get(route, (0, now))
            if count != before:
                self._routes[route] = (count, now)
            elif count >= BUSY and now - since >= SILENT_SECONDS:
                self._routes[route] = (count, float("inf"))  # reported once, until there is a new record
                message = (
                    f"{route} has given no record for a day, after {count} before. If it still serves checkouts, the "
                    "path, the response or the extractor has changed: see status().skipped."
                )
                self._events.emit(RouteFellSilent(route=route, message=message))
        captured, skipped = total.by_route("captured"), total.by_route("skipped")
        for route in self._names:
            unsuccessful = total.counts.get(("skipped", route, "status"), 0)
            if route in captured:
                self._look_for_checkouts(route, total)
                continue
            if unsuccessful >= BUSY:  # often redirects, as the answers of forms
                message = (
                    f"{route} has answered {unsuccessful} requests, and none with a success (2xx). If it redirects "
                    "after a payment (302, 303), call annotate() in the endpoint: then a redirect counts."
                )
                self._tell_once(route, "status", message)
            elif route not in skipped and now - self._began >= SILENT_SECONDS:
                message = (
                    f"{route} has matched no request for {SILENT_SECONDS / HOUR:.0f} hours. If it serves checkouts, "
                    "its path or its methods= are not those of the app: a prefix or a trailing slash counts."
                )
                self._tell_once(route, "unmatched", message)

    def _look_for_checkouts(self, route: str, total: Tally) -> None:
        """Report a route without any paid checkout. Single such responses are normal, and not reported."""
        found = {reason: total.counts.get(("skipped", route, reason), 0) for reason in _SILENT}
        count = sum(found.values())
        if count < MANY or total.by_route("covered").get(route):
            return
        why = ", ".join(f"{reason} {times}" for reason, times in found.items() if times)
        message = (
            f"{route} has given no record: {count} responses were not paid checkouts ({why}). If it serves checkouts, "
            "correct its extract= or when=: `butter-middleware explain` shows what they find in a response."
        )
        self._tell_once(route, "no_checkout", message)

    def _tell_once(self, route: str, reason: str, message: str) -> None:
        if (route, reason) not in self._told:
            self._told.add((route, reason))
            self._events.emit(RouteFellSilent(route=route, reason=reason, message=message))
