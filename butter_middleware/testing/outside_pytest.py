"""The inbox without pytest: a context manager, a mixin for `unittest`, and the default under unittest."""

import logging
import unittest
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from butter_middleware._utils import log_thread, overrides
from butter_middleware.testing.butter_inbox import ButterInbox
from butter_middleware.testing.records import ParkedError
from butter_middleware.testing.runtime import InboxRuntime

_UNATTENDED: Final = (
    "unittest runs in this process: records stay in memory, nothing is sent, and no outbox is opened. To see the "
    "records, use butter_middleware.testing.ButterInboxMixin. To send them, set BUTTER_SEND_IN_TESTS=1."
)


@contextmanager
def inbox(*, client_ip: str | None = overrides.SHOPPER) -> Generator[ButterInbox]:
    """Keep all records in the process, and give an inbox with the records for Butter.

    It applies to every `Butter` of the process, also to those that were built before. Each of them is reset at the
    start and at the end.

    Args:
        client_ip: The initial value of `ButterInbox.client_ip`.

    Raises:
        ValueError: `client_ip` is not an address.
        ParkedError: at the end, if a checkout did not become a record and the test did not expect this (`ButterInbox`).
    """
    runtime, end = _begin(client_ip)
    try:
        yield runtime.inbox()
        if unseen := runtime.unseen():
            raise ParkedError(unseen)
    finally:
        end()


if TYPE_CHECKING:
    _Case = unittest.TestCase
else:
    _Case = object


class ButterInboxMixin(_Case):
    """`self.butter_inbox` in each test of a `unittest.TestCase`, Django's too: `class T(ButterInboxMixin, TestCase)`.

    A test fails if one of its checkouts did not become a record and it did not expect this (`ButterInbox`). In your own
    `setUp`, call `super().setUp()` first.
    """

    butter_client_ip: ClassVar[str | None] = overrides.SHOPPER
    """`ButterInbox.client_ip` at the start of each test."""
    butter_inbox: ButterInbox

    def setUp(self) -> None:
        """Begin with an empty inbox."""
        super().setUp()
        self.butter_inbox = self.enterContext(inbox(client_ip=self.butter_client_ip))


def begin() -> Callable[[], None]:
    """Keep all records in the process, without an inbox. The returned function ends this."""
    _runtime, end = _begin(overrides.SHOPPER)
    log_thread.log(logging.WARNING, _UNATTENDED, event="tests")
    return end


def _begin(client_ip: str | None) -> tuple[InboxRuntime, Callable[[], None]]:
    # Not a generator: one that is left at the interpreter's exit is closed after the modules are gone.
    runtime = InboxRuntime(client_ip=client_ip)
    end_overrides = overrides.begin(runtime.build)

    def end() -> None:
        end_overrides()
        runtime.close()

    return runtime, end
