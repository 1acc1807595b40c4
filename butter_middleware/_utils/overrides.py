"""What tests put in the place of the network, the disk and the secrets. In production nothing ever is.

It loads nothing, and stands below everything: `testing` says here what it will do before the rest is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Overrides:
    """What is different for every `Butter` that is built while tests run."""

    build: Callable[..., Any]
    """In the place of `assembly.produced`: from its `Options` to its `Components`."""
    secret: str
    """Stands for each secret that the environment does not hold."""


_rehearsals: list[Overrides] = []


def begin(rehearsal: Overrides) -> Callable[[], None]:
    """Have it hold for whatever is built from now on in this process; what is returned ends it."""
    _rehearsals.append(rehearsal)
    return partial(_rehearsals.remove, rehearsal)


def current() -> Overrides | None:
    """Return the rehearsal that was begun last, if one is going on."""
    return _rehearsals[-1] if _rehearsals else None
