"""`Collector`: what the middleware tells, what the worker asks, and the counts of it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from butter_middleware import tidings
from butter_middleware.awaited import NOTHING, HoldBack
from butter_middleware.beacon import Beacon, Redeemer
from butter_middleware.checkout import Checkout, Record
from butter_middleware.client_ip import ClientIP, Strategy
from butter_middleware.client_ip.address import Networks
from butter_middleware.client_ip.diagnosis import Diagnosis
from butter_middleware.counters import Skip
from butter_middleware.coverage import Coverage, Watch
from butter_middleware.delivery import Delivery
from butter_middleware.events import Captured, Diagnosed, Faulted, Lost, NotDurableInTime, Recorded, Skipped
from butter_middleware.exchange import Capture, snapshot
from butter_middleware.health import Health, Signs, diagnose
from butter_middleware.notes import SCOPE_KEY, Notes, plain
from butter_middleware.notices import Notices
from butter_middleware.outbox import Counts, LocalOutbox, Settlement
from butter_middleware.reading import Reader, Reading
from butter_middleware.routes import CheckoutRoute, RouteTable
from butter_middleware.sources import Sources
from butter_middleware.status import Status
from butter_middleware.strength import carried
from butter_middleware.telemetry import Levels, Telemetry
from butter_middleware.waiting import Patience, wait_at_most
from butter_middleware.worker import Worker

OUTBOX_SECONDS: Final = 1.0
"""For which a health check waits for the outbox."""
LEVELS_SECONDS: Final = 0.05
"""For which a metric waits for it; it takes a millisecond, unless the file fails: then the metric is as it last was."""


Read = Callable[[Capture, CheckoutRoute | None], Reading]


class Collector:
    """The way of a checkout into the outbox, in one process. None of what the middleware calls raises, but `snapshot`.

    Built by `Butter`, whose options its arguments are.
    """

    def __init__(  # noqa: PLR0913 - the options of the product, which Butter has checked
        self,
        routes: RouteTable,
        strategy: Strategy,
        beacon: Beacon | None,
        outbox: LocalOutbox,
        make_delivery: Callable[[Callable[[Sequence[Settlement]], None]], Delivery],
        *,
        optional_fields: frozenset[str],
        max_body_bytes: int,
        hold_back: HoldBack,
        staging: bool,
        dry_run: bool,
        drain_timeout: float,
        join_ttl: float,
        clock: Callable[[], float],
        notices: Notices,
        telemetry: Telemetry,
        coverage_threshold: float,
        admitted: Networks,
        witness: Callable[[Read], Read],
        sources: Sources | None = None,
    ) -> None:
        self.routes = routes
        self.max_body_bytes = max_body_bytes
        self.traceparent = telemetry.traceparent
        self._notices = notices
        self._telemetry = telemetry
        self._coverage_threshold = coverage_threshold
        self._make_diagnosis = partial(Diagnosis, strategy)
        self._cookies = None if beacon is None else beacon.cookies
        self._hold_back = hold_back
        self._dry_run = dry_run
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._make_reader: Callable[[], Reader] = lambda: Reader(
            strategy,
            max_body_bytes,
            optional_fields,
            self._observe,
            admitted,
            None if beacon is None else Redeemer(beacon),
            staging=staging,
            sources=sources,
        )
        self._witness = witness
        self._sources = sources
        self._make_worker = partial(
            Worker,
            read=self._read,
            make_delivery=make_delivery,
            notices=notices,
            drain_timeout=drain_timeout,
            expire_before=lambda: clock() - join_ttl,
            look=lambda: self._watch.look(),  # noqa: PLW0108 - a fork has one of its own
            started=self._begin,
        )
        self._fit_out(outbox)

    def _fit_out(self, outbox: LocalOutbox) -> None:
        self.outbox = outbox
        self._patience = Patience()
        self._watch = self._new_watch()
        self._diagnosis = self._make_diagnosis()
        self._reader = self._make_reader()
        self._read_capture = self._witness(self._reader.read)
        self.worker = self._make_worker(outbox)

    def begin_anew(self, outbox: LocalOutbox) -> None:
        """Go on as a process that has just started, with another outbox: for tests, since one `Butter` serves many.

        What was not delivered is left behind, and with it a thread that does not end, in an extractor that hangs.
        """
        self.worker.abandon()
        self._telemetry.forget(self)
        self._notices.forget()
        self._fit_out(outbox)

    def _new_watch(self) -> Watch:
        return Watch(self._notices, self._clock, self._coverage_threshold)

    def _begin(self) -> None:
        """On the worker's own thread, before it delivers."""
        self._watch = self._new_watch()
        self._telemetry.load(self, self._notices.tell)

    # What `Butter` calls.

    def add(self, checkout: Checkout) -> None:
        """Take a whole checkout."""
        for record in self.record_of(checkout):
            self.worker.add(record)

    def record(self, request: Mapping[str, Any], fields: Mapping[str, object]) -> None:
        """Take the fields of a checkout, and the shopper's request."""
        try:
            capture = self._recorded(request, fields)
            self.capture(self.routes.find(capture.method, capture.path), capture)
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)

    def records(self, request: Mapping[str, Any], fields: Mapping[str, object]) -> Sequence[Record]:
        """Return the records of a checkout that is recorded in a transaction; what makes none is as with `record`."""
        try:
            capture = self._recorded(request, fields)
            route = self.routes.find(capture.method, capture.path)
            reading = self._reader.read(capture, route)
            if reading.parked is not None or not reading.records:
                self.capture(route, capture)
                return ()
            where = "" if route is None else route.name
            self._notices.note(Captured, where)
            tidings.tell(self._notices, where, reading)
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)
            return ()
        return self._wet(reading.records)

    def record_of(self, checkout: Checkout) -> Sequence[Record]:
        """Return the record of a whole checkout; none in a dry run."""
        record = Record.of(checkout, self._clock())
        self._notices.note(Recorded, "", carried(record))
        if self._sources is not None:
            self._sources.note(record.key, "butter.record()", dict.fromkeys(checkout.payload(), "the Checkout"))
        return self._wet([record])

    def _wet(self, records: Sequence[Record]) -> Sequence[Record]:
        if not self._dry_run:
            return records
        self._notices.tell(Skipped(reason=Skip.DRY_RUN, times=len(records)))
        return ()

    def _recorded(self, request: Mapping[str, Any], fields: Mapping[str, object]) -> Capture:
        notes: Notes | None = request.get(SCOPE_KEY)
        seen = self.snapshot(request) if notes is None else notes.request
        return Capture(
            **seen,
            status_code=0,
            response_headers=[],
            body=b"",
            annotations=plain(fields),
            recorded=True,
            traceparent=self.traceparent(),
        )

    def status(self) -> Status:
        """Return how the collection goes."""
        counters, counts = self._notices.counters, self.worker.counts()
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
            endpoint=self.worker.endpoint,
            last_delivery_at=counts.last_delivered_at,
            coverage=Coverage.of(counters),
            conflicts=counters.by_reason("conflicting"),
            faults=counters.by_reason("faulted"),
            not_durable_in_time=counters.total("not_durable_in_time"),
        )

    def _at_risk(self, counts: Counts) -> int:
        return counts.captured + counts.pending + counts.parked + counts.parts if self.worker.stopped else 0

    def _age(self, since: float | None) -> float | None:
        return None if since is None else max(0.0, self._clock() - since)

    async def health(self) -> Health:
        """Say whether evidence is being collected. Waits for the outbox, but no event loop waits for it."""
        future = self.outbox.counts()
        answered = await wait_at_most(future, OUTBOX_SECONDS) and future.exception() is None
        counts = future.result() if answered else Counts()
        changed = self._age(self.worker.endpoint_changed_at)
        signs = Signs(
            running=self.worker.running,
            answered=answered,
            counts=counts,
            lost=self._notices.counters.total("lost") + self._at_risk(counts),
            oldest_pending_age=self._age(counts.oldest_pending_at),
            endpoint=self.worker.endpoint,
            ill_for=changed if changed is not None and self.worker.endpoint != "ok" else 0.0,
            low_coverage=self._watch.recent if self._watch.low else None,
            outbox_faults=self.worker.faults,
            dead_threads=self.worker.dead_threads,
            reading_for=self.worker.reading_for,
        )
        return diagnose(signs)

    # What telemetry asks.

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return all that was counted, by name, route and reason."""
        return self._notices.counters.counts()

    def levels(self) -> Levels:
        """Return how it stands."""
        coverage = self._watch.recent.ratio
        if not self.worker.leads:
            return Levels(coverage)
        counts = self.worker.counts(LEVELS_SECONDS)
        return Levels(
            coverage,
            leads=True,
            endpoint=self.worker.endpoint,
            pending=counts.pending,
            parked=counts.parked,
            dead=counts.dead,
            oldest_pending_age=self._age(counts.oldest_pending_at),
        )

    def close(self) -> None:
        """End the threads, let go of the outbox, and tell telemetry no more."""
        self.worker.close()
        self._telemetry.forget(self)

    # What the middleware calls.

    def start(self) -> None:
        """Start the worker of this process."""
        try:
            self.worker.start()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the app must start
            self.fault(error)

    def shutdown(self) -> None:
        """Bring to safety, within `drain_timeout`, what was captured; more may come afterwards."""
        try:
            self.worker.shutdown(self._drain_timeout)
        except Exception as error:  # noqa: BLE001 - the app's own shutdown must go on
            self.fault(error)

    def snapshot(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Copy from the scope what a capture needs, before the app can change it. Raises on a scope that is none."""
        return snapshot(scope, self._clock(), self._cookies)

    def capture(self, route: CheckoutRoute | None, capture: Capture) -> "Future[None] | None":
        """Take a capture; give what to wait for before the last chunk leaves, if anything."""
        where = "" if route is None else route.name
        self._notices.note(Captured, where)
        try:
            return self.worker.append(capture, self._hold_back if self._patience.left else NOTHING)
        except BaseException as error:
            self._notices.tell(Lost(route=where, reason=type(error).__name__))
            raise

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait until a capture is where `hold_back` has it, but no longer than that says."""
        done = await wait_at_most(future, self._hold_back.seconds)
        self._patience.ended(well=done or self._hold_back.until == "disk")
        if not done:
            self._notices.tell(NotDurableInTime(reason=self._hold_back.until))

    def skip(self, route: CheckoutRoute, reason: Skip) -> None:
        """Count a response that is not captured."""
        remedy = _REMEDIES.get(reason)
        if remedy is None:
            self._notices.note(Skipped, route.name, reason)
        else:
            self._notices.tell(Skipped(route=route.name, reason=reason, message=f"{route}: {remedy}"))

    def fault(self, error: Exception) -> None:
        """Count a fault of our own, and say it without what it may quote."""
        name = type(error).__name__
        message = f"the middleware failed on a request: {name}"
        self._notices.tell(Faulted(reason=f"request:{name}", message=message, level=logging.ERROR))

    # What the worker calls.

    def _read(self, capture: Capture) -> Reading:
        matched = self.routes.find(capture.method, capture.path)
        reading = self._read_capture(capture, matched)
        route = "" if matched is None else matched.name
        tidings.tell(self._notices, route, reading)
        if not self._dry_run:
            return reading
        for _kept in range(len(reading.records) + (reading.part is not None)):
            self._notices.note(Skipped, route, Skip.DRY_RUN)
        return Reading(skipped=Skip.DRY_RUN)

    def _observe(self, capture: Capture, address: ClientIP) -> None:
        for finding in self._diagnosis.observe(capture.scope, address):
            self._notices.tell(Diagnosed(reason=finding.code, message=finding.message))


_REMEDIES: Final = {
    Skip.NOT_JSON: "the response is no JSON, so the extractor was not asked. Leave extract out and annotate instead.",
    Skip.TOO_LARGE: "the response is longer than max_body_bytes and was not captured. Raise max_body_bytes.",
    Skip.UNCAPTURABLE: "the response is a file sent by the server, whose body cannot be read. Annotate instead.",
}
