"""The journal's file: every operation runs on one thread, all that wait in one transaction, durable when it is done."""

import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

from butter_middleware.errors import ConfigurationError, OutboxBusyError

T = TypeVar("T")

APPLICATION_ID: Final = 0x42757466
"""Marks the file as ours, in SQLite's own header field."""
VERSION: Final = 1
LOOK_SECONDS: Final = 0.1
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # `raw` is the line as it was read, while it may have to be sent.
    """CREATE TABLE lines (
        id INTEGER PRIMARY KEY, number INTEGER NOT NULL, pass INTEGER NOT NULL, key BLOB NOT NULL UNIQUE,
        state INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
        reason TEXT, raw TEXT)""",
    "CREATE INDEX waiting ON lines (due_at, id) WHERE state = 0",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


class Store:
    """An open journal file, which no other process has open.

    Args:
        path: Made with mode 0600 where it is not there.
        seal: Called in each transaction before it is committed.
        patience: Seconds to wait for another process that has the file.
        waiting: Called where it is waited for.

    Raises:
        OutboxBusyError: another process has it all the time.
        ConfigurationError: it cannot be made, or is something else.
    """

    def __init__(
        self,
        path: Path,
        seal: Callable[[sqlite3.Connection], None],
        *,
        patience: float = 0.0,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.failure: Exception | None = None
        """Why nothing can be written any more."""
        self._seal = seal
        self._lock = Lock()
        self._waiting: list[_Operation] = []
        self._busy = False
        self._thread = ThreadPoolExecutor(1, "butter-journal")
        self._connection = _connect(path, patience, waiting)

    def put(self, run: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Have an operation done after those before it; its future is set once it is on the disk."""
        operation = _Operation(run)
        with self._lock:
            if self.failure is not None:
                operation.future.set_exception(self.failure)
                return operation.future
            self._waiting.append(operation)
            begin, self._busy = not self._busy, True
        if begin:
            self._thread.submit(self._work)
        return operation.future

    def close(self) -> None:
        """Wait for what was put, then let go of the file."""
        self._thread.shutdown()
        self._connection.close()

    def _work(self) -> None:
        while True:
            with self._lock:
                operations, self._waiting = self._waiting, []
                if not operations:
                    self._busy = False
                    return
            try:
                self._transact(operations)
            except Exception as error:  # noqa: BLE001 - a full disk, or a fault of ours: nothing is sent after it
                with self._lock:
                    self.failure = error
                    operations += self._waiting
                    self._waiting = []
                for operation in operations:
                    operation.future.set_exception(error)
            else:
                for operation in operations:
                    operation.future.set_result(operation.value)

    def _transact(self, operations: "list[_Operation]") -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for operation in operations:
                operation.value = operation.run(self._connection)
            self._seal(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


class _Operation:
    def __init__(self, run: Callable[[sqlite3.Connection], Any]) -> None:
        self.run = run
        self.value: Any = None
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it is done, whether or not somebody still waits for it


def _connect(path: Path, patience: float, waiting: Callable[[], None]) -> sqlite3.Connection:
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return _open(path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise _unusable(path, error.sqlite_errorname) from None
        except (OSError, sqlite3.DatabaseError) as error:
            raise _unusable(path, getattr(error, "strerror", None) or "it is no journal") from None
        if time.monotonic() >= deadline:
            msg = f"another process is sending this file ({path} is in use). Wait for its end, or stop it."
            raise OutboxBusyError(msg)
        if not told:
            told = True
            waiting()
        time.sleep(LOOK_SECONDS)


def _open(path: Path) -> sqlite3.Connection:
    # SQLite gives its -wal the mode of the file, and would make the file itself readable to all.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
    try:
        # The file stays locked while it is open, and by nobody else.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()
        version = _version(connection, path)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}").close()
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA if not version else ():
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of what lies there, 0 of a new file.

    Raises:
        ConfigurationError: it is another program's, or a newer version's.
    """
    pragmas = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    application_id, version, tables = (int(connection.execute(sql).fetchone()[0]) for sql in pragmas)
    if application_id != APPLICATION_ID and (application_id or tables):
        msg = f"{path} is another program's database. Name another file with --progress."
        raise ConfigurationError(msg)
    if version > VERSION:
        msg = f"{path} was written by a newer version of butter-middleware. Install that version again."
        raise ConfigurationError(msg)
    return version


def _unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the journal {path} cannot be used ({reason}). Name another place for it with --progress, on a local disk."
    )
