"""The thread that reads captures. The merchant's code runs here: extractors, `when`, `join`, strategies."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware.pipeline.entries import Entry
from butter_middleware.pipeline.worker import Worker
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import ReadResult

MOST_AHEAD: Final = 256
"""The most captures in memory for the reader. The others are only in the store."""
MOST_BYTES: Final = 16 * 1024**2
REST_SECONDS: Final = 3600.0


class ReaderThread(Worker):
    """Reads captures one after the other, and passes their results on.

    An extractor that hangs stops reading in this process, but not appending or sending.

    Args:
        read: Reads the capture of an entry.
        result: Gets an entry with its result, on this thread.
    """

    def __init__(self, read: Callable[[Entry], ReadResult], result: Callable[[Entry, ReadResult], object]) -> None:
        super().__init__("butter-read")
        self._read = read
        self._result = result
        self._fresh: deque[Entry] = deque()
        self._others: deque[Entry] = deque()
        self._from_others = False
        self._bytes = 0
        self._since: float | None = None
        self.reading: Entry | None = None
        """The entry that is being read."""

    def offer(self, entries: Sequence[Entry], *, fresh: bool) -> None:
        """Let entries be read. Only the store's thread calls it."""
        queue = self._fresh if fresh else self._others
        for entry in entries:
            self._bytes += entry.size
            queue.append(entry)
        if entries:
            self._waker.wake()

    @property
    def room(self) -> int:
        """How many more captures may be in memory."""
        if self._stopping or self.room_in_bytes <= 0:
            return 0
        return max(0, MOST_AHEAD - len(self._fresh) - len(self._others))

    @property
    def room_in_bytes(self) -> int:
        """How many more bytes of captures may be in memory. The last capture may exceed it."""
        return MOST_BYTES - self._bytes

    @property
    def busy_for(self) -> float:
        """Seconds since the reading of the current capture began."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _failed(self, error: BaseException) -> None:
        kind = type(error).__name__
        log_thread.log(logging.CRITICAL, f"reading failed: {kind}", event="faulted", reason=f"reading:{kind}")

    def _work(self) -> None:
        while True:
            self._waker.rest()
            if self._stopping:
                return
            entry = self._next()
            if entry is None:
                self._waker.wait(REST_SECONDS)
                continue
            self.reading, self._since = entry, time.monotonic()
            try:
                result = self._read(entry)
            except BaseException as error:  # noqa: BLE001 - the merchant's code, which may even call sys.exit()
                result = ReadResult(parked=unreadable(error), error=error)
            finally:
                self.reading, self._since = None, None
            try:
                self._result(entry, result)
            except BaseException:
                self._fresh.append(entry)  # it must be read again
                raise
            self._bytes -= entry.size

    def _next(self) -> Entry | None:
        """Return one of the two kinds in turn, so that a backlog and new checkouts do not block each other."""
        self._from_others = not self._from_others
        first, second = (self._others, self._fresh) if self._from_others else (self._fresh, self._others)
        if first:
            return first.popleft()
        return second.popleft() if second else None
