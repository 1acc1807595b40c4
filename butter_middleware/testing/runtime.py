"""Every `Butter` of a process that runs tests: its parts, and its reset for each test."""

from collections.abc import Sequence
from dataclasses import replace
from traceback import format_exception
from typing import Final
from weakref import WeakKeyDictionary

from butter_middleware._utils import log_thread
from butter_middleware._utils.overrides import SHOPPER
from butter_middleware.capture import annotations
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip.address import ANYWHERE
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.events import Event
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.reasons import ParkReason, unwanted
from butter_middleware.outbox import SQLiteOutbox, Store, TransactionalOutbox
from butter_middleware.pipeline.components import Components, Read
from butter_middleware.pipeline.pipeline import Pipeline
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import ReadResult
from butter_middleware.testing.butter_inbox import ButterInbox
from butter_middleware.testing.fakes import (
    DOCUMENTATION,
    FakeBreaker,
    FakeDelivery,
    FakeOutbox,
    FakeQueue,
    FakeStore,
    FakeStrategy,
    InboxClient,
)
from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import unexpected

RETRY_SECONDS: Final = 3700.0
"""Longer than any pause, probe or backoff of a delivery."""


class InboxRuntime:
    """Runs every `Butter` of the process while tests run.

    None of them uses the network or the disk. A `Butter` with its own transport keeps the transport, and keeps its
    outbox if the outbox is not a file.

    Args:
        patience: Seconds that an extractor may take.
        client_ip: The default address of the test client's own requests. None means 127.0.0.1.

    Raises:
        ValueError: `client_ip` is not an address.
    """

    def __init__(self, patience: float = 10.0, client_ip: str | None = SHOPPER) -> None:
        self.client_ip = client_ip
        self.recorder = Recorder(client_ip)
        self._patience = patience
        self._pipelines: WeakKeyDictionary[Pipeline, bool] = WeakKeyDictionary()
        """The pipelines, and whether their records go to the recorder and not to the test's own transport."""
        annotations.listeners.add(self)

    def build(self, production: Components) -> Components:
        """Return the parts for tests."""
        here, outbox = not production.in_process, production.outbox
        if here or isinstance(outbox, SQLiteOutbox):
            outbox = FakeOutbox(outbox.durable, lambda: production.clock() + self.recorder.seconds_ahead)

        def shopper() -> str | None:
            return self.recorder.client_ip

        def hear(event: Event) -> None:
            self.recorder.hear(event)

        def built(pipeline: Pipeline) -> None:
            self._pipelines[pipeline] = here

        beacon = production.beacon
        if beacon is not None:
            own = None if beacon.client_ip is None else FakeStrategy(beacon.client_ip, shopper)
            beacon = replace(beacon, client_ip=own, allow_private=True)
        fake = replace(
            production,
            strategy=FakeStrategy(production.strategy, shopper),
            beacon=beacon,
            admitted=ANYWHERE if production.config.staging else DOCUMENTATION,
            outbox=outbox,
            external=False,  # this process reads what another one would read, so that a test sees it
            reads=production.reads or production.external,
            wrap_reader=self._wrap_reader,
            pings=False,
            built=built,
            listener=hear,
            listens_to=(object,),
        )
        return self._sending_here(fake) if here else fake

    def ignored(self, message: str) -> None:
        """Take the message about a call without effect."""
        self.recorder.ignored.append(message)

    def _sending_here(self, parts: Components) -> Components:
        def make_delivery(_senders: int | None = None) -> Delivery:
            recorder, clock = self.recorder, parts.clock

            def ahead() -> float:
                return clock() + recorder.seconds_ahead

            return FakeDelivery(
                lambda: InboxClient(recorder),
                clock=ahead,
                monotonic=lambda: recorder.seconds_ahead,
                emit=parts.events.emit,
                telemetry=parts.telemetry,
                breaker=FakeBreaker(recorder, ahead, parts.events.emit),
            )

        is_transactional = isinstance(parts.queue, TransactionalOutbox)
        return replace(
            parts,
            queue=FakeQueue(self._add) if is_transactional else parts.queue,
            make_client=lambda: InboxClient(self.recorder),
            make_delivery=make_delivery,
            make_consumer=make_delivery,
        )

    def _add(self, record: Record) -> None:
        """Take a record that was enqueued in a transaction, as if the transaction was committed."""
        for pipeline, here in list(self._pipelines.items()):
            if here and isinstance(pipeline.components.queue, FakeQueue):
                pipeline.add_records([record])
                return

    def _wrap_reader(self, read: Read) -> Read:
        recorder = self.recorder

        def witnessed(capture: Capture, route: CheckoutRoute | None) -> ReadResult:
            request = f"{capture.method} {capture.path}"
            recorder.reading.append(request)
            try:
                result = read(capture, route)
            except BaseException as error:
                recorder.read(capture, route, ReadResult(parked=unreadable(error), error=error))
                raise
            finally:
                recorder.reading.remove(request)
            recorder.read(capture, route, result)
            return result

        return witnessed

    # For the plugin and the inbox.

    def begin(self) -> None:
        """Begin a test: reset every `Butter`."""
        log_thread.settle(self._patience)  # waiting calls belong to the previous test
        self.recorder = Recorder(self.client_ip)
        annotations.hourly.forget()
        for pipeline in list(self._pipelines):
            pipeline.reset()

    def close(self) -> None:
        """Stop listening."""
        annotations.listeners.discard(self)

    def inbox(self) -> ButterInbox:
        """Return the inbox for the test."""
        self.recorder.asked_for = True
        return ButterInbox(self, self.recorder)

    def unseen(self) -> str:
        """Describe the checkouts without a record that the test has not read. Empty if it has read all.

        For a test that does not use the inbox, only failures of the merchant's own code count.
        """
        try:
            self.settle()
        except TimeoutError as error:
            return str(error)
        recorder = self.recorder
        parked, skipped, ignored = recorder.parked.see(), recorder.skipped.see(), recorder.ignored.see()
        if recorder.asked_for:
            skipped = [event for event in skipped if unwanted(event)]
        else:
            broken = {ParkReason.EXTRACTOR_ERROR, ParkReason.UNREADABLE}
            parked, skipped, ignored = [checkout for checkout in parked if checkout.reason in broken], (), ()
        if not (parked or skipped or ignored):
            return ""
        traces = ["".join(format_exception(checkout.error)) for checkout in parked if checkout.error is not None]
        return "\n".join([str(unexpected(parked, skipped, ignored)), *traces]).rstrip()

    def settle(self) -> None:
        """Wait until all captures are read, all records for the recorder are sent, and all events are reported.

        Raises:
            TimeoutError: an extractor does not return.
        """
        waiting: list[Record] = []
        for pipeline, here in list(self._pipelines.items()):
            if not pipeline.finish_reading(self._patience):
                requests = ", ".join(self.recorder.reading)
                msg = f"an extractor has been reading {requests} for {self._patience:g} s. Does it wait for something?"
                raise TimeoutError(msg)
            if here:
                pipeline.finish_sending(self._patience)
                waiting += pipeline.ask(_waiting, [])
        self.recorder.pending = [self.recorder.shown(record) for record in waiting]
        log_thread.settle(self._patience)

    def retry(self) -> None:
        """Let an hour pass for pending records."""
        self.recorder.seconds_ahead += RETRY_SECONDS
        for pipeline, here in list(self._pipelines.items()):
            if here and pipeline.counts().pending:
                pipeline.start()  # the app may have closed it
                pipeline.look_again()

    def routes(self) -> Sequence[str]:
        """Return the checkout routes of this process."""
        return sorted({str(route) for pipeline in list(self._pipelines) for route in pipeline.routes.routes})

    def elsewhere(self) -> bool:
        """Whether a `Butter` has its own transport, which gets its records."""
        return not all(self._pipelines.values())


def _waiting(store: Store) -> list[Record]:
    return store.waiting() if isinstance(store, FakeStore) else []
