"""What an outbox is: the one method that any queue can offer, and the store that the pipeline needs of its own.

    captured ──a──► pending ──d──► delivered
       │ │ │         │ ▲ │
       │ │ │         │ └─┴──e (retried)
       │ │ │         └──f──► dead
       │ │ └──b──► parked ─┐
       │ └──c──► skipped   │
       └─────────g─────────┘

a  The extractor gave records; each is added once, by its key. A record of a known checkout with another address is left
   out (`models.seen_ids`). Of a checkout in two parts (`parts`) the capture becomes
   a part, and the one that completes it adds the record in the same transaction; a part that stays alone expires.
b  The capture could not be read as it should (`ParkReason`); it waits for a corrected configuration.
c  It was not a paid checkout; the capture is deleted.
d  Butter accepted the record; it is deleted and its key kept for a while, so that no reload sends it again.
e  The endpoint or this record failed for now; the record is due again later.
f  Butter will never accept this record as it is; a person decides.
g  The leader reads again what is parked, and what a dead or hung process left captured.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import ParkReason, Skip
from butter_middleware.outbox.faults import Alerts

CLOSING_SECONDS: Final = 1.0
"""The least that an outbox has to close, however little is left of the time to stop."""
FAR_FUTURE: Final = 3700.0
"""Seconds. No backoff is longer than an hour: what is due later than this was set under another clock, and is due."""
HOUR: Final = 3600.0
COUNTED_SECONDS: Final = 7 * 86400.0
"""For how long the counts of each hour are kept."""
TOKEN_SECONDS: Final = 7 * 86400.0
"""For how long the tokens of IPv4 beacons are remembered: they are valid for an hour at most."""
CAPTURE_BYTES: Final = 1000
OBJECT_BYTES: Final = 50
"""What Python takes for a capture, and for each text in it, beside the text."""


@runtime_checkable
class Outbox(Protocol):
    """Any queue. The sender hands each record to it; the queue's own consumer calls `Delivery.deliver`."""

    async def enqueue(self, record: Record) -> None:
        """Take the record durably, or raise: the sender then keeps it in memory and tries again."""
        ...


@runtime_checkable
class TransactionalOutbox(Outbox, Protocol):
    """A queue that can take records within a transaction of the merchant's, so that both commit, or neither does."""

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> Awaitable[None] | None:
        """Take records within the transaction that is open on a connection; raises what the database refuses.

        Gives something to await if the connection is asynchronous.
        """
        ...


class Settled(StrEnum):
    """What became of one record that was to be sent."""

    DELIVERED = "delivered"
    DEAD = "dead"
    RETRY = "retry"
    RELEASED = "released"
    """Not charged with an attempt: it keeps its place, or is due again at `due_at`."""


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """A capture as a store gives it to be read."""

    id: int
    capture: Capture
    owned: bool = True
    """False: a process with `delivery="external"` appended it, or a person has it tried again.

    The leader reads it at once, and may skip it.
    """
    parked: str = ""
    """The `ParkReason` if it is parked and is tried again; empty if it was never read."""
    tries: int = 0
    """How often it was taken over from a process that died (`mark_taken_over`), or tried again while parked."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a capture is parked. `detail` is for a person and holds no personal data."""

    reason: ParkReason
    detail: str
    records: Sequence[Record] = ()
    """What it gave all the same: added as it is parked, and left out whenever it is read again, however late."""


class Count(NamedTuple):
    """How often something happened, as `status()` and the coverage tell it."""

    name: str
    route: str = ""
    reason: str = ""
    times: int = 1


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the reader made of one capture."""

    id: int
    records: Sequence[Record] = ()
    part: Part | None = None
    parked: Parked | None = None
    """Then the records are those of `parked`, and `records` is empty."""
    token: str = ""
    """The digest of an IPv4 beacon's token that proved the address: it proves one checkout per host."""
    counts: Sequence[Count] = ()
    """Counted in the same transaction, and only if the capture was still there."""
    configuration: str = ""
    """The digest of the configuration that read it: `parked_to_try` of the same one does not give it soon again."""

    @property
    def made(self) -> Sequence[Record]:
        """The records that it adds."""
        return self.records if self.parked is None else self.parked.records


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that is to be sent."""

    id: int
    record: Record
    attempts: int
    """How often this record itself has failed; failures of the endpoint are not charged to it."""


Outcome = Pending | Skip
"""What became of a record that was to be added: it is new, or why it was left out."""


def new_records(outcomes: Iterable[Outcome]) -> list[Pending]:
    """Return the records that are new."""
    return [outcome for outcome in outcomes if isinstance(outcome, Pending)]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a `Resolution` in the store."""

    id: int
    there: bool
    """False: another process or a person was first. Nothing was done, and nothing is counted."""
    outcomes: Sequence[Outcome] = ()
    """Of its records, or of its part if that is known or completes a record."""
    replayed: bool = False
    """The token had proved another checkout. Nothing was added: the capture is as it was, to be resolved again."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a record that was to be sent."""

    id: int
    settled: Settled
    due_at: float = 0.0
    """For RETRY and RELEASED: seconds since the epoch; 0 is at once."""
    reason: str = ""
    """For DEAD and RETRY: the answer, such as `422`, never its body."""
    key: str = field(default="", compare=False)
    """The record's, of what `Delivery.deliver` returns."""


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
    """When the oldest checkout was captured whose record is not sent yet."""
    last_delivered_at: float | None = None
    parts: int = 0
    """Of checkouts in two parts, what waits for its counterpart."""
    hold: str | None = None
    """What `Store.set_hold` kept: whichever process began it."""
    epoch: int = 0
    """Raised by each command of a person: what was read from the store before may not be true any more."""
    newest_capture: int = 0
    """The highest number that a capture was given."""


class Store(Protocol):
    """Where captures and records lie. Plain synchronous code: each method is one transaction.

    Only the store thread calls it. A fault of the disk is raised as it is (`sqlite3.Error`, `OSError`). Further
    `ConfigurationError` if the file is another program's or a newer version's, `OutboxBusyError` if the write lock
    could not be had, `OutboxFullError` if a bound is reached, and `OutboxReplacedError` once if the file is another
    one than before. A raised fault leaves nothing half done, and the same call may be tried again.

    A method that has a body here answers for a store that no other process shares.
    """

    alerts: Alerts
    """Says each fault once, and that it is over."""

    durable: bool
    """Whether what it took outlives the process."""

    def open(self) -> None:
        """Open, and create or bring up to date what is not there. Does nothing if it is open."""
        return

    def close(self) -> None:
        """Close, and release all locks. `open` may follow, and what lies here is then given again."""
        return

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        """Take captures durably; gives their numbers. Unowned ones are for the leader to read."""
        ...

    @property
    def unreadable(self) -> int:
        """How many captures it met that another version wrote."""
        return 0

    def load(self, ids: Sequence[int]) -> Sequence[StoredCapture]:
        """Give those of the captures that are still there, in order."""
        ...

    def unread(self, limit: int, *, below: int, exclude: Collection[int] = ()) -> Sequence[StoredCapture]:
        """Give captures that no process has read, oldest first: unowned ones, and others up to the number `below`."""
        ...

    def mark_taken_over(self, ids: Sequence[int]) -> Sequence[int]:
        """Note, before they are read, that another process left these captures; gives those that had two marks."""
        ...

    def parked_to_try(self, limit: int, *, configuration: str, before: float) -> Sequence[StoredCapture]:
        """Give parked captures that this configuration did not try since `before`, and note that it tries them now.

        Those tried longest ago come first.
        """
        ...

    def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolved]:
        """End captures: replace each by its records (none: it was skipped) or a part, or park it.

        What a parked one gave already is known when it is read again. A part that completes its checkout adds the
        record, as `partial.joined` makes it, and both parts are gone.
        """
        ...

    def add(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """Add records made outside a request; gives what became of each."""
        ...

    def due(self, limit: int, exclude: Collection[int] = ()) -> Sequence[Pending]:
        """Give records that are due, those due longest first."""
        ...

    def next_due(self) -> float | None:
        """Give when the next record is due, in seconds since the epoch. None: there is none."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of records that were sent. What a person dropped meanwhile is passed over."""
        ...

    def set_hold(self, reason: str | None) -> None:
        """Keep the reason for which nothing is sent but probes, across restarts; None ends it."""
        ...

    def expire(self, before: float) -> int:
        """Delete the parts that were captured before then, in seconds since the epoch; gives how many there were."""
        ...

    def prune(self) -> bool:
        """Delete a step of what is too old; says whether there is more. A clock that jumps deletes nothing."""
        ...

    def counts(self) -> Counts:
        """Tell how much there is, without counting it."""
        ...

    def count(self, counts: Sequence[Count]) -> None:
        """Add to the counts of the host, which are kept by the hour for a week, and in total."""
        ...

    def counted(self, since: float | None = None) -> Mapping[tuple[str, str, str], int]:
        """Give the counts of the host by name, route and reason: the total, or those since an hour."""
        ...

    def lead(self) -> bool:
        """Whether this process leads, taking the lead if it is free. Never blocks."""
        return True

    def leader(self) -> int | None:
        """Give the process that leads. 0: it cannot be told which. None: there is none."""
        return os.getpid()

    def alone(self) -> bool:
        """Whether no other process lives that reads what it captures."""
        return True

    def release_lead(self) -> None:
        """Release the lead."""
        return

    def changed(self) -> bool:
        """Whether another process wrote since the last call; True at first."""
        return False

    def checkpoint(self, *, idle: bool) -> None:  # noqa: ARG002 - memory has no such log
        """Move SQLite's log (the -wal file) into the file if the log is long; sooner if there is nothing else to do."""
        return

    def disconnect(self) -> bool:
        """Close the connection before a fork, and keep the locks; says whether a child may open the file.

        Called between two transactions. It waits for no other process. The next call of a method connects again.
        """
        return True

    def forget(self) -> None:
        """In a forked child, forget what is the parent's without touching it. The store is of no use afterwards."""
        ...


@runtime_checkable
class LocalOutbox(Protocol):
    """An outbox that lives in the process or on its disk: options, of which the pipeline makes a `Store`."""

    @property
    def durable(self) -> bool:
        """Whether what it took outlives the process."""
        ...

    def validate(self) -> Sequence[str]:
        """Check, when the app starts, that this outbox can work; gives warnings about what it cannot keep safe.

        Raises:
            ConfigurationError: it cannot work. Nothing is opened or created.
        """
        ...

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> Store:
        """Return a store, not open yet.

        Args:
            reads: Whether this process reads what it captures.
            give_up: Asked while the write lock is waited for: whether to stop waiting after a second.
        """
        ...


def size_of(capture: Capture) -> int:
    """Return about how many bytes a capture takes in memory, with its headers and annotations.

    It is asked before the response's last byte leaves.
    """
    size = CAPTURE_BYTES + len(capture.path) + len(capture.query_string) + len(capture.body)
    size += len(capture.request_body or b"")
    for headers in (capture.headers, capture.response_headers):
        size += 2 * OBJECT_BYTES * len(headers)
        for name, value in headers:  # a loop takes half the time of `sum`, `map` and `chain`
            size += len(name) + len(value)
    if capture.cookies or capture.annotations:
        items = [*capture.cookies.items(), *capture.annotations.items()]
        size += sum(len(name) + len(str(value)) + 2 * OBJECT_BYTES for name, value in items)
    return size
