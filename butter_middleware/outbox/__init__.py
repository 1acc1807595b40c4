"""Where records wait: in memory, on disk, or in any queue that has one method."""

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
from butter_middleware.outbox.sqlite.listing import Entry, Waiting
from butter_middleware.outbox.sqlite.outbox import SQLiteOutbox
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
