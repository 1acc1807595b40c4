"""Where records wait: in memory, on disk, or in any queue that has one method."""

from butter_middleware.outbox.memory import MemoryOutbox
from butter_middleware.outbox.protocol import LocalOutbox, Outbox

__all__ = ["LocalOutbox", "MemoryOutbox", "Outbox"]
