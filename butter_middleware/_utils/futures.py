"""Waiting: in the app's own event loop, and in the delivery's, for what another thread does."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from threading import TIMEOUT_MAX, Lock
from typing import Any, Final

import anyio

TRIES: Final = 3
TIRED_SECONDS: Final = 30.0


class Backoff:
    """Whether waiting is worth it: after three waits in a row without success, no request waits for half a minute.

    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failed = 0
        self._until = 0.0

    @property
    def left(self) -> bool:
        """Whether there is any."""
        return self._monotonic() >= self._until

    def ended(self, *, well: bool) -> None:
        """A wait has ended."""
        self._failed = 0 if well else self._failed + 1
        if self._failed >= TRIES:
            self._failed, self._until = 0, self._monotonic() + TIRED_SECONDS


class Waker:
    """Wakes one thread that waits. `wake` costs nothing while that thread is awake, and is never lost.

    The thread calls `rest`, then looks for work once more, and only then `wait`: what another thread adds after that
    look finds it resting.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()
        self._resting = False

    def rest(self) -> None:
        """Say that the thread is about to wait."""
        self._resting = True

    def wait(self, seconds: float) -> None:
        """Wait until `wake`, or for `seconds`."""
        self._lock.acquire(timeout=min(seconds, TIMEOUT_MAX))
        self._resting = False

    def wake(self) -> None:
        """Have the thread look for work."""
        if self._resting:
            self._resting = False
            try:  # noqa: SIM105 - on the request path, where `suppress` takes three calls more
                self._lock.release()
            except RuntimeError:  # two threads woke it at once
                pass


def call_in(loop: asyncio.AbstractEventLoop | None, call: Callable[[], object]) -> None:
    """Call something soon on the loop of another thread. One that is closed, or closes meanwhile, needs no call."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, context=Context())


def failed(error: Exception) -> "Future[Any]":
    """Return a future of what has failed."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


async def wait_at_most(future: "Future[Any]", seconds: float) -> bool:
    """Wait until `future` is done, but no longer than `seconds`; say whether it is. Works on asyncio and on trio."""
    done = anyio.Event()
    try:
        call_soon: Callable[[Callable[[], object]], object] = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        from trio.lowlevel import current_trio_token  # noqa: PLC0415 - only where the app itself runs on trio

        call_soon = current_trio_token().run_sync_soon

    def wake(_future: "Future[Any]") -> None:
        # The loop may be gone by then; nothing waits on it any more.
        with contextlib.suppress(RuntimeError):
            call_soon(done.set)

    future.add_done_callback(wake)
    with anyio.move_on_after(seconds):
        await done.wait()
    return future.done()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, and set it after `seconds`."""
    timer = asyncio.get_running_loop().call_later(seconds, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
