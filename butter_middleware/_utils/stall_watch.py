"""Whether the event loop stood still: a frozen function, a stopped process, a call that blocks."""

import asyncio
import math
from typing import Final

STALL_SECONDS: Final = 1.0
"""A turn of the loop that takes longer is a stall."""
LOOK_SECONDS: Final = 0.25
"""Between two looks at the clock. A turn that is this much shorter than a stall may be taken for one."""


class StallWatch:
    """Watches the running asyncio loop while something is on its way. On trio it sees nothing."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0
        self._looking = False
        self._due = 0.0
        self._seen_at = -math.inf

    def begin(self) -> float:
        """Watch until `end` is called as often as this. Return the loop's time, for `seen_since`."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return 0.0
        if loop is not self._loop:  # a new loop knows nothing of the old one's timers
            self._loop, self._watched, self._looking = loop, 0, False
        self._watched += 1
        now = loop.time()
        if self._looking:
            self._compare(now)  # what is over when this begins belongs to the others
            self._due = max(self._due, now)
        else:
            self._look_later(loop)
        return now

    def end(self) -> None:
        """Watch no longer."""
        self._watched -= 1

    def seen_since(self, began: float) -> bool:
        """Return whether the loop stood still for over a second after `began`."""
        if self._loop is None:
            return False
        self._compare(self._loop.time())  # the stall may have ended in this very turn
        return self._seen_at > began

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = True
        self._due = loop.time() + LOOK_SECONDS
        loop.call_later(LOOK_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self._compare(loop.time())
        self._looking = False
        if self._watched:
            self._look_later(loop)

    def _compare(self, now: float) -> None:
        if self._looking and now - self._due > STALL_SECONDS - LOOK_SECONDS:
            self._seen_at = now
