"""The faults of the file at run time, and their messages."""

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware.config import is_time
from butter_middleware.errors import ButterError, ConfigurationError, OutboxBusyError, OutboxReplacedError

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNUSABLE: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class Fault(Enum):
    """The kind of fault of an exception. It decides what ends the fault."""

    FULL = "full"
    """The file's limit is reached, or the disk is full. Deliveries, or free space, end it."""
    UNUSABLE = "unusable"
    """The file or its disk fails. It is tried again until a person fixes it."""
    CORRUPT = "corrupt"
    """The file's content is broken. A new file replaces it."""
    REFUSED = "refused"
    """The file is another program's, or a newer version's. This process cannot use it."""
    OWN = "own"
    """The operation itself is the cause. Only it fails."""
    REPLACED = "replaced"
    """The file was replaced. What is still in memory is written again."""


class ClockError(ButterError):
    """The merchant's clock failed. Work that needs the time waits, as when the disk is not available."""


def checked(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that raises ClockError if the given one fails, or returns an impossible time."""

    def now() -> float:
        try:
            if is_time(given := clock()):
                return given
        except Exception as error:
            raise ClockError from error
        raise ClockError

    return now


def fault_of(error: Exception) -> Fault:
    """Return the kind of fault of an exception from the use of the file."""
    for kind, fault in _FAULTS.items():
        if isinstance(error, kind):
            return fault
    if isinstance(error, OSError):
        return Fault.FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else Fault.UNUSABLE
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8"):
        return Fault.CORRUPT  # Python's own error without a code, because SQLite does not check texts
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the primary one
    if code == sqlite3.SQLITE_FULL:
        return Fault.FULL
    if code in _CORRUPT:
        return Fault.CORRUPT
    return Fault.UNUSABLE if code in _UNUSABLE else Fault.OWN


_FAULTS: Final = {
    ConfigurationError: Fault.REFUSED,
    OutboxReplacedError: Fault.REPLACED,
    OutboxBusyError: Fault.UNUSABLE,
    MemoryError: Fault.UNUSABLE,
    ClockError: Fault.UNUSABLE,
    UnicodeDecodeError: Fault.CORRUPT,  # SQLite's error quotes a part of the schema, which is not UTF-8
}


def describe(error: Exception) -> str:
    """Return an exception's kind without its text, which may quote stored data."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


class Alerts:
    """Logs each kind of fault once while it lasts, and its end once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._raised: set[str] = set()

    def raise_(self, kind: str, text: str) -> None:
        """Log the fault and its remedy, unless it was logged and is not over."""
        if kind not in self._raised:
            self._raised.add(kind)
            self._say(logging.CRITICAL, text, kind)

    def resolve(self, kind: str) -> None:
        """Log the end of a fault that was logged."""
        if kind in self._raised:
            self._raised.discard(kind)
            self._say(logging.WARNING, f"works again ({kind} is over)", kind)

    @property
    def raised(self) -> Sequence[str]:
        """The faults that are not over. A broken file counts until the process ends."""
        raised = (*self._raised,)  # copied in one step, because another thread may add to it
        return sorted({kind.partition(" ")[0] for kind in raised} - {"replaced"})

    def _say(self, level: int, text: str, kind: str) -> None:
        log_thread.log(
            level, f"outbox {self._path}: {text}", name="outbox", event="outbox", reason=kind.partition(" ")[0]
        )


def set_aside(path: str) -> str:
    """Rename a broken file and its log, so that a person can examine them. Return the new name.

    The caller holds the write lock and still has the file open. So SQLite detects the move, and its close does not
    checkpoint, or delete the new file's log by its name.

    Raises:
        OSError: it could not be renamed.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target, number = f"{path}.corrupt-{stamp}", 1
    while os.path.lexists(target):
        number += 1
        target = f"{path}.corrupt-{stamp}-{number}"
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            Path(path + suffix).rename(target + suffix)
    return target
