"""A watchdog: it cancels requests that take too long, and detects that the event loop stood still meanwhile."""

import asyncio
import math
from typing import Final

STALL_SECONDS: Final = 1.0
"""A longer iteration of the loop is a stall: a frozen function, a stopped process, a call that blocks."""
LOOK_SECONDS: Final = 0.25
"""The time between two looks at the clock. An iteration that is shorter than a stall by this time may count as one."""


class Watchdog:
    """Watches the tasks of an asyncio loop that wait for something outside. One timer serves all of them.

    A task is cancelled at the second look after its time has ended, so that an answer that came while the loop stood
    still is received first.

    Args:
        seconds: The time that a task has. It is cancelled up to half a second later.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: dict[asyncio.Task[object], float] = {}
        """When the time of each task ends, by the loop's clock. Infinity: it has ended. Minus infinity: cancelled."""
        self._looking = False
        self._due = 0.0
        self._stalled_at = -math.inf

    def begin(self, task: asyncio.Task[object]) -> float:
        """Watch a task until `end`. Return the loop's time, for `stalled_since`."""
        loop = task.get_loop()
        if loop is not self._loop:  # a new loop knows nothing of the old one's timers
            self._loop, self._looking = loop, False
            self._ends.clear()
        now = loop.time()
        self._ends[task] = now + self._seconds
        if self._looking:
            self._compare(now)  # a stall that is over by now belongs to the earlier tasks
            self._due = max(self._due, now)
        else:
            self._look_later(loop)
        return now

    def end(self, task: asyncio.Task[object]) -> bool:
        """Watch a task no longer. Return whether it was cancelled here."""
        return self._ends.pop(task, 0.0) == -math.inf

    def stalled_since(self, began: float) -> bool:
        """Return whether the loop stood still for over a second after `began`."""
        if self._loop is None:
            return False
        self._compare(self._loop.time())  # the stall may have ended in this very iteration
        return self._stalled_at > began

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = True
        self._due = loop.time() + LOOK_SECONDS
        loop.call_later(LOOK_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        now = loop.time()
        self._compare(now)
        self._looking = False
        if self._ends:
            self._look_later(loop)
        for task, ends_at in [*self._ends.items()]:
            if ends_at == math.inf:
                self._ends[task] = -math.inf
                task.cancel()
            elif -math.inf < ends_at <= now:
                self._ends[task] = math.inf

    def _compare(self, now: float) -> None:
        if self._looking and now - self._due > STALL_SECONDS - LOOK_SECONDS:
            self._stalled_at = now
