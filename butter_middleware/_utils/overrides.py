"""The replacements that tests make for the network, the disk and the secrets. In production there are none.

This module imports nothing else of the package, so that pytest's plugin can register before the rest is loaded.
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol
from weakref import WeakSet

SEND_IN_TESTS: Final = "BUTTER_SEND_IN_TESTS"
"""If this environment variable is 1, records may leave a process in which unittest runs tests."""

SECRET: Final = "a-secret-of-no-account-for-tests-only"  # noqa: S105 - it opens nothing
"""In tests, the value of each secret that the environment does not have."""
SHOPPER: Final = "203.0.113.1"
"""An address for documentation (RFC 5737), which no host has. In tests it is the shopper's."""


Build = Callable[[Any], Any]
"""Takes the `Components` of production, and returns those of a test."""
End = Callable[[], None]
Begin = Callable[[], End]
"""Begins overrides, and returns the function that ends them."""


class Rebuilt(Protocol):
    """A pipeline, which may have been built before the tests began."""

    def rebuild(self) -> None:
        """Build the parts again, with the overrides that are active now."""
        ...


_begun: Final[list[Build]] = []
_for_unittest: Final[list[Begin]] = []
"""What begins while unittest runs: at most one."""
guards: Final[list[End]] = []
"""Functions that end the overrides that began automatically, because unittest runs: at most one."""
_pipelines: Final[WeakSet[Any]] = WeakSet()


def begin(build: Build) -> End:
    """Activate overrides for every `Butter` of this process, built or not. The returned function ends them."""

    def end() -> None:
        _begun.remove(build)
        _rebuild()

    _begun.append(build)
    _rebuild()
    return end


def begin_under_unittest(keep: Begin) -> None:
    """Register overrides that begin by themselves if unittest runs tests in this process. Then nothing leaves it."""
    _for_unittest[:] = [keep]


def _rebuild() -> None:
    for pipeline in list(_pipelines):
        pipeline.rebuild()


def join(pipeline: Rebuilt) -> None:
    """Register a pipeline, which is then rebuilt each time overrides begin or end."""
    _pipelines.add(pipeline)


def current() -> Build | None:
    """Return the overrides that began last, or None if none are active."""
    if not _begun or guards:
        _guard()
    return _begun[-1] if _begun else None


def _guard() -> None:
    """Begin the registered overrides if unittest runs tests in this process, and end them afterwards."""
    if not tests_run():
        while guards:
            guards.pop()()
    elif not _begun:
        guards.extend(keep() for keep in _for_unittest)


def tests_run() -> bool:
    """Whether the main thread runs unittest, as with `python -m unittest` and Django's test runner.

    Only the stack counts. A server that loads unittest, or runs it in another thread, is not a test.
    """
    unittest: Any = sys.modules.get("unittest")
    if unittest is None or os.environ.get(SEND_IN_TESTS) == "1":
        return False
    with suppress(AttributeError):  # it is being imported
        runs = (
            unittest.TestProgram.__init__,
            unittest.TextTestRunner.run,
            unittest.TestSuite.run,
            unittest.TestCase.run,
        )
        codes = {function.__code__ for function in runs}
        frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented
        frame = frames.get(threading.main_thread().ident or 0)
        while frame is not None:
            if frame.f_code in codes:
                return True
            frame = frame.f_back
    return False
