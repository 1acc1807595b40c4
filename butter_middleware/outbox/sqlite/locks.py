"""The locks beside an outbox's file: for the writer, for the leader, and for processes that read what they capture.

On Linux they are locks of an open file description (`F_OFD_SETLK`) on bytes of one `.lock` file. They are free when the
process ends, in any way. Unlike those of `lockf`, they are not freed by other code in the process that opens and closes
the file, such as a backup. Both kinds exclude each other, so they also work with earlier releases, which use `lockf` on
the same bytes. On other systems, each lock is a `flock` on its own file.
"""

import os
import stat
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import fcntl

    HAS_LOCKS = True
else:
    try:
        import fcntl
    except ImportError:  # Windows
        HAS_LOCKS = False
    else:
        HAS_LOCKS = True

WRITE: Final = 0
"""Held during every write transaction, open, close and checkpoint."""
LEAD: Final = 1
"""Held by the leader."""
READERS: Final = 15
"""Shared by all processes that read what they capture. It shows earlier releases that those captures have a reader."""
_SUFFIXES: Final = {WRITE: ".lock", LEAD: ".lead"}
"""For systems without Linux's locks. They do not have `READERS`."""
_FLOCK: Final = "hhqqi4x"
"""`struct flock`: type, whence, start, length, process."""
_SQLITE_SHARED: Final = 0x40000002
_SQLITE_SHARED_BYTES: Final = 510
"""The bytes on which readers of a database have their lock: see SQLite's file format."""
_BYTES: Final = 64
"""The size of a holder's name in the lock file: first the writer's, then the leader's."""


class Locks:
    """The locks of one outbox, for one store. No method waits for another process.

    Every method but `close` and `forget` raises OSError if the lock file cannot be opened or locked.

    Args:
        database: The outbox's file.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._descriptors: dict[str, int] = {}
        self._inodes: dict[str, tuple[int, int]] = {}
        """The inodes of the open files."""
        self._held: set[int] = set()
        self._on_bytes = sys.platform.startswith("linux")
        self._signature = f"{os.getpid()} {_process_namespace()}\n".encode().ljust(_BYTES)

    def take(self, lock: int) -> bool:
        """Take a lock if it is free. Return whether it is held now."""
        path = self._path(lock)
        if self._replaced(path):
            self.close()  # other processes use the new lock file
        if lock not in self._held and path and self._lock(self._opened(path), lock):
            self._held.add(lock)
            if lock != READERS:
                self._sign(self._opened(path), lock)
        return lock in self._held

    def has(self, lock: int) -> bool:
        """Whether this store took a lock. It does not check whether the file was replaced."""
        return lock in self._held

    def release(self, lock: int) -> None:
        """Release a lock, if it is held."""
        if lock in self._held:
            self._held.discard(lock)
            self._unlock(self._opened(self._path(lock)), lock)

    def holder(self, lock: int) -> int | None:
        """Return the ID of the process that holds a lock. 0: it is not known which. None: it is free."""
        if lock in self._held:
            return os.getpid()
        path = self._path(lock)
        if not path:
            return None
        if self._replaced(path):
            self.close()
        found = self._ask(lock)
        # The kernel knows only the process of an earlier release's lock.
        return self._signed(self._opened(path), lock) if found == -1 and lock != READERS else found and max(0, found)

    def has_readers(self) -> bool:
        """Whether a process is alive that reads what it captures. On systems other than Linux, whether one leads."""
        return self.holder(READERS if self._on_bytes else LEAD) is not None

    def has_others(self, lock: int) -> bool:
        """Whether another store holds a lock, in this process or another. True if the system does not know."""
        return not self._path(lock) or self._ask(lock) is not None

    def close(self) -> None:
        """Release all locks. The next `take` opens the files again."""
        with suppress(OSError):
            for lock in [*self._held]:
                self.release(lock)
        self.forget()

    def forget(self) -> None:
        """Close the files. In a forked child this frees no lock: they stay the parent's."""
        for descriptor in self._descriptors.values():
            with suppress(OSError):
                os.close(descriptor)
        self._descriptors, self._inodes, self._held = {}, {}, set()

    def _path(self, lock: int) -> str:
        """Return the file of a lock. Empty if this system does not have the lock."""
        suffix = ".lock" if self._on_bytes else _SUFFIXES.get(lock)
        return f"{self._database}{suffix}" if suffix else ""

    def _replaced(self, path: str) -> bool:
        opened = self._inodes.get(path)
        if opened is None:
            return False
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != opened

    def _opened(self, path: str) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = descriptor = self._open(path)
            found = os.fstat(descriptor)
            self._inodes[path] = found.st_dev, found.st_ino
        return self._descriptors[path]

    def _open(self, path: str) -> int:
        # A link is not followed, because it may lead to any file, and root may run the command line.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        if os.geteuid() == 0:
            with suppress(OSError):
                owner = os.lstat(self._database)
                if stat.S_ISREG(owner.st_mode):
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def _lock(self, descriptor: int, lock: int) -> bool:
        try:
            if self._on_bytes:
                kind = fcntl.F_RDLCK if lock == READERS else fcntl.F_WRLCK
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, lock))
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, descriptor: int, lock: int) -> None:
        if self._on_bytes:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, lock))
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _ask(self, lock: int) -> int | None:
        """Return the ID of the process that holds a lock. -1: the kernel does not know which. None: it is free."""
        descriptor = self._opened(self._path(lock))
        if self._on_bytes:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, lock))
            kind, _whence, _start, _length, process = struct.unpack(_FLOCK, answer)
            return None if kind == fcntl.F_UNLCK else process
        if not self._lock(descriptor, lock):
            return -1
        self._unlock(descriptor, lock)
        return None

    def _sign(self, descriptor: int, lock: int) -> None:
        """Write the process's number into the file. In another container the same number is another process."""
        with suppress(OSError):
            os.pwrite(descriptor, self._signature, lock * _BYTES)

    def _signed(self, descriptor: int, lock: int) -> int:
        with suppress(OSError, ValueError):
            number, _space, namespace = os.pread(descriptor, _BYTES, lock * _BYTES).decode().strip().partition(" ")
            if namespace == _process_namespace():
                return int(number)
        return 0


@contextmanager
def beside_sqlite(database: str) -> Generator[None]:
    """Hold the lock of another reader of a database, so that SQLite closes without touching the log.

    Otherwise the last connection moves the log into the database at its close, and deletes it by its name, even if that
    is no longer its log.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK, _SQLITE_SHARED, _SQLITE_SHARED_BYTES))
        yield
    finally:
        os.close(descriptor)


@cache
def _flock(kind: int, byte: int, length: int = 1) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, length, 0)


def _process_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
