"""A time that was certainly reached. A wall clock that jumps ahead for a while must not make data look old."""

from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

SECONDS: Final = 600.0
"""For how long a clock must show a time, or a later one, before data is deleted by it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the wall clock that is not confirmed yet, and the last confirmed time."""

    monotonic: float
    wall: float
    confirmed: float = 0.0
    """Seconds since the epoch, usually 10 to 20 minutes ago. The time is at least this. 0 until a look is confirmed."""

    @classmethod
    def first(cls, wall: float) -> Self:
        """Look for the first time."""
        return cls(monotonic(), wall)

    def again(self, wall: float) -> "Look":
        """Look again. If the clock was set back, the earlier look is discarded. After ten minutes, it is confirmed."""
        now = monotonic()
        if wall < self.wall or now < self.monotonic:  # the monotonic clock starts again when the machine restarts
            return Look(now, wall, min(self.confirmed, wall))
        if now - self.monotonic >= SECONDS:
            return Look(now, wall, self.wall)
        return self
