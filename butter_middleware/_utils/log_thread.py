"""A thread of its own for what is said and told: the log's lines, and the merchant's `on_event`.

Log handlers and `on_event` are the merchant's code: here neither delays nor breaks a checkout, a reading or a delivery.
And an error tracker adds to a log line what is round it: the stack with its local variables, and what it knows of the
request in whose context the line came up. Here there is no request, and nothing on the stack holds personal data.
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
"""Begins each line: under plain uvicorn a line has no logger's name, and the reader must know who speaks."""
MOST_WAITING: Final = 10_000
"""Calls; what comes while so many wait, behind a handler that hangs, is not said."""
HOUR: Final = 3600.0
END_SECONDS: Final = 1.0
"""For what is still to be said when a Butter is closed, or the interpreter exits."""
MOST_KEYS: Final = 1000


def start(thread: Thread) -> None:
    """Start a thread in an empty context: that of the checkout which happens to come first is nobody else's.

    Raises:
        RuntimeError: the system gives no more threads, or the interpreter has ended.
    """
    if sys.is_finalizing():
        raise RuntimeError  # as newer Pythons do: 3.11 would wait for ever until the thread runs
    Context().run(thread.start)


class _LogThread:
    def __init__(self) -> None:
        self._hooked = False
        self.forget()

    def forget(self) -> None:
        """Start again, in a forked child. The parent logs what waited."""
        # No Condition: its methods are Python code. A signal's handler may raise between any two steps of that, such as
        # for a job's time limit, and the lock would stay held.
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._starting = RLock()
        self._thread: Thread | None = None

    def run(self, call: Callable[[], object]) -> bool:
        """Have a call made on the thread, after those before it; say whether it will be. What it raises is lost.

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
        """Wait up to `seconds` until all calls of before are done; say whether they are."""
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
        message: The line as it is, without the prefix; no `%` in it stands for anything.
        times: How often the same came up since it was last said.
        name: Below the logger `butter_middleware`.
        extra: What a structured log is to find under `butter_<key>`.
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
    """Lets through once an hour what recurs.

    Args:
        clock: Seconds; one that is set back silences nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Let everything through once more."""
        self._said: dict[Hashable, tuple[float, int]] = {}

    def due(self, key: Hashable) -> int | None:
        """Return how often it came up since it was last let through, or None where that is no hour ago."""
        now = self._clock()
        said_at, times = self._said.get(key, (None, 0))
        if said_at is not None and abs(now - said_at) < HOUR:
            self._said[key] = (said_at, times + 1)
            return None
        if len(self._said) >= MOST_KEYS:
            self._said.clear()
        self._said[key] = (now, 0)
        return times
