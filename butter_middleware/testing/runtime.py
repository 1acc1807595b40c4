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
from butter_middleware.delivery.clients import Courier
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox import LocalOutbox, Settlement, SQLiteOutbox, TransactionalOutbox
from butter_middleware.pipeline import components
from butter_middleware.pipeline.components import Equipment, Options
from butter_middleware.pipeline.pipeline import Pipeline, Read
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import Reading
from butter_middleware.testing.assertions import Whereabouts
from butter_middleware.testing.fakes import (
    DOCUMENTATION,
    InboxCourier,
    RehearsedDelivery,
    RehearsedOutbox,
    RehearsedQueue,
    RehearsedStrategy,
    rehearsed_beacon,
)
from butter_middleware.testing.inbox import ButterInbox
from butter_middleware.testing.recorder import Ledger
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


class Stage:
    """Where every `Butter` of the process stands while tests run.

    None of them reaches the network or the disk. One that was built with a transport of its own keeps it, and with it
    an outbox that is no file.

    Args:
        patience: Seconds that an extractor may take.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.ledger = Ledger()
        self._patience = patience
        self._seats: WeakKeyDictionary[Pipeline, _Seat] = WeakKeyDictionary()
        self._deliveries: list[RehearsedDelivery] = []

    # For `assembly`.

    def equip(self, options: Options) -> Equipment:
        """Return what stands in for the world outside.

        Raises:
            ConfigurationError: what production would not take either; only no credentials are needed.
        """
        produced = components.produced(
            replace(options, username=options.username or None, password=options.password or None)
        )
        delivers_here = options.transport is None
        kept = options.outbox if not delivers_here and not isinstance(options.outbox, SQLiteOutbox) else None

        def make_outbox() -> LocalOutbox:
            if produced.outbox is kept:
                return produced.outbox
            return RehearsedOutbox(durable=produced.outbox.durable, clock=options.clock)

        seat = _Seat(make_outbox, delivers_here)
        rehearsed = replace(
            produced,
            strategy=RehearsedStrategy(produced.strategy),
            beacon=rehearsed_beacon(produced.beacon),
            admitted=ANYWHERE if options.staging else DOCUMENTATION,
            outbox=make_outbox(),
            appends_to=None,  # what another process would read is read here, so that a test sees it
            witness=self._witness,
            built=partial(self._seat, seat),
        )
        return self._delivering_here(rehearsed, options, seat) if delivers_here else rehearsed

    def _delivering_here(self, equipment: Equipment, options: Options, seat: _Seat) -> Equipment:
        def make_client() -> Courier:
            return InboxCourier(self.ledger)

        def make_consumer(senders: int | None) -> Delivery:
            return options.delivery(make_client, senders=senders)

        queue = equipment.queue
        return replace(
            equipment,
            queue=RehearsedQueue(seat.add) if isinstance(queue, TransactionalOutbox) else queue,
            make_client=make_client,
            make_delivery=partial(self._make_delivery, options),
            make_consumer=make_consumer,
        )

    def _make_delivery(self, options: Options, on_settled: Callable[[Sequence[Settlement]], None]) -> Delivery:
        delivery = RehearsedDelivery(self.ledger, options, on_settled)
        self._deliveries.append(delivery)
        return delivery

    def _seat(self, seat: _Seat, pipeline: Pipeline) -> None:
        seat.pipeline = ref(pipeline)
        self._seats[pipeline] = seat

    def _witness(self, read: Read) -> Read:
        ledger = self.ledger

        def witnessed(capture: Capture, route: CheckoutRoute | None) -> Reading:
            number = ledger.begin(capture)
            reading = Reading()
            try:
                reading = read(capture, route)
            except BaseException as error:
                reading = Reading(parked=unreadable(error), error=error)
                raise
            finally:
                ledger.end(number, capture, None if route is None else route.name, reading)
            return reading

        return witnessed

    # For the plugin and the inbox.

    def begin(self) -> None:
        """Begin a test: every `Butter` is as if it had just been built."""
        self.ledger = Ledger()
        self._deliveries = []
        annotations.hourly.forget()
        for pipeline, seat in list(self._seats.items()):
            pipeline.begin_anew(seat.make_outbox())

    def inbox(self) -> ButterInbox:
        """Return what the test sees of it."""
        self.ledger.asked_for = True
        return ButterInbox(self, self.ledger)

    def unseen(self) -> str:
        """Explain what the test has not seen of its checkouts that became no record; empty where there is none.

        Of a test that does not look at all, only where the merchant's own code failed.
        """
        try:
            self.settle()
        except TimeoutError as error:
            return str(error)
        asked_for = self.ledger.asked_for
        unseen = [checkout for checkout in self.ledger.see_parked() if asked_for or checkout.broken]
        return f"{unexpected(unseen)}\n{traces(unseen)}".rstrip() if unseen else ""

    def settle(self) -> None:
        """Wait until everything that was captured is read, and sent where it comes here; and all of it told.

        Raises:
            TimeoutError: an extractor does not come back.
        """
        for pipeline, seat in list(self._seats.items()):
            if not pipeline.worker.finish_reading(self._patience):
                requests = ", ".join(self.ledger.reading())
                msg = f"an extractor has been reading {requests} for {self._patience:g} s. Does it wait for something?"
                raise TimeoutError(msg)
            if seat.delivers_here:
                pipeline.worker.flush(self._patience)
        log_thread.settle(self._patience)

    def retry(self) -> None:
        """Let an hour pass for what is pending."""
        self.ledger.seconds_ahead += RETRY_SECONDS
        for pipeline, seat in list(self._seats.items()):
            if seat.delivers_here and pipeline.worker.counts().pending:
                pipeline.start()  # it may have been closed with the app
        for delivery in list(self._deliveries):
            delivery.retry()

    def whereabouts(self, ledger: Ledger) -> Whereabouts:
        """Return what became of the checkouts of a test."""
        skipped: Counter[str] = Counter()
        for pipeline in list(self._seats):
            for (name, _route, reason), count in pipeline.standing.counts().items():
                skipped[reason] += count if name == "skipped" else 0
        return Whereabouts(
            sent=ledger.sent(),
            pending=ledger.pending(),
            dead=ledger.dead(),
            parked=ledger.parked(),
            skipped=+skipped,
            remedies=ledger.remedies(),
            routes=sorted({str(route) for pipeline in list(self._seats) for route in pipeline.routes.routes}),
            elsewhere=not all(seat.delivers_here for seat in list(self._seats.values())),
        )
