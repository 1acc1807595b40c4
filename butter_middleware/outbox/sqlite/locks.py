"""Byte locks on a file beside the outbox: who writes, who delivers, who is alive.

Three traps of POSIX record locks shape this module. They belong to the process, so they do not part its threads: a
table of holders does. Closing any descriptor of the file drops them all: there is one descriptor a process and path,
opened here and nowhere else. A forked child has none of them: it must make a `LockFile` of its own.
"""

import errno
import os
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
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
"""Held round every write transaction, open, close and checkpoint."""
LEADER: Final = 1
"""Held for life by the one that delivers."""
ADOPTER: Final = 2
"""Held for life by the one that tries again what is parked."""
FIRST_SLOT: Final = 16
"""From here on each byte is one living user of the file. The kernel frees it when the process dies."""
LOOK_SECONDS: Final = 0.25
"""Between looks whether the file is still there."""
_IS_LINUX: Final = sys.platform.startswith("linux")
_FLOCK: Final = "hhqqi4x"
"""Linux's `struct flock`: type, whence, start, length, process."""


class LockFile:
    """The byte locks of one path in this process. A holder is any object, told apart by identity.

    Every method may be called from any thread, blocks for no other process, and raises OSError where the file cannot
    be opened or locked.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._guard = Lock()
        self._descriptor: int | None = None
        self._look_at = 0.0
        self._closed = False
        self._held: dict[int, object] = {}

    def take(self, byte: int, holder: object) -> bool:
        """Take a byte where it is free, and say whether `holder` has it now."""
        with self._guard:
            return self._take(byte, holder)

    def take_slot(self, holder: object) -> int:
        """Take the first free byte from `FIRST_SLOT` on."""
        with self._guard:
            if self._closed:
                raise OSError(errno.EBADF, "the lock file is closed")
            byte = FIRST_SLOT
            while byte in self._held or not self._take(byte, holder):
                byte += 1
            return byte

    def is_free(self, byte: int) -> bool:
        """Whether nobody holds a byte, in this process or another."""
        probe = object()
        with self._guard:
            if byte in self._held or not self._take(byte, probe):
                return False
            self._release(byte)
            return True

    def owner(self, byte: int) -> int | None:
        """Return the process that holds a byte; 0 where it cannot be told, such as in another container. None: nobody.

        Takes nothing where the system can tell: whoever wants the byte at this moment gets it.
        """
        with self._guard:
            if byte in self._held:
                return os.getpid()
            if _IS_LINUX:
                asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                kind, _whence, _start, _length, process = struct.unpack(
                    _FLOCK, fcntl.fcntl(self._opened(), fcntl.F_GETLK, asked)
                )
                return None if kind == fcntl.F_UNLCK else max(0, process)
        return None if self.is_free(byte) else 0

    def release(self, byte: int, holder: object) -> None:
        """Let go of a byte, where `holder` has it."""
        with self._guard:
            if self._held.get(byte) is holder:
                self._release(byte)

    def release_all(self, holder: object) -> None:
        """Let go of all that `holder` has."""
        with self._guard:
            for byte in [byte for byte, other in self._held.items() if other is holder]:
                self._release(byte)

    def replaced(self) -> bool:
        """Whether the file at the path is no longer the one that is locked: somebody removed it. Looks now and then."""
        with self._guard:
            if self._descriptor is None or time.monotonic() < self._look_at:
                return False
            ours = os.fstat(self._descriptor)
            try:
                there = self._path.stat()
            except FileNotFoundError:
                return True
            if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
                return True  # and again, until somebody acts on it
            self._look_at = time.monotonic() + LOOK_SECONDS
            return False

    def reset(self) -> None:
        """Let go of everything; the next `take` opens the file anew."""
        with self._guard:
            self._held.clear()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def close(self) -> None:
        """Let go of everything for good: nothing can be taken any more."""
        self._closed = True
        self.reset()

    def _take(self, byte: int, holder: object) -> bool:
        if self._closed:
            return False
        if byte in self._held:
            return self._held[byte] is holder
        try:
            fcntl.lockf(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError) as error:
            if error.filename is not None:  # the open failed, not the lock
                raise
            return False
        self._held[byte] = holder
        return True

    def _release(self, byte: int) -> None:
        del self._held[byte]
        fcntl.lockf(self._opened(), fcntl.LOCK_UN, 1, byte)

    def _opened(self) -> int:
        if self._descriptor is None:
            is_new = not self._path.exists()
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new and os.geteuid() == 0:
                self._give_to_owner(self._descriptor)
        return self._descriptor

    def _give_to_owner(self, descriptor: int) -> None:
        """Let whoever owns the database use its lock file: root may be at the command line, where the app is not."""
        with suppress(OSError):
            owner = self._path.with_suffix("").stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
