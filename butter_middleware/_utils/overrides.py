"""What tests put in the place of the network, the disk and the secrets. In production nothing ever is.

It loads nothing: `testing` says here what it will do, before the rest is loaded.
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol
from weakref import WeakSet

SEND_IN_TESTS: Final = "BUTTER_SEND_IN_TESTS"
"""The environment variable that, set to 1, lets records leave a process in which unittest runs tests."""

SECRET: Final = "a-secret-of-no-account-for-tests-only"  # noqa: S105 - it opens nothing
"""Stands in tests for each secret that the environment does not hold."""
SHOPPER: Final = "203.0.113.1"
"""RFC 5737: an address of nobody. In tests it is the shopper's."""


@dataclass(frozen=True, slots=True, eq=False)
class Overrides:
    """What is different for every `Butter` of the process while tests run."""

    build: Callable[[Any], Any]
    """From the `Components` of production to those of a test."""


class Rebuilt(Protocol):
    """A pipeline, which may have been built before the tests began."""

    def rebuild(self) -> None:
        """Take the parts that hold now, as if just built."""
        ...


_begun: Final[list[Overrides]] = []
_guards: Final[list[Callable[[], None]]] = []
"""Ends the overrides that nobody asked for."""
_pipelines: Final[WeakSet[Any]] = WeakSet()


def begin(overrides: Overrides) -> Callable[[], None]:
    """Have it hold for each `Butter` of this process, built or not; what is returned ends it."""
    _begun.append(overrides)
    _rebuild()
    return partial(_end, overrides)


def _end(overrides: Overrides) -> None:
    _begun.remove(overrides)
    _rebuild()


def _rebuild() -> None:
    for pipeline in list(_pipelines):
        pipeline.rebuild()


def join(pipeline: Rebuilt) -> None:
    """Have a pipeline rebuilt whenever overrides begin or end."""
    _pipelines.add(pipeline)


def current() -> Overrides | None:
    """Return the overrides that were begun last, if any hold."""
    if not _begun or _guards:
        _guard()
    return _begun[-1] if _begun else None


def guarding() -> bool:
    """Whether overrides hold that nobody asked for: they end with the tests."""
    return bool(_guards)


def _guard() -> None:
    """Let nothing leave a process in which unittest runs tests, for as long as it does."""
    if not tests_run():
        while _guards:
            _guards.pop()()
    elif not _begun:
        _guards.append(import_module("butter_middleware.testing.outside_pytest").begin())


def tests_run() -> bool:
    """Whether the main thread is inside unittest, as of `python -m unittest` and Django's test runner.

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
