"""What travels between the threads: captures, records made outside a request, and the requests that wait for them."""

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
    """For what the last chunk of a captured response is held back."""

    until: Literal["", "disk", "queue", "butter"] = ""
    """Empty: for nothing. `disk`: the capture is there. Else its records are in the queue, or with Butter."""
    seconds: float = 0.0
    """And no longer than that."""


NOTHING: Final = ResponseWait()


class Entry:
    """A capture on its way through this process."""

    # Class attributes, because most captures never change them, and setting them costs time on each request.
    id = 0
    """The row's number in the store. 0: not there yet."""
    owned = True
    """False: another process appended it, and the leader reads it."""
    parked = ""
    """Why it was parked, if it is tried again."""
    taken_over = False
    """Whether another process served it."""
    until_sent = False
    """Whether the response waits for more than an outbox of this process."""
    left = 0
    """How many of its records are not settled yet."""
    future: "Future[None] | None" = None
    """What the response waits for."""

    def __init__(self, capture: Capture, route: CheckoutRoute | None, wait: ResponseWait = NOTHING) -> None:
        self.capture = capture
        self.route = route
        """The one that its request matches."""
        self.size = size_of(capture)
        if wait.until:
            self.future = Future()
            self.until_sent = wait.until != "disk"

    def leave_in_store(self) -> None:
        """Drop the capture, which is in the store."""
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
        """Let the response go."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_result(None)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was read from a capture."""

    entry: Entry
    result: ReadResult
    events: Sequence[Event]
    """Emitted once the store has it. It counts them in the same transaction."""
    resolution: Resolution


@dataclass(slots=True, eq=False)
class Addition:
    """Records made outside a request."""

    records: Sequence[Record]
    done: "Future[int]"
    """How many were known already."""

    @property
    def size(self) -> int:
        """The bytes that it holds in memory."""
        return sum(len(record.payload) + OVERHEAD for record in self.records)


OVERHEAD: Final = 512
"""Bytes of a record beside its payload."""
_IN_STORE: Final = Capture("", "", b"", [], None, 0, [], b"", {}, 0.0)
