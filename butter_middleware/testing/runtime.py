"""Every `Butter` of a process in which tests run: its parts, and how it begins each test."""

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

    None of them reaches the network or the disk. One that was built with a transport of its own keeps it, and with it
    an outbox that is not a file.

    Args:
        patience: Seconds that an extractor may take.
        client_ip: Whose the test client's own requests are, unless the test says it; None: of this machine.
    """

    def __init__(self, patience: float = 10.0, client_ip: str | None = SHOPPER) -> None:
        self.client_ip = client_ip
        self.recorder = Recorder(client_ip)
        self._patience = patience
        self._pipelines: WeakKeyDictionary[Pipeline, bool] = WeakKeyDictionary()
        """Each, and whether its records come to the recorder, and not to a transport of the test's own."""
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
            external=False,  # what another process would read is read here, so that a test sees it
            reads=production.reads or production.external,
            wrap_reader=self._wrap_reader,
            pings=False,
            built=built,
            listener=hear,
            listens_to=(object,),
        )
        return self._sending_here(fake) if here else fake

    def ignored(self, message: str) -> None:
        """Take what is said of a call without effect."""
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
        """Take a record that went into a transaction, as if it had been committed."""
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
        """Begin a test: every `Butter` is as if it had just been built."""
        log_thread.settle(self._patience)  # what is still told is of the test before
        self.recorder = Recorder(self.client_ip)
        annotations.hourly.forget()
        for pipeline in list(self._pipelines):
            pipeline.reset()

    def close(self) -> None:
        """Hear of nothing more."""
        annotations.listeners.discard(self)

    def inbox(self) -> ButterInbox:
        """Return what the test sees of it."""
        self.recorder.asked_for = True
        return ButterInbox(self, self.recorder)

    def unseen(self) -> str:
        """Explain what the test has not seen of its checkouts that became no record; empty if it has seen all.

        Of a test that does not look at all, only if the merchant's own code failed.
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
        """Wait until everything that was captured is read, and sent where it comes here; and all of it told.

        Raises:
            TimeoutError: an extractor does not come back.
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
        """Let an hour pass for what is pending."""
        self.recorder.seconds_ahead += RETRY_SECONDS
        for pipeline, here in list(self._pipelines.items()):
            if here and pipeline.counts().pending:
                pipeline.start()  # it may have been closed with the app
                pipeline.look_again()

    def routes(self) -> Sequence[str]:
        """Name the checkout routes of this process."""
        return sorted({str(route) for pipeline in list(self._pipelines) for route in pipeline.routes.routes})

    def elsewhere(self) -> bool:
        """Whether a `Butter` has a transport of its own, which gets its records."""
        return not all(self._pipelines.values())


def _waiting(store: Store) -> list[Record]:
    return store.waiting() if isinstance(store, FakeStore) else []
