"""How far the worker's threads are, for those who wait for them."""

import time
from collections.abc import Callable
from threading import Condition


class Progress:
    """How many captures are still to be read, and a bell that rings at every change."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._changes = 0
        self._unread = 0

    def expect(self, captures: int) -> None:
        """Count captures that are going to be read."""
        with self._changed:
            self._unread += captures

    def ring(self, read: int = 0) -> None:
        """Say that something changed, and how many captures have been read since."""
        with self._changed:
            self._changes += 1
            self._unread -= read
            self._changed.notify_all()

    def wait(self, verdict: Callable[[], bool | None], timeout: float) -> bool:
        """Wait until every capture is read and the verdict is given; False where that takes longer than `timeout`.

        A verdict of None says that the next change may bring one.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                changes, unread = self._changes, self._unread
            if not unread and (given := verdict()) is not None:
                return given
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            with self._changed:
                if changes == self._changes:
                    self._changed.wait(min(remaining, 0.25))
