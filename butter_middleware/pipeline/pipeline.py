"""`Pipeline`: the interface for the middleware and `Butter`. Starts a process's threads, and gives them captures."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from threading import RLock
from typing import Any, Final, TypeVar

from butter_middleware._utils import log_thread, overrides
from butter_middleware._utils.asgi import Scope, route_path
from butter_middleware._utils.futures import Backoff, failed, wait_at_most
from butter_middleware.capture.annotations import SCOPE_KEY, Notes, plain
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip import ClientIP, Reason
from butter_middleware.client_ip.address import in_body
from butter_middleware.client_ip.diagnosis import Diagnosis
from butter_middleware.config import is_time
from butter_middleware.errors import ButterError, OutboxClosedError
from butter_middleware.events import (
    Captured,
    Faulted,
    Lost,
    NotDurableInTime,
    OutboxChanged,
    Recorded,
    Skipped,
)
from butter_middleware.models.checkout import Checkout, Record, sources_text
from butter_middleware.models.http import Capture, snapshot
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox.base import CLOSING_SECONDS, Counts, Store
from butter_middleware.pipeline import checkout_log, processes
from butter_middleware.pipeline.components import Components
from butter_middleware.pipeline.entries import NOTHING, Addition, Entry
from butter_middleware.pipeline.participant import Participant, configuration_of
from butter_middleware.pipeline.reporter import StatusReporter
from butter_middleware.pipeline.store_thread import StoreThread
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.reader import ReadResult
from butter_middleware.reader.result_events import events_of

T = TypeVar("T")

GIVE_TRIES: Final = 3
OPEN_SECONDS: Final = 1.0
"""How long the app's start waits for the outbox's file and the HTTP client."""
STOPPING_SECONDS: Final = 0.5
"""How long a thread has to end after a full drain. One that hangs in an extractor ends with the process."""


class Pipeline:
    """The path of a checkout through one process. The middleware's calls do not raise, except `snapshot`.

    Threads, files and sockets are made by `start`. A forked child starts again.

    Args:
        components: The parts, and the configuration.
    """

    def __init__(self, components: Components) -> None:
        self._production = components
        self._use(components)
        overrides.join(self)
        if overrides.current() is not None:
            self.rebuild()

    def rebuild(self) -> None:
        """Take the parts of production or, while tests run, their replacements.

        Earlier captures still use the earlier parts.
        """
        if self.components is self._production:
            self.close()
        elif self.finish_reading(STOPPING_SECONDS):
            self.finish_sending(STOPPING_SECONDS)
        self.reset()
        tested = overrides.current()
        self._use(self._production if tested is None else tested(self._production))

    def _use(self, components: Components) -> None:
        config = components.config
        self.components = components
        self.routes = components.routes
        self.max_body_bytes = config.max_body_bytes
        self.traceparent = components.telemetry.traceparent
        self._config = config
        self._events = components.events
        self._telemetry = components.telemetry
        self._clock = components.clock
        self.outbox_clock: Callable[[], float] = getattr(components.outbox, "clock", components.clock)
        self._cookies = None if components.beacon is None else components.beacon.cookies
        self._wait = components.response_wait
        self._configuration = configuration_of(components)  # not in a checkout: it runs the merchant's code
        self._events.listener, self._events.listens_to = components.listener, components.listens_to
        self._forget()
        components.built(self)

    def _forget(self) -> None:
        self._starting, self._closing = RLock(), RLock()
        self.running = False
        """Whether the threads were started in this process, without a shutdown since then."""
        self._paused = False
        self._opened = False
        """Whether a lifespan started it."""
        self.participant: Participant | None = None
        self._backoff = Backoff()
        self.last_counts = Counts()
        """The outbox's last counts."""
        self._kept: StoreThread | None = None
        """The last thread of a store in memory. The next one takes the store over."""
        self._faults: tuple[str, ...] = ()
        self._unheard: set[tuple[str, int]] = set()
        """The routes and statuses for which the log has reported an annotation without effect."""
        self._diagnosis = Diagnosis(self.components.strategy)
        self._read_capture = self.components.wrap_reader(self.components.make_reader(self._observe).read)
        self.reporter = StatusReporter(self)

    # The life of the threads.

    def start(self, *, paused: bool = False) -> None:
        """Start the threads of this process, or wake them after `shutdown`. Cheap if they run.

        If the system gives no thread, captures wait in memory, and the next call tries again. If `paused`, nothing is
        sent until the next call.
        """
        if self.running and not self._paused and not overrides.guards:
            return
        overrides.current()  # begins or ends the overrides of unittest, and rebuilds this
        with self._starting:
            self._paused = paused
            participant = self.participant
            if participant is None:
                processes.register(self)
                participant = self.participant = processes.join(self.components, self._kept, self._participant_of)
                thread = participant.thread
                self._kept = None if thread.store.durable else thread
            participant.running = True
            if paused:
                participant.sender.delivery.pause()
            else:
                participant.sender.delivery.resume()
            # The merchant's signal handler may close it meanwhile, on this thread.
            self.running = self._start_threads(participant) and self.participant is participant

    def _participant_of(self, thread: StoreThread) -> Participant:
        def read(entry: Entry) -> ReadResult:
            return self._read_capture(entry.capture, entry.route)

        return Participant(self.components, self._configuration, thread, read, self._begin, self.look)

    def _start_threads(self, participant: Participant) -> bool:
        """Start the threads that do not run. Return whether all run."""
        try:
            for worker in participant.workers:
                if not worker.alive:
                    worker.start()
        except RuntimeError:
            message = (
                "no thread can be started: the system has no more. What is captured waits in memory, and the next "
                "checkout tries again. Raise the limit of processes or threads."
            )
            self._events.emit(Faulted(reason="threads", message=message, level=logging.CRITICAL))
            return False
        if not participant.sends:
            log_thread.run(self._begin)
        return True

    def _begin(self) -> None:
        with processes.loading():
            self._telemetry.load(self.reporter, self._events.emit)

    def begin_anew(self) -> None:
        """In a forked child, forget the threads."""
        self._events.forget()
        self._forget()

    def shutdown(self) -> None:
        """Save or send all captures within `drain_timeout`. More may come afterwards.

        With a durable outbox, sending stops and the backlog is kept. Records in memory are sent while time remains.
        """
        try:
            self._shutdown()
        except Exception as error:  # noqa: BLE001 - the app's own shutdown must go on
            self.fault(error)

    def _shutdown(self) -> None:
        participant = self.participant
        if participant is None or not self.running:
            return
        durable = processes.is_durable(self.components.outbox)
        if not durable:
            self.running = False  # a checkout meanwhile starts it again, and is sent
        self._drain(participant, self._config.drain_timeout)
        with self._starting:
            if durable or not self.running:
                self.running = participant.running = False

    def _drain(self, participant: Participant, seconds: float) -> None:
        """Within `seconds`: with a file, let records on their way be settled. In memory, let all records be sent."""
        durable = processes.is_durable(self.components.outbox)
        if durable:
            participant.sender.delivery.pause()
        self._flush(participant, seconds)
        self.last_counts = counts = _answer(participant.thread, lambda store: store.counts(), self.last_counts)
        left = counts.captured + counts.pending + counts.parked + counts.parts
        if left and not durable:
            said = f"records that are only in memory and are lost if this process ends now: {left}. " + (
                "Set outbox= to the path of an SQLite file: it keeps them for the next start."
                if self.components.queue is None
                else "The queue does not have them: see that it can be reached, and that no checkouts are parked."
            )
            log_thread.log(logging.ERROR, said, event="shutdown")
        else:
            said = f"records delivered: {counts.delivered}, pending on disk: {counts.pending}"
            log_thread.log(logging.INFO, said, event="shutdown")
        log_thread.settle()  # many servers end the process right after this, without the interpreter's exit

    def close(self, *, at_exit: bool = False) -> None:
        """Shut down, then end the threads and close the outbox.

        Takes `drain_timeout` and, if an extractor or the file hangs, a few seconds more. At the interpreter's exit, the
        existing threads send what another thread records meanwhile, because nothing would wait for new threads.
        """
        with self._closing:  # a second close at the same time waits for the first one
            deadline = time.monotonic() + self._config.drain_timeout
            if at_exit:
                self.shutdown()
            participant, running = self._let_go()
            if participant is not None:
                try:
                    if running:
                        self._drain(participant, max(0.0, deadline - time.monotonic()))
                except Exception as error:  # noqa: BLE001 - as in `shutdown`
                    self.fault(error)
                self._end(participant, deadline)
            self._telemetry.forget(self.reporter)

    def reset(self) -> None:
        """Reset to the initial state, because one `Butter` serves many tests. Undelivered records are not sent."""
        participant, _running = self._let_go()
        if participant is not None:
            self._end(participant, time.monotonic())
        self._telemetry.forget(self.reporter)
        self._events.forget()
        self._forget()

    def _let_go(self) -> tuple[Participant | None, bool]:
        """Drop the participant, and return whether it ran. A checkout that comes now starts another one."""
        with self._starting:
            given_up = self.participant, self.running
            self.participant, self.running = None, False
        return given_up

    def _end(self, participant: Participant, deadline: float) -> None:
        participant.running = False
        participant.reader.stop()
        participant.sender.stop()
        for part in (participant.reader, participant.sender):
            part.join(max(STOPPING_SECONDS, deadline - time.monotonic()))
        processes.leave(participant, max(CLOSING_SECONDS, deadline - time.monotonic()))
        log_thread.settle()

    def take_over(self) -> None:
        """Read and send the captures of all processes in this one, for the command `deliver`."""
        self.close()
        self._use(replace(self.components, external=False, reads=True))

    # For the middleware.

    def first_request(self) -> None:
        """Start the threads, so that waiting records are sent without a checkout. Log what a missing lifespan means."""
        if self._opened:
            return
        try:
            self.start()
        except Exception as error:  # noqa: BLE001 - it runs inside a request
            self.fault(error)
        self._say_no_lifespan()

    def _say_no_lifespan(self) -> None:
        durable = processes.is_durable(self.components.outbox)
        if durable:
            meaning = "What waits then is sent after the next start."
        elif self.components.queue is None:
            meaning = "What waits in memory then may be lost. Set outbox= to the path of an SQLite file."
        else:
            meaning = (
                "What the queue does not have then may be lost. With durability='before_response' a response waits "
                "for the queue."
            )
        message = (
            "the server sent no lifespan event before the first request (such as uvicorn --lifespan off, Daphne, or a "
            f"sub-app), so the middleware does not see when it stops. {meaning}"
        )
        log_thread.log(logging.INFO if durable else logging.WARNING, message, event="lifespan")

    async def open(self) -> None:
        """Start the threads. Wait for the file and the HTTP client, so that they do not delay the first checkouts."""
        self._opened = True
        try:
            self.start()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the app must start
            self.fault(error)
            return
        participant = self.participant
        if participant is None:
            return  # it was closed at this moment
        until = time.monotonic() + OPEN_SECONDS
        leads = participant.thread.take_lead(participant)
        with suppress(RuntimeError):  # the loop is neither asyncio's nor trio's
            if await wait_at_most(leads, OPEN_SECONDS) and not leads.exception() and leads.result():
                await wait_at_most(participant.sender.ready, until - time.monotonic())

    def snapshot(self, scope: Scope, path: str) -> dict[str, Any]:
        """Copy the part of the scope that a capture needs, before the app can change it. Raises for other objects."""
        return snapshot(scope, path, self._now(), self._cookies)

    def _now(self) -> float:
        """Return the time of the merchant's clock. If it fails, count the error and return the system's time."""
        try:
            given = self._clock()
        except Exception as error:  # noqa: BLE001 - it runs inside a checkout
            self.fault(error)
            return time.time()
        if is_time(given):
            return given
        self.fault(ValueError())
        return time.time()

    def capture(self, route: CheckoutRoute | None, capture: Capture) -> "Future[None] | None":
        """Take a capture. Return what the last chunk must wait for, or None."""
        name = "" if route is None else route.name
        self._events.count(Captured, name)
        try:
            entry = Entry(capture, route, self._wait if self._wait.until and self._backoff.left else NOTHING)
            future = entry.future
            self._give(Participant.append, entry)
        except BaseException as error:
            self._events.lost(error, name)
            checkout_log.say(name, f"lost: {type(error).__name__}")
            if not isinstance(error, ButterError):
                raise
            return None
        return future

    def _give(self, give: Callable[[Participant, T], None], given: T) -> None:
        """Give an item to the store's thread. If another thread closes that thread at this moment, start a new one.

        Raises:
            ButterError: it could not be taken.
        """
        closed: ButterError | None = None
        for _try in range(GIVE_TRIES):
            self.start()
            participant = self.participant
            if participant is not None:
                try:
                    give(participant, given)
                except OutboxClosedError as error:
                    closed = error
                    continue
                return
        raise closed or _NotStartedError()

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait until a capture is where `durability` requires it, within the user's limit."""
        done = await wait_at_most(future, self._wait.seconds)
        self._backoff.ended(well=done or self._wait.until == "disk")
        if not done:
            self._events.emit(NotDurableInTime(reason=self._wait.until))
            participant = self.participant
            if participant is not None:
                participant.thread.count_soon()  # the process may be killed before its counts are written

    def skip(self, route: CheckoutRoute, reason: Skip, status: int = 0, *, annotated: bool = False) -> None:
        """Count a response that is not captured. If its endpoint annotated, log this once for each route and status."""
        if checkout_log.is_on():
            checkout_log.say(route.name, f"skipped: {reason} {status if reason is Skip.STATUS else ''}".rstrip())
        message = _REMEDIES.get(reason, "")
        if not message and annotated and (route.name, status) not in self._unheard:
            self._unheard.add((route.name, status))
            message = _UNHEARD.get(reason, "").format(status=status)
        if message:
            self._events.emit(Skipped(route=route.name, reason=reason, message=f"{route}: {message}"))
        else:
            self._events.count(Skipped, route.name, reason)

    def fault(self, error: Exception) -> None:
        """Count an error of the middleware itself, and log it without its text, which may quote data."""
        name = type(error).__name__
        message = f"the middleware failed on a request: {name}"
        self._events.emit(Faulted(reason=f"request:{name}", message=message, level=logging.ERROR))

    # For `Butter`. Another thread may close it meanwhile, so each method reads `participant` once.

    def add(self, checkout: Checkout) -> None:
        """Take a whole checkout."""
        try:
            records = self.record_of(checkout)
        except Exception as error:  # noqa: BLE001 - it may run inside a checkout
            self.fault(error)
            return
        if records:
            self.add_records(records)

    def nothing_recorded(self, message: str) -> None:
        """Report a wrong argument of `butter.record`, which must not raise inside a checkout."""
        self._events.emit(Lost(reason="TypeError", message=message, level=logging.ERROR))

    def add_records(self, records: Sequence[Record]) -> "Future[int]":
        """Take records made outside a request. The future's result is how many were already known."""
        addition = Addition(records, Future())
        try:
            self._give(Participant.add, addition)
        except Exception as error:  # noqa: BLE001 - it may run inside a checkout
            self._events.lost(error)
            return failed(error)
        return addition.done

    def record(self, scope: Scope, fields: Mapping[str, object]) -> None:
        """Take the fields of a checkout, and the scope of the shopper's request."""
        try:
            capture = self._recorded(scope, fields)
            self.capture(self.routes.find(capture.method, capture.path), capture)
        except Exception as error:  # noqa: BLE001 - it may run inside a checkout
            self.fault(error)

    def records(self, scope: Scope, fields: Mapping[str, object]) -> Sequence[Record]:
        """Return the records of a checkout that is recorded in a transaction. It is read on this thread."""
        try:
            capture = self._recorded(scope, fields)
            route = self.routes.find(capture.method, capture.path)
            try:
                result = self.components.make_reader(self._observe).read(capture, route)
            except Exception:  # noqa: BLE001 - the merchant's strategy: the reader reads it again, and parks it
                result = None
            if result is None or result.parked is not None or not result.records:
                self.capture(route, capture)
                return ()
            name = "" if route is None else route.name
            self._events.count(Captured, name)
            for event in events_of(name, result):
                self._events.emit(event)
            for record in result.records if checkout_log.is_on() else ():
                checkout_log.say(name, f"written in your transaction: {ids_of(record)}")
        except Exception as error:  # noqa: BLE001 - it may run inside a checkout
            self.fault(error)
            return ()
        return self._unless_dry_run(result.records)

    def record_of(self, checkout: Checkout) -> Sequence[Record]:
        """Return the record of a whole checkout. None in a dry run, or if its address is not public."""
        if isinstance(in_body(checkout.ipv4_address, self.components.admitted), Reason):
            message = (
                "butter.record() got a Checkout with an ipv4_address that is not public. It is the address of a server "
                "or a proxy, so there is no record. Pass the shopper's address."
            )
            self._events.emit(Skipped(reason=f"no_address:{Reason.PRIVATE_ADDRESS}", message=message))
            return ()
        fields = dict.fromkeys(checkout.payload(), "the Checkout") if self._config.sandbox else {}
        sources = sources_text("butter.record()", fields) if fields else ""
        record = Record.of(checkout, self._now(), sources=sources)
        self._events.count(Recorded, "", ids_of(record))
        return self._unless_dry_run([record])

    def _unless_dry_run(self, records: Sequence[Record]) -> Sequence[Record]:
        if not self._config.dry_run:
            return records
        self._events.emit(Skipped(reason=Skip.DRY_RUN, times=len(records)))
        return ()

    def _recorded(self, scope: Scope, fields: Mapping[str, object]) -> Capture:
        notes: object = scope.get(SCOPE_KEY)
        seen = notes.request if isinstance(notes, Notes) else self.snapshot(scope, route_path(scope))
        return Capture(
            **seen,
            status_code=0,
            response_headers=[],
            body=b"",
            annotations=plain(fields),
            recorded=True,
            traceparent=self.traceparent(),
        )

    def flush(self, timeout: float) -> bool:
        """Wait until all captures have been read, and delivered unless sending is paused.

        Returns early if waiting cannot help: this process sends, and the endpoint is ill. True means that nothing is
        left to do.
        """
        participant = self.participant
        return participant is None or self._flush(participant, timeout)

    def _flush(self, participant: Participant, timeout: float) -> bool:
        delivery, thread = participant.sender.delivery, participant.thread
        deadline = time.monotonic() + timeout

        def verdict() -> bool | None:
            if not participant.sends:
                return True
            if delivery.paused:
                return _settled(participant)
            counts = _answer(thread, self.note_counts, None)  # stored, because the next answer may not come
            if counts is not None and not counts.pending:
                return True
            due = _answer(thread, lambda store: store.next_due(), None)
            due_in = 0.0 if due is None else due - self.outbox_clock()
            hopeless = (participant.leads and delivery.ill) or due_in > deadline - time.monotonic()
            return False if hopeless and not delivery.in_flight else None

        return participant.wait(verdict, timeout)

    def finish_reading(self, timeout: float) -> bool:
        """Wait until all captures have been read, delivered or not. Return whether they have."""
        participant = self.participant
        return participant is None or participant.wait(lambda: True, timeout)

    def finish_sending(self, timeout: float) -> bool:
        """Wait until nothing is on its way or due. For tests, in which time does not pass by itself."""
        participant = self.participant

        def verdict() -> bool | None:
            if participant is None:
                return True
            delivery = participant.sender.delivery
            if not _settled(participant):
                return None
            if delivery.ill and delivery.breaker.seconds_to_wait() > 0:
                return True
            return True if not self.ask(lambda store: len(store.due(1)), 0) and not participant.sender.held else None

        return participant is None or participant.wait(verdict, timeout)

    def request(self, question: Callable[[Store], T]) -> "Future[T]":
        """Let the store's thread answer a question."""
        participant = self.participant
        return failed(_NotStartedError()) if participant is None else participant.thread.ask(question)

    def ask(self, question: Callable[[Store], T], otherwise: T, seconds: float = 1.0) -> T:
        """Return the answer of the store's thread. `otherwise` if there is no answer within `seconds`, or no thread."""
        participant = self.participant
        thread = self._kept if participant is None else participant.thread
        return otherwise if thread is None else _answer(thread, question, otherwise, seconds)

    def look_again(self) -> None:
        """Check for due records, because the clock was moved."""
        participant = self.participant
        if participant is not None:
            participant.thread.look_again()
            participant.sender.delivery.wake()

    def counts(self, seconds: float = 1.0) -> Counts:
        """Return the outbox's counts, or the last ones if it does not answer within `seconds`, or is closed."""
        self._count(seconds)
        return self.last_counts

    def _count(self, seconds: float = 1.0) -> bool:
        return self.ask(self.note_counts, None, seconds) is not None

    def note_counts(self, store: Store) -> Counts:
        """Return the outbox's counts, on the store's thread."""
        self.last_counts = store.counts()
        return self.last_counts

    # The state.

    @property
    def endpoint(self) -> str:
        """The state of the endpoint as this process knows it."""
        if self.components.external:
            return "external"
        participant = self.participant
        return "unknown" if participant is None else participant.sender.delivery.breaker.state

    @property
    def leads(self) -> bool:
        """Whether this process sends for all processes that share the outbox."""
        participant = self.participant
        return participant is not None and participant.leads

    @property
    def deliverer(self) -> int | None:
        """The process that sends from the outbox's file. 0: it is not known which. None: no process sends."""
        participant = self.participant
        return None if participant is None else participant.thread.leader.deliverer

    @property
    def dead_threads(self) -> list[str]:
        """The threads that have ended although they are needed. This should never happen."""
        participant = self.participant
        if participant is None or not self.running:
            return []
        return [worker.name for worker in participant.workers if not worker.alive]

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults of the outbox."""
        participant = self.participant
        return () if participant is None else tuple(participant.thread.alerts.raised)

    # For the threads.

    def _observe(self, capture: Capture, address: ClientIP) -> None:
        for event in self._diagnosis.observe(capture.scope, address):
            self._events.emit(event)

    def look(self) -> None:
        """Check the counts and the outbox's faults. The store's thread calls it about once a second."""
        participant = self.participant
        if participant is not None and participant.leads:
            self.reporter.watch(participant.thread.store)
        faults = self.faults
        if self._faults != faults:
            self._faults = faults
            self._events.emit(OutboxChanged(reason="+".join(faults)))


def _answer(thread: StoreThread, question: Callable[[Store], T], otherwise: T, seconds: float = 1.0) -> T:
    if not thread.alive and not thread.store.durable:
        return question(thread.store)
    try:
        return thread.ask(question).result(seconds)
    except Exception:  # noqa: BLE001 - a fault of the disk, which the store's thread logs
        return otherwise


def _settled(participant: Participant) -> bool | None:
    """Return True if nothing is on its way and all sent records are settled in the store. None if they will be."""
    sender = participant.sender
    return None if sender.delivery.in_flight or sender.unsettled else True


class _NotStartedError(ButterError):
    """The threads of this process do not run."""


_REMEDIES: Final = {
    Skip.NOT_JSON: (
        "the response is not JSON, so the extractor was not called. If it is JSON, answer with Content-Type: "
        "application/json. Otherwise leave extract out and annotate instead."
    ),
    Skip.TOO_LARGE: "the response is longer than max_body_bytes and was not captured. Raise max_body_bytes.",
    Skip.UNCAPTURABLE: "the response is a file sent by the server, whose body cannot be read. Annotate instead.",
}
_UNHEARD: Final = {
    Skip.STATUS: (
        "the endpoint annotated, and answered {status}, which is not a success, so there is no record. After a "
        "payment, answer 2xx, 302 or 303. If nothing was paid, this is correct."
    ),
    Skip.UNANSWERED: (
        "the endpoint annotated, and the app ended without an answer, so there is no record. If the payment goes "
        "through before that, call butter.record(request, ...) right after it."
    ),
    Skip.INCOMPLETE: (
        "the endpoint annotated, and the response was not finished, so there is no record. Find out why. If the "
        "shopper left, leave extract out, and annotate all fields before the response begins."
    ),
}
"""The message for an annotated response, if responses without annotations have none."""
