"""Which committers live in this process: one a file, whatever the number of outboxes on it; none is inherited."""

import os
from threading import RLock

from butter_middleware.outbox.sqlite.committer import Committer
from butter_middleware.outbox.sqlite.connection import Settings
from butter_middleware.outbox.sqlite.seats import Seat


class Registry:
    """The committers of this process by the real path of their file.

    A file must have one descriptor for its locks, and SQLite one connection; both rules hold for the process.
    """

    def __init__(self) -> None:
        self._guard = RLock()
        self._committers: dict[str, Committer] = {}
        self._inherited: list[Committer] = []
        """The parent's: kept, since a finalizer that closed what they hold would meddle with the parent's file."""
        self._hooked = False

    def enter(self, settings: Settings, seat: Seat) -> Committer:
        """Give a seat at a file, starting its committer where it is the first."""
        with self._guard:
            self._hook()
            committer = self._committers.get(settings.path)
            if committer is not None:
                committer.admit(seat)
                return committer
            committer = Committer(settings, self._retire)
            committer.admit(seat)
            committer.start()
            self._committers[settings.path] = committer
            return committer

    def leave(self, committer: Committer, seat: Seat) -> bool:
        """Give a seat back; says whether the committer stops."""
        with self._guard:
            return committer.dismiss(seat)

    def has(self, path: str) -> bool:
        """Whether a file is in use in this process: then nobody else may open it here."""
        with self._guard:
            return path in self._committers

    def _retire(self, committer: Committer) -> bool:
        with self._guard:
            if not committer.deserted:
                return False
            del self._committers[committer.path]
            committer.close()
            return True

    def _hook(self) -> None:
        if not self._hooked:
            self._hooked = True
            os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        self._guard.acquire()
        for committer in self._committers.values():
            committer.suspend()

    def _in_parent(self) -> None:
        for committer in self._committers.values():
            committer.resume()
        self._guard.release()

    def _in_child(self) -> None:
        self._inherited += self._committers.values()
        self._committers = {}
        self._guard = RLock()


registry = Registry()
"""The process's."""
