"""Threads for blocking calls. A process does not wait for them when it ends: a DNS lookup may take half a minute."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import TypeVar, TypeVarTuple, Unpack

from butter_middleware._utils import log_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def call(function: Callable[[Unpack[Ts]], T], *args: *Ts) -> "Future[T]":
    """Call a function on a new daemon thread.

    If the system gives no more threads, it is called on this one. Python 3.12 starts none while the interpreter ends.
    """
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = function(*args)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        log_thread.start(Thread(target=run, name="butter-call", daemon=True))
    except RuntimeError:
        run()
    return future


class DaemonThreadLoop(asyncio.SelectorEventLoop):
    """An event loop whose blocking calls run on daemon threads. Unlike others, it starts no thread when it closes."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """Begin a call."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        return asyncio.wrap_future(call(func, *args), loop=self)
