"""Waits for another thread, in the app's own event loop and in the delivery's."""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from threading import TIMEOUT_MAX, Lock, local
from typing import Any, Final, Self

import anyio

TRIES: Final = 3
TIRED_SECONDS: Final = 30.0


class Backoff:
    """Limits waits: after three waits in a row without success, no request waits for half a minute.

    Args:
        monotonic: Returns the seconds of a monotonic clock.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failed = 0
        self._until = 0.0

    @property
    def left(self) -> bool:
        """Whether a request may wait."""
        return self._monotonic() >= self._until

    def ended(self, *, well: bool) -> None:
        """Record the end of a wait."""
        self._failed = 0 if well else self._failed + 1
        if self._failed >= TRIES:
            self._failed, self._until = 0, self._monotonic() + TIRED_SECONDS


class Waker:
    """Wakes one thread that waits. `wake` costs nothing while that thread is awake, and is never lost.

    The thread calls `rest`, then looks for work once more, and only then calls `wait`. So if another thread adds work
    after that look, `wake` ends the wait.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._resting = False

    def rest(self) -> None:
        """Mark that the thread is about to wait."""
        self._resting = True

    def wait(self, seconds: float) -> None:
        """Wait until `wake`, or for `seconds`."""
        self._lock.acquire(timeout=min(seconds, TIMEOUT_MAX))
        self._resting = False

    def wake(self) -> None:
        """Have the thread look for work."""
        if self._resting:
            self._resting = False
            try:  # noqa: SIM105 - on the request path: `suppress` needs three more calls
                self._lock.release()
            except RuntimeError:  # two threads woke it at once
                pass


def call_in(loop: asyncio.AbstractEventLoop | None, call: Callable[[], object]) -> None:
    """Call a function soon on the loop of another thread. If the loop is closed, or closes meanwhile, do nothing."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, context=Context())


def failed(error: Exception) -> "Future[Any]":
    """Return a future that has failed."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


class LoopCalls:
    """Calls from other threads into one event loop. Many calls at once, as after a transaction, wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """Return the calls of the loop that runs on this thread."""
        calls: Self | None = getattr(_thread, "calls", None)
        if calls is None or calls.loop is not loop:
            calls = _thread.calls = cls(loop)
        return calls

    def soon(self, call: Callable[[], object]) -> None:
        """Have the loop call a function, which must not raise."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            try:
                call_in(self.loop, self._run)
            except BaseException:  # such as a MemoryError: the next call wakes the loop
                self._woken = False
                raise

    def _run(self) -> None:
        self._woken = False  # before the calls are taken: one that is added afterwards wakes the loop again
        while self._calls:
            self._calls.popleft()()


_thread: Final = local()


async def wait_at_most(future: "Future[Any]", seconds: float) -> bool:
    """Wait until `future` is done, but no longer than `seconds`. Return whether it is. Works on asyncio and on trio."""
    if "trio" in sys.modules and _on_trio():
        await _wait_on_trio(future, seconds)
    else:
        calls, done = LoopCalls.of(asyncio.get_running_loop()), asyncio.Event()
        future.add_done_callback(lambda _future: calls.soon(done.set))
        await wait(done, seconds)
    return future.done()


def _on_trio() -> bool:
    # A loop of asyncio may run on the same thread: the host of trio's guest mode, or trio-asyncio's.
    from sniffio import thread_local  # noqa: PLC0415 - which trio needs

    return thread_local.name == "trio"


async def _wait_on_trio(future: "Future[Any]", seconds: float) -> None:
    from trio.lowlevel import current_trio_token  # noqa: PLC0415 - only if the app itself runs on trio

    token, done = current_trio_token(), anyio.Event()

    def wake(_future: "Future[Any]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and nothing waits on it any more
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    with anyio.move_on_after(seconds):
        await done.wait()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, which is set after `seconds` at the latest."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
