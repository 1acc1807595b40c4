"""What stands in the worker's place where another process reads and delivers: it only appends to the outbox's file."""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Condition, RLock
from typing import Final, TypeVar

from butter_middleware._utils import fork_hooks, log_thread
from butter_middleware._utils.futures import done, failed
from butter_middleware.errors import ButterError
from butter_middleware.events import OutboxChanged, Skipped
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import Counts, SQLiteOutbox
from butter_middleware.outbox.base import CLOSING_SECONDS
from butter_middleware.pipeline.waiters import NOTHING, ResponseWait
from butter_middleware.telemetry.dispatcher import EventDispatcher

T = TypeVar("T")

LOOK_SECONDS: Final = 60.0
"""Between looks, while checkouts come, whether some process delivers."""
NOBODY: Final = (
    "no process delivers what this one appends to the outbox. Run beside it, on this host: "
    "butter-middleware deliver --app shop.main:butter --follow"
)


class Appender:
    """Takes captures and records into a file from which `butter-middleware deliver` reads and sends.

    It has no thread but the outbox's own, and spends nothing on reading or sending.
    """

    endpoint: Final = "external"
    endpoint_changed_at: Final = None
    leads: Final = False
    dead_threads: Final = ()
    reading_for: Final = 0.0
    stopped: Final = False
    """What it took outlives the process."""
    ready: Final = done(None)

    def __init__(
        self, outbox: SQLiteOutbox, events: EventDispatcher, drain_timeout: float, started: Callable[[], object]
    ) -> None:
        self._outbox = outbox
        self._events = events
        self._drain_timeout = drain_timeout
        self._started = started
        self._counted = Counts()
        self._forget()

    def _forget(self) -> None:
        self._pid: int | None = None
        self._running = False
        self._starting = RLock()
        """Never taken by what the outbox calls: `open` may wait for a committer that publishes."""
        self._changed = Condition()
        self._waiting = 0
        self._look_at = 0.0
        self._alone = False

    def start(self) -> None:
        """Open the outbox in this process. Cheap where it is open."""
        if self._running and self._pid == os.getpid():
            return
        with self._starting:
            fork_hooks.register_fork_hooks(self, Appender._begin_anew, Appender.close)
            self._outbox.open(appends_only=True)
            if self._pid is None:
                log_thread.run(self._started)
                self._look_at = time.monotonic() + LOOK_SECONDS
            self._pid, self._running = os.getpid(), True

    def _begin_anew(self) -> None:
        self._outbox.abandon()
        self._events.forget()
        self._forget()

    def shutdown(self, timeout: float) -> None:
        """Wait until what was captured is on the disk; more may come."""
        if self._running:
            self.flush(timeout)
            self._running = False

    def close(self) -> None:
        """Shut down, and let go of the outbox: within `drain_timeout`, or four seconds more where the file hangs."""
        if self._pid == os.getpid():
            deadline = time.monotonic() + self._drain_timeout
            self.shutdown(self._drain_timeout)
            self._end(deadline)

    def abandon(self) -> None:
        """Let go of the outbox, which waits a little for what it has."""
        if self._pid == os.getpid():
            self._end(time.monotonic())

    def _end(self, deadline: float) -> None:
        self._outbox.close(max(CLOSING_SECONDS, deadline - time.monotonic()))
        log_thread.settle()
        self._forget()

    def append(self, capture: Capture, response_wait: ResponseWait = NOTHING) -> "Future[None] | None":
        """Hand over a capture; give what its response waits for, if anything. Never blocks."""
        future = self._begin(lambda: self._outbox.append(capture))
        future.add_done_callback(self._took)
        self._look()
        return future if response_wait.until == "disk" else None

    def add(self, record: Record) -> "Future[int]":
        """Hand over a record made outside a request."""
        future = self._begin(lambda: self._outbox.add([record]))
        future.add_done_callback(self._added)
        return future

    def flush(self, timeout: float) -> bool:
        """Wait until all that was taken is on the disk."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def finish_reading(self, timeout: float) -> bool:
        """Wait as `flush`: reading is another process's."""
        return self.flush(timeout)

    def counts(self, seconds: float = 1.0) -> Counts:
        """Count what lies in the outbox. Where it does not answer within `seconds`, or is closed, as it last was."""
        with suppress(ButterError, TimeoutError):
            self._counted = self._outbox.counts().result(seconds)
        return self._counted

    @property
    def running(self) -> bool:
        """Whether the outbox was opened in this process, and no shutdown has come since."""
        return self._running and self._pid == os.getpid()

    @property
    def faults(self) -> tuple[str, ...]:
        """What ails the outbox."""
        return tuple(self._outbox.faults)

    @property
    def unattended(self) -> bool:
        """Whether what it appends is read and sent by nobody now."""
        return self.running and self._outbox.deliverer() is None

    def _begin(self, operation: Callable[[], "Future[T]"]) -> "Future[T]":
        with self._changed:
            self._waiting += 1
        try:
            self.start()
            return operation()
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout; the loss is counted and said
            return failed(error)

    def _look(self) -> None:
        """Say where nobody has delivered for a minute or two: what is appended then only grows."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        before, self._alone = self._alone, self._outbox.deliverer() is None
        if before and self._alone:
            self._events.emit(OutboxChanged(reason="no_deliverer", message=NOBODY, level=logging.CRITICAL))

    # Callbacks of the outbox's futures, on its thread.

    def _added(self, future: "Future[int]") -> None:
        if self._took(future) and (known := future.result()):
            self._events.emit(Skipped(reason=Skip.DUPLICATE, times=known))

    def _took(self, future: "Future[None] | Future[int]") -> bool:
        lost = self._events.lost(future)
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()
        return not lost
