"""Every `Butter` of a process in which tests run: what it is equipped with, and how it begins each test anew."""

from collections import Counter
from dataclasses import replace
from typing import Final
from weakref import WeakKeyDictionary

from butter_middleware._utils import log_thread
from butter_middleware.capture import annotations
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip.address import ANYWHERE
from butter_middleware.config import Config
from butter_middleware.delivery.clients import Client
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox import SQLiteOutbox, Store, TransactionalOutbox
from butter_middleware.pipeline import components
from butter_middleware.pipeline.components import Components, Given, Read
from butter_middleware.pipeline.pipeline import Pipeline
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry
from butter_middleware.testing.assertions import Snapshot
from butter_middleware.testing.fakes import (
    DOCUMENTATION,
    FakeBreaker,
    FakeDelivery,
    FakeOutbox,
    FakeQueue,
    FakeStore,
    FakeStrategy,
    InboxClient,
    fake_beacon,
)
from butter_middleware.testing.inbox import ButterInbox
from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import traces, unexpected

RETRY_SECONDS: Final = 3700.0
"""Longer than any pause, probe or backoff of a delivery."""


class InboxRuntime:
    """Runs every `Butter` of the process while tests run.

    None of them reaches the network or the disk. One that was built with a transport of its own keeps it, and with it
    an outbox that is not a file.

    Args:
        patience: Seconds that an extractor may take.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.recorder = Recorder()
        self._patience = patience
        self._pipelines: WeakKeyDictionary[Pipeline, bool] = WeakKeyDictionary()
        """Each, and whether its records come to the recorder, and not to a transport of the test's own."""

    # For `pipeline.components`.

    def build(self, config: Config, given: Given, events: EventDispatcher, telemetry: Telemetry) -> Components:
        """Return the parts for tests.

        Raises:
            ConfigurationError: what production would not take either; only no credentials are needed.
        """
        given = replace(given, credentials=(given.credentials[0] or None, given.credentials[1] or None))
        production = components.production(config, given, events, telemetry)
        here = given.transport is None
        outbox = production.outbox
        if here or isinstance(outbox, SQLiteOutbox):
            outbox = FakeOutbox(outbox.durable, lambda: given.clock() + self.recorder.seconds_ahead)

        def built(pipeline: Pipeline) -> None:
            self._pipelines[pipeline] = here

        fake = replace(
            production,
            strategy=FakeStrategy(production.strategy),
            beacon=fake_beacon(production.beacon),
            admitted=ANYWHERE if config.staging else DOCUMENTATION,
            outbox=outbox,
            external=False,  # what another process would read is read here, so that a test sees it
            wrap_reader=self._wrap_reader,
            built=built,
        )
        return self._sending_here(fake) if here else fake

    def _sending_here(self, parts: Components) -> Components:
        def make_client() -> Client:
            return InboxClient(self.recorder)

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
            make_client=make_client,
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
        annotations.hourly.forget()
        for pipeline in list(self._pipelines):
            pipeline.reset()

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
        waiting: list[Record] = []
        for pipeline, here in list(self._pipelines.items()):
            if not pipeline.finish_reading(self._patience):
                requests = ", ".join(self.recorder.reading())
                msg = f"an extractor has been reading {requests} for {self._patience:g} s. Does it wait for something?"
                raise TimeoutError(msg)
            if here:
                pipeline.finish_sending(self._patience)
                waiting += pipeline.ask(_waiting, [])
        self.recorder.set_pending(waiting)
        log_thread.settle(self._patience)

    def retry(self) -> None:
        """Let an hour pass for what is pending."""
        self.recorder.seconds_ahead += RETRY_SECONDS
        for pipeline, here in list(self._pipelines.items()):
            if here and pipeline.counts().pending:
                pipeline.start()  # it may have been closed with the app
                pipeline.look_again()

    def whereabouts(self, recorder: Recorder) -> Snapshot:
        """Return what became of the checkouts of a test."""
        skipped: Counter[str] = Counter()
        for pipeline in list(self._pipelines):
            for (name, _route, reason), count in pipeline.reporter.counts().items():
                skipped[reason] += count if name == "skipped" else 0
        return Snapshot(
            sent=recorder.sent(),
            pending=recorder.pending(),
            dead=recorder.dead(),
            parked=recorder.parked(),
            skipped=+skipped,
            remedies=recorder.remedies(),
            routes=sorted({str(route) for pipeline in list(self._pipelines) for route in pipeline.routes.routes}),
            elsewhere=not all(self._pipelines.values()),
        )


def _waiting(store: Store) -> list[Record]:
    return store.waiting() if isinstance(store, FakeStore) else []
