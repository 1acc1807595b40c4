"""The outbox's open file in one process: the connection, its transactions, the write lock, and the faults.

Every write, open, close and checkpoint runs under the write lock of `locks`. Before SQLite 3.51.3, two connections that
write or checkpoint at once can corrupt the log. The lock is also fairer than SQLite's own waiting.
"""

import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from butter_middleware.errors import ButterError, OutboxBrokenError, OutboxBusyError, OutboxReplacedError
from butter_middleware.outbox.faults import Alerts, Fault, describe, fault_of, set_aside
from butter_middleware.outbox.sqlite.locks import READERS, WRITE, Locks, beside_sqlite
from butter_middleware.outbox.sqlite.schema import PAGE_BYTES, RESERVE_PAGES, connect

T = TypeVar("T")
Inode = tuple[int, int]

IDLE_WRITES: Final = 64
"""After this number of transactions, an idle thread moves the log into the file."""
LOG_BYTES: Final = 32 * 1024**2
"""From this size on, the log is moved into the file at once."""
ALARMING_LOG_BYTES: Final = 256 * 1024**2
FIRST_POLL: Final = 0.0001
LAST_POLL: Final = 0.002
SLOW_POLL: Final = 0.05
"""Seconds between tries to take the write lock. The slow one is used after a second."""
GIVE_UP_SECONDS: Final = 1.0
LOCK_ALARM_SECONDS: Final = 4.0
"""Before the alarm about a stalled write (`STALL_SECONDS`), which would blame the disk."""
PERSON_SECONDS: Final = 10.0
"""For how long the command line waits for the write lock. The app's own processes hold it for milliseconds."""
FORK_SECONDS: Final = 0.03
"""For how long a fork waits for the write lock."""
REWRITE_SECONDS: Final = 10.0
"""For how long `rewrite` waits for readers of an older state."""

_in_use: Final = Counter[str]()
"""The files that are open in this process."""


_REMEDIES: Final = {
    Fault.CORRUPT: (
        "Its content is broken. A running app sets it aside and starts a new one. Keep it, and check the disk."
    ),
    Fault.FULL: "The disk is full. Make room, and try again.",
}


class Database:
    """An outbox's file, for one thread.

    Args:
        path: The file, absolute and without links.
        max_bytes: The most bytes of the file, without its log.
        reads: Whether this process reads what it captures.
        by_person: Whether the command line opens it. Then the file is used as it is, and is not created, updated or
            set aside. A wait for the write lock ends after a few seconds.
        give_up: Called while the store waits for the write lock. If it returns True, the wait ends after a second.
    """

    def __init__(self, path: str, max_bytes: int, *, reads: bool, by_person: bool, give_up: Callable[[], bool]) -> None:
        self.path = path
        self.alerts = Alerts(self.path)
        """Logs the faults of the file."""
        self.locks = Locks(self.path)
        self._reads = reads
        self._by_person = by_person
        self._max_pages = max_bytes // PAGE_BYTES
        self._give_up = give_up
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[Inode | None, Inode | None] = (None, None)
        """The files of the database and its log when they were opened."""
        self._is_open = False
        self._replacements = 0
        # Of the connection:
        self._suspect: str | None = None
        """The fault of the connection or, if `_is_broken`, of the file's content."""
        self._is_broken = False
        self._pile: int | None = None
        """The pile of this process's captures: see `schema`."""
        self._full: bool | None = None
        self._reserve: bool | None = None
        self._version: int | None = None
        self._writes = 0
        """Transactions since the log was moved into the file."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    # Opening and closing.

    def open(self) -> None:
        """Open the file. Create or update it, if that is allowed. A broken one is set aside.

        Raises:
            ConfigurationError: the file is another program's, or a newer version's.
            OutboxBusyError: another process holds the write lock.
        """
        if self._is_open and self._is_usable():
            return
        with self._locked():
            try:
                self._ready()
            except sqlite3.DatabaseError as error:
                if fault_of(error) is not Fault.CORRUPT or self._by_person:
                    raise
                self._ready()
        if not self._is_open:
            self._is_open = True
            _in_use[self.path] += 1

    def close(self) -> None:
        """Close the file, under the write lock if possible, and release all locks."""
        with suppress(OutboxBusyError, OSError), self._locked(GIVE_UP_SECONDS):
            self._drop()
        self._drop()
        self.locks.close()
        self._opened = (None, None)
        self._leave()

    def disconnect(self) -> bool:
        """Close the connection before a fork, and keep the locks. Return whether a child may open the file."""
        deadline = time.monotonic() + FORK_SECONDS
        with suppress(OSError):
            while self._connection is not None:
                if self.locks.take(WRITE):
                    self._drop(untouched=True)  # moving the log into the file could take long
                    self.locks.release(WRITE)
                elif time.monotonic() > deadline:
                    break
                else:
                    time.sleep(LAST_POLL)
        return self._connection is None

    def forget(self) -> None:
        """In a forked child, forget the parent's connection without touching it."""
        if self._connection is not None:
            _keep_for_ever(self._connection)
        self._connection = None
        self.locks.forget()
        self._leave()

    def _leave(self) -> None:
        if self._is_open:
            self._is_open = False
            _in_use[self.path] -= 1

    def checkpoint(self, *, idle: bool) -> None:
        """Move the log into the file from 32 MiB on, or after some writes if there is no other work.

        On a disk with little space this is done earlier, because the file may have to grow too.

        The log keeps its size, and the next writes start at its beginning, because extending a log takes twice as long.
        SQLite shortens it if it is longer than `schema.LASTING_LOG_BYTES`.
        """
        if self._writes < IDLE_WRITES if idle else self._log_bytes() < min(LOG_BYTES, self._room()):
            return
        with self._locked(), self._blaming():
            connection = self._ready()
            # Do not wait for a process that reads an older state. Then only a part of the log is moved.
            connection.execute("PRAGMA busy_timeout = 0").close()
            try:
                is_in_use = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
            except sqlite3.Error as error:
                if fault_of(error) is not Fault.FULL:
                    raise
                return  # the file cannot grow. A write reports it when the log cannot grow either.
            finally:
                connection.execute("PRAGMA busy_timeout = 5000").close()
        self._writes = self._writes if is_in_use else 0
        size = self._log_bytes()
        if is_in_use and size > ALARMING_LOG_BYTES:
            self.alerts.raise_(
                "log",
                f"its log {self.path}-wal has grown to {size // 1024**2} MiB, since another program keeps reading an "
                "older state of the file. Look for a backup or an open sqlite3 shell",
            )
        else:
            self.alerts.resolve("log")

    # For the command line.

    def read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """Read in one transaction, without the write lock. Be short, because a reader keeps the log from being emptied.

        Raises:
            OutboxBrokenError: the file cannot be read, or was replaced meanwhile.
        """
        with self.explaining():
            return self._read(look)

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change the file in one transaction. Be short, because checkouts wait for the lock.

        Raises:
            OutboxBusyError: another process holds the write lock for too long.
            OutboxBrokenError: the file cannot be written, or was replaced meanwhile.
        """

        def command(connection: sqlite3.Connection) -> T:
            connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'epoch'")
            return change(connection)

        with self.explaining():
            return self._write(command, full=True, reserve=True)

    def rewrite(self) -> None:
        """Write the whole file again, so that no deleted data is left in it or in its log.

        SQLite's `secure_delete` alone is not sufficient: if it rebuilds a page, copies of rows that moved to another
        page stay in the gaps. This holds the lock while the file is written. New captures wait in the memory of their
        process.

        Raises:
            OutboxBusyError: another process holds the write lock, or reads an older state, for too long.
            OutboxBrokenError: the file cannot be written, or was replaced meanwhile.
        """
        with self.explaining(), self._locked(), self._blaming():
            connection = self._ready()
            self._tune(connection, full=True, reserve=True)
            connection.execute("PRAGMA temp_store = FILE").close()  # the file may be larger than the free memory
            connection.execute("VACUUM")
            deadline = time.monotonic() + REWRITE_SECONDS
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    msg = f"outbox={self.path!r}: another process reads an older state of it for too long. Try again."
                    raise OutboxBusyError(msg)
                time.sleep(SLOW_POLL)

    @contextmanager
    def explaining(self) -> Generator[None]:
        """Explain a fault of the file to a person, without its own text, which may quote stored data.

        Raises:
            OutboxBrokenError: a fault of the file happened in the block.
        """
        try:
            yield
        except OutboxReplacedError as error:
            msg = (
                f"outbox={self.path!r} was removed or replaced while this command read it, as a broken file is. Try "
                "again."
            )
            raise OutboxBrokenError(msg) from error
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            remedy = _REMEDIES.get(fault_of(error), "Is the disk mounted, and may this user write there? Try again.")
            msg = f"outbox={self.path!r} cannot be used ({describe(error)}). {remedy}"
            raise OutboxBrokenError(msg) from error

    # Transactions.

    def _read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """Read one state of the file."""
        connection = self._connection
        if connection is None or not self._is_usable():
            with self._locked():
                connection = self._ready()
        with self._blaming():
            connection.execute("BEGIN")
            try:
                return look(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _write(self, change: Callable[[sqlite3.Connection], T], *, full: bool = False, reserve: bool = False) -> T:
        """Change the file in one transaction.

        Args:
            change: Makes the change.
            full: Wait until it is on the disk.
            reserve: Let a full file grow into its reserve. For a change that ends captures or records: it frees space.
        """
        with self._locked(), self._blaming():
            connection = self._ready()
            self._writes += 1
            self._tune(connection, full=full, reserve=reserve and self._reserve is True)
            try:
                return _transact(connection, change)
            except sqlite3.Error as error:
                if fault_of(error) is not Fault.FULL:
                    raise
                self._writes += IDLE_WRITES  # the log may have filled the disk, so it is moved soon
                if not reserve or self._reserve is not False:
                    raise
            self._tune(connection, full=full, reserve=True)
            return _transact(connection, change)

    def _tune(self, connection: sqlite3.Connection, *, full: bool, reserve: bool) -> None:
        if full is not self._full:
            connection.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}").close()
            self._full = full
        if reserve is not self._reserve and not self._by_person:
            pages = self._max_pages + (RESERVE_PAGES if reserve else 0)
            connection.execute(f"PRAGMA max_page_count = {pages}").close()
            self._reserve = reserve

    @contextmanager
    def _blaming(self) -> Generator[None]:
        """After a fault, have the connection opened again. If the content is broken, have the file set aside."""
        try:
            yield
        except Exception as error:
            self._blame(error)
            raise

    def _blame(self, error: Exception) -> None:
        fault = fault_of(error)
        if fault in {Fault.UNUSABLE, Fault.CORRUPT} and not isinstance(error, ButterError):
            self._suspect, self._is_broken = describe(error), fault is Fault.CORRUPT

    def _ready(self) -> sqlite3.Connection:
        """Return the connection to the current file at the path. The caller holds the write lock.

        A process that reads what it captures holds a lock for that, which is lost if the lock file was replaced.

        Raises:
            OutboxReplacedError: the file was replaced.
        """
        if self._suspect is not None:
            self._clear_suspicion(self._suspect)
        if self._connection is not None and self._files() != self._opened:
            self._give_up_files()
            self._refuse_replaced()
        if self._reads and not self._by_person and not self.locks.has(READERS):
            self.locks.take(READERS)
        return self._connect() if self._connection is None else self._connection

    def _connect(self) -> sqlite3.Connection:
        before = self._opened[0]
        try:
            self._connection = connect(self.path, make=not self._by_person)
            self._connection.execute("SELECT 1 FROM meta").fetchone()  # now the log exists
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._blame(error)
            raise
        self._opened = self._files()
        if before not in {None, self._opened[0]}:
            self._refuse_replaced()
        return self._connection

    def _clear_suspicion(self, reason: str) -> None:
        """Close a connection after a fault. If the file is the cause, set it aside."""
        known = self._opened[0]
        broken = self._is_broken and not self._by_person and known in {None, self._files()[0]}
        if broken:
            name = set_aside(self.path)
            self.alerts.raise_(
                f"broken {name}",
                f"its content is broken ({reason}). It was set aside as {name} and a new one was started. What waited "
                "in the old one is not sent: keep it, and check the disk",
            )
        self._drop()
        if broken and known is not None:
            self._opened = (None, None)
            raise OutboxReplacedError(self.path)

    def _give_up_files(self) -> None:
        """Close files that are no longer at the path, without touching those that are."""
        before, now = self._opened, self._files()
        Path(self.path).parent.stat()  # raises if the volume is away: it may come back with the same files
        self._drop(untouched=True)
        self._opened = (None, None)
        if now[0] not in {None, before[0]} and now[1] == before[1]:
            # Only the database was replaced by a backup: SQLite would write our log into it.
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _refuse_replaced(self) -> None:
        text = (
            "the file or its log was removed or replaced while it was in use. Continuing with the file that is there "
            "now"
        )
        self._replacements += 1
        self.alerts.raise_(f"replaced {self._replacements}", text)
        raise OutboxReplacedError(self.path)

    def _drop(self, *, untouched: bool = False) -> None:
        """Close the connection. The last one of all processes moves the log into the file, unless it is `untouched`."""
        connection = self._connection
        self._connection = None
        self._suspect = None
        self._is_broken = False
        self._pile = None
        self._full = None
        self._reserve = None
        self._version = None
        if connection is None:
            return
        with suppress(sqlite3.Error):
            if untouched and sys.version_info >= (3, 12):
                connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # noqa: FBT003 - as it is
                connection.close()
            elif untouched:
                with suppress(FileNotFoundError), beside_sqlite(self.path):
                    connection.close()
            connection.close()

    def _is_usable(self) -> bool:
        return self._connection is not None and self._suspect is None and self._files() == self._opened

    def _files(self) -> tuple[Inode | None, Inode | None]:
        """Return the current files of the database and its log."""
        return _inode(self.path), _inode(f"{self.path}-wal")

    def _room(self) -> int:
        """Return the free bytes of the disk."""
        disk = os.statvfs(Path(self.path).parent)
        return disk.f_bavail * disk.f_frsize

    def _log_bytes(self) -> int:
        try:
            return os.lstat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    # The write lock.

    @contextmanager
    def _locked(self, seconds: float | None = None) -> Generator[None]:
        """Hold the write lock. It is polled, because a thread that waits in the kernel cannot be stopped.

        Raises:
            OutboxBusyError: it could not be taken in time, or before the store had to give up.
            OSError: the lock file cannot be used.
        """
        limit = seconds or (PERSON_SECONDS if self._by_person else float("inf"))
        since, pause = time.monotonic(), FIRST_POLL
        while not self.locks.take(WRITE):
            waited = time.monotonic() - since
            if waited > limit or (waited > GIVE_UP_SECONDS and self._give_up()):
                process = self.locks.holder(WRITE)
                holder = f"process {process}" if process else "another process"
                msg = (
                    f"outbox={self.path!r}: {holder} has held its write lock for {waited:.0f} seconds. Is it stopped "
                    "(Ctrl-Z, a debugger, a frozen container)? Let it continue, or end it, and try again."
                )
                raise OutboxBusyError(msg)
            if waited > LOCK_ALARM_SECONDS and not self._by_person:
                self.alerts.raise_(
                    "lock", "another process has held the write lock for seconds. Is it stopped? Waiting"
                )
            time.sleep(pause)
            pause = SLOW_POLL if waited > GIVE_UP_SECONDS else min(pause * 1.5, LAST_POLL)
        try:
            yield
        finally:
            self.locks.release(WRITE)


def _transact(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        changed = change(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return changed


def _keep_for_ever(connection: sqlite3.Connection) -> None:
    """Keep the parent's connection from being closed, even at the interpreter's exit: the file is the parent's."""
    import ctypes  # noqa: PLC0415 - only after a fork during a transaction

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def is_in_use(path: str) -> bool:
    """Whether a file is open in this process. Closing any descriptor of it would drop SQLite's own locks."""
    return _in_use[path] > 0


def _inode(path: str) -> Inode | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
