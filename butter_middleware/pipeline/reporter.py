"""How the collection goes in one process: for `status()`, the health route and telemetry.

Where a process only appends, what becomes of its checkouts is seen in another: it has no coverage.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Final, Protocol

from butter_middleware._utils.futures import wait_at_most
from butter_middleware.outbox import Counts
from butter_middleware.pipeline.components import Components
from butter_middleware.pipeline.health import Health, HealthInput, diagnose
from butter_middleware.pipeline.status import Status
from butter_middleware.telemetry.coverage import Coverage, Watch
from butter_middleware.telemetry.otel import Gauges

OUTBOX_SECONDS: Final = 1.0
"""For which a health check, and `status()`, wait for the outbox."""


class Threads(Protocol):
    """What the reporter asks of the pipeline."""

    def counts(self, seconds: float = 1.0) -> Counts:
        """Count what lies in the outbox, or give what was last counted."""
        ...

    def ask_counts(self) -> "Future[Counts]":
        """Count what lies in the outbox."""
        ...

    def not_durable_in_time(self, seconds: float) -> int:
        """Return how many responses did not wait for what their durability promises."""
        ...

    @property
    def last_counts(self) -> Counts:
        """What was last counted."""
        ...

    @property
    def running(self) -> bool:
        """Whether the threads run."""
        ...

    @property
    def external(self) -> bool:
        """Whether another process reads and sends."""
        ...

    @property
    def endpoint(self) -> str:
        """The state of the endpoint."""
        ...

    @property
    def endpoint_changed_at(self) -> float | None:
        """When it became well or ill."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this process sends for all."""
        ...

    @property
    def dead_threads(self) -> list[str]:
        """The threads that have ended."""
        ...

    @property
    def reading_for(self) -> float:
        """Seconds for which one capture has been read."""
        ...

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with the outbox."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether what lies in memory now would be lost."""
        ...

    @property
    def deliverer(self) -> int | None:
        """The process that sends from the outbox's file."""
        ...


class StatusReporter:
    """Asks what is counted, the worker and the outbox.

    Args:
        threads: The threads of this process.
        components: The parts, and the configuration.
    """

    def __init__(self, threads: Threads, components: Components) -> None:
        self._threads = threads
        self._events = components.events
        self._clock = components.clock
        self._threshold = components.config.coverage_threshold
        self._host = None if components.queue is not None else components.config.host
        self._routes: Callable[[], Iterable[str]] = lambda: [route.name for route in components.routes.routes]
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
        counters, worker = self._events.counters, self._threads
        until = time.monotonic() + OUTBOX_SECONDS
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
            coverage=Coverage() if worker.external else Coverage.of(counters),
            conflicts=counters.by_reason("conflicting"),
            faults=counters.by_reason("faulted"),
            not_durable_in_time=worker.not_durable_in_time(max(0.05, until - time.monotonic())),
        )

    async def health(self) -> Health:
        """Say whether evidence is being collected. Waits for the outbox, but no event loop waits for it."""
        worker = self._threads
        future = worker.ask_counts()
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
            low_coverage=self._watch.recent if self._watch.low and not worker.external else None,
            outbox_faults=worker.faults,
            dead_threads=worker.dead_threads,
            reading_for=worker.reading_for,
            host=self._host,
            unattended=worker.external and worker.running and worker.deliverer is None,
        )
        return diagnose(signs)

    # What telemetry asks.

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return all that was counted, by name, route and reason."""
        return self._events.counters.counts()

    def levels(self) -> Gauges:
        """Return how it stands."""
        worker = self._threads
        coverage = None if worker.external else self._watch.recent.ratio
        if not worker.leads:
            return Gauges(coverage)
        counts = worker.last_counts
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
        return counts.captured + counts.pending + counts.parked + counts.parts if self._threads.stopped else 0

    def _age(self, since: float | None) -> float | None:
        return None if since is None else max(0.0, self._clock() - since)
