"""What an outbox is: the one method that any queue can offer, and the whole that the worker needs of its own.

    captured ──a──► pending ──d──► delivered
       │ │ │         │ ▲ │
       │ │ │         │ └─┴──e (retried)
       │ │ │         └──f──► dead
       │ │ └──b──► parked ─┐
       │ └──c──► skipped   │
       └─────────g─────────┘

a  The extractor gave records; each is added once, by its key. Of a checkout in two parts (`parts`) the capture becomes
   a part, and the one that completes it adds the record in the same transaction; a part that stays alone expires.
b  The capture could not be read as it should (`ParkReason`); it waits for a mended configuration.
c  It was no paid checkout; the capture is deleted.
d  Butter accepted the record; it is deleted and its key kept for a while, so that no reload sends it again.
e  The endpoint or this record failed for now; the record is due again later.
f  Butter will never accept this record as it is; a person decides.
g  A process that starts anew tries what is parked, and what a dead process left captured, once more.
"""

from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import ParkReason

CLOSING_SECONDS: Final = 1.0
"""The least that an outbox has to close, however little is left of the time to stop."""
FAR_FUTURE: Final = 3700.0
"""Seconds. No backoff is longer than an hour: what is due later than this was set under another clock, and is due."""


@runtime_checkable
class Outbox(Protocol):
    """Any queue. The worker hands each record to it; the queue's own consumer calls `Delivery.deliver`."""

    async def enqueue(self, record: Record) -> None:
        """Take the record durably, or raise: the worker then keeps it in memory and tries again."""
        ...


@runtime_checkable
class TransactionalOutbox(Outbox, Protocol):
    """A queue that can take records within a transaction of the merchant's, so that both commit, or neither does."""

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> Awaitable[None] | None:
        """Take records within the transaction that is open on a connection; raises what the database refuses.

        Gives something to await where the connection is asynchronous.
        """
        ...


class Settled(StrEnum):
    """What became of one claimed record."""

    DELIVERED = "delivered"
    DEAD = "dead"
    RETRY = "retry"
    RELEASED = "released"
    """Not charged with an attempt: it keeps its place, or is due again at `due_at`."""


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """A capture that this process is to extract."""

    id: int
    capture: Capture
    shared: bool = False
    """A process that only appends took it: neither `append` nor `adopt` of this one has counted it."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a capture is parked. `detail` is for a person and holds no personal data."""

    reason: ParkReason
    detail: str
    records: Sequence[Record] = ()
    """What it gave all the same: added as it is parked, and left out whenever it is read again, however late."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A record claimed for sending."""

    id: int
    record: Record
    attempts: int
    """How often this record itself has failed; failures of the endpoint are not charged to it."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a claim."""

    id: int
    settled: Settled
    due_at: float = 0.0
    """For RETRY and RELEASED: seconds since the epoch; 0 is at once."""
    reason: str = ""
    """For DEAD and RETRY: the answer, such as `422`, never its body."""
    key: str = field(default="", compare=False)
    """The record's."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much lies in an outbox, in all processes that share it."""

    captured: int = 0
    pending: int = 0
    parked: int = 0
    dead: int = 0
    delivered: int = 0
    """Over the outbox's life."""
    oldest_pending_at: float | None = None
    last_delivered_at: float | None = None
    parts: int = 0
    """Of checkouts in two parts, what waits for its counterpart."""
    hold: str | None = None
    """As `LocalOutbox.hold` gives it: whichever process began it."""


class Backlog(Protocol):
    """What `Delivery.run` drains. Its methods keep to the rules of `LocalOutbox`."""

    def lead(self) -> bool:
        """Whether this process is the one that delivers, taking the part where it is free. Never blocks."""
        ...

    def claim(self, limit: int) -> "Future[Sequence[Pending]]":
        """Give up to `limit` due records, those due longest first, none that is claimed and unsettled."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> "Future[None]":
        """End claims."""
        ...

    def set_hold(self, reason: str | None) -> "Future[None]":
        """Keep the reason for which nothing is sent but probes, across restarts; None ends it."""
        ...

    def hold(self) -> "Future[str | None]":
        """Give what `set_hold` kept."""
        ...


@runtime_checkable
class LocalOutbox(Backlog, Protocol):
    """An outbox that lives in the process or on its disk, and from which the worker delivers by itself.

    Every method may be called from any thread, at once with any other. A method that returns a Future never blocks;
    the Future's result is set once the change is as durable as the outbox makes it, and fails only where the change is
    lost for good. Callbacks of a Future run on the outbox's own thread: they must be short.
    """

    @property
    def durable(self) -> bool:
        """Whether what it took outlives the process."""
        ...

    def validate(self) -> Sequence[str]:
        """Check, when the app starts, that this outbox can work; give warnings about what it cannot keep safe.

        Raises:
            ConfigurationError: it cannot work. Nothing is opened or created.
        """
        ...

    def open(self) -> None:
        """Begin work in this process: open files, start threads. Called again after `close` or in a forked child."""
        ...

    def append(self, capture: Capture) -> "Future[None]":
        """Take a capture; it is `captured`, and this process's to extract."""
        ...

    def captures(self, limit: int) -> "Future[Sequence[StoredCapture]]":
        """Give up to `limit` captures of this process, oldest first, none of them twice."""
        ...

    def resolve(self, capture_id: int, outcome: Sequence[Record] | Parked | Part) -> "Future[int]":
        """End a capture: replace it by its records (none: it was skipped) or a part, or park it, in one transaction.

        What a parked one gave already is known when it is read again.

        A part that completes its checkout adds the record, as `parts.joined` makes it, and both parts are gone. Gives
        how many records were known already by their key and therefore left out; 1 for a part of a joined checkout.
        """
        ...

    def expire(self, before: float) -> "Future[int]":
        """Delete the parts that were captured before then, in seconds since the epoch; gives how many there were."""
        ...

    def add(self, records: Sequence[Record]) -> "Future[int]":
        """Add records made outside a request; gives how many were known already."""
        ...

    def adopt(self) -> "Future[int]":
        """Take over what dead processes left captured, and what is parked, once a process; gives how many.

        Less those that were counted so, or appended, and that `captures` could not give.
        """
        ...

    def counts(self) -> "Future[Counts]":
        """Count."""
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Make durable within `timeout` seconds what was taken, then let go of files, locks and threads.

        Blocks; never raises.
        """
        ...

    def abandon(self) -> None:
        """Forget, in a forked child, what belongs to the parent, touching none of it."""
        ...
