"""For your own tests: pytest's fixture `butter_inbox`, the same for unittest, and a fake Butter in the process."""

from typing import TYPE_CHECKING

from butter_middleware._utils.lazy import face

if TYPE_CHECKING:
    from butter_middleware.sandbox.fake_butter import FakeButter
    from butter_middleware.testing.butter_inbox import ButterInbox
    from butter_middleware.testing.outside_pytest import ButterInboxMixin, inbox
    from butter_middleware.testing.records import InboxRecord, ParkedCheckout, ParkedError, ParkedWarning

__all__ = [
    "ButterInbox",
    "ButterInboxMixin",
    "FakeButter",
    "InboxRecord",
    "ParkedCheckout",
    "ParkedError",
    "ParkedWarning",
    "inbox",
]

if not TYPE_CHECKING:  # a type checker accepts every name of a module that has __getattr__
    _HOMES = {
        "ButterInbox": "butter_middleware.testing.butter_inbox",
        "ButterInboxMixin": "butter_middleware.testing.outside_pytest",
        "FakeButter": "butter_middleware.sandbox.fake_butter",
        "InboxRecord": "butter_middleware.testing.records",
        "ParkedCheckout": "butter_middleware.testing.records",
        "ParkedError": "butter_middleware.testing.records",
        "ParkedWarning": "butter_middleware.testing.records",
        "inbox": "butter_middleware.testing.outside_pytest",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
