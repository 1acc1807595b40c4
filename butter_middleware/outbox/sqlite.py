"""The outbox on a disk: what it acknowledged survives a crash, a deploy and a power cut."""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from butter_middleware.checkout import Record
from butter_middleware.errors import ConfigurationError, OutboxClosedError
from butter_middleware.exchange import Capture
from butter_middleware.outbox import _listing, _places, _statements
from butter_middleware.outbox._committer import Committer
from butter_middleware.outbox._database import Settings
from butter_middleware.outbox._listing import Entry, Waiting
from butter_middleware.outbox._locks import LEADER
from butter_middleware.outbox._operations import Kind, Operation
from butter_middleware.outbox._registry import registry
from butter_middleware.outbox._statements import Seat
from butter_middleware.outbox.protocol import Counts, Parked, Pending, Settlement, StoredCapture

T = TypeVar("T")

DAY: Final = 86400.0
LEAST_BYTES: Final = 1024**2
STOPPING_SECONDS: Final = 2.0
"""What an idle committer takes at most to let go of its file."""


@dataclass(frozen=True, slots=True)
class _Link:
    """What an open outbox has: its place at the file, in the process that opened it."""

    pid: int
    committer: Committer
    seat: Seat


class SQLiteOutbox:
    """Keeps captures and records in an SQLite file, shared by any number of processes and outboxes of one host.

    The constructor opens nothing. The file, its `-wal` and `-shm` are made with mode 0600; beside them lies a `.lock`
    that must stay. A fault of the file at run time never raises here: operations wait in a bounded queue in memory, the
    log says so once at CRITICAL, and everything goes on by itself when the fault is mended. A broken file is renamed to
    `<name>.corrupt-<UTC time>` and a new one begun.

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

    durable: Final = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2 * 1024**3,
        retention_days: float | None = None,
        tombstone_days: float = 7.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = _absolute(os.fspath(path))
        if max_bytes < LEAST_BYTES:
            msg = f"max_bytes={max_bytes}: give the outbox at least {LEAST_BYTES} bytes; the default is 2 GiB."
            raise ConfigurationError(msg)
        if min(tombstone_days, 1.0 if retention_days is None else retention_days) <= 0:
            msg = "retention_days and tombstone_days are above 0, or retention_days=None to keep what needs a person."
            raise ConfigurationError(msg)
        self._max_bytes = max_bytes
        self._retention_seconds = None if retention_days is None else retention_days * DAY
        self._tombstone_seconds = tombstone_days * DAY
        self._clock = clock
        self._lock = Lock()
        self._link: _Link | None = None
        self._tried = False

    @property
    def path(self) -> str:
        """The file, absolute."""
        return self._path

    def __repr__(self) -> str:
        return f"SQLiteOutbox({self._path!r})"

    # Its life.

    def validate(self) -> list[str]:
        """Check the path without making the file; gives warnings where it would not last, or not be safe.

        Raises:
            ConfigurationError: no outbox can be there: what is wrong, and the remedy.
        """
        path = os.path.realpath(self._path)
        _places.refuse_unusable(path)
        if not registry.has(path):
            _places.refuse_not_ours(path)
        mounts = Path("/proc/self/mounts")
        return _places.warnings(path, mounts.read_text() if mounts.exists() else "", os.environ)

    def open(self) -> None:
        """Start this process's committer for the file, or share it. Blocks for nothing; the file is opened by its thread.

        A file that is a newer version's fails every operation with `ConfigurationError`: `validate` finds it beforehand.
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
            seat = Seat(parked=self._tried)
            self._link = _Link(os.getpid(), registry.enter(settings, seat), seat)
