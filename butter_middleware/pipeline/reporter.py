"""How the collection stands in one process: for `status()`, the health route and telemetry.

Where a process only appends, what becomes of its checkouts is seen in another: it has no coverage.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from butter_middleware._utils.futures import wait_at_most
from butter_middleware.outbox import Counts, LocalOutbox
from butter_middleware.pipeline.appender import Appender
from butter_middleware.pipeline.health import Health, HealthInput, diagnose
from butter_middleware.pipeline.status import Status
from butter_middleware.pipeline.worker import Worker
from butter_middleware.telemetry.coverage import Coverage, Watch
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Gauges

OUTBOX_SECONDS: Final = 1.0
"""For which a health check waits for the outbox."""
LEVELS_SECONDS: Final = 0.05
"""For which a metric waits for it; it takes a millisecond, unless the file fails: then the metric is as it last was."""


class StatusReporter:
    """Asks what is counted, the worker and the outbox.

    Args:
        notices: Counts what happens.
        outbox: Where records wait.
        worker: Gives what works on it in this process, or only appends.
        clock: Seconds since the epoch.
        threshold: The least coverage that is well, 0 to 1.
        host: Butter's, or None where a queue takes the records.
        routes: Gives the names of the checkout routes.
    """

    def __init__(
        self,
        events: EventDispatcher,
        outbox: LocalOutbox,
        worker: Callable[[], Worker | Appender],
        clock: Callable[[], float],
        threshold: float,
        host: str | None,
        routes: Callable[[], Iterable[str]],
    ) -> None:
        self._events = events
        self._outbox = outbox
        self._worker = worker
        self._clock = clock
        self._threshold = threshold
        self._host = host
        self._routes = routes
        self.begin()

    def begin(self) -> None:
        """Watch from now on: a fork has a watch of its own."""
        self._watch = Watch(self._events, self._clock, self._threshold, self._routes)

    def serve_nothing(self) -> None:
        """This process only delivers: that its routes match no request says nothing."""
        self._routes = tuple
        self.begin()

    def look(self) -> None:
        """See whether too few checkouts became records, now and then."""
        self._watch.look()

    def status(self) -> Status:
        """Return how the collection goes."""
        counters, worker = self._events.counters, self._worker()
        counts = worker.counts()
        return Status(
            captured=counters.total("captured"),
            skipped=counters.skipped(),
            strength=counters.by_reason("recorded"),
            pending=counts.pending,
            delivered=counts.delivered,
            dead=counts.dead,
            parked=counts.parked,
            parts=counts.parts,
            lost=counters.total("lost") + self._at_risk(counts),
            oldest_pending_age=self._age(counts.oldest_pending_at),
            endpoint=worker.endpoint,
            last_delivery_at=counts.last_delivered_at,
            coverage=Coverage() if isinstance(worker, Appender) else Coverage.of(counters),
            conflicts=counters.by_reason("conflicting"),
            faults=counters.by_reason("faulted"),
            not_durable_in_time=counters.total("not_durable_in_time"),
        )

    async def health(self) -> Health:
        """Say whether evidence is being collected. Waits for the outbox, but no event loop waits for it."""
        worker = self._worker()
        future = self._outbox.counts()
        answered = await wait_at_most(future, OUTBOX_SECONDS) and future.exception() is None
        counts = future.result() if answered else Counts()
        changed = self._age(worker.endpoint_changed_at)
        signs = HealthInput(
            running=worker.running,
            answered=answered,
            counts=counts,
            lost=self._events.counters.total("lost") + self._at_risk(counts),
            oldest_pending_age=self._age(counts.oldest_pending_at),
            endpoint=worker.endpoint,
            ill_for=changed if changed is not None and worker.endpoint != "ok" else 0.0,
            low_coverage=self._watch.recent if self._watch.low and not isinstance(worker, Appender) else None,
            outbox_faults=worker.faults,
            dead_threads=worker.dead_threads,
            reading_for=worker.reading_for,
            host=self._host,
            unattended=isinstance(worker, Appender) and worker.unattended,
        )
        return diagnose(signs)

    # What telemetry asks.

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return all that was counted, by name, route and reason."""
        return self._events.counters.counts()

    def levels(self) -> Gauges:
        """Return how it stands."""
        worker = self._worker()
        coverage = None if isinstance(worker, Appender) else self._watch.recent.ratio
        if not worker.leads:
            return Gauges(coverage)
        counts = worker.counts(LEVELS_SECONDS)
        return Gauges(
            coverage,
            leads=True,
            endpoint=worker.endpoint,
            pending=counts.pending,
            parked=counts.parked,
            dead=counts.dead,
            oldest_pending_age=self._age(counts.oldest_pending_at),
        )

    def _at_risk(self, counts: Counts) -> int:
        return counts.captured + counts.pending + counts.parked + counts.parts if self._worker().stopped else 0

    def _age(self, since: float | None) -> float | None:
        return None if since is None else max(0.0, self._clock() - since)
