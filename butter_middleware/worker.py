"""The threads of one process that read captures and deliver records, started on first use, aware of forks."""

import asyncio
import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from threading import Condition, Event, Thread
from typing import Final, TypeVar

import anyio

from butter_middleware.checkout import Record
from butter_middleware.counters import Counters, Skip
from butter_middleware.delivery import Delivery
from butter_middleware.errors import ButterError
from butter_middleware.exchange import Capture
from butter_middleware.outbox.protocol import Counts, LocalOutbox, StoredCapture
from butter_middleware.parts import EXPIRED
from butter_middleware.reading import Reading
from butter_middleware.remedies import unreadable

log = logging.getLogger("butter_middleware")

T = TypeVar("T")

READ_AHEAD: Final = 32
STOPPING_SECONDS: Final = 0.5
"""For a thread to end after the drain took all of its time; one that hangs in an extractor dies with the process."""
ADOPT_EVERY: Final = 5.0
"""Seconds between looks for what dead processes left behind."""


class Worker:
    """Owns an outbox's work in this process: one thread reads captures, another delivers records.

    They are two since an extractor is the merchant's code: one that hangs must not stop the records already made.
    Nothing live is made before `start`; a forked child starts anew.
    """

    def __init__(
        self,
        outbox: LocalOutbox,
        read: Callable[[Capture], Reading],
        make_delivery: Callable[[Callable[[], None]], Delivery],
        counters: Counters,
        drain_timeout: float,
        expire_before: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._read = read
        self._make_delivery = make_delivery
        self._counters = counters
        self._drain_timeout = drain_timeout
        self._expire_before = expire_before
        self._hooked = False
        self._counted = Counts()
        self._forget()

    def _forget(self) -> None:
        self._pid: int | None = None
        self._running = False
        self._changed = Condition()
        self._changes = 0
        self._unread = 0
        self._wake_reader = Event()
        self._stopping = Event()
        self._cancel_delivery: Callable[[], object] | None = None
        self._threads: list[Thread] = []
        self._delivery: Delivery | None = None

    # The life of the threads.

    def start(self) -> None:
        """Start the threads of this process, or wake them after `shutdown`. Cheap where they run."""
        if self._running and self._pid == os.getpid():
            return
        with self._changed:
            if self._threads:
                self._running = True
                if self._delivery is not None:
                    self._delivery.resume()
                return
            self._hook()
            self._pid = os.getpid()
            self._stopping = Event()
            self._delivery = self._make_delivery(self._notify)
            self._outbox.open()
            self._threads = [
                Thread(target=self._read_all, args=(self._stopping,), name="butter-read", daemon=True),
                Thread(target=self._deliver_all, args=(self._delivery,), name="butter-deliver", daemon=True),
            ]
            try:
                for thread in self._threads:
                    thread.start()
            except RuntimeError:  # the system gives no more threads: the next use tries anew
                self._stopping.set()
                self._wake_reader.set()
                self._threads = []
                raise
            self._running = True

    def _hook(self) -> None:
        """Once a worker: a fork forgets the parent's threads, and the exit of the interpreter drains what it can."""
        if self._hooked:
            return
        self._hooked = True
        me = weakref.ref(self)

        def in_child() -> None:
            if (worker := me()) is not None:
                worker._outbox.abandon()  # noqa: SLF001 - a closure of this class
                worker._counters.forget()  # noqa: SLF001
                worker._forget()  # noqa: SLF001

        def at_exit() -> None:
            if (worker := me()) is not None:
                worker.close()

        os.register_at_fork(after_in_child=in_child)
        atexit.register(at_exit)

    def shutdown(self, timeout: float) -> None:
        """Bring to safety within `timeout` seconds what was captured; the threads stay, since a next request may come.

        A durable outbox stops claiming and keeps its backlog; records in memory are sent while time remains.
        """
        if not self._running or self._delivery is None:
            return
        if self._outbox.durable:
            self._delivery.pause()
        self._delivery.hurry()
        self.flush(timeout)
        self._running = False
        counts = self.counts()
        left = counts.captured + counts.pending + counts.parked + counts.parts
        if left and not self._outbox.durable:
            log.error(
                "%d records are only in memory and are lost when this process ends. "
                "Set outbox= to the path of an SQLite file: it keeps them for the next start.",
                left,
            )
        else:
            log.info("Butter: %d records delivered, %d pending on disk", counts.delivered, counts.pending)

    def close(self) -> None:
        """Shut down, then end the threads and let go of the outbox."""
        if self._pid != os.getpid():
            return
        deadline = time.monotonic() + self._drain_timeout
        self.shutdown(self._drain_timeout)
        self._stopping.set()
        self._wake_reader.set()
        if self._cancel_delivery is not None:
            self._cancel_delivery()
        for thread in self._threads:
            thread.join(max(STOPPING_SECONDS, deadline - time.monotonic()))
        self._outbox.close()
        self._forget()

    # What the rest of the package calls.

    def append(self, capture: Capture) -> "Future[None]":
        """Hand over a capture. Never blocks once the threads run."""
        with self._changed:
            self._unread += 1
        future = self._begin(lambda: self._outbox.append(capture))
        if self._delivery is not None:
            self._delivery.give_way()
        future.add_done_callback(self._appended)
        return future

    def add(self, record: Record) -> "Future[int]":
        """Hand over a record made outside a request."""
        future = self._begin(lambda: self._outbox.add([record]))
        future.add_done_callback(self._added)
        return future

    def _begin(self, operation: Callable[[], "Future[T]"]) -> "Future[T]":
        """Begin an operation of the outbox; what it raises, or the start of the threads, is the future's."""
        try:
            self.start()
            return operation()
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout; the loss is counted and said
            failed: Future[T] = Future()
            failed.set_exception(error)
            return failed

    def flush(self, timeout: float) -> bool:
        """Wait until all that was captured has been read, and delivered where delivery is not paused.

        Returns early where waiting cannot help: the endpoint is ill. True says that nothing is left undone.
        """
        delivery = self._delivery
        if delivery is None or self._pid != os.getpid():
            return True
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                changes, unread = self._changes, self._unread
            if not unread:
                if delivery.paused:
                    if not delivery.busy:
                        return True
                elif self._count() and not self._counted.pending:
                    return True
                elif delivery.ill:
                    return False
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            with self._changed:
                if changes == self._changes:
                    self._changed.wait(min(remaining, 0.25))

    def counts(self) -> Counts:
        """Count what lies in the outbox. Where it does not answer within a second, or is closed, as it last was."""
        self._count()
        return self._counted

    def _count(self) -> bool:
        try:
            self._counted = self._outbox.counts().result(1.0)
        except (ButterError, TimeoutError):
            return False
        return True

    @property
    def endpoint(self) -> str:
        """The state of the endpoint as this process knows it."""
        return "unknown" if self._delivery is None else self._delivery.state

    @property
    def stopped(self) -> bool:
        """Whether what lies in memory now would be lost."""
        return not self._running and not self._outbox.durable

    # What happens on other threads.

    def _notify(self, unread: int = 0) -> None:
        with self._changed:
            self._changes += 1
            self._unread -= unread
            self._changed.notify_all()

    def _appended(self, future: "Future[None]") -> None:
        if self._failed(future):
            self._notify(unread=1)
        elif not self._wake_reader.is_set():
            self._wake_reader.set()

    def _added(self, future: "Future[int]") -> None:
        if not self._failed(future):
            self._counters.skip(Skip.DUPLICATE, future.result())
            if self._delivery is not None:
                self._delivery.wake()
        self._notify()

    def _failed(self, future: "Future[None] | Future[int]") -> bool:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            return False
        self._counters.lose()
        self._counters.say_once(
            f"lost:{type(error).__name__}",
            logging.CRITICAL,
            "a record is lost: the outbox could not take it (%s). See status().lost.",
            type(error).__name__,
        )
        return True

    def _read_all(self, stopping: Event) -> None:
        """Read captures until `stopping`."""
        look_again = 0.0
        while not stopping.is_set():
            self._wake_reader.clear()
            try:
                if time.monotonic() >= look_again:
                    look_again = time.monotonic() + ADOPT_EVERY
                    adopted = self._outbox.adopt().result()
                    self._notify(unread=-adopted)
                    self._expire()
                captures: Sequence[StoredCapture] = self._outbox.captures(READ_AHEAD).result()
                for stored in captures:
                    self._read_one(stored)
            except (Exception, CancelledError) as error:  # noqa: BLE001 - this thread must outlive any fault
                self._counters.say_once("reader", logging.CRITICAL, "reading failed: %s", type(error).__name__)
                stopping.wait(1.0)
                continue
            if not captures:
                self._wake_reader.wait(ADOPT_EVERY)

    def _expire(self) -> None:
        expired = self._outbox.expire(self._expire_before()).result()
        self._counters.skip(Skip.JOIN_EXPIRED, expired)
        if expired:
            self._counters.say_once("join_expired", logging.WARNING, EXPIRED)

    def _read_one(self, stored: StoredCapture) -> None:
        try:
            reading = self._read(stored.capture)
        except BaseException as error:  # noqa: BLE001 - the merchant's code runs in it, which may even call sys.exit()
            parked = unreadable(error)
            reading = Reading(parked=parked)
            self._counters.skip(f"parked:{parked.reason}")
            self._counters.say_once(parked.detail, logging.WARNING, "%s", parked.detail)
        if reading.parked is None:
            outcome = reading.records if reading.part is None else reading.part
            future = self._outbox.resolve(stored.id, outcome)
        else:
            if reading.records:
                self._outbox.add(reading.records).add_done_callback(self._added)
            future = self._outbox.resolve(stored.id, reading.parked)
        future.add_done_callback(self._resolved)

    def _resolved(self, future: "Future[int]") -> None:
        self._added(future)
        self._notify(unread=1)

    async def _keep_delivering(self, delivery: Delivery) -> None:
        while True:
            try:
                await delivery.run(self._outbox)
            except Exception as error:  # noqa: BLE001 - this thread must outlive any fault
                self._counters.say_once("deliverer", logging.CRITICAL, "delivering failed: %s", type(error).__name__)
            await anyio.sleep(ADOPT_EVERY)

    def _deliver_all(self, delivery: Delivery) -> None:
        """Run the delivery on a loop of its own until it is cancelled."""

        async def main() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._cancel_delivery = lambda: loop.call_soon_threadsafe(stop.set)
            if self._stopping.is_set():
                return
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_delivering, delivery)
                await stop.wait()
                group.cancel_scope.cancel()

        asyncio.run(main())
