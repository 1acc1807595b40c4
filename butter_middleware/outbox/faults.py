"""What can go wrong with the file at run time, and how it is said."""

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
    """What kind of fault an exception is, and so what ends it."""

    FULL = "full"
    """The file's bound is reached, or the disk is full: deliveries, or free space, end it."""
    UNUSABLE = "unusable"
    """The file or the disk under it: tried again until somebody fixes it."""
    CORRUPT = "corrupt"
    """The file's content is broken: a new file takes its place."""
    REFUSED = "refused"
    """The file is another program's, or a newer version's: this process cannot use it."""
    OWN = "own"
    """The operation's own: it fails alone."""
    REPLACED = "replaced"
    """The file is another one than before: what is still in memory is written again."""


class ClockError(ButterError):
    """A clock of the merchant's failed. What needs the time waits for it, as for a disk that is away."""


def checked(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that raises ClockError if it fails, or gives what is not a time of these millennia."""

    def now() -> float:
        try:
            if is_time(given := clock()):
                return given
        except Exception as error:
            raise ClockError from error
        raise ClockError

    return now


def fault_of(error: Exception) -> Fault:
    """Return what kind of fault an exception is that came out of the file's use."""
    for kind, fault in _FAULTS.items():
        if isinstance(error, kind):
            return fault
    if isinstance(error, OSError):
        return Fault.FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else Fault.UNUSABLE
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8"):
        return Fault.CORRUPT  # Python's own error, without a code: SQLite does not check a text
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # an extended code holds the primary one in its low byte
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
    UnicodeDecodeError: Fault.CORRUPT,  # SQLite's error quotes a part of the schema that is not UTF-8
}


def describe(error: Exception) -> str:
    """Return an exception's kind, without its text: that may quote what was stored."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


class Alerts:
    """Says each kind of fault once while it lasts, and once that it is over."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._raised: set[str] = set()

    def raise_(self, kind: str, text: str) -> None:
        """Say what is wrong and what to do about it, unless it was said and is not over."""
        if kind not in self._raised:
            self._raised.add(kind)
            self._say(logging.CRITICAL, text, kind)

    def resolve(self, kind: str) -> None:
        """Say that it is over, if it was said."""
        if kind in self._raised:
            self._raised.discard(kind)
            self._say(logging.WARNING, f"works again ({kind} is over)", kind)

    @property
    def raised(self) -> Sequence[str]:
        """What is not over. A file that was broken is broken until the process ends."""
        raised = (*self._raised,)  # in one step: another thread may add to it
        return sorted({kind.partition(" ")[0] for kind in raised} - {"replaced"})

    def _say(self, level: int, text: str, kind: str) -> None:
        log_thread.log(
            level, f"outbox {self._path}: {text}", name="outbox", event="outbox", reason=kind.partition(" ")[0]
        )


def set_aside(path: str) -> str:
    """Rename a broken file with what belongs to it, for a person to look at, and return the new name.

    The caller holds the write lock and still has the file open: SQLite then sees that it was moved, and its close
    neither checkpoints nor deletes by name what is already the new file's.

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
