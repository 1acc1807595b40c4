"""What an object with threads does in a forked child, and when the interpreter ends."""

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_watched: Final = weakref.WeakSet[object]()


def register_fork_hooks(owner: T, in_child: Callable[[T], object], at_exit: Callable[[T], object]) -> None:
    """Call these with `owner`, while it is there: one in each forked child, the other at the interpreter's exit.

    Once an owner: what is asked of one that is watched already is passed over.
    """
    if owner in _watched:
        return
    _watched.add(owner)
    me = weakref.ref(owner)

    def call(what: Callable[[T], object]) -> None:
        if (it := me()) is not None:
            what(it)

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=lambda: call(in_child))
    atexit.register(lambda: call(at_exit))
