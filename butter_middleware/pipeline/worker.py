"""The threads of one process that read captures and deliver records, started on first use, aware of forks."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import RLock, Thread
from typing import Final, TypeVar

import anyio

from butter_middleware._utils import fork_hooks, log_thread
from butter_middleware._utils.daemons import DaemonThreadExecutor
from butter_middleware._utils.futures import failed
from butter_middleware._utils.progress import Progress
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.errors import ButterError
from butter_middleware.events import Faulted, OutboxChanged
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox.base import CLOSING_SECONDS, Counts, LocalOutbox, Settlement
from butter_middleware.pipeline.reading import ReaderThread
from butter_middleware.pipeline.waiters import NOTHING, ResponseWait, Waiters
from butter_middleware.reader.reader import ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher

T = TypeVar("T")

STOPPING_SECONDS: Final = 0.5
"""For a thread to end after the drain took all of its time; one that hangs in an extractor dies with the process."""
RESTART_SECONDS: Final = 5.0
LOOK_EVERY: Final = 1.0


class Worker:
    """Owns an outbox's work in this process: one thread reads captures, another delivers records.

    They are two since an extractor is the merchant's code: one that hangs must not stop the records already made.
    Nothing live is made before `start`; a forked child starts anew.
    """

    def __init__(
        self,
        outbox: LocalOutbox,
        read: Callable[[Capture], ReadResult],
        make_delivery: Callable[[Callable[[Sequence[Settlement]], None]], Delivery],
        events: EventDispatcher,
        drain_timeout: float,
        expire_before: Callable[[], float],
        look: Callable[[], object],
        started: Callable[[], object],
    ) -> None:
        self._outbox = outbox
        self._read = read
        self._make_delivery = make_delivery
        self._events = events
        self._drain_timeout = drain_timeout
        self._expire_before = expire_before
        self._look = look
        self._started = started
        self._counted = Counts()
        self._forget()

    def _forget(self) -> None:
        self._waiters = Waiters()
        self._pid: int | None = None
        self.ready: Future[None] = Future()
        """Done once a record would go out at once, where this process is the one that delivers."""
        self._running = False
        self._starting = RLock()
        self._progress = Progress()
        self._faults: tuple[str, ...] = ()
        self._read_loop = self._make_read_loop()
        self._stopping = False
        self._cancel_delivery: Callable[[], object] | None = None
        self._threads: list[Thread] = []
        self._delivery: Delivery | None = None

    # The life of the threads.

    def start(self) -> None:
        """Start the threads of this process, or wake them after `shutdown`. Cheap where they run."""
        if self._running and self._pid == os.getpid():
            return
        with self._starting:
            if self._threads:
                self._running = True
                if self._delivery is not None:
                    self._delivery.resume()
                return
            fork_hooks.register_fork_hooks(self, Worker._begin_anew, Worker.close)
            self._pid = os.getpid()
            self._read_loop = self._make_read_loop()
            self._delivery = self._make_delivery(self._settled)
            self._outbox.open()
            self._threads = [
                Thread(target=self._read_all, args=(self._read_loop,), name="butter-read", daemon=True),
                Thread(target=self._deliver_all, args=(self._delivery, self.ready), name="butter-deliver", daemon=True),
            ]
            try:
                for thread in self._threads:
                    log_thread.start(thread)
            except RuntimeError:  # the system gives no more threads: the next use tries anew
                self._read_loop.stop()
                self._threads = []
                raise
            self._running = True

    def _make_read_loop(self) -> ReaderThread:
        told = (self._progress.ring, self._wake, self._waiters)
        return ReaderThread(self._outbox, self._read, self._events, self._expire_before, *told)

    def _begin_anew(self) -> None:
        self._outbox.abandon()
        self._events.forget()
        self._forget()

    def shutdown(self, timeout: float) -> None:
        """Bring to safety within `timeout` seconds what was captured; the threads stay, since a next request may come.

        A durable outbox stops claiming and keeps its backlog; records in memory are sent while time remains.
        """
        if not self._running or self._delivery is None:
            return
        if self._outbox.durable:
            self._delivery.pause()
        self._delivery.unthrottle()
        self.flush(timeout)
        self._running = False
        counts = self.counts()
        left = counts.captured + counts.pending + counts.parked + counts.parts
        if left and not self._outbox.durable:
            said = (
                f"{left} records are only in memory and are lost when this process ends. Set outbox= to the path of an "
                "SQLite file: it keeps them for the next start."
            )
            log_thread.log(logging.ERROR, said, event="shutdown")
        else:
            said = f"Butter: {counts.delivered} records delivered, {counts.pending} pending on disk"
            log_thread.log(logging.INFO, said, event="shutdown")

    def close(self) -> None:
        """Shut down, then end the threads and let go of the outbox.

        Takes `drain_timeout` and, where an extractor or the file hangs, up to six seconds more: one to count what is
        left, half a one for each thread, three for the file, one for what is still to be said.
        """
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + self._drain_timeout
        self.shutdown(self._drain_timeout)
        self._end(deadline)

    def abandon(self) -> None:
        """End the threads as they are, and let go of the outbox."""
        if self._pid == os.getpid():
            self._end(time.monotonic())

    def _end(self, deadline: float) -> None:
        self._stopping = True
        self._read_loop.stop()
        if self._cancel_delivery is not None:
            with suppress(RuntimeError):  # its loop has ended by itself
                self._cancel_delivery()
        for thread in self._threads:
            thread.join(max(STOPPING_SECONDS, deadline - time.monotonic()))
        self._outbox.close(max(CLOSING_SECONDS, deadline - time.monotonic()))
        log_thread.settle()
        self._forget()

    # What the rest of the package calls.

    def append(self, capture: Capture, response_wait: ResponseWait = NOTHING) -> "Future[None] | None":
        """Hand over a capture; give what its response waits for, if anything. Never blocks once the threads run."""
        self._progress.expect(1)
        awaited = self._waiters.expect(capture) if response_wait.is_sending and self._delivers else None
        future = self._begin(lambda: self._outbox.append(capture))
        if self._delivery is not None:
            self._delivery.throttle()
        future.add_done_callback(partial(self._read_loop.appended, capture))
        return future if response_wait.until == "disk" else awaited

    def add(self, record: Record) -> "Future[int]":
        """Hand over a record made outside a request."""
        future = self._begin(lambda: self._outbox.add([record]))
        future.add_done_callback(self._read_loop.took)
        return future

    def _begin(self, operation: Callable[[], "Future[T]"]) -> "Future[T]":
        """Begin an operation of the outbox; what it raises, or the start of the threads, is the future's."""
        try:
            self.start()
            return operation()
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout; the loss is counted and said
            return failed(error)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was captured has been read, and delivered where delivery is not paused.

        Returns early where waiting cannot help: the endpoint is ill. True says that nothing is left undone.
        """
        delivery = self._delivery
        if delivery is None or self._pid != os.getpid():
            return True

        def verdict() -> bool | None:
            if delivery.paused:
                return None if delivery.busy else True
            if self._count() and not self._counted.pending:
                return True
            return False if delivery.ill else None

        return self._progress.wait(verdict, timeout)

    def finish_reading(self, timeout: float) -> bool:
        """Wait until all that was captured has been read, delivered or not; say whether it is."""
        return self._pid != os.getpid() or self._progress.wait(lambda: True, timeout)

    def counts(self, seconds: float = 1.0) -> Counts:
        """Count what lies in the outbox. Where it does not answer within `seconds`, or is closed, as it last was."""
        self._count(seconds)
        return self._counted

    def _count(self, seconds: float = 1.0) -> bool:
        try:
            self._counted = self._outbox.counts().result(seconds)
        except (ButterError, TimeoutError):
            return False
        return True

    @property
    def running(self) -> bool:
        """Whether its threads have been started in this process, and no shutdown has come since."""
        return self._running and self._pid == os.getpid()

    @property
    def endpoint(self) -> str:
        """The state of the endpoint as this process knows it."""
        return "unknown" if self._delivery is None else self._delivery.state

    @property
    def endpoint_changed_at(self) -> float | None:
        """Seconds since the epoch, when the endpoint became well or ill."""
        return None if self._delivery is None else self._delivery.changed_at

    @property
    def leads(self) -> bool:
        """Whether this process delivers what all that share the outbox took."""
        return self._delivery is not None and self._delivery.leads

    @property
    def dead_threads(self) -> list[str]:
        """The threads that have ended, which they never do while they are needed."""
        return [thread.name for thread in self._threads if not thread.is_alive()] if self._running else []

    @property
    def reading_for(self) -> float:
        """Seconds for which one capture is being read."""
        return self._read_loop.busy_for

    @property
    def faults(self) -> tuple[str, ...]:
        """What ails the outbox, where it can say so."""
        return tuple(getattr(self._outbox, "faults", ()))

    @property
    def stopped(self) -> bool:
        """Whether what lies in memory now would be lost."""
        return not self._running and not self._outbox.durable

    # What happens on other threads.

    @property
    def _delivers(self) -> bool:
        """Whether this process will send, soon, what it takes now."""
        if self._delivery is None or not self.running:
            return True  # it will have started by then
        return not self._delivery.ill and (self._delivery.leads or not self._outbox.durable)

    def _settled(self, settlements: Sequence[Settlement]) -> None:
        self._waiters.settled(settlements, go_on=self._delivers)
        self._progress.ring()

    def _wake(self) -> None:
        if self._delivery is not None:
            self._delivery.wake()

    def _read_all(self, loop: ReaderThread) -> None:
        try:
            loop.run()
        except BaseException as error:  # noqa: BLE001 - what ends a thread would be shown with its frames
            self._fault("reading", error)

    async def _keep_delivering(self, delivery: Delivery) -> None:
        while True:
            try:
                await delivery.run(self._outbox)
            except Exception as error:  # noqa: BLE001 - this thread must outlive any fault
                self._fault("delivering", error)
            await anyio.sleep(RESTART_SECONDS)

    async def _keep_looking(self) -> None:
        while True:
            try:
                self._look()
                if self._faults != self.faults:
                    self._faults = self.faults
                    self._events.emit(OutboxChanged(reason="+".join(self._faults)))
            except Exception as error:  # noqa: BLE001 - a clock of the merchant's
                self._fault("watching", error)
            await anyio.sleep(LOOK_EVERY)

    def _fault(self, what: str, error: BaseException) -> None:
        kind = type(error).__name__
        self._events.emit(Faulted(reason=f"{what}:{kind}", message=f"{what} failed: {kind}", level=logging.CRITICAL))

    def _deliver_all(self, delivery: Delivery, ready: "Future[None]") -> None:
        """Run the delivery on a loop of its own until it is cancelled."""

        async def main() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.set_default_executor(DaemonThreadExecutor())
            # By its own account asyncio would log an exception with its frames.
            loop.set_exception_handler(lambda _, told: self._fault("delivering", told.get("exception") or Exception()))
            self._cancel_delivery = lambda: loop.call_soon_threadsafe(stop.set)
            if self._stopping:
                return
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_delivering, delivery)
                group.start_soon(self._keep_looking)
                await stop.wait()
                group.cancel_scope.cancel()

        try:
            self._started()
            with suppress(Exception):  # the delivery meets the same fault, says it, and begins anew
                if self._outbox.lead():
                    delivery.prepare()
            ready.set_result(None)
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - what ends a thread would be shown with its frames
            self._fault("delivering", error)
