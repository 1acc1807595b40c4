"""The thread with the connections to Butter or to the queue: one asyncio loop, while this process leads."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from butter_middleware._utils.daemons import DaemonThreadLoop
from butter_middleware._utils.futures import call_in
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Pending, Settled, Settlement
from butter_middleware.pipeline.worker import Worker

if TYPE_CHECKING:
    from butter_middleware.pipeline.participant import Participant

MOST_AHEAD: Final = 256
"""The most records in memory for the sender. The others are only in the store."""
REST_SECONDS: Final = 3600.0


class SenderThread(Worker):
    """Sends the store's records while this process leads. It is the `Backlog` of its `Delivery`.

    Args:
        delivery: Sends.
        participant: The owner of the records.
        prepare: Called on this thread before anything is sent.
        ping: Whether it checks the credentials once, when it first leads.
    """

    def __init__(
        self,
        delivery: Delivery,
        participant: "Participant",
        prepare: Callable[[], object],
        *,
        ping: bool = False,
    ) -> None:
        super().__init__("butter-send")
        self.delivery = delivery
        self._participant = participant
        self._prepare = prepare
        self._ping = ping
        self._fresh: deque[Pending] = deque()
        self._backlog: deque[Pending] = deque()
        self._from_backlog = False
        self.held: set[int] = set()
        """The records in memory, on their way, or not settled in the store. The store's thread changes it."""
        self.hungry = False
        """Whether the loop asked for a record and there was none in memory."""
        self.ready: Future[None] = Future()
        """Done when a record would be sent at once if this process leads."""
        self.failing = False
        """Whether the loop failed and has not started again yet."""
        self._leads = False
        self._hold: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None

    # For the store's thread.

    @property
    def ill(self) -> bool:
        """Whether nothing will be sent soon."""
        return self.delivery.ill or self.delivery.paused or self._stopping

    @property
    def wanted(self) -> int:
        """How many records it can take now."""
        if not self._leads or self._stopping or self.delivery.paused:
            return 0
        ahead = len(self._fresh) + len(self._backlog)
        if self.delivery.ill:  # one probe at a time
            return 1 if self.hungry and not ahead else 0
        return MOST_AHEAD - ahead if ahead <= MOST_AHEAD // 2 else 0

    def offer(self, pendings: Sequence[Pending], *, fresh: bool) -> bool:
        """Load records ahead. Return whether all of them were taken."""
        if fresh and (not self._leads or self.ill):
            return not pendings
        queue = self._fresh if fresh else self._backlog
        room = MOST_AHEAD - len(self._fresh) if fresh else len(pendings)
        taken = [pending for pending in pendings[:room] if pending.id not in self.held]
        self.held.update(pending.id for pending in taken)
        queue.extend(taken)
        if taken:
            self.hungry = False
            self.delivery.wake()
        return len(taken) == len(pendings)

    def drop(self) -> Sequence[Record]:
        """Drop everything, because its file is gone. Return the records that are in memory."""
        records = [pending.record for pending in self._drain()]
        self.held.clear()
        return records

    def take_lead(self, hold: str | None) -> None:
        """Send from now on."""
        self._hold = hold
        self._leads = True
        self._waker.wake()

    def wind_down(self) -> None:
        """Take no further record. What is on its way is settled."""
        self._leads = False
        self._participant.thread.write_at_once()

    @property
    def idle(self) -> bool:
        """Whether no record is on its way or unsettled in the store."""
        return not self.delivery.in_flight and not self.unsettled

    def lose_lead(self) -> None:
        """Send nothing more."""
        self._leads = False
        loop, running = self._loop, self._running
        if running is not None:
            call_in(loop, running.cancel)

    def forget_ahead(self) -> None:
        """Drop the records that were loaded ahead, because a person changed the store."""
        call_in(self._loop, self.put_back)

    def stop(self) -> None:
        """End the thread."""
        super().stop()
        self.lose_lead()

    @property
    def unsettled(self) -> bool:
        """Whether there are records whose settlement is not in the store yet."""
        return len(self.held) > len(self._fresh) + len(self._backlog)

    @property
    def sending(self) -> set[int]:
        """The records that are on their way, or whose settlement is not in the store yet."""
        return self.held.difference(one.id for one in [*self._fresh, *self._backlog])

    # `Backlog`, for the loop.

    def take(self) -> Pending | None:
        """Return the next record, in turn a new one and one that has waited, so that neither kind blocks the other."""
        if not self._leads:
            return None
        self._from_backlog = not self._from_backlog
        first, second = (self._backlog, self._fresh) if self._from_backlog else (self._fresh, self._backlog)
        queue = first or second
        if queue:
            return queue.popleft()
        self.hungry = True
        return None

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Take the settlements of records."""
        self._participant.thread.settle(self._participant, settlements)

    def put_back(self) -> None:
        """Drop the records that were loaded ahead."""
        self.settle([Settlement(one.id, Settled.RELEASED) for one in self._drain()])

    def keep_hold(self, reason: str | None) -> None:
        """Store why only probes are sent. After a fault of the disk, the next record tries it again."""

        def kept(asked: "Future[None]") -> None:
            if asked.exception() is not None:
                self.delivery.keep_hold_again()

        self._participant.thread.ask(lambda store: store.set_hold(reason)).add_done_callback(kept)

    def _drain(self) -> list[Pending]:
        found: list[Pending] = []
        for queue in (self._fresh, self._backlog):
            while queue:
                found.append(queue.popleft())
        return found

    # The thread.

    def _run(self) -> None:
        self._prepare()
        super()._run()

    def _work(self) -> None:
        self.failing = False
        while not self._stopping:
            self._waker.rest()
            if not self._leads:
                if not self._stopping:
                    self._waker.wait(REST_SECONDS)
                continue
            if self._hold is not None:
                self.delivery.resume_hold(self._hold)
            self.delivery.prepare()
            if not self.ready.done():
                self.ready.set_result(None)
            with asyncio.Runner(loop_factory=DaemonThreadLoop) as runner:
                runner.run(self._send())

    def _failed(self, error: BaseException) -> None:
        self.failing = True  # so that another process can take the lead meanwhile
        self._tell(error)

    def _tell(self, error: BaseException) -> None:
        self._participant.failed("delivering", error)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        # Otherwise asyncio would log the exception with its frames.
        loop.set_exception_handler(lambda _loop, told: self._tell(told.get("exception") or RuntimeError()))
        ping, self._ping = self._ping, False
        self._running = loop.create_task(self.delivery.run(self, ping=ping))
        self._loop = loop
        try:
            if not self._leads:  # the lead was lost meanwhile
                self._running.cancel()
            await self._running
        except asyncio.CancelledError:
            pass  # the lead was lost. If this process gets it again, `_run` starts another loop.
        finally:
            self._loop, self._running = None, None
            self._participant.thread.write_at_once()  # another process may lead at any moment
