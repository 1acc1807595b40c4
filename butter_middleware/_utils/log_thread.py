"""The thread for log lines and calls of the merchant's `on_event`.

Log handlers and `on_event` are the merchant's code. On this thread they cannot delay or break a checkout, a reading or
a delivery. An error tracker adds the stack's local variables and the current request to a log line. On this thread
there is no request, and no personal data is on the stack.
"""

import atexit
import logging
import os
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from threading import TIMEOUT_MAX, Lock, RLock, Thread, current_thread
from typing import Final

_logger = logging.getLogger("butter_middleware")

PREFIX: Final = "butter: "
"""Begins each line. Plain uvicorn shows no logger's name, so that the line itself must name its source."""
MOST_WAITING: Final = 10_000
"""Calls that may wait, as behind a handler that hangs. Further ones are dropped."""
HOUR: Final = 3600.0
END_SECONDS: Final = 1.0
"""Time for the calls that still wait when a Butter is closed, or the interpreter exits."""
MOST_KEYS: Final = 1000


def start(thread: Thread) -> None:
    """Start a thread in an empty context. Otherwise it would keep the context of the first checkout.

    Raises:
        RuntimeError: the system gives no more threads, or the interpreter has ended.
    """
    if sys.is_finalizing():
        raise RuntimeError  # as newer Pythons do: 3.11 would wait forever for the thread to run
    Context().run(thread.start)


class _LogThread:
    def __init__(self) -> None:
        self._hooked = False
        self.forget()

    def forget(self) -> None:
        """Start again, in a forked child. The parent logs what waited."""
        # Not a Condition: its methods are Python code. A signal handler, such as one for a job's time limit, may raise
        # between any two steps of that code, and the lock would stay held.
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._starting = RLock()
        self._thread: Thread | None = None

    def run(self, call: Callable[[], object]) -> bool:
        """Queue a call for the thread. Return whether it was queued. An exception of the call is dropped.

        Never raises, never waits.
        """
        if self._calls.qsize() >= MOST_WAITING:
            return False
        self._calls.put(call)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._start()
        return True

    def _start(self) -> None:
        if not self._hooked:
            self._hooked = True
            if hasattr(os, "register_at_fork"):  # not on Windows
                os.register_at_fork(after_in_child=self.forget)
            atexit.register(self.settle)
        thread = Thread(target=self._work, name="butter-say", daemon=True)
        with suppress(RuntimeError):  # the system gives no more threads: the next call tries again
            start(thread)
            self._thread = thread

    def settle(self, seconds: float = END_SECONDS) -> bool:
        """Wait up to `seconds` until all earlier calls are done. Return whether they are."""
        if current_thread() is self._thread:
            return False
        done = Lock()
        done.acquire()
        self._calls.put(done.release)
        if self._thread is None:
            self._work_off()
        return done.acquire(timeout=min(seconds, TIMEOUT_MAX))

    def _work(self) -> None:
        while True:
            with suppress(BaseException):  # the merchant's code may even call sys.exit()
                self._calls.get()()

    def _work_off(self) -> None:
        while not self._calls.empty():
            with suppress(BaseException):  # as above, and another thread may take it
                self._calls.get_nowait()()


_log_thread: Final = _LogThread()
run: Final = _log_thread.run
settle: Final = _log_thread.settle


def log(level: int, message: str, times: int = 0, *, name: str = "", **extra: str) -> None:
    """Log a line, on the thread, with `butter_event` and the like for a structured log.

    Args:
        level: As in `logging`.
        message: The line without the prefix. A `%` in it has no meaning.
        times: How often the same event happened since it was last logged.
        name: The logger's name below `butter_middleware`.
        extra: Fields for a structured log, under `butter_<key>`.
    """
    fields = {f"butter_{key}": value for key, value in extra.items()}
    logger = _logger.getChild(name) if name else _logger
    message = f"{PREFIX}{message}"
    if times:
        message = message.replace("%", "%%") + " (%d more times since the last such line)"
        run(partial(logger.log, level, message, times, extra=fields))
    else:
        run(partial(logger.log, level, message, extra=fields))


class RateLimiter:
    """Lets a recurring event through once an hour.

    Args:
        clock: Returns seconds. If it is set back by an hour or more, nothing is suppressed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Forget all earlier events, so that each is let through again."""
        self._said: dict[Hashable, tuple[float, int]] = {}

    def due(self, key: Hashable) -> int | None:
        """Return how often it happened since it was last let through, or None if that is less than an hour ago."""
        now = self._clock()
        said_at, times = self._said.get(key, (None, 0))
        if said_at is not None and abs(now - said_at) < HOUR:
            self._said[key] = (said_at, times + 1)
            return None
        if len(self._said) >= MOST_KEYS:
            self._said.clear()
        self._said[key] = (now, 0)
        return times
