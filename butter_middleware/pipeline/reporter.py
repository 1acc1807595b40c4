"""The state of the collection of evidence on this host: for `status()`, the health route and telemetry.

The outbox counts for all its processes. Counts of this process from the last seconds, which may not be in the outbox
yet, are added here.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from butter_middleware import config
from butter_middleware._utils.futures import wait_at_most
from butter_middleware.outbox import Counts
from butter_middleware.outbox.base import Store
from butter_middleware.pipeline import processes
from butter_middleware.pipeline.health import Health, HealthInput, diagnose
from butter_middleware.pipeline.status import Status
from butter_middleware.telemetry.counters import Key, Tally
from butter_middleware.telemetry.coverage import HOUR, Coverage, Watch
from butter_middleware.telemetry.otel import Gauges

if TYPE_CHECKING:
    from butter_middleware.pipeline.pipeline import Pipeline

OUTBOX_SECONDS: Final = 1.0
"""How long a health check, and `status()`, wait for the outbox."""
LOOK_SECONDS: Final = 5.0
"""Between reads of the host's counts."""
LOST_SECONDS: Final = 86400.0
"""How long the health reports a loss."""


class HostCounts(NamedTuple):
    """The counts of the host's processes, by name, route and reason."""

    total: Mapping[Key, int]
    """Over the outbox's life."""
    recent: Mapping[Key, int]
    """The counts of the last one to two hours."""
    today: Mapping[Key, int]
    """The counts of the last day."""


def host_counts(store: Store, now: float) -> HostCounts:
    """Read the host's counts from a store. `now` is by its clock."""
    return HostCounts(store.counted(), store.counted(now - HOUR), store.counted(now - LOST_SECONDS))


@dataclass(frozen=True, slots=True)
class View:
    """The outbox's counts at one moment, with those of this process that it does not have yet."""

    host: HostCounts
    elsewhere: Mapping[Key, int]
    """The part of the total from other processes, and from earlier ones."""
    taken_at: float | None
    """By `time.monotonic`. None: the outbox has not answered yet."""

    @property
    def recent(self) -> Coverage:
        """The coverage of the last one to two hours."""
        return Coverage.of(Tally(self.host.recent))


class StatusReporter:
    """Reports the counts, the state of the threads, and the content of the outbox.

    Args:
        pipeline: The threads of this process.
    """

    def __init__(self, pipeline: "Pipeline") -> None:
        components = pipeline.components
        self._pipeline = pipeline
        self._counters = components.events.counters
        self._clock = components.clock
        self._threshold = components.config.coverage_threshold
        self._host = None if components.queue is not None else config.host(components.config.base_url)
        routes = [route.name for route in components.routes.routes]
        self._watch = Watch(components.events, pipeline.outbox_clock, self._threshold, routes)
        self._view = View(HostCounts({}, {}, {}), {}, None)

    def watch(self, store: Store) -> None:
        """Check the counts of the host. The store's thread calls it if this process leads."""
        now, taken_at = self._pipeline.outbox_clock(), self._view.taken_at
        if self._watch.is_due(now) or taken_at is None or time.monotonic() - taken_at >= LOOK_SECONDS:
            self._take(store)
        else:
            self._pipeline.note_counts(store)
        if self._watch.is_due(now):
            self._watch.look(now, Tally(self._view.host.total), self._view.recent)

    def _take(self, store: Store) -> View:
        self._pipeline.note_counts(store)
        counters, host = self._counters, host_counts(store, self._pipeline.outbox_clock())
        self._view = View(
            HostCounts(*map(counters.with_unwritten, host)),
            counters.elsewhere(host.total),
            time.monotonic(),
        )
        return self._view

    def status(self) -> Status:
        """Return the status."""
        worker = self._pipeline
        view = worker.ask(self._take, self._view, OUTBOX_SECONDS)
        counts = worker.last_counts
        total = Counter(view.elsewhere)
        total.update(self._counters.counts())
        tally = Tally(+total)
        return Status(
            captured=tally.total("captured"),
            skipped=tally.skipped(),
            strength=tally.by_reason("recorded"),
            pending=counts.pending,
            delivered=counts.delivered,
            dead=counts.dead,
            parked=counts.parked,
            parts=counts.parts,
            lost=tally.total("lost") + self._at_risk(counts),
            oldest_pending_age=self._age(counts.oldest_pending_at),
            endpoint=worker.endpoint,
            last_delivery_at=counts.last_delivered_at,
            coverage=Coverage.of(tally),
            conflicts=tally.by_reason("conflicting"),
            faults=tally.by_reason("faulted"),
            not_durable_in_time=tally.total("not_durable_in_time"),
            age=None if view.taken_at is None else time.monotonic() - view.taken_at,
        )

    async def health(self) -> Health:
        """Return whether evidence is being collected. Waits for the outbox without blocking an event loop."""
        worker = self._pipeline
        future = worker.request(self._take)
        answered = await wait_at_most(future, OUTBOX_SECONDS) and future.exception() is None
        view, counts = self._view, worker.last_counts
        participant = worker.participant
        changed = None if participant is None else self._age(participant.sender.delivery.breaker.changed_at)
        signs = HealthInput(
            running=worker.running,
            answered=answered,
            counts=counts,
            lost=Tally(view.host.today).total("lost") + self._at_risk(counts),
            oldest_pending_age=self._age(counts.oldest_pending_at),
            endpoint=worker.endpoint,
            ill_for=changed if changed is not None and worker.endpoint != "ok" else 0.0,
            low_coverage=view.recent if view.recent.is_below(self._threshold) else None,
            outbox_faults=worker.faults,
            dead_threads=worker.dead_threads,
            reading_for=0.0 if participant is None else participant.reader.busy_for,
            host=self._host,
            unattended=worker.components.external and worker.running and worker.deliverer is None,
        )
        return diagnose(signs)

    # For telemetry.

    def counts(self) -> Mapping[Key, int]:
        """Return all counts of this process."""
        return self._counters.counts()

    def levels(self) -> Gauges | None:
        """Return the state of a few seconds ago. Only the leader reports it."""
        worker = self._pipeline
        if not worker.leads:
            return None
        counts = worker.last_counts
        return Gauges(
            coverage=self._view.recent.ratio,
            endpoint=worker.endpoint,
            pending=counts.pending,
            parked=counts.parked,
            dead=counts.dead,
            oldest_pending_age=self._age(counts.oldest_pending_at),
        )

    def _at_risk(self, counts: Counts) -> int:
        """Return how much in memory would be lost now, because no thread runs."""
        participant, outbox = self._pipeline.participant, self._pipeline.components.outbox
        if processes.is_durable(outbox) or (participant is not None and participant.running):
            return 0
        return counts.captured + counts.pending + counts.parked + counts.parts

    def _age(self, since: float | None) -> float | None:
        return None if since is None else max(0.0, self._clock() - since)
