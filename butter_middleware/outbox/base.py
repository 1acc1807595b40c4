"""The interfaces of an outbox: the one method that any queue can have, and the store that the pipeline needs.

    captured ──a──► pending ──d──► delivered
       │ │ │         │ ▲ │
       │ │ │         │ └─┴──e (retried)
       │ │ │         └──f──► dead
       │ │ └──b──► parked ─┐
       │ └──c──► skipped   │
       └─────────g─────────┘

a  The extractor gave records. Each is added once, by its key. A record of a known checkout with another address is left
   out (`models.seen_ids`). For a checkout in two parts (`parts`), the capture becomes a part. The second part adds the
   record in the same transaction. A part without a counterpart expires.
b  The capture could not be read (`ParkReason`). It waits for a corrected configuration.
c  It was not a paid checkout. The capture is deleted.
d  Butter accepted the record. It is deleted, and its key is kept for a while, so that a reload does not send it again.
e  The endpoint or this record failed for now. The record is due again later.
f  Butter will never accept this record as it is. A person decides.
g  The leader reads parked captures again, and captures that a dead or hung process left behind.
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
"""The least time that an outbox has to close, even if no time to stop is left."""
FAR_FUTURE: Final = 3700.0
"""Seconds. A backoff is an hour at most. A record with a later due time was set by another clock, and is due."""
HOUR: Final = 3600.0
COUNTED_SECONDS: Final = 7 * 86400.0
"""For how long the counts of each hour are kept."""
TOKEN_SECONDS: Final = 7 * 86400.0
"""For how long the tokens of IPv4 beacons are remembered. They are valid for an hour at most."""
CAPTURE_BYTES: Final = 1000
OBJECT_BYTES: Final = 50
"""The memory that Python needs for a capture, and for each text in it, in addition to the text."""


@runtime_checkable
class Outbox(Protocol):
    """Any queue. The sender enqueues each record, and the queue's own consumer calls `Delivery.deliver`."""

    async def enqueue(self, record: Record) -> None:
        """Store the record durably, or raise. Then the sender keeps it in memory and tries again."""
        ...


@runtime_checkable
class TransactionalOutbox(Outbox, Protocol):
    """A queue that can take records within the merchant's transaction, so that both commit, or neither does."""

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> Awaitable[None] | None:
        """Take records within the open transaction of a connection. Raises the database's errors.

        Returns an awaitable if the connection is asynchronous.
        """
        ...


class Settled(StrEnum):
    """The result of the sender's work on one record."""

    DELIVERED = "delivered"
    DEAD = "dead"
    RETRY = "retry"
    RELEASED = "released"
    """This does not count as an attempt. The record keeps its place, or is due again at `due_at`."""


@dataclass(frozen=True, slots=True)
class StoredCapture:
    """A capture from a store, to be read."""

    id: int
    capture: Capture
    owned: bool = True
    """False: a process with `delivery="external"` appended it, or a person wants it to be tried again.

    The leader reads it at once, and may skip it.
    """
    parked: str = ""
    """The `ParkReason` if it was parked and is tried again. Empty if it was never read."""
    tries: int = 0
    """How often it was taken over from a process that died (`mark_taken_over`), or tried again while parked."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Why a capture is parked. `detail` is for a person and contains no personal data."""

    reason: ParkReason
    detail: str
    records: Sequence[Record] = ()
    """The valid records of the capture. They are added now, and left out whenever the capture is read again."""


class Count(NamedTuple):
    """How often something happened, for `status()` and the coverage."""

    name: str
    route: str = ""
    reason: str = ""
    times: int = 1


@dataclass(frozen=True, slots=True)
class Resolution:
    """The reader's result for one capture."""

    id: int
    records: Sequence[Record] = ()
    part: Part | None = None
    parked: Parked | None = None
    """If set, the records are in `parked`, and `records` is empty."""
    token: str = ""
    """The digest of the IPv4 beacon's token that proved the address. It proves one checkout per host."""
    counts: Sequence[Count] = ()
    """Counted in the same transaction, and only if the capture was still there."""
    configuration: str = ""
    """The digest of the configuration that read it. `parked_to_try` returns it only later to the same configuration."""

    @property
    def made(self) -> Sequence[Record]:
        """The records to add."""
        return self.records if self.parked is None else self.parked.records


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that must be sent."""

    id: int
    record: Record
    attempts: int
    """How often this record itself has failed. Failures of the endpoint do not count."""


Outcome = Pending | Skip
"""The result of adding a record. It is new (`Pending`), or it was left out for this reason (`Skip`)."""


def new_records(outcomes: Iterable[Outcome]) -> list[Pending]:
    """Return the records that are new."""
    return [outcome for outcome in outcomes if isinstance(outcome, Pending)]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The store's result for a `Resolution`."""

    id: int
    there: bool
    """False: another process or a person was first. Nothing was done or counted."""
    outcomes: Sequence[Outcome] = ()
    """The results for its records, or for its part if that is known or completes a record."""
    replayed: bool = False
    """The token had proved another checkout. Nothing was changed, and the capture must be resolved again."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The new state of a record that the sender worked on."""

    id: int
    settled: Settled
    due_at: float = 0.0
    """For RETRY and RELEASED: seconds since the epoch. 0: at once."""
    reason: str = ""
    """For DEAD and RETRY: the answer, such as `422`, never its body."""
    key: str = field(default="", compare=False)
    """The record's key, in results of `Delivery.deliver`."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is in an outbox, for all processes that share it."""

    captured: int = 0
    pending: int = 0
    parked: int = 0
    dead: int = 0
    delivered: int = 0
    """How many records were delivered since the outbox was created."""
    oldest_pending_at: float | None = None
    """The time of the oldest checkout whose record is not sent yet."""
    last_delivered_at: float | None = None
    parts: int = 0
    """Parts of checkouts that wait for their counterpart."""
    hold: str | None = None
    """The reason from `Store.set_hold`, of any process."""
    epoch: int = 0
    """Increased by each command of a person: data that was read from the store before may be outdated."""
    newest_capture: int = 0
    """The highest number that a capture was given."""


class Store(Protocol):
    """Stores captures and records. Plain synchronous code: each method is one transaction.

    Only the store thread calls it. A fault of the disk is raised unchanged (`sqlite3.Error`, `OSError`). Methods also
    raise `ConfigurationError` if the file is another program's or a newer version's, `OutboxBusyError` if the write
    lock could not be taken, `OutboxFullError` if a bound is reached, and `OutboxReplacedError` once if the file was
    replaced. After a fault no change is half done, and the same call may be tried again.

    A method that has a body here is right for a store that no other process shares.
    """

    alerts: Alerts
    """Logs each fault once, and its end."""

    durable: bool
    """Whether its content outlives the process."""

    def open(self) -> None:
        """Open the store. Create or update it if necessary. Does nothing if it is open."""
        return

    def close(self) -> None:
        """Close the store, and release all locks. After another `open`, its content is returned again."""
        return

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        """Store captures durably, and return their numbers. The leader reads unowned ones."""
        ...

    @property
    def unreadable(self) -> int:
        """How many captures it found that another version wrote."""
        return 0

    def load(self, ids: Sequence[int]) -> Sequence[StoredCapture]:
        """Return those of the captures that are still there, in order."""
        ...

    def unread(self, limit: int, *, below: int, exclude: Collection[int] = ()) -> Sequence[StoredCapture]:
        """Return unread captures, oldest first: unowned ones, and others up to the number `below`."""
        ...

    def mark_taken_over(self, ids: Sequence[int]) -> Sequence[int]:
        """Mark captures that another process left, before they are read. Return those that had two marks."""
        ...

    def parked_to_try(self, limit: int, *, configuration: str, before: float) -> Sequence[StoredCapture]:
        """Return parked captures that this configuration did not try since `before`, and note that it tries them now.

        Those tried longest ago come first.
        """
        ...

    def resolve(self, resolutions: Sequence[Resolution]) -> Sequence[Resolved]:
        """Resolve captures: replace each by its records (none: it was skipped) or a part, or park it.

        Records that a parked capture gave are known when it is read again. A part that completes its checkout adds the
        record of `partial.joined`, and both parts are deleted.
        """
        ...

    def add(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """Add records made outside a request. Return the result for each."""
        ...

    def due(self, limit: int, exclude: Collection[int] = ()) -> Sequence[Pending]:
        """Return records that are due, those due longest first."""
        ...

    def next_due(self) -> float | None:
        """Return when the next record is due, in seconds since the epoch. None: there is no record."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Store the results of sent records. Those that a person dropped meanwhile are ignored."""
        ...

    def set_hold(self, reason: str | None) -> None:
        """Store why only probes are sent, so that a restart keeps it. None ends the hold."""
        ...

    def expire(self, before: float) -> int:
        """Delete the parts that were captured before this time, in seconds since the epoch. Return their number."""
        ...

    def prune(self) -> bool:
        """Delete one step of old data. Return whether there is more. A clock that jumps deletes nothing."""
        ...

    def counts(self) -> Counts:
        """Return the counts, without counting rows."""
        ...

    def count(self, counts: Sequence[Count]) -> None:
        """Add to the counts of the host. They are kept for each hour of a week, and in total."""
        ...

    def counted(self, since: float | None = None) -> Mapping[tuple[str, str, str], int]:
        """Return the counts of the host by name, route and reason: the total, or those since a given hour."""
        ...

    def lead(self) -> bool:
        """Take the lead if it is free. Return whether this process leads. Never blocks."""
        return True

    def leader(self) -> int | None:
        """Return the ID of the process that leads. 0: it is not known which. None: no process leads."""
        return os.getpid()

    def alone(self) -> bool:
        """Whether no other process is alive that reads what it captures."""
        return True

    def release_lead(self) -> None:
        """Release the lead."""
        return

    def changed(self) -> bool:
        """Whether another process wrote since the last call. True for the first call."""
        return False

    def checkpoint(self, *, idle: bool) -> None:  # noqa: ARG002 - memory has no such log
        """Move SQLite's log (the -wal file) into the file if the log is long, or earlier if there is no other work."""
        return

    def disconnect(self) -> bool:
        """Close the connection before a fork, and keep the locks. Return whether a child may open the file.

        Called between two transactions. It does not wait for other processes. The next call of a method connects again.
        """
        return True

    def forget(self) -> None:
        """In a forked child, forget the parent's connection without touching it. Then the store cannot be used."""
        ...


@runtime_checkable
class LocalOutbox(Protocol):
    """The options of an outbox in the process or on its disk. The pipeline makes its `Store`."""

    @property
    def durable(self) -> bool:
        """Whether its content outlives the process."""
        ...

    def validate(self) -> Sequence[str]:
        """Check at the start of the app that this outbox can work. Return warnings about data that may be lost.

        Raises:
            ConfigurationError: it cannot work. Nothing is opened or created.
        """
        ...

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> Store:
        """Return a store that is not open yet.

        Args:
            reads: Whether this process reads what it captures.
            give_up: Called while the store waits for the write lock. If it returns True, the wait ends after a second.
        """
        ...


def size_of(capture: Capture) -> int:
    """Return about how many bytes a capture takes in memory, with its headers and annotations.

    It is called before the response's last byte leaves.
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
