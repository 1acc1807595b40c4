"""The one thread of a process that uses the file: it commits all that waits in one transaction, and outlives faults.

A fault of the file keeps what waits in the bounded queue, and is tried again until it is mended.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware.errors import OutboxClosedError
from butter_middleware.outbox.sqlite.connection import Database, Settings
from butter_middleware.outbox.sqlite.faults import Alerts, Fault, describe, fault_of
from butter_middleware.outbox.sqlite.locks import WRITE, LockFile
from butter_middleware.outbox.sqlite.queue import MAX_WAITING, AnyOperation, Intake, Kind
from butter_middleware.outbox.sqlite.seats import Seat
from butter_middleware.outbox.sqlite.writer import Writer

BATCH: Final = 512
"""Operations a transaction."""
IDLE_SECONDS: Final = 60.0
"""Between prunings of what is too old."""
FIRST_BACKOFF: Final = 0.05
LAST_BACKOFF: Final = 5.0
"""Seconds between tries while a fault lasts."""
FIRST_POLL: Final = 0.0001
LAST_POLL: Final = 0.002
SLOW_POLL: Final = 0.05
"""Seconds between looks at the write lock; the slow one after a second of waiting."""
LOCK_ALARM_SECONDS: Final = 5.0
LAST_LOCK_SECONDS: Final = 1.0
"""For how long the lock is waited for where the process stops or forks."""


class _GaveUpError(Exception):
    """The lock could not be had while the committer was stopping."""


class Committer:
    """Owns a file in this process: its connection, its locks and the thread that writes.

    Args:
        settings: How the file is kept.
        retire: Asked by the thread when it has stopped: whether nobody has come back, so that it may end.
    """

    def __init__(self, settings: Settings, retire: Callable[["Committer"], bool]) -> None:
        self.path = settings.path
        self.locks = LockFile(f"{settings.path}.lock")
        self._retire = retire
        self._alerts = Alerts(settings.path)
        self._database = Database(settings, self.locks, self._alerts)
        self._intake = Intake()
        self._writer = Writer(self._database, self._alerts)
        self._using = Lock()
        """Held while the connection is used: a fork waits for it."""
        self._stopping = Event()
        self._suspended = False
        self._backoff = FIRST_BACKOFF
        self._prune_at = 0.0
        self._thread = Thread(target=self._run, name="butter-commit", daemon=True)

    # For other threads.

    @property
    def faults(self) -> Sequence[str]:
        """What ails the file now."""
        return self._alerts.ringing

    def start(self) -> None:
        """Start the thread."""
        log_thread.start(self._thread)

    def admit(self, seat: Seat) -> None:
        """Let an outbox use the file."""
        self._database.seats = [*self._database.seats, seat]
        self._stopping.clear()

    def dismiss(self, seat: Seat) -> bool:
        """Free an outbox's place, and with it its captures for others to adopt; say whether it was the last."""
        self._database.seats = [other for other in self._database.seats if other is not seat]
        with suppress(OSError):
            self.locks.release_all(seat)
        if not self._database.seats:
            self._stopping.set()
            self._intake.wake()
        return not self._database.seats

    @property
    def deserted(self) -> bool:
        """Whether no outbox uses the file."""
        return not self._database.seats

    def put(self, operation: AnyOperation) -> None:
        """Have an operation done; its future fails where the queue is full."""
        self._intake.put(operation)

    def put_last(self, operation: AnyOperation) -> None:
        """Have an operation done after all that waits now, whatever the bound."""
        self._intake.put_last(operation)

    def join(self, seconds: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Let go of the locks, and fail what came too late. For `retire`."""
        self.locks.close()
        self._writer.finish(self._intake.close(), _too_late())
        self._publish()

    def suspend(self) -> None:
        """Close the connection before a fork, since SQLite's state must not be inherited, and keep it closed."""
        deadline = time.monotonic() + LAST_LOCK_SECONDS
        with suppress(OSError):
            while not self.locks.take(WRITE, self._using) and time.monotonic() < deadline:
                time.sleep(LAST_POLL)
        self._suspended = self._using.acquire(timeout=LAST_LOCK_SECONDS)
        if self._suspended:
            self._database.drop()

    def resume(self) -> None:
        """Go on in the parent after a fork."""
        if self._suspended:
            self._suspended = False
            self._using.release()
        with suppress(OSError):
            self.locks.release(WRITE, self._using)

    # The thread.

    def _run(self) -> None:
        while True:
            batch = self._intake.take(BATCH, self._seconds_to_wait())
            if batch or self._writer.starves or not self._stopping.is_set():
                self._attempt(batch)
                self._publish()
                continue
            self._disconnect()
            if self._retire(self):
                return

    def _seconds_to_wait(self) -> float:
        if self._stopping.is_set():
            return 0.0
        until = self._writer.feed_at if self._writer.starves else self._prune_at
        return max(0.0, until - time.monotonic())

    def _attempt(self, batch: list[AnyOperation]) -> None:
        """Do a batch, or keep it for later."""
        feed = self._stopping.is_set() or time.monotonic() >= self._writer.feed_at
        fed = self._writer.take_starved() if feed else []
        try:
            self._perform(batch, fed)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any fault
            self._publish()
            self._suffer(error, self._writer.undone([*fed, *batch]))
            return
        self._backoff = FIRST_BACKOFF
        self._alerts.resolve("fault")
        if not self._writer.starves:
            self._alerts.resolve("full")
        elif self._stopping.is_set():
            self._writer.finish(self._writer.take_starved(MAX_WAITING), _too_late())

    def _perform(self, batch: list[AnyOperation], fed: list[AnyOperation]) -> None:
        writes = [operation for operation in batch if operation.kind is not Kind.READ]
        reads = [operation for operation in batch if operation.kind is Kind.READ]
        self._writer.prepare(writes)
        writes = self._writer.undone(writes)
        prune = time.monotonic() >= self._prune_at
        if not (writes or fed or prune):
            with self._connection():
                if self._database.is_ready():
                    self._writer.read(reads)
                    return
        with self._writing():
            self._database.make_ready()
            self._writer.write(writes, fed)
            if prune:
                self._prune()
            self._writer.read(reads)

    def _prune(self) -> None:
        self._prune_at = time.monotonic() + IDLE_SECONDS
        try:
            if self._database.prune():
                self._prune_at = 0.0
        except Exception as error:
            if fault_of(error) is not Fault.FULL:
                raise

    @contextmanager
    def _connection(self) -> Generator[None]:
        """Keep a fork away from the connection, and draw the consequences where its use fails."""
        with self._using:
            try:
                yield
            except Exception as error:
                self._database.blame(error)
                raise

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Hold the write lock, then the connection."""
        self._await_write_lock()
        try:
            with self._connection():
                yield
        finally:
            self.locks.release(WRITE, self)

    def _await_write_lock(self) -> None:
        """Take the write lock. Polls: who holds it may be stopped, and a thread that sleeps in the kernel cannot stop.

        Raises:
            _GaveUpError: the committer is stopping.
            OSError: the lock file cannot be used.
        """
        since, pause = time.monotonic(), FIRST_POLL
        while True:
            if self.locks.replaced():
                self._start_over()
            if self.locks.take(WRITE, self):
                self._alerts.resolve("lock")
                return
            waited = time.monotonic() - since
            if waited > LAST_LOCK_SECONDS and self._stopping.is_set():
                raise _GaveUpError
            if waited > LOCK_ALARM_SECONDS:
                self._alerts.raise_(
                    "lock", "another process has held the write lock for seconds. Is it stopped? Waiting"
                )
            time.sleep(pause)
            pause = SLOW_POLL if waited > LAST_LOCK_SECONDS else min(pause * 1.5, LAST_POLL)

    def _start_over(self) -> None:
        """Somebody removed the lock file: the locks that others see are those on the new one."""
        with self._using:
            self._database.evict()
            self.locks.reset()

    def _suffer(self, error: Exception, undone: list[AnyOperation]) -> None:
        """Keep what a fault left undone, say it once, and wait a while; where nothing can mend it, let it fail."""
        fault = fault_of(error)
        if isinstance(error, _GaveUpError) or (self._stopping.is_set() and fault is not Fault.OWN):
            self._writer.finish(undone, _too_late())
        elif fault in {Fault.REFUSED, Fault.OWN}:
            self._alerts.raise_("fault", str(error) if fault is Fault.REFUSED else f"failed ({describe(error)})")
            self._writer.finish(undone, error)
        else:
            self._intake.put_back(undone)
            if fault is not Fault.CORRUPT:
                self._alerts.raise_("fault", f"cannot be used ({describe(error)}). Trying again; what comes waits")
        self._stopping.wait(self._backoff)
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)

    def _disconnect(self) -> None:
        """Close the connection under the lock where that can be had: a last close checkpoints."""
        with suppress(_GaveUpError, OSError):
            if self._database.is_open:
                with self._writing():
                    self._database.drop()
        with self._using:
            self._database.drop()

    def _publish(self) -> None:
        """Tell whoever waits. Outside all locks: callbacks run here."""
        finished = self._writer.take_finished()
        self._intake.let_go(finished)
        for operation in finished:
            operation.publish()


def _too_late() -> OutboxClosedError:
    return OutboxClosedError("the outbox was closed before this could be written")
