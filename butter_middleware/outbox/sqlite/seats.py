"""Who uses a file: each open outbox has a seat, with what it was given and what it has yet to be given."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SHARED: Final = 0
"""The pile of those who only append. It is nobody's from the start, so that whoever reads adopts it, and keeps it."""


@dataclass(eq=False, slots=True)
class Seat:
    """One open outbox at a file: to the others it is what a process is, whichever process they are in.

    One that only appends needs no place: what it captures is not its own to read.
    """

    appends_only: bool = False
    slot: int | None = None
    """The lock byte that says that it lives."""
    pile: int | None = None
    """Where its captures lie."""
    given: set[int] = field(default_factory=set[int])
    claimed: set[int] = field(default_factory=set[int])
    unreadable: set[int] = field(default_factory=set[int])
    """Those that are not parked and could not be given: another version's."""
    parked: deque[int] | None = None
    """The parked captures that it still is to try; None where it has not been their turn."""
    owed: int = 0
    """What the next `adopt` counts: the parked it came to, less all that was counted and will never be given."""

    def __post_init__(self) -> None:
        self.owed = len(self.parked or ())
        self.stand_up()

    def settle(self) -> None:
        """Owe no more: an `adopt` is committed."""
        self.owed = 0

    def stand_up(self) -> None:
        """Forget the place, since its lock is gone."""
        self.slot, self.pile = None, SHARED if self.appends_only else None
