"""`Delivery`: records are posted as the circuit breaker admits them, and settled as it judges the answers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import anyio

from butter_middleware._utils.futures import call_in, wait
from butter_middleware.delivery.circuit_breaker import BreakerState, CircuitBreaker
from butter_middleware.delivery.clients import Client, ClientPool
from butter_middleware.errors import HTTPClientError, see
from butter_middleware.events import Delivered, Died, Event, Faulted, Retried
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Pending, Settled, Settlement
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry

LOOK_SECONDS: Final = 0.5
"""Between looks at the backlog if nothing wakes the loop."""
LEAST_GAP: Final = 0.002
LONGEST_GAP: Final = 0.1
"""Seconds between two records."""
LONGEST_SECONDS: Final = 5.0
"""Between looks during a pause: the clock may be set, and a person may end a hold."""
AGAIN_SECONDS: Final = 30.0
"""Before a record is sent again whose answer could not be judged."""


class Backlog(Protocol):
    """Where `Delivery.run` takes records from. Its methods wait for nothing, and only the loop's thread calls them."""

    def take(self) -> Pending | None:
        """Give the next record that is due, or None if there is none now."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Take what became of records."""
        ...

    def put_back(self) -> None:
        """Drop what was taken ahead: nothing more is sent for now."""
        ...

    def keep_hold(self, reason: str | None) -> None:
        """Keep across restarts why nothing but probes is sent. None: the hold is over."""
        ...


class Delivery:
    """Sends records and settles them, as the circuit breaker allows.

    `run` drains a backlog. `deliver` sends one record, for the consumer of any other queue.

    Args:
        make_client: Makes a client. Each sender has one of its own.
        senders: The most records on their way at once.
        clock: Seconds since the epoch.
        monotonic: Seconds, for probes and pauses.
        wait: How `run` waits, for tests.
        emit: Takes what happens. Without it, events are logged.
        telemetry: Traces each sending.
        breaker: Judges the answers. By default, a circuit breaker for Butter.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        *,
        senders: int = 4,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait,
        emit: Callable[[Event], object] | None = None,
        telemetry: Telemetry | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._clients = ClientPool(make_client)
        self._clock = clock
        self._wait = wait
        self._emit = emit or EventDispatcher(clock).emit
        self._telemetry = telemetry or Telemetry(enabled=False)
        self.breaker = breaker or CircuitBreaker(senders, clock, monotonic, self._emit)
        """Knows the endpoint's health."""
        self._kept_hold: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._asleep = False
        self._debt = self._cpu_before = 0.0
        """Seconds of processor that sending has used since the last gap, and the thread's time then."""
        self.in_flight = 0
        """How many records are on their way."""
        self._awaits_answer = False
        """Whether an answer may let the loop go on."""
        self.paused = False
        """Whether no further record is sent."""

    # For any thread.

    @property
    def state(self) -> BreakerState:
        """The endpoint's health."""
        return self.breaker.state

    @property
    def ill(self) -> bool:
        """Whether waiting for a delivery is of no use now."""
        return self.breaker.ill

    def resume_hold(self, reason: str) -> None:
        """Go on with a hold that an earlier process began: send nothing but a probe."""
        self._kept_hold = reason
        self.breaker.resume_hold(reason)

    def keep_hold_again(self) -> None:
        """Have the backlog keep the hold, or its end, once more after the next record: it could not."""
        self._kept_hold = ""

    def wake(self) -> None:
        """Look at the backlog now. Cheap if the loop is awake."""
        if self._asleep:
            self._asleep = False
            call_in(self._loop, self._changed.set)

    def pause(self) -> None:
        """Send nothing more. What is on its way is settled."""
        self.paused = True

    def resume(self) -> None:
        """Send again."""
        self.paused = False
        self.wake()

    def end_hold(self) -> None:
        """Probe at once, since a person says that the cause of the hold is fixed."""

        def probe() -> None:
            self._kept_hold = None
            if self.breaker.state is BreakerState.HOLD:
                self.breaker.probe_now()
                self._changed.set()

        call_in(self._loop, probe)

    # One record, for another queue.

    async def deliver(self, record: Record, attempts: int = 0) -> Settlement:
        """Send one record and say what became of it. The caller keeps it, or not, as `settled` says.

        RETRY and RELEASED give `due_at`, seconds since the epoch; for RETRY count one more attempt. While the endpoint
        is ill nothing is sent. If no other record can be tried beside it, no record dies of an ambiguous answer.
        """
        pending = Pending(0, record, attempts)
        if not self.breaker.admit(self.in_flight):
            return self.breaker.not_now(pending)
        self.in_flight += 1
        try:
            answer = await self._post(pending)
        finally:
            self.in_flight -= 1
        settled = self.breaker.record(pending, answer) or self.breaker.alone()
        self._tell_of(settled)
        return settled[0]  # the only one: `alone` follows at once, so no suspect waits for another record's answer

    # A backlog.

    async def run(self, backlog: Backlog, *, ping: bool = False) -> None:
        """Send what the backlog gives, until cancelled. With `ping`, say at once if the credentials are wrong."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        sending: set[asyncio.Task[None]] = set()
        try:
            self._cpu_before = time.thread_time()
            if ping:
                sending.add(self._loop.create_task(self._check_credentials()))
            while True:
                self._changed.clear()
                self._asleep = True  # before the look: what comes after it wakes the loop
                pending = await self._next(backlog)
                if pending is None:
                    await self._wait(
                        self._changed, min(max(self.breaker.seconds_to_wait(), LOOK_SECONDS), LONGEST_SECONDS)
                    )
                    continue
                self._asleep = False
                task = self._loop.create_task(self._send(pending, backlog))
                sending.add(task)
                task.add_done_callback(sending.discard)
                await self._pace()
        finally:
            self._asleep = False
            for task in sending:
                task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.gather(*sending, return_exceptions=True)
                self.in_flight = 0
                backlog.put_back()
                await self.aclose()

    async def _pace(self) -> None:
        """Leave the interpreter to the app for as long as sending has used it: one thread runs at a time."""
        now = time.thread_time()
        self._debt, self._cpu_before = self._debt + now - self._cpu_before, now
        if self._debt >= LEAST_GAP:
            debt, self._debt = self._debt, 0.0
            await asyncio.sleep(min(debt, LONGEST_GAP))

    def prepare(self) -> None:
        """Make the first client: loading an HTTP client takes a tenth of a second of the interpreter."""
        try:
            self._clients.prepare()
        except HTTPClientError as error:
            self._emit(Faulted(reason="delivery:client", message=f"nothing can be sent: {error}", level=logging.ERROR))

    async def aclose(self) -> None:
        """Close the clients. `run` does it at its end."""
        await self._clients.aclose()

    async def _next(self, backlog: Backlog) -> Pending | None:
        """Return the record to send now, counted as on its way, if there is one and it may be sent."""
        self._awaits_answer = self.paused or not self.breaker.admit(self.in_flight)
        if self._awaits_answer:
            return None
        self.in_flight += 1  # before the record is taken: `flush` sees it in one of the two places
        pending = backlog.take()
        if pending is not None and self.breaker.state is BreakerState.HOLD:
            try:
                answer = await self._clients.ask(lambda client: client.ping())
            except BaseException:
                self._release(pending, backlog)
                raise
            if self.breaker.ping_failed(answer):
                pending = self._release(pending, backlog)
        if pending is not None and self.paused:  # meanwhile
            pending = self._release(pending, backlog)
        if pending is None:
            self.in_flight -= 1
            if self.breaker.suspects and not self.in_flight:
                self._settle(backlog, self.breaker.alone())
        return pending

    def _release(self, pending: Pending, backlog: Backlog) -> Pending | None:
        """Give a record back, which keeps its place."""
        self._settle(backlog, [Settlement(pending.id, Settled.RELEASED)])
        return None

    async def _check_credentials(self) -> None:
        """Say if a ping is answered 401. It changes no state: what Butter answers to a record decides."""
        answer = await self._clients.ask(lambda client: client.ping())
        if answer.kind is AnswerKind.UNAUTHORIZED:
            message = (
                f"a ping at the start was answered {answer.label}: Butter does not take the credentials. Check "
                "username, password and environment. Records wait, and nothing is lost. "
                + see("a-ping-at-the-start-was-answered-butter-does-not-take-the")
            )
            self._emit(Faulted(reason="credentials", message=message, level=logging.CRITICAL))

    async def _send(self, pending: Pending, backlog: Backlog) -> None:
        try:
            answer = await self._post(pending)
        except BaseException:  # it was cancelled: this process may lead again, and sends it then
            self._release(pending, backlog)
            raise
        try:
            settlements = self.breaker.record(pending, answer)
        except Exception as error:  # noqa: BLE001 - such as a clock's
            kind = type(error).__name__
            message = f"delivering failed: {kind}. The record is sent again"
            self._emit(Faulted(reason=f"delivering:{kind}", message=message, level=logging.CRITICAL))
            due_at = time.time() + AGAIN_SECONDS  # by this machine's clock: the merchant's may have failed
            settlements = [Settlement(pending.id, Settled.RELEASED, due_at)]
        self._settle(backlog, settlements)
        self.in_flight -= 1
        if self.breaker.ill:
            backlog.put_back()  # so that the next probe is the oldest record there is
        if self._awaits_answer or self.breaker.ill or self.breaker.suspects:
            self._changed.set()

    def _settle(self, backlog: Backlog, settlements: Sequence[Settlement]) -> None:
        self._tell_of(settlements)
        if settlements:
            backlog.settle(settlements)
        if self._kept_hold != self.breaker.hold_reason:
            self._kept_hold = self.breaker.hold_reason
            backlog.keep_hold(self._kept_hold)

    async def _post(self, pending: Pending) -> Answer:
        with self._telemetry.sending(pending.record, pending.attempts) as answered:
            answer = await self._clients.ask(lambda client: client.post(pending.record))
            answered(answer)
        if answer.kind is AnswerKind.DELIVERED:
            with suppress(Exception):  # a clock of the merchant's: the record is delivered all the same
                self._emit(Delivered(seconds=max(0.0, self._clock() - pending.record.captured_at)))
        return answer

    def _tell_of(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            code = settlement.reason.partition(" ")[0]
            if settlement.settled is Settled.DEAD:
                said = (
                    f"a record is dead: Butter does not accept it ({settlement.reason}). If the outbox is a file, look "
                    "at it with butter-middleware dead list. " + see("a-record-is-dead-butter-does-not-accept-it")
                )
                self._emit(Died(reason=code, message=said, level=logging.ERROR))
            elif settlement.settled is Settled.RETRY:
                self._emit(Retried(reason=code))
