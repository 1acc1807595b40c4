"""A process's only connection to the file: made late, made anew where the file was replaced, broken or forked away."""

import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from butter_middleware.outbox.sqlite import statements
from butter_middleware.outbox.sqlite.faults import Alerts, Fault, describe, fault_of, set_aside
from butter_middleware.outbox.sqlite.locks import LockFile
from butter_middleware.outbox.sqlite.queue import AnyOperation, Append
from butter_middleware.outbox.sqlite.schema import RESERVE_PAGES, connect, set_bound
from butter_middleware.outbox.sqlite.seats import Seat


@dataclass(frozen=True, slots=True)
class Settings:
    """How a file is kept."""

    path: str
    """Absolute, without symbolic links."""
    max_bytes: int
    tombstone_seconds: float
    retention_seconds: float | None
    """For parked and dead; None keeps them."""
    clock: Callable[[], float]
    """Seconds since the epoch."""


class Database:
    """The file as one process has it open. Not safe to share between threads but under a lock of the caller's."""

    def __init__(self, settings: Settings, locks: LockFile, alerts: Alerts) -> None:
        self._settings = settings
        self._file = Path(settings.path)
        self._locks = locks
        self._alerts = alerts
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._last_inode: tuple[int, int] | None = None
        self._suspect: tuple[tuple[int, int], str] | None = None
        self.seats: list[Seat] = []
        self.reserved = False
        """Whether the file may grow into its reserve now."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, which `is_ready` or `make_ready` found to be there."""
        if self._connection is None:
            msg = "the file is not open"
            raise sqlite3.ProgrammingError(msg)
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, of whatever state."""
        return self._connection is not None

    def is_ready(self) -> bool:
        """Whether it is open, still the file at the path, and every seat has its place."""
        return (
            self._connection is not None
            and self._suspect is None
            and all(seat.pile is not None for seat in self.seats)
            and self._inode == self._inode_at_path()
            and not self._locks.replaced()
        )

    def make_ready(self) -> None:
        """Open what has to be opened. The caller holds the write lock.

        Raises:
            ConfigurationError: the file is another program's, or a newer version's.
            sqlite3.Error, OSError: it cannot be opened.
        """
        if self._suspect is not None:
            self._set_aside(*self._suspect)
            self._suspect = None
        if self._connection is not None and self._inode != self._inode_at_path():
            self.drop()
        if self._connection is None:
            self._connect()
        if any(seat.pile is None for seat in self.seats):
            self._seat_all()

    def transact(self, operations: Sequence[AnyOperation]) -> None:
        """Run operations in one transaction: all of them, or none.

        Raises:
            Exception: what the first that failed raised.
        """
        rows = [operation.row for operation in operations if isinstance(operation, Append)]
        with self._transaction() as connection:
            statements.append(connection, rows)
            for operation in operations:
                if not isinstance(operation, Append):
                    operation.execute(connection)

    def prune(self) -> bool:
        """Delete a step of what is too old; say whether there is more."""
        now, settings = self._settings.clock(), self._settings
        kept_since = None if settings.retention_seconds is None else now - settings.retention_seconds
        with self._transaction() as connection:
            return statements.prune(connection, now - settings.tombstone_seconds, kept_since)

    @contextmanager
    def reserve(self) -> Generator[None]:
        """Let the file grow into its reserve meanwhile."""
        set_bound(self.connection, self._settings.max_bytes, RESERVE_PAGES)
        self.reserved = True
        try:
            yield
        finally:
            self.reserved = False
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    set_bound(self._connection, self._settings.max_bytes)

    def blame(self, error: Exception) -> None:
        """Draw the consequences of an error: the connection is not to be trusted, or the file itself."""
        fault = fault_of(error)
        if fault is Fault.CORRUPT:
            there = self._inode or self._inode_at_path()
            self._suspect = None if there is None else (there, describe(error))
        elif fault is not Fault.OWN:
            self.drop()

    def drop(self) -> None:
        """Close the connection; seats keep their places."""
        connection, self._connection, self._inode = self._connection, None, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def evict(self) -> None:
        """Close the connection, and take from the seats places whose locks are gone."""
        self.drop()
        for seat in self.seats:
            seat.stand_up()

    def _connect(self) -> None:
        path = self._settings.path
        self._connection = connect(path, self._settings.max_bytes)
        self._inode = self._inode_at_path()
        if self._last_inode not in {None, self._inode}:
            text = "the file was removed or replaced while it was in use. Going on with the one there"
            self._alerts.raise_(f"replaced {self._inode}", text)
        self._last_inode = self._inode
        # In a new file no pile is known. Numbers of piles are small, so that one could be mistaken for another's.
        slots = dict(self._connection.execute("SELECT id, slot FROM piles").fetchall())
        for seat in self.seats:
            if not seat.appends_only and seat.pile is not None and slots.get(seat.pile) != seat.slot:
                seat.pile = None

    def _seat_all(self) -> None:
        piles: dict[Seat, int | None] = {}
        with self.reserve(), self._transaction() as connection:
            for seat in self.seats:
                if seat.pile is None:
                    seat.slot = self._locks.take_slot(seat) if seat.slot is None else seat.slot
                    piles[seat] = statements.new_pile(connection, seat.slot)
        for seat, pile in piles.items():
            seat.pile = pile

    def _set_aside(self, inode: tuple[int, int], reason: str) -> None:
        if inode == self._inode_at_path():
            name = set_aside(self._settings.path)
            self._alerts.raise_(
                f"broken {name}",
                f"its content is broken ({reason}). It was set aside as {name} and a new one begun. What waited in the "
                "old one is not sent: keep it, and mend the disk",
            )
            self._last_inode = None
        self.drop()

    def _inode_at_path(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise
