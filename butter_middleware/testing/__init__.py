"""For the tests of those who use this package: the fixture `butter_inbox` of pytest, and a Butter in the process."""

from typing import TYPE_CHECKING

from butter_middleware._lazy import face

if TYPE_CHECKING:
    from butter_middleware.testing.fake_butter import FakeButter
    from butter_middleware.testing.inbox import ButterInbox
    from butter_middleware.testing.parked import ParkedCheckout, ParkedError, ParkedWarning
    from butter_middleware.testing.record import InboxRecord

__all__ = ["ButterInbox", "FakeButter", "InboxRecord", "ParkedCheckout", "ParkedError", "ParkedWarning"]

if not TYPE_CHECKING:  # to a checker, a module with __getattr__ has every name there could be
    _HOMES = {
        "ButterInbox": "inbox",
        "FakeButter": "fake_butter",
        "InboxRecord": "record",
        "ParkedCheckout": "parked",
        "ParkedError": "parked",
        "ParkedWarning": "parked",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
