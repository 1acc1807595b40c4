"""The outbox on a disk: what it acknowledged survives a crash, a deploy and a power cut."""

import os
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar, cast

from butter_middleware import config
from butter_middleware._utils.futures import failed
from butter_middleware.errors import ConfigurationError, OutboxClosedError
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part
from butter_middleware.outbox.base import Counts, Parked, Pending, Settlement, StoredCapture
from butter_middleware.outbox.sqlite import listing, preflight, statements
from butter_middleware.outbox.sqlite.committer import Committer
from butter_middleware.outbox.sqlite.connection import Settings
from butter_middleware.outbox.sqlite.listing import Entry, Waiting
from butter_middleware.outbox.sqlite.locks import HAS_LOCKS, LEADER
from butter_middleware.outbox.sqlite.queue import Append, Kind, Operation
from butter_middleware.outbox.sqlite.registry import registry
from butter_middleware.outbox.sqlite.seats import Seat

T = TypeVar("T")

DAY: Final = 86400.0
LEAST_BYTES: Final = 1024**2
MOST_BYTES: Final = 2**45
"""As large as a file of SQLite's can be, with our pages."""
LEAST_DAYS: Final = 0.001
MOST_DAYS: Final = 36_500
STOPPING_SECONDS: Final = 2.0
"""What an idle committer takes at most to let go of its file."""


@dataclass(frozen=True, slots=True)
class _Link:
    """What an open outbox has: its place at the file, in the process that opened it."""

    pid: int
    committer: Committer
    seat: Seat

    def put(self, operation: Operation[T]) -> "Future[T]":
        """Have an operation done, and return its future."""
        self.committer.put(operation)
        return operation.future


class SQLiteOutbox:
    """Keeps captures and records in an SQLite file, shared by any number of processes and outboxes of one host.

    The constructor opens nothing. The file, its `-wal` and `-shm` are made with mode 0600; beside them lies a `.lock`
    that must stay. A fault of the file at run time never raises here: operations wait in a bounded queue in memory, the
    log says so once at CRITICAL, and everything goes on by itself when the fault is mended. A broken file is renamed to
    `<name>.corrupt-<UTC time>` and a new one begun. Of several outboxes on one file in a process the first one's bounds
    hold for all.

    Args:
        path: The file; its directory must exist.
        max_bytes: How large the file may grow, its write-ahead log not counted. Beyond it what is captured waits in
            memory until deliveries have made room.
        retention_days: After how many days since their checkout parked captures and dead records are deleted. None
            keeps them until a person deals with them.
        tombstone_days: For how many days a delivered record is known by its key, so that it is not sent again.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: an argument is out of its bounds.
    """

    durable: bool = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2 * 1024**3,
        retention_days: float | None = None,
        tombstone_days: float = 7.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not HAS_LOCKS:
            msg = (
                f"outbox={str(path)!r}: an outbox on disk needs Python's fcntl module for its locks, and this system "
                f"({sys.platform}) has none. Leave outbox= out, which keeps records in memory; use PostgresOutbox; or "
                "run on Linux or macOS, such as in WSL or a container."
            )
            raise ConfigurationError(msg)
        self._path = _absolute(path)
        config.whole_number("max_bytes", max_bytes, 0, MOST_BYTES)
        if max_bytes < LEAST_BYTES:
            msg = f"max_bytes={max_bytes}: give the outbox at least {LEAST_BYTES} bytes; the default is 2 GiB."
            raise ConfigurationError(msg)
        config.number("tombstone_days", tombstone_days, LEAST_DAYS, MOST_DAYS)
        if retention_days is not None:  # what needs a person is kept
            config.number("retention_days", retention_days, LEAST_DAYS, MOST_DAYS)
        config.clock(clock)
        self._max_bytes = max_bytes
        self._retention_seconds = None if retention_days is None else retention_days * DAY
        self._tombstone_seconds = tombstone_days * DAY
        self._clock = clock
        self._lock = Lock()
        self._link: _Link | None = None
        self._to_retry: deque[int] | None = None

    @property
    def path(self) -> str:
        """The file, absolute."""
        return self._path

    @property
    def faults(self) -> Sequence[str]:
        """What ails the file now, as this process sees it: `fault`, `full`, `lock` or `broken`."""
        link = self._here()
        return () if link is None else link.committer.faults

    def __repr__(self) -> str:
        return f"SQLiteOutbox({self._path!r})"

    # Its life.

    def validate(self) -> list[str]:
        """Check the path without making the file; gives warnings where it would not last, or not be safe.

        Raises:
            ConfigurationError: no outbox can be there: what is wrong, and the remedy.
        """
        path = os.path.realpath(self._path)
        preflight.refuse_unusable(path)
        if not registry.has(path):
            preflight.refuse_not_ours(path)
        return preflight.warnings(path, preflight.mounted(), os.environ)

    def open(self, *, appends_only: bool = False) -> None:
        """Start this process's committer for the file, or share it. Blocks for nothing: its thread opens the file.

        With `appends_only` what this process captures is for others to read, at once, and it adopts nothing.

        Where the file is a newer version's, every operation fails with `ConfigurationError`: call `validate` before.
        """
        with self._lock:
            if self._link is not None and self._link.pid == os.getpid():
                return
            settings = Settings(
                path=os.path.realpath(self._path),
                max_bytes=self._max_bytes,
                tombstone_seconds=self._tombstone_seconds,
                retention_seconds=self._retention_seconds,
                clock=self._clock,
            )
            seat = Seat(appends_only, parked=self._to_retry)
            self._link = _Link(os.getpid(), registry.enter(settings, seat), seat)

    def close(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds until all is committed, then let go of the file.

        What could not be committed by then fails with `OutboxClosedError`. Captures that were not resolved are
        adopted by another process, or at the next start.
        """
        with self._lock:
            link, self._link = self._link, None
        if link is None or link.pid != os.getpid():
            return
        deadline = time.monotonic() + timeout
        last: Operation[None] = Operation(Kind.GROW, lambda _connection: None)
        link.committer.put_last(last)
        with suppress(Exception):
            last.future.result(timeout)
        self._to_retry = link.seat.parked
        if registry.leave(link.committer, link.seat):
            link.committer.join(max(STOPPING_SECONDS, deadline - time.monotonic()))

    def abandon(self) -> None:
        """Forget the parent's committer; the next `open` makes this process's own. In the parent itself do nothing."""
        if self._link is not None and self._link.pid == os.getpid():
            return
        self._lock = Lock()
        self._link = None
        self._to_retry = None

    # Captures.

    def append(self, capture: Capture) -> "Future[None]":
        """Take a capture; done once it is on the disk."""
        link = self._here()
        return _closed() if link is None else link.put(Append(link.seat, capture))

    def captures(self, limit: int) -> "Future[Sequence[StoredCapture]]":
        """Give captures of this process, oldest first, after them the parked ones that it adopted; none twice."""
        return self._submit(Kind.READ, lambda db, seat: statements.captures(db, seat, limit))

    def resolve(self, capture_id: int, outcome: Sequence[Record] | Parked | Part) -> "Future[int]":
        """Replace a capture by its records or a part, or park it, in one transaction; gives how many were known."""

        def run(db: sqlite3.Connection, _seat: Seat) -> int:
            now = self._clock()
            return statements.resolve(db, capture_id, outcome, now, now - self._tombstone_seconds)

        return self._submit(Kind.SETTLE, run, lambda seat: seat.given.discard(capture_id))

    def expire(self, before: float) -> "Future[int]":
        """Delete old parts; gives how many there were."""
        return self._submit(Kind.SETTLE, lambda db, _seat: statements.expire(db, before))

    def adopt(self) -> "Future[int]":
        """Take over what dead processes left captured and, once an outbox and by one at a time, what is parked.

        Gives how many more are to be read: below 0, where some were counted before and could not be given.
        """
        link = self._link

        def run(db: sqlite3.Connection, seat: Seat) -> int:
            return 0 if link is None or seat.appends_only else statements.adopt(db, seat, link.committer.locks)

        return self._submit(Kind.SETTLE, run, Seat.settle)

    # Records.

    def add(self, records: Sequence[Record]) -> "Future[int]":
        """Add records; gives how many were known."""

        def run(db: sqlite3.Connection, _seat: Seat) -> int:
            now = self._clock()
            return statements.add(db, records, now, now - self._tombstone_seconds)

        return self._submit(Kind.GROW, run, size=sum(len(record.payload) for record in records))

    def lead(self) -> bool:
        """Whether this outbox is the one that delivers from the file, among all processes. The kernel passes it on."""
        link = self._here()
        if link is None:
            return False
        try:
            return link.committer.locks.take(LEADER, link.seat)
        except OSError:
            return False  # the committer meets the same fault, and says it

    def claim(self, limit: int) -> "Future[Sequence[Pending]]":
        """Give due records, those due longest first; none unless this outbox leads."""

        def run(db: sqlite3.Connection, seat: Seat) -> Sequence[Pending]:
            return statements.claim(db, seat, limit, self._clock()) if self.lead() else ()

        return self._submit(Kind.READ, run)

    def settle(self, settlements: Sequence[Settlement]) -> "Future[None]":
        """End claims; goes through even where the file is full."""
        numbers = [settlement.id for settlement in settlements]
        return self._submit(
            Kind.SETTLE,
            lambda db, _seat: statements.settle(db, settlements, self._clock()),
            lambda seat: seat.claimed.difference_update(numbers),
        )

    def set_hold(self, reason: str | None) -> "Future[None]":
        """Keep the hold's reason in the file."""
        return self._submit(Kind.SETTLE, lambda db, _seat: statements.set_hold(db, reason))

    def hold(self) -> "Future[str | None]":
        """Give the hold's reason."""
        return self._submit(Kind.READ, lambda db, _seat: statements.hold(db))

    def counts(self) -> "Future[Counts]":
        """Count what lies in the file."""
        return self._submit(Kind.READ, lambda db, _seat: statements.counts(db))

    # For who drains the file.

    def backlog(self) -> "Future[tuple[Counts, int, float | None]]":
        """Count, and give how many captures this outbox has to read, and when the next record is due, if one is."""

        def look(db: sqlite3.Connection, seat: Seat) -> tuple[Counts, int, float | None]:
            return statements.counts(db), statements.to_read(db, seat), statements.next_due(db)

        return self._submit(Kind.READ, look)

    def deliverer(self) -> int | None:
        """Return the process that delivers from the file; 0 where it cannot be told which; None where there is none."""
        link = self._here()
        try:
            return None if link is None else link.committer.locks.owner(LEADER)
        except OSError:
            return None

    # For people.

    def entries(self, state: Waiting, limit: int = 100, after: int = 0) -> "Future[Sequence[Entry]]":
        """List what waits for a person, up to `limit` with a number above `after`, without personal data."""
        return self._submit(Kind.READ, lambda db, _seat: listing.entries(db, state, limit, after))

    def show(self, state: Waiting, number: int) -> "Future[tuple[str, bytes] | None]":
        """Give what an entry stores: its JSON text, and a capture's body as sent. Both are personal data."""
        return self._submit(Kind.READ, lambda db, _seat: listing.content(db, state, number))

    def retry(self, state: Waiting, numbers: Sequence[int]) -> "Future[int]":
        """Have entries tried once more by a running process, or at the next start; gives how many there were."""
        return self._submit(Kind.SETTLE, lambda db, _seat: listing.retry(db, state, numbers, self._clock()))

    def drop(self, state: Waiting, numbers: Sequence[int]) -> "Future[int]":
        """Delete entries for good; gives how many there were."""
        return self._submit(Kind.SETTLE, lambda db, _seat: listing.drop(db, state, numbers))

    def _submit(
        self,
        kind: Kind,
        run: Callable[[sqlite3.Connection, Seat], T],
        after: Callable[[Seat], None] | None = None,
        size: int = 0,
    ) -> "Future[T]":
        link = self._here()
        if link is None:
            return _closed()
        seat = link.seat
        operation = Operation(
            kind,
            lambda connection: run(connection, seat),
            None if after is None else lambda: after(seat),
            size,
        )
        return link.put(operation)

    def _here(self) -> _Link | None:
        """Return the link, where it is this process's."""
        link = self._link
        return link if link is not None and link.pid == os.getpid() else None


def _closed() -> "Future[Any]":
    return failed(OutboxClosedError("the outbox is not open in this process"))


def _absolute(given: object) -> str:
    """Return the path as it is meant now: a later change of the working directory moves no outbox.

    Raises:
        ConfigurationError: it names no file.
    """
    path: object = os.fspath(cast("os.PathLike[str]", given)) if isinstance(given, str | os.PathLike) else given
    if (
        not isinstance(path, str)
        or not path
        or path == ":memory:"
        or path.startswith("file:")
        or "\0" in path
        or path.endswith(os.sep)
    ):
        msg = f"outbox={path!r} names no file. Give a plain path; leave outbox= out to keep records in memory only."
        raise ConfigurationError(msg)
    return str(Path(path).absolute())
