"""Every `Butter` of a process in which tests run: what it is equipped with, and how it begins each test anew."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from weakref import WeakKeyDictionary, ref

from butter_middleware._utils import log_thread
from butter_middleware.capture import annotations
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip.address import ANYWHERE
from butter_middleware.delivery.clients import Client
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox import LocalOutbox, Settlement, SQLiteOutbox, TransactionalOutbox
from butter_middleware.pipeline import components
from butter_middleware.pipeline.components import Components, Options
from butter_middleware.pipeline.pipeline import Pipeline, Read
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import ReadResult
from butter_middleware.testing.assertions import Snapshot
from butter_middleware.testing.fakes import (
    DOCUMENTATION,
    FakeDelivery,
    FakeOutbox,
    FakeQueue,
    FakeStrategy,
    InboxClient,
    fake_beacon,
)
from butter_middleware.testing.inbox import ButterInbox
from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import traces, unexpected

RETRY_SECONDS: Final = 3700.0
"""Longer than any pause, probe or backoff of a delivery."""


@dataclass(slots=True)
class _Seat:
    """A `Butter` on the stage, without anything that would keep it alive."""

    make_outbox: Callable[[], LocalOutbox]
    delivers_here: bool
    """Whether its records come to the ledger, and not to a transport of the test's own."""
    pipeline: Callable[[], Pipeline | None] = lambda: None

    def add(self, record: Record) -> None:
        """Put a record into the outbox."""
        if (pipeline := self.pipeline()) is not None:
            pipeline.worker.add(record)


class InboxRuntime:
    """Where every `Butter` of the process stands while tests run.

    None of them reaches the network or the disk. One that was built with a transport of its own keeps it, and with it
    an outbox that is no file.

    Args:
        patience: Seconds that an extractor may take.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.recorder = Recorder()
        self._backoff = patience
        self._seats: WeakKeyDictionary[Pipeline, _Seat] = WeakKeyDictionary()
        self._deliveries: list[FakeDelivery] = []

    # For `assembly`.

    def build(self, options: Options) -> Components:
        """Return what stands in for the world outside.

        Raises:
            ConfigurationError: what production would not take either; only no credentials are needed.
        """
        production = components.production(
            replace(options, username=options.username or None, password=options.password or None)
        )
        delivers_here = options.transport is None
        kept = options.outbox if not delivers_here and not isinstance(options.outbox, SQLiteOutbox) else None

        def make_outbox() -> LocalOutbox:
            if production.outbox is kept:
                return production.outbox
            return FakeOutbox(durable=production.outbox.durable, clock=options.clock)

        seat = _Seat(make_outbox, delivers_here)
        rehearsed = replace(
            production,
            strategy=FakeStrategy(production.strategy),
            beacon=fake_beacon(production.beacon),
            admitted=ANYWHERE if options.staging else DOCUMENTATION,
            outbox=make_outbox(),
            appends_to=None,  # what another process would read is read here, so that a test sees it
            wrap_reader=self._wrap_reader,
            built=partial(self._seat, seat),
        )
        return self._delivering_here(rehearsed, options, seat) if delivers_here else rehearsed

    def _delivering_here(self, components: Components, options: Options, seat: _Seat) -> Components:
        def make_client() -> Client:
            return InboxClient(self.recorder)

        def make_consumer(senders: int | None) -> Delivery:
            return options.delivery(make_client, senders=senders)

        queue = components.queue
        return replace(
            components,
            queue=FakeQueue(seat.add) if isinstance(queue, TransactionalOutbox) else queue,
            make_client=make_client,
            make_delivery=partial(self._make_delivery, options),
            make_consumer=make_consumer,
        )

    def _make_delivery(self, options: Options, on_settled: Callable[[Sequence[Settlement]], None]) -> Delivery:
        delivery = FakeDelivery(self.recorder, options, on_settled)
        self._deliveries.append(delivery)
        return delivery

    def _seat(self, seat: _Seat, pipeline: Pipeline) -> None:
        seat.pipeline = ref(pipeline)
        self._seats[pipeline] = seat

    def _wrap_reader(self, read: Read) -> Read:
        recorder = self.recorder

        def witnessed(capture: Capture, route: CheckoutRoute | None) -> ReadResult:
            number = recorder.begin(capture)
            reading = ReadResult()
            try:
                reading = read(capture, route)
            except BaseException as error:
                reading = ReadResult(parked=unreadable(error), error=error)
                raise
            finally:
                recorder.end(number, capture, None if route is None else route.name, reading)
            return reading

        return witnessed

    # For the plugin and the inbox.

    def begin(self) -> None:
        """Begin a test: every `Butter` is as if it had just been built."""
        self.recorder = Recorder()
        self._deliveries = []
        annotations.hourly.forget()
        for pipeline, seat in list(self._seats.items()):
            pipeline.begin_anew(seat.make_outbox())

    def inbox(self) -> ButterInbox:
        """Return what the test sees of it."""
        self.recorder.asked_for = True
        return ButterInbox(self, self.recorder)

    def unseen(self) -> str:
        """Explain what the test has not seen of its checkouts that became no record; empty where there is none.

        Of a test that does not look at all, only where the merchant's own code failed.
        """
        try:
            self.settle()
        except TimeoutError as error:
            return str(error)
        asked_for = self.recorder.asked_for
        unseen = [checkout for checkout in self.recorder.see_parked() if asked_for or checkout.broken]
        return f"{unexpected(unseen)}\n{traces(unseen)}".rstrip() if unseen else ""

    def settle(self) -> None:
        """Wait until everything that was captured is read, and sent where it comes here; and all of it told.

        Raises:
            TimeoutError: an extractor does not come back.
        """
        for pipeline, seat in list(self._seats.items()):
            if not pipeline.worker.finish_reading(self._backoff):
                requests = ", ".join(self.recorder.reading())
                msg = f"an extractor has been reading {requests} for {self._backoff:g} s. Does it wait for something?"
                raise TimeoutError(msg)
            if seat.delivers_here:
                pipeline.worker.flush(self._backoff)
        log_thread.settle(self._backoff)

    def retry(self) -> None:
        """Let an hour pass for what is pending."""
        self.recorder.seconds_ahead += RETRY_SECONDS
        for pipeline, seat in list(self._seats.items()):
            if seat.delivers_here and pipeline.worker.counts().pending:
                pipeline.start()  # it may have been closed with the app
        for delivery in list(self._deliveries):
            delivery.retry()

    def whereabouts(self, recorder: Recorder) -> Snapshot:
        """Return what became of the checkouts of a test."""
        skipped: Counter[str] = Counter()
        for pipeline in list(self._seats):
            for (name, _route, reason), count in pipeline.reporter.counts().items():
                skipped[reason] += count if name == "skipped" else 0
        return Snapshot(
            sent=recorder.sent(),
            pending=recorder.pending(),
            dead=recorder.dead(),
            parked=recorder.parked(),
            skipped=+skipped,
            remedies=recorder.remedies(),
            routes=sorted({str(route) for pipeline in list(self._seats) for route in pipeline.routes.routes}),
            elsewhere=not all(seat.delivers_here for seat in list(self._seats.values())),
        )
