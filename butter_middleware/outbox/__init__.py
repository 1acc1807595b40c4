"""The outboxes, where records wait: in memory, on disk, or in any queue that has one method."""

from typing import TYPE_CHECKING

from butter_middleware._utils.lazy import face
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox.base import (
    Count,
    Counts,
    LocalOutbox,
    Outbox,
    Parked,
    Pending,
    Resolution,
    Resolved,
    Settled,
    Settlement,
    Store,
    StoredCapture,
    TransactionalOutbox,
)
from butter_middleware.outbox.memory import MemoryOutbox, MemoryStore
from butter_middleware.outbox.sqlite.outbox import SQLiteOutbox

if TYPE_CHECKING:
    from butter_middleware.outbox.sqlite.listing import Entry, Waiting
    from butter_middleware.outbox.sqlite.store import SQLiteStore

__all__ = [
    "Count",
    "Counts",
    "Entry",
    "LocalOutbox",
    "MemoryOutbox",
    "MemoryStore",
    "Outbox",
    "ParkReason",
    "Parked",
    "Pending",
    "Resolution",
    "Resolved",
    "SQLiteOutbox",
    "SQLiteStore",
    "Settled",
    "Settlement",
    "Store",
    "StoredCapture",
    "TransactionalOutbox",
    "Waiting",
]

if not TYPE_CHECKING:  # a type checker accepts every name of a module that has __getattr__
    _HOMES = {
        "Entry": f"{__name__}.sqlite.listing",
        "SQLiteStore": f"{__name__}.sqlite.store",
        "Waiting": f"{__name__}.sqlite.listing",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
