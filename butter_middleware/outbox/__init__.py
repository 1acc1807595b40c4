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

__all__ = [
    "Count",
    "Counts",
    "LocalOutbox",
    "MemoryOutbox",
    "MemoryStore",
    "Outbox",
    "ParkReason",
    "Parked",
    "Pending",
    "Resolution",
    "Resolved",
    "Settled",
    "Settlement",
    "Store",
    "StoredCapture",
    "TransactionalOutbox",
]
