"""The outbox on a disk: acknowledged captures survive a crash, a deploy and a power cut."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from butter_middleware import config
from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox.sqlite.locks import HAS_LOCKS

if TYPE_CHECKING:
    from butter_middleware.outbox.sqlite.store import SQLiteStore

LEAST_BYTES: Final = 1024**2
"""The space for the file's own structure."""
MOST_BYTES: Final = 2**45
"""The largest size of an SQLite file with our page size."""
LEAST_DAYS: Final = 0.001
MOST_DAYS: Final = 36_500


@dataclass(frozen=True, init=False, repr=False)
class SQLiteOutbox:
    """Keeps captures and records in an SQLite file, shared by any number of processes and outboxes of one host.

    The constructor opens nothing. The file, its `-wal` and `-shm` are created with mode 0600. Do not delete the `.lock`
    file beside them. A fault of the file at run time never raises in a checkout. Captures then wait in a bounded
    memory, the fault is logged once at CRITICAL, and everything continues when it is fixed. A broken file is renamed to
    `<name>.corrupt-<UTC time>`, and a new one is started. If several outboxes of a process use one file, the options of
    the first one apply.

    Args:
        path: The file. Its directory must exist.
        max_bytes: The most bytes of the file, without its write-ahead log. If it is full, captures wait in memory until
            deliveries free space.
        retention_days: Parked captures and dead records are deleted this number of days after their checkout. None
            keeps them until a person deals with them.
        tombstone_days: The key of a delivered record is kept for this number of days, so that it is not sent again.
        clock: Returns seconds since the epoch.

    Raises:
        ConfigurationError: `path` does not name a file, another argument is out of its bounds, or this system has no
            locks for files.
    """

    path: str
    """The file, absolute and without links."""
    max_bytes: int
    retention_days: float | None
    tombstone_days: float
    clock: Callable[[], float] = field(compare=False)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2 * 1024**3,
        retention_days: float | None = None,
        tombstone_days: float = 7.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        absolute = _absolute(path)
        if not HAS_LOCKS:
            msg = (
                f"outbox={absolute!r}: an outbox on disk needs Python's fcntl module for its locks, and this system "
                f"({sys.platform}) has none. Leave outbox= out, which keeps records in memory; use PostgresOutbox; or "
                "run on Linux or macOS, such as in WSL or a container."
            )
            raise ConfigurationError(msg)
        config.whole_number("max_bytes", max_bytes, LEAST_BYTES, MOST_BYTES)
        config.number("tombstone_days", tombstone_days, LEAST_DAYS, MOST_DAYS)
        if retention_days is not None:  # otherwise parked captures and dead records are kept
            config.number("retention_days", retention_days, LEAST_DAYS, MOST_DAYS)
        config.clock(clock)
        given = {"path": absolute, "max_bytes": max_bytes, "clock": clock}
        for name, value in (given | {"retention_days": retention_days, "tombstone_days": tombstone_days}).items():
            object.__setattr__(self, name, value)
        import_module("butter_middleware.outbox.sqlite.store")  # now and not in a request, and only with a file

    def __repr__(self) -> str:
        return f"SQLiteOutbox({self.path!r})"

    @property
    def durable(self) -> bool:
        """Whether its content outlives the process: yes."""
        return True

    def validate(self) -> list[str]:
        """Check the path without creating the file. Return warnings if the file would not last or not be safe.

        Raises:
            ConfigurationError: no outbox can be there. The text has the cause and the remedy.
        """
        from butter_middleware.outbox.sqlite import preflight  # noqa: PLC0415 - as in the constructor

        preflight.refuse_unusable(self.path)
        return list(preflight.warnings(self.path, preflight.mounted(), os.environ))

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> "SQLiteStore":
        """Return a store with these options that is not open yet.

        Args:
            reads: Whether this process reads what it captures.
            give_up: Called while the store waits for the write lock. If it returns True, the wait ends after a second.
        """
        from butter_middleware.outbox.sqlite.store import SQLiteStore  # noqa: PLC0415 - as in the constructor

        return SQLiteStore(self, reads=reads, give_up=give_up)


def _absolute(given: object) -> str:
    """Return the absolute path, so that a later change of the working directory has no effect.

    Raises:
        ConfigurationError: it names no file.
    """
    path: object = os.fspath(cast("os.PathLike[str]", given)) if isinstance(given, str | os.PathLike) else given
    if (
        not isinstance(path, str)
        or not path
        or path == ":memory:"
        or path.startswith("file:")
        or "://" in path
        or "\0" in path
        or path.endswith(os.sep)
    ):
        if isinstance(path, str) and "://" in path:  # not shown, because it may contain a password
            scheme = path.partition("://")[0]
            msg = (
                f"outbox={scheme}://... names no file. Give a plain path, such as 'butter.db'. For PostgreSQL use "
                "PostgresOutbox(dsn)."
            )
            raise ConfigurationError(msg)
        msg = f"outbox={path!r} names no file. Give a plain path; leave outbox= out to keep records in memory only."
        raise ConfigurationError(msg)
    return os.path.realpath(path)  # now, at import, because in a request the disk may not answer
