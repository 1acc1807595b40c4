"""The objects that the threads exchange: captures, records made outside a request, and the waits of requests."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.events import Event
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox.base import Resolution, size_of
from butter_middleware.reader.reader import ReadResult


@dataclass(frozen=True, slots=True)
class ResponseWait:
    """What the last chunk of a captured response must wait for."""

    until: Literal["", "disk", "queue", "butter"] = ""
    """Empty: nothing. `disk`: the capture is there. Otherwise its records are in the queue, or with Butter."""
    seconds: float = 0.0
    """The longest wait."""


NOTHING: Final = ResponseWait()


class Entry:
    """A capture on its way through this process."""

    # Class attributes, because most captures never change them, and setting them costs time on each request.
    id = 0
    """The row's number in the store. 0: it is not there yet."""
    owned = True
    """False: another process appended it, and the leader reads it."""
    parked = ""
    """Why it was parked, if it is being tried again."""
    taken_over = False
    """Whether another process captured it."""
    too_slow = False
    """Whether it was parked while it is being read."""
    until_sent = False
    """Whether the response waits for the queue or Butter, and not only for the outbox."""
    left = 0
    """How many of its records are not settled yet."""
    future: "Future[None] | None" = None
    """The future that the response waits for."""

    def __init__(self, capture: Capture, route: CheckoutRoute | None, wait: ResponseWait = NOTHING) -> None:
        self.capture = capture
        self.route = route
        """The route that its request matches."""
        self.size = size_of(capture)
        if wait.until:
            self.future = Future()
            self.until_sent = wait.until != "disk"

    def leave_in_store(self) -> None:
        """Drop the capture from memory. It is in the store."""
        self.capture = _IN_STORE

    @property
    def route_name(self) -> str:
        """The name of its route. Empty if it has none."""
        return "" if self.route is None else self.route.name

    @property
    def is_loaded(self) -> bool:
        """Whether the capture is in memory."""
        return self.capture is not _IN_STORE

    def finish(self) -> None:
        """Release the response."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_result(None)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The result of reading a capture."""

    entry: Entry
    result: ReadResult
    events: Sequence[Event]
    """Emitted when the store has the result. The store counts them in the same transaction."""
    resolution: Resolution


@dataclass(slots=True, eq=False)
class Addition:
    """Records made outside a request."""

    records: Sequence[Record]
    done: "Future[int]"
    """How many were known already."""

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return sum(len(record.payload) + OVERHEAD for record in self.records)


OVERHEAD: Final = 512
"""The bytes of a record without its payload."""
_IN_STORE: Final = Capture("", "", b"", [], None, 0, [], b"", {}, 0.0)
