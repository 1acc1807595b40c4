"""Claim, post, settle: how records leave an outbox."""

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
from anyio.abc import TaskGroup

from butter_middleware._utils.futures import result_of, wait
from butter_middleware.delivery.circuit_breaker import BUTTER, BreakerState, CircuitBreaker, Target
from butter_middleware.delivery.clients import Client, ClientPool
from butter_middleware.errors import HTTPClientError
from butter_middleware.events import Delivered, Died, Event, Faulted, Retried
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Backlog, Pending, Settled, Settlement
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry

CLAIM_AHEAD: Final = 64
POLL_SECONDS: Final = 0.5
"""Another process may have appended, or may have died as the leader."""
HOLD_SECONDS: Final = 5.0
"""Between looks, during a hold, whether a person ended it: `butter-middleware resume`."""
SHARE: Final = 0.5
"""Of a core, for sending while checkouts are served: the interpreter runs one thread at a time."""
CONSIDERATE_SECONDS: Final = 60.0
"""After each checkout."""
GAP_MOST: Final = 0.1
"""Seconds between two records, whatever the first cost."""
_RANDOM: Final = random.SystemRandom()
"""Not the one that all share: an app may have seeded that."""


class Delivery:
    """Sends records and settles them, as the endpoint's health allows.

    `run` drains a local outbox. `deliver` sends one record, for the consumer of any other queue.

    Args:
        make_courier: Makes a courier; each sender has one of its own.
        senders: The most records on their way at once.
        on_settled: Called, on the loop's thread, after settlements are in the outbox.
        clock: Seconds since the epoch.
        monotonic: Seconds, for probes and pauses.
        cpu: Seconds of a core that the calling thread has had.
        uniform: As `random.uniform`, for jitter.
        wait: How `run` waits, for tests.
        emit: Takes what happens; left out, it is logged.
        telemetry: Traces each sending.
        target: Who takes the records.
    """

    def __init__(  # noqa: PLR0913 - as the class says, most of them for tests
        self,
        make_client: Callable[[], Client],
        *,
        senders: int = 4,
        on_settled: Callable[[Sequence[Settlement]], None] = lambda _settlements: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        uniform: Callable[[float, float], float] = _RANDOM.uniform,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait,
        emit: Callable[[Event], object] | None = None,
        telemetry: Telemetry | None = None,
        target: Target = BUTTER,
    ) -> None:
        self._clients = ClientPool(make_client)
        self._on_settled = on_settled
        self._wait = wait
        self._monotonic = monotonic
        self._cpu = cpu
        self._cpu_before = 0.0
        self._considerate_until = 0.0
        self._clock = clock
        self._emit = emit or EventDispatcher(clock).emit
        self._telemetry = telemetry or Telemetry(enabled=False)
        self._endpoint = CircuitBreaker(senders, clock, monotonic, uniform, self._emit, target)
        self._ahead: deque[Pending] = deque()
        self._settlements: list[Settlement] = []
        self._kept_hold: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._settle_now = asyncio.Event()
        self._in_flight = 0
        self._writing = 0
        self.leads = False
        """Whether it is this one, of all processes, that drains the outbox."""
        self.paused = False
        """Whether no further record is sent."""

    # For any thread.

    @property
    def state(self) -> BreakerState:
        """The endpoint's health."""
        return self._endpoint.state

    @property
    def changed_at(self) -> float | None:
        """Seconds since the epoch, when the endpoint became well or ill."""
        return self._endpoint.changed_at

    @property
    def ill(self) -> bool:
        """Whether waiting for a delivery is of no use now."""
        return self._endpoint.ill

    @property
    def hold_reason(self) -> str | None:
        """Why nothing but probes is sent, until one succeeds; whoever calls `deliver` may keep it over a restart."""
        return self._endpoint.hold_reason

    def resume_hold(self, reason: str) -> None:
        """Go on with a hold that an earlier process began: send nothing but a probe."""
        self._endpoint.resume_hold(reason)

    @property
    def seconds_to_wait(self) -> float:
        """Until something may be sent again; 0 where it may be now."""
        return self._endpoint.seconds_to_wait()

    @property
    def busy(self) -> bool:
        """Whether a record is on its way, or its settlement not yet in the outbox."""
        return bool(self._in_flight or self._settlements or self._writing)

    def wake(self) -> None:
        """Look at the outbox now."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def throttle(self) -> None:
        """A checkout is served here: for a minute, leave the interpreter to the next ones for half of the time."""
        self._considerate_until = self._monotonic() + CONSIDERATE_SECONDS

    @property
    def throttled(self) -> bool:
        """Whether it gives way now."""
        return self._monotonic() < self._considerate_until

    def unthrottle(self) -> None:
        """No more checkouts come."""
        self._considerate_until = 0.0

    def pause(self) -> None:
        """Send nothing more; what is on its way is settled."""
        self.paused = True

    def resume(self) -> None:
        """Send again."""
        self.paused = False
        self.wake()

    # One record, for another queue.

    async def deliver(self, record: Record, attempts: int = 0) -> Settlement:
        """Send one record and say what became of it; the caller keeps it, or not, as `settled` says.

        RETRY and RELEASED give `due_at`, seconds since the epoch; for RETRY count one more attempt. While the endpoint
        is ill nothing is sent. Where other records cannot be tried beside it, no record dies of an ambiguous answer.
        """
        pending = Pending(0, record, attempts)
        if not self._endpoint.admit(self._in_flight):
            return self._endpoint.not_now(pending)
        self._in_flight += 1
        try:
            answer = await self._post(pending)
        finally:
            self._in_flight -= 1
        settled = self._endpoint.record(pending, answer) or self._endpoint.alone()
        self._tell_of(settled)
        return settled[0]

    # A local outbox.

    async def run(self, outbox: Backlog) -> None:
        """Drain an outbox until cancelled; wait for the lead where another process has it."""
        self._loop = asyncio.get_running_loop()
        self._changed, self._settle_now = asyncio.Event(), asyncio.Event()
        try:
            while not outbox.lead():
                await self._wait(self._fresh(), POLL_SECONDS)
            self.leads = True
            self._kept_hold = await result_of(outbox.hold())
            if self._kept_hold is not None:
                self._endpoint.resume_hold(self._kept_hold)
            async with anyio.create_task_group() as group:
                group.start_soon(self._settle_all, outbox)
                await self._dispatch_all(outbox, group)
        finally:
            self._in_flight = 0
            self.leads = False
            with anyio.CancelScope(shield=True):
                self._settle(self._released())
                await self._write(outbox)
                await self.aclose()

    def prepare(self) -> None:
        """Make the first courier ahead: loading an HTTP client takes a tenth of a second of the interpreter."""
        try:
            self._clients.prepare()
        except HTTPClientError as error:
            self._emit(Faulted(reason="delivery:client", message=f"nothing can be sent: {error}", level=logging.ERROR))

    async def aclose(self) -> None:
        """Let go of the couriers. `run` does it at its end."""
        await self._clients.aclose()

    async def _dispatch_all(self, outbox: Backlog, group: TaskGroup) -> None:
        while True:
            changed = self._fresh()
            try:
                await self._check_hold(outbox)
                pending = await self._next(outbox)
            except Exception as error:  # noqa: BLE001 - the outbox heals or not; this loop goes on
                said = f"delivery: the outbox failed ({type(error).__name__}); trying again"
                self._emit(Faulted(reason=f"delivery:{type(error).__name__}", message=said, level=logging.ERROR))
                pending = None
            if pending is None:
                longest = math.inf if self._kept_hold is None else HOLD_SECONDS
                await self._wait(changed, min(longest, max(self._endpoint.seconds_to_wait(), POLL_SECONDS)))
            else:
                group.start_soon(self._send, pending)
                await self._pace()

    async def _check_hold(self, outbox: Backlog) -> None:
        """Probe at once where a person ended the hold in the outbox; the outbox keeps it until a probe succeeds."""
        if self._kept_hold is not None and self.state is BreakerState.HOLD and await result_of(outbox.hold()) is None:
            self._kept_hold = None
            self._endpoint.probe_now()
            self._settle([])

    async def _pace(self) -> None:
        """Wait in proportion to what sending has cost since the last gap; a server that takes its time costs little."""
        before, self._cpu_before = self._cpu_before, self._cpu()
        if self.throttled:
            await self._wait(asyncio.Event(), min((self._cpu_before - before) / SHARE, GAP_MOST))

    async def _next(self, outbox: Backlog) -> Pending | None:
        """Return the record to send now, counted as on its way, if there is one and it may be sent."""
        if not self._may_send():
            return None
        if not self._ahead:
            claimed = await result_of(outbox.claim(CLAIM_AHEAD))
            self._ahead.extend(claimed)
        if not self._ahead:
            if self._endpoint.suspects and not self._in_flight:
                self._settle(self._endpoint.alone())
            return None
        if self.state is BreakerState.HOLD and not await self._pinged():
            return None
        self._in_flight += 1  # first, since whoever pauses looks next whether this is busy
        if not self.paused:
            return self._ahead.popleft()
        self._in_flight -= 1
        return None

    def _may_send(self) -> bool:
        return not self.paused and self._endpoint.admit(self._in_flight)

    async def _pinged(self) -> bool:
        return not self._endpoint.ping_failed(await self._clients.ask(lambda client: client.ping()))

    async def _send(self, pending: Pending) -> None:
        try:
            answer = await self._post(pending)
        except asyncio.CancelledError:
            self._ahead.appendleft(pending)
            raise
        self._in_flight -= 1
        settlements = self._endpoint.record(pending, answer)
        if self._endpoint.ill:
            settlements += self._released()  # so that the next probe is the oldest record there is
        self._settle(settlements)

    def _released(self) -> list[Settlement]:
        """Give up what was claimed ahead."""
        ahead, self._ahead = self._ahead, deque()
        return [Settlement(pending.id, Settled.RELEASED, key=pending.record.key) for pending in ahead]

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        self._tell_of(settlements)
        self._settlements += settlements
        self._settle_now.set()
        self._changed.set()

    async def _settle_all(self, outbox: Backlog) -> None:
        """Settle in groups: whatever finished while the last group was written."""
        while True:
            await self._settle_now.wait()
            self._settle_now.clear()
            await self._write(outbox)

    async def _write(self, outbox: Backlog) -> None:
        settlements, self._settlements = self._settlements, []
        self._writing = len(settlements)
        try:
            await result_of(outbox.settle(settlements))
            if self._kept_hold != self._endpoint.hold_reason:
                kept = self._endpoint.hold_reason
                await result_of(outbox.set_hold(kept))
                self._kept_hold = kept
        except Exception as error:  # noqa: BLE001 - what is not settled is sent once more, after a restart
            said = f"delivery: the outbox could not settle ({type(error).__name__})"
            self._emit(Faulted(reason=f"delivery:{type(error).__name__}", message=said, level=logging.CRITICAL))
        self._writing = 0
        self._changed.set()
        self._on_settled(settlements)

    async def _post(self, pending: Pending) -> Answer:
        with self._telemetry.sending(pending.record, pending.attempts) as answered:
            answer = await self._clients.ask(lambda client: client.post(pending.record))
            answered(answer)
        if answer.kind is AnswerKind.DELIVERED:
            self._emit(Delivered(seconds=max(0.0, self._clock() - pending.record.captured_at)))
        return answer

    def _tell_of(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            code = settlement.reason.partition(" ")[0]
            if settlement.settled is Settled.DEAD:
                said = f"a record is dead, Butter will not take it: {settlement.reason}"
                self._emit(Died(reason=code, message=said, level=logging.ERROR))
            elif settlement.settled is Settled.RETRY:
                self._emit(Retried(reason=code))

    def _fresh(self) -> asyncio.Event:
        """Return the event that the next change sets."""
        self._changed.clear()
        return self._changed
