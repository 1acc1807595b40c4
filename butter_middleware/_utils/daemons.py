"""Threads that nobody waits for: a name that is being looked up may hold its thread for half a minute."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import ParamSpec, TypeVar

from butter_middleware._utils import log_thread

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreadExecutor(ThreadPoolExecutor):
    """An event loop's executor, a thread a call. The end of the process waits for the standard one's threads."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Begin a call.

        Raises:
            RuntimeError: the system gives no more threads.
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

        log_thread.start(Thread(target=run, name="butter-call", daemon=True))
        return future
