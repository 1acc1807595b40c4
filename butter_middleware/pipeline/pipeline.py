"""`Pipeline`: what the middleware tells, what the worker asks, and the counts of it."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final

from butter_middleware._utils.asgi import Scope
from butter_middleware._utils.futures import Backoff, wait_at_most
from butter_middleware.capture.annotations import SCOPE_KEY, Notes, plain
from butter_middleware.capture.routes import CheckoutRoute, RouteTable
from butter_middleware.client_ip import ClientIP, Strategy
from butter_middleware.client_ip.address import Networks
from butter_middleware.client_ip.diagnosis import Diagnosis
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.events import Captured, Diagnosed, Faulted, Lost, NotDurableInTime, Recorded, Skipped
from butter_middleware.ipv6.beacon import Beacon, Redeemer
from butter_middleware.models.checkout import Checkout, Record
from butter_middleware.models.http import Capture, snapshot
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import LocalOutbox, Settlement, SQLiteOutbox
from butter_middleware.pipeline.appender import Appender
from butter_middleware.pipeline.reporter import StatusReporter
from butter_middleware.pipeline.waiters import NOTHING, ResponseWait
from butter_middleware.pipeline.worker import Worker
from butter_middleware.reader import tidings
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.provenance import Sources
from butter_middleware.reader.reader import Reader, ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry

OPEN_SECONDS: Final = 1.0
"""For which the app's start waits for the outbox's file."""

Read = Callable[[Capture, CheckoutRoute | None], ReadResult]


class Pipeline:
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
        response_wait: ResponseWait,
        staging: bool,
        dry_run: bool,
        drain_timeout: float,
        join_ttl: float,
        clock: Callable[[], float],
        events: EventDispatcher,
        telemetry: Telemetry,
        coverage_threshold: float,
        host: str | None,
        admitted: Networks,
        wrap_reader: Callable[[Read], Read],
        sources: Sources | None = None,
        appends_to: SQLiteOutbox | None = None,
    ) -> None:
        self.routes = routes
        self.max_body_bytes = max_body_bytes
        self.traceparent = telemetry.traceparent
        self._events = events
        self._telemetry = telemetry
        self._make_reporter = partial(
            StatusReporter,
            events,
            clock=clock,
            threshold=coverage_threshold,
            host=host,
            routes=lambda: [route.name for route in routes.routes],
        )
        self._make_diagnosis = partial(Diagnosis, strategy)
        self._cookies = None if beacon is None else beacon.cookies
        self._response_wait = response_wait
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
        self._wrap_reader = wrap_reader
        self._sources = sources
        self._make_worker = partial(
            Worker,
            read=self._read,
            make_delivery=make_delivery,
            events=events,
            drain_timeout=drain_timeout,
            expire_before=lambda: clock() - join_ttl,
            look=lambda: self.reporter.look(),  # noqa: PLW0108 - another one after `begin_anew`
            started=self._begin,
        )
        self._unheard: set[tuple[str, int]] = set()
        self._assemble(outbox, appends_to)

    def _assemble(self, outbox: LocalOutbox, appends_to: SQLiteOutbox | None = None) -> None:
        self.outbox = outbox
        self._backoff = Backoff()
        self.reporter = self._make_reporter(outbox, lambda: self.worker)
        self._diagnosis = self._make_diagnosis()
        self._reader = self._make_reader()
        self._read_capture = self._wrap_reader(self._reader.read)
        self.worker: Worker | Appender = (
            self._make_worker(outbox)
            if appends_to is None
            else Appender(appends_to, self._events, self._drain_timeout, self._begin)
        )

    def take_over(self) -> Worker:
        """Read and deliver here from now on, whoever appended. For the command `deliver`."""
        self.worker.close()
        self.reporter.serve_nothing()
        self.worker = worker = self._make_worker(self.outbox)
        return worker

    def begin_anew(self, outbox: LocalOutbox) -> None:
        """Go on as a process that has just started, with another outbox: for tests, since one `Butter` serves many.

        What was not delivered is left behind, and with it a thread that does not end, in an extractor that hangs.
        """
        self.worker.abandon()
        self._telemetry.forget(self.reporter)
        self._events.forget()
        self._assemble(outbox)

    def _begin(self) -> None:
        """On another thread than the checkouts', before anything is delivered."""
        self.reporter.begin()
        self._telemetry.load(self.reporter, self._events.emit)

    # What `Butter` calls.

    def add(self, checkout: Checkout) -> None:
        """Take a whole checkout."""
        try:
            for record in self.record_of(checkout):
                self.worker.add(record)
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)

    def nothing_recorded(self, message: str) -> None:
        """Tell that `butter.record` got nothing that it can take. It raises nothing inside a checkout."""
        self._events.emit(Lost(reason="TypeError", message=message, level=logging.ERROR))

    def record(self, scope: Scope, fields: Mapping[str, object]) -> None:
        """Take the fields of a checkout, and the scope of the shopper's request."""
        try:
            capture = self._recorded(scope, fields)
            self.capture(self.routes.find(capture.method, capture.path), capture)
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)

    def records(self, scope: Scope, fields: Mapping[str, object]) -> Sequence[Record]:
        """Return the records of a checkout that is recorded in a transaction; what makes none is as with `record`."""
        try:
            capture = self._recorded(scope, fields)
            route = self.routes.find(capture.method, capture.path)
            reading = self._read_now(capture, route)
            if reading is None or reading.parked is not None or not reading.records:
                self.capture(route, capture)
                return ()
            where = "" if route is None else route.name
            self._events.count(Captured, where)
            tidings.tell(self._events, where, reading)
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)
            return ()
        return self._unless_dry_run(reading.records)

    def _read_now(self, capture: Capture, route: CheckoutRoute | None) -> ReadResult | None:
        """Read it here, or None where that fails: the worker then reads it again, parks it, and says why."""
        try:
            return self._reader.read(capture, route)
        except Exception:  # noqa: BLE001 - a strategy of the merchant's own
            return None

    def record_of(self, checkout: Checkout) -> Sequence[Record]:
        """Return the record of a whole checkout; none in a dry run."""
        record = Record.of(checkout, self._clock())
        self._events.count(Recorded, "", ids_of(record))
        if self._sources is not None:
            self._sources.note(record.key, "butter.record()", dict.fromkeys(checkout.payload(), "the Checkout"))
        return self._unless_dry_run([record])

    def _unless_dry_run(self, records: Sequence[Record]) -> Sequence[Record]:
        if not self._dry_run:
            return records
        self._events.emit(Skipped(reason=Skip.DRY_RUN, times=len(records)))
        return ()

    def _recorded(self, scope: Scope, fields: Mapping[str, object]) -> Capture:
        notes: object = scope.get(SCOPE_KEY)
        seen = notes.request if isinstance(notes, Notes) else self.snapshot(scope)
        return Capture(
            **seen,
            status_code=0,
            response_headers=[],
            body=b"",
            annotations=plain(fields),
            recorded=True,
            traceparent=self.traceparent(),
        )

    def close(self) -> None:
        """End the threads, let go of the outbox, and tell telemetry no more."""
        self.worker.close()
        self._telemetry.forget(self.reporter)

    # What the middleware calls.

    def start(self) -> None:
        """Start the worker of this process."""
        try:
            self.worker.start()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the app must start
            self.fault(error)

    async def open(self) -> None:
        """Start the worker, and wait for what takes longer than the first checkouts: its file, and its HTTP client."""
        self.start()
        until = time.monotonic() + OPEN_SECONDS
        with suppress(RuntimeError):  # a loop that anyio does not know, as of granian --task-impl rust
            for future in (self.outbox.counts(), self.worker.ready):
                await wait_at_most(future, until - time.monotonic())

    def shutdown(self) -> None:
        """Bring to safety, within `drain_timeout`, what was captured; more may come afterwards."""
        try:
            self.worker.shutdown(self._drain_timeout)
        except Exception as error:  # noqa: BLE001 - the app's own shutdown must go on
            self.fault(error)

    def snapshot(self, scope: Scope) -> dict[str, Any]:
        """Copy from the scope what a capture needs, before the app can change it. Raises on a scope that is none."""
        return snapshot(scope, self._clock(), self._cookies)

    def capture(self, route: CheckoutRoute | None, capture: Capture) -> "Future[None] | None":
        """Take a capture; give what to wait for before the last chunk leaves, if anything."""
        where = "" if route is None else route.name
        self._events.count(Captured, where)
        try:
            return self.worker.append(capture, self._response_wait if self._backoff.left else NOTHING)
        except BaseException as error:
            self._events.emit(Lost(route=where, reason=type(error).__name__))
            raise

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait until a capture is where `response_wait` has it, but no longer than that says."""
        done = await wait_at_most(future, self._response_wait.seconds)
        self._backoff.ended(well=done or self._response_wait.until == "disk")
        if not done:
            self._events.emit(NotDurableInTime(reason=self._response_wait.until))

    def skip(self, route: CheckoutRoute, reason: Skip, annotated_status: int | None = None) -> None:
        """Count a response that is not captured. If its endpoint annotated, say so once for each route and status."""
        message = _REMEDIES.get(reason, "")
        if not message and annotated_status is not None and (route.name, annotated_status) not in self._unheard:
            self._unheard.add((route.name, annotated_status))
            message = _UNHEARD.get(reason, "").format(status=annotated_status)
        if message:
            self._events.emit(Skipped(route=route.name, reason=reason, message=f"{route}: {message}"))
        else:
            self._events.count(Skipped, route.name, reason)

    def fault(self, error: Exception) -> None:
        """Count a fault of our own, and say it without what it may quote."""
        name = type(error).__name__
        message = f"the middleware failed on a request: {name}"
        self._events.emit(Faulted(reason=f"request:{name}", message=message, level=logging.ERROR))

    # What the worker calls.

    def _read(self, capture: Capture) -> ReadResult:
        matched = self.routes.find(capture.method, capture.path)
        reading = self._read_capture(capture, matched)
        route = "" if matched is None else matched.name
        tidings.tell(self._events, route, reading)
        if not self._dry_run:
            return reading
        for _kept in range(len(reading.records) + (reading.part is not None)):
            self._events.count(Skipped, route, Skip.DRY_RUN)
        return ReadResult(skipped=Skip.DRY_RUN)

    def _observe(self, capture: Capture, address: ClientIP) -> None:
        for finding in self._diagnosis.observe(capture.scope, address):
            self._events.emit(Diagnosed(reason=finding.code, message=finding.message))


_REMEDIES: Final = {
    Skip.NOT_JSON: "the response is not JSON, so the extractor was not asked. Leave extract out and annotate instead.",
    Skip.TOO_LARGE: "the response is longer than max_body_bytes and was not captured. Raise max_body_bytes.",
    Skip.UNCAPTURABLE: "the response is a file sent by the server, whose body cannot be read. Annotate instead.",
}
_UNHEARD: Final = {
    Skip.STATUS: (
        "the endpoint annotated, and answered {status}, which is not a success, so there is no record. After a "
        "payment, answer 2xx, 302 or 303. If nothing was paid, all is well."
    ),
    Skip.UNANSWERED: (
        "the endpoint annotated, and the app ended without an answer, so there is no record. If the payment goes "
        "through before that, call butter.record(request, ...) right after it."
    ),
    Skip.INCOMPLETE: (
        "the endpoint annotated, and the response was not finished, so there is no record. Look for what broke it. "
        "If the shopper left, leave extract out, and annotate all fields before the response begins."
    ),
}
"""What is said of a response that was annotated, if nothing is said of the others."""
