"""Where records wait: in memory, on disk, or in any queue that has one method."""

from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox.base import (
    Counts,
    LocalOutbox,
    Outbox,
    Parked,
    Pending,
    Settled,
    Settlement,
    StoredCapture,
    TransactionalOutbox,
)
from butter_middleware.outbox.memory import MemoryOutbox
from butter_middleware.outbox.sqlite.listing import Entry, Waiting
from butter_middleware.outbox.sqlite.outbox import SQLiteOutbox

__all__ = [
    "Counts",
    "Entry",
    "LocalOutbox",
    "MemoryOutbox",
    "Outbox",
    "ParkReason",
    "Parked",
    "Pending",
    "SQLiteOutbox",
    "Settled",
    "Settlement",
    "StoredCapture",
    "TransactionalOutbox",
    "Waiting",
]
