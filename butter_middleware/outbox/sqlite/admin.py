"""A look into an outbox's file from outside, by a person, beside the processes that live with it.

A process of the app makes the file, brings it up to its version and sets a broken one aside. A visit does none of it:
it works on the file that is there, as it is, and holds the write lock for moments only.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self, TypeVar

from butter_middleware.errors import ConfigurationError, OutboxBrokenError, OutboxBusyError
from butter_middleware.outbox.sqlite import preflight
from butter_middleware.outbox.sqlite.faults import Fault, describe, fault_of
from butter_middleware.outbox.sqlite.locks import WRITE, LockFile
from butter_middleware.outbox.sqlite.registry import registry
from butter_middleware.outbox.sqlite.schema import MIGRATIONS, identity

T = TypeVar("T")

LOCK_SECONDS: Final = 10.0
"""For which the write lock is waited for. The app's own processes hold it for milliseconds."""
POLL_SECONDS: Final = 0.005
CHECKPOINT_SECONDS: Final = 10.0
"""For which readers of an older state are waited for."""


class Visit:
    """A context in which the file is read, and changed in short transactions. For one thread.

    Args:
        path: The file.
        lock_seconds: For how long the write lock is waited for.

    Raises:
        ConfigurationError: on entering: no outbox of this version is there. What is wrong, and the remedy.
        OutboxBusyError: whenever another process does not let go of the write lock.
        OutboxBrokenError: whenever the file cannot be read or written, or was replaced meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = os.path.realpath(path)
        self._lock_seconds = lock_seconds
        self.locks = LockFile(f"{self.path}.lock")
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        refuse_absent(self.path)
        preflight.refuse_unusable(self.path)
        if registry.has(self.path):  # a second descriptor of its lock file would drop this process's locks
            msg = f"outbox={self.path!r} is open in this process. Use its SQLiteOutbox."
            raise OutboxBusyError(msg)
        preflight.refuse_not_ours(self.path)
        try:
            with self._explaining(), self._locked():
                self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        # The last one to close the file checkpoints: under the lock, or not at all.
        with suppress(OutboxBusyError, OSError), self._locked():
            self._disconnect()
        self._close()

    def read(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """Read in one transaction, without the lock. Be short: what is read keeps the log from being emptied."""
        with self._using() as connection:
            connection.execute("BEGIN")
            try:
                return look(connection)
            finally:
                connection.execute("ROLLBACK")

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change in one transaction, under the lock: all of it or nothing. Be short: checkouts wait for the lock."""
        with self._using() as connection, self._locked():
            connection.execute("BEGIN IMMEDIATE")
            try:
                changed = change(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return changed

    def rewrite(self) -> None:
        """Write the whole file anew, so that nothing deleted is left in it or in its log.

        SQLite's `secure_delete` alone does not do: where it rebuilds a page, copies of rows that moved to another page
        stay in the gaps. Under the lock for as long as writing the file takes: what is captured meanwhile waits in its
        process's memory.
        """
        with self._using() as connection, self._locked():
            connection.execute("VACUUM")
            deadline = time.monotonic() + CHECKPOINT_SECONDS
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    msg = f"outbox={self.path!r}: another process reads an older state of it for too long. Try again."
                    raise OutboxBusyError(msg)
                time.sleep(POLL_SECONDS)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the write lock."""
        deadline = time.monotonic() + self._lock_seconds
        while True:
            if self.locks.replaced():
                self.locks.reset()
            if self.locks.take(WRITE, self):
                break
            if time.monotonic() > deadline:
                process = self.locks.owner(WRITE)
                who = f"process {process}" if process else "another process"
                msg = (
                    f"outbox={self.path!r}: {who} has held its write lock for {self._lock_seconds:g} seconds. Is it "
                    "stopped (Ctrl-Z, a debugger, a frozen container)? Let it go on, or end it, and try again."
                )
                raise OutboxBusyError(msg)
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.locks.release(WRITE, self)

    @contextmanager
    def _using(self) -> Generator[sqlite3.Connection]:
        """Give the connection, where it is still the file at the path."""
        if self._connection is None or self._inode != _inode(self.path):
            msg = f"outbox={self.path!r} was removed or replaced meanwhile, as a broken file is. Try again."
            raise OutboxBrokenError(msg)
        with self._explaining():
            yield self._connection

    @contextmanager
    def _explaining(self) -> Generator[None]:
        """Say what a fault of the file means."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _explained(self.path, error) from error

    def _connect(self) -> None:
        """Open what is there, under the lock: a first reader may have to recover the log of a killed process."""
        uri = f"{Path(self.path).as_uri()}?mode=rw"
        self._connection = connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
        self._inode = _inode(self.path)
        found = identity(connection, self.path)
        if found is None or found.version < len(MIGRATIONS):
            what = "is empty" if found is None else f"is of an earlier version (schema {found.version})"
            msg = (
                f"outbox={self.path!r} {what}. The app brings it up to this version (schema {len(MIGRATIONS)}) at its "
                "start: start it with this version of butter-middleware, or use the command of its version."
            )
            raise ConfigurationError(msg)
        for pragma in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}").close()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _close(self) -> None:
        self._disconnect()
        self.locks.close()


def refuse_absent(path: str) -> None:
    """Refuse a path at which there is no file.

    Raises:
        ConfigurationError: there is none; it names the outboxes that lie beside it. Or nobody may know.
    """
    file = Path(path)
    try:
        file.stat()
    except PermissionError:
        msg = (
            f"outbox={path!r}: this process (user {os.geteuid()}) may not look into its directory. Run this as the "
            "user that the app runs as."
        )
        raise ConfigurationError(msg) from None
    except OSError:
        pass
    else:
        return
    with suppress(OSError):
        others = sorted(lock.name.removesuffix(".lock") for lock in file.parent.glob("*.lock"))
        found = [name for name in others if (file.parent / name).exists()]
        if found:
            msg = f"outbox={path!r}: there is no such file. In that directory there is {', '.join(found[:5])}."
            raise ConfigurationError(msg)
    msg = (
        f"outbox={path!r}: there is no such file. Name the one that Butter(outbox=...) names, a relative path from "
        "where the app starts. The app makes it with its first start or checkout."
    )
    raise ConfigurationError(msg)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _explained(path: str, error: sqlite3.Error | OSError) -> OutboxBrokenError:
    """Return what a person is told of a fault. Without the error's own text: that may quote what is stored."""
    fault = fault_of(error)
    if fault is Fault.CORRUPT:
        remedy = "Its content is broken. A running app sets it aside and begins a new one; keep it, and mend the disk."
    elif fault is Fault.FULL:
        remedy = "The disk is full. Make room, and try again."
    else:
        remedy = "Is the disk mounted, and may this user write there? Then try again."
    return OutboxBrokenError(f"outbox={path!r} cannot be used ({describe(error)}). {remedy}")
