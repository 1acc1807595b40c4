"""What time it surely is: a wall clock that jumps ahead for a while must not make anything look old."""

from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

SECONDS: Final = 600.0
"""For how long a clock must have shown a time, or a later one, before anything is deleted by it."""


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the wall clock that waits to be confirmed, and the last time that was."""

    monotonic: float
    wall: float
    confirmed: float = 0.0
    """Seconds since the epoch, 10 to 20 minutes ago. It is at least this late; 0 until a look is confirmed."""

    @classmethod
    def first(cls, wall: float) -> Self:
        """Look for the first time."""
        return cls(monotonic(), wall)

    def again(self, wall: float) -> "Look":
        """Look again. A clock that was set back disproves the earlier look; ten minutes without that confirm it."""
        now = monotonic()
        if wall < self.wall or now < self.monotonic:  # the monotonic clock begins again with the machine
            return Look(now, wall, min(self.confirmed, wall))
        if now - self.monotonic >= SECONDS:
            return Look(now, wall, self.wall)
        return self
