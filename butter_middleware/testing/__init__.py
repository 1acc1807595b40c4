"""For the tests of those who use this package: the fixture `butter_inbox` of pytest, and a Butter in the process."""

from typing import TYPE_CHECKING

from butter_middleware._utils.lazy import face

if TYPE_CHECKING:
    from butter_middleware.sandbox.fake_butter import FakeButter
    from butter_middleware.testing.inbox import ButterInbox
    from butter_middleware.testing.record import InboxRecord
    from butter_middleware.testing.records import ParkedCheckout, ParkedError, ParkedWarning

__all__ = ["ButterInbox", "FakeButter", "InboxRecord", "ParkedCheckout", "ParkedError", "ParkedWarning"]

if not TYPE_CHECKING:  # to a checker, a module with __getattr__ has every name there could be
    _HOMES = {
        "ButterInbox": "butter_middleware.testing.inbox",
        "FakeButter": "butter_middleware.sandbox.fake_butter",
        "InboxRecord": "butter_middleware.testing.record",
        "ParkedCheckout": "butter_middleware.testing.records",
        "ParkedError": "butter_middleware.testing.records",
        "ParkedWarning": "butter_middleware.testing.records",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
