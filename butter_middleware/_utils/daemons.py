"""Threads for calls that block, which no end of a process waits for: a lookup of a name may take half a minute."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ParamSpec, TypeVar, TypeVarTuple, Unpack

from butter_middleware._utils import log_thread

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DaemonThreadExecutor(Executor):
    """Runs each call on an idle daemon thread, or on a new one. The end of a process waits for the standard one's."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._guard = Lock()
        self._threads = 0
        self._idle = 0
        """Threads without a call, less the calls that no thread has yet."""
        self._closed = False

    def start_ahead(self) -> None:
        """Start a thread for the first call: Python 3.12 starts none while the interpreter ends."""
        with self._guard, suppress(RuntimeError):  # the system gives no more threads: the first call tries again
            self._start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Begin a call. If the system gives no more threads, it waits for one that this executor has.

        Raises:
            RuntimeError: this executor has no thread.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._guard:
            if self._idle <= 0:
                try:
                    self._start()
                except RuntimeError:
                    if not self._threads:
                        raise
            self._idle -= 1
        self._calls.put(run)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - the standard one's
        """End the idle threads, and each other one after its call. Waits for none."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _thread in range(idle):
            self._calls.put(None)

    def _start(self) -> None:
        log_thread.start(Thread(target=self._work, name="butter-call", daemon=True))
        self._threads += 1
        self._idle += 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            with self._guard:
                if self._closed:
                    return
                self._idle += 1


class DaemonThreadLoop(asyncio.SelectorEventLoop):
    """An event loop whose blocking calls run on daemon threads. Its end starts no thread, as that of others does.

    Args:
        executor: Runs the calls. It outlives the loop.
    """

    def __init__(self, executor: DaemonThreadExecutor) -> None:
        super().__init__()
        self._executor = executor

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Begin a call."""
        return super().run_in_executor(executor or self._executor, func, *args)
