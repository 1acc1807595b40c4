"""`Delivery`: posts records that the circuit breaker admits, and settles them by its decision on the answers."""

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
"""Between two looks at the backlog if nothing wakes the loop."""
LEAST_GAP: Final = 0.002
LONGEST_GAP: Final = 0.1
"""Seconds between two records."""
LONGEST_SECONDS: Final = 5.0
"""Between two looks during a pause: the clock may be set, and a person may end a hold."""
AGAIN_SECONDS: Final = 30.0
"""Before a record is sent again if its answer could not be recorded."""


class Backlog(Protocol):
    """Gives records to `Delivery.run`. Its methods do not block, and only the loop's thread calls them."""

    def take(self) -> Pending | None:
        """Return the next record that is due, or None if no record is due now."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Take the settlements of records."""
        ...

    def put_back(self) -> None:
        """Drop the records that were loaded ahead: nothing more is sent for now."""
        ...

    def keep_hold(self, reason: str | None) -> None:
        """Store why only probes are sent, so that a restart keeps it. None: the hold is over."""
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
        emit: Gets the events. Without it, they are logged.
        telemetry: Traces each post.
        breaker: Classifies the answers. By default, a circuit breaker for Butter.
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
        """Tracks the endpoint's health."""
        self._kept_hold: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._asleep = False
        self._debt = self._cpu_before = 0.0
        """The CPU seconds that sending has used since the last gap, and the thread's CPU time then."""
        self.in_flight = 0
        """How many records are on their way."""
        self._awaits_answer = False
        """Whether an answer may let the loop continue."""
        self.paused = False
        """Whether sending is paused."""

    # For any thread.

    @property
    def state(self) -> BreakerState:
        """The endpoint's health."""
        return self.breaker.state

    @property
    def ill(self) -> bool:
        """Whether waiting for a delivery cannot help now."""
        return self.breaker.ill

    def resume_hold(self, reason: str) -> None:
        """Continue a hold that an earlier process began: send only a probe."""
        self._kept_hold = reason
        self.breaker.resume_hold(reason)

    def keep_hold_again(self) -> None:
        """Let the backlog store the hold, or its end, again after the next record, because it failed."""
        self._kept_hold = ""

    def wake(self) -> None:
        """Let the loop look at the backlog now. Cheap if the loop is awake."""
        if self._asleep:
            self._asleep = False
            call_in(self._loop, self._changed.set)

    def pause(self) -> None:
        """Send nothing more. Records on their way are settled."""
        self.paused = True

    def resume(self) -> None:
        """Send again."""
        self.paused = False
        self.wake()

    def end_hold(self) -> None:
        """Probe at once, because a person has fixed the cause of the hold."""

        def probe() -> None:
            self._kept_hold = None
            if self.breaker.state is BreakerState.HOLD:
                self.breaker.probe_now()
                self._changed.set()

        call_in(self._loop, probe)

    # One record, for the consumer of another queue.

    async def deliver(self, record: Record, attempts: int = 0) -> Settlement:
        """Send one record and return its settlement. Its `settled` decides whether the caller keeps the record.

        RETRY and RELEASED have `due_at`, in seconds since the epoch. For RETRY, count one more attempt. While the
        endpoint is ill, nothing is sent. If no other record can be tried beside it, an ambiguous answer makes no record
        dead.
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
        return settled[0]  # the only one: `alone` was called at once, so no suspect waits for another record's answer

    # A backlog.

    async def run(self, backlog: Backlog, *, ping: bool = False) -> None:
        """Send the backlog's records until cancelled. With `ping`, report at once if the credentials are wrong."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        sending: set[asyncio.Task[None]] = set()
        try:
            self._cpu_before = time.thread_time()
            if ping:
                sending.add(self._loop.create_task(self._check_credentials()))
            while True:
                self._changed.clear()
                self._asleep = True  # before the look at the backlog: a record that comes after it wakes the loop
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
        """Leave the interpreter to the app for as long as sending has used it: only one thread runs at a time."""
        now = time.thread_time()
        self._debt, self._cpu_before = self._debt + now - self._cpu_before, now
        if self._debt >= LEAST_GAP:
            debt, self._debt = self._debt, 0.0
            await asyncio.sleep(min(debt, LONGEST_GAP))

    def prepare(self) -> None:
        """Make the first client early: loading an HTTP client keeps the interpreter busy for a tenth of a second."""
        try:
            self._clients.prepare()
        except HTTPClientError as error:
            self._emit(Faulted(reason="delivery:client", message=f"nothing can be sent: {error}", level=logging.ERROR))

    async def aclose(self) -> None:
        """Close the clients. `run` does it at its end."""
        await self._clients.aclose()

    async def _next(self, backlog: Backlog) -> Pending | None:
        """Return the record to send now, counted as on its way. None if no record may be sent."""
        self._awaits_answer = self.paused or not self.breaker.admit(self.in_flight)
        if self._awaits_answer:
            return None
        self.in_flight += 1  # before the record is taken, so that `flush` always sees it in the backlog or here
        pending = backlog.take()
        if pending is not None and self.breaker.state is BreakerState.HOLD:
            try:
                answer = await self._clients.ask(lambda client: client.ping())
            except BaseException:
                self._release(pending, backlog)
                raise
            if self.breaker.ping_failed(answer):
                pending = self._release(pending, backlog)
        if pending is not None and self.paused:  # it was paused meanwhile
            pending = self._release(pending, backlog)
        if pending is None:
            self.in_flight -= 1
            if self.breaker.suspects and not self.in_flight:
                self._settle(backlog, self.breaker.alone())
        return pending

    def _release(self, pending: Pending, backlog: Backlog) -> Pending | None:
        """Give a record back. It keeps its place."""
        self._settle(backlog, [Settlement(pending.id, Settled.RELEASED)])
        return None

    async def _check_credentials(self) -> None:
        """Report a ping that is answered with 401. It changes no state: only the answer to a record does."""
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
        except BaseException:  # it was cancelled. If this process leads again, it sends the record.
            self._release(pending, backlog)
            raise
        try:
            settlements = self.breaker.record(pending, answer)
        except Exception as error:  # noqa: BLE001 - such as the clock's error
            kind = type(error).__name__
            message = f"delivering failed: {kind}. The record is sent again"
            self._emit(Faulted(reason=f"delivering:{kind}", message=message, level=logging.CRITICAL))
            due_at = time.time() + AGAIN_SECONDS  # this machine's clock, because the merchant's may have failed
            settlements = [Settlement(pending.id, Settled.RELEASED, due_at)]
        self._settle(backlog, settlements)
        self.in_flight -= 1
        if self.breaker.ill:
            backlog.put_back()  # so that the next probe is the oldest record
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
            with suppress(Exception):  # the merchant's clock may raise, but the record is delivered
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
