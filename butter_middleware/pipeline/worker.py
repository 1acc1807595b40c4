"""A thread that does not end while it is needed."""

from threading import Thread, current_thread
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware._utils.futures import Waker

RESTART_SECONDS: Final = 1.0
RESTART_MOST: Final = 30.0
"""Seconds before failed work starts again: the first pause, and the longest."""


class Worker:
    """Runs `_work` on a daemon thread until it returns. If it raises, it starts again.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._waker = Waker()
        self._stopping = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        log_thread.start(self._thread)

    def stop(self) -> None:
        """End the thread after its current work."""
        self._stopping = True
        self._waker.wake()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the thread's end, unless this is the thread: the merchant's code may close `Butter` on it."""
        if self._thread.is_alive() and self._thread is not current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        restart = RESTART_SECONDS
        while True:
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001 - this thread must not end while it is needed
                self._failed(error)
                self._waker.wait(restart)
                restart = min(2 * restart, RESTART_MOST)
            else:
                return

    def _work(self) -> None:
        raise NotImplementedError

    def _failed(self, error: BaseException) -> None:
        raise NotImplementedError
