"""Reads lines and makes records of them on a thread of its own, some way ahead of the sending."""

from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Final

from butter_middleware.backfill.columns import Columns
from butter_middleware.backfill.source import Line, Source
from butter_middleware.errors import ButterError, InputError
from butter_middleware.models.checkout import Record

LINES_AHEAD: Final = 256
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Read:
    """A line, and the record that it is, or why it is none."""

    line: Line
    outcome: Record | str


class Ahead:
    """A bounded queue of what was read. A pipe that gives nothing holds up nobody but this thread.

    Args:
        wake: Called on that thread where something may be taken now.
    """

    def __init__(self, source: Source, columns: Columns, wake: Callable[[], None]) -> None:
        self._source = source
        self._columns = columns
        self._wake = wake
        self._queue: Queue[Read | Exception | None] = Queue(LINES_AHEAD)
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="butter-input", daemon=True)
        self.ended = False
        """Whether all was taken that can be."""

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def take(self) -> Read | None:
        """Give the next line; None where none is there yet, or none any more: `ended`.

        Raises:
            InputError: the input cannot be read beyond this.
        """
        try:
            item = None if self.ended else self._queue.get_nowait()
        except Empty:
            return None
        if isinstance(item, Read):
            return item
        self.ended = True
        if item is not None:
            raise item
        return None

    def stop(self) -> None:
        """Read no more; where it waits for a pipe, the thread ends with the process."""
        self._stopping.set()
        self._thread.join(2 * _LOOK_SECONDS)

    def _run(self) -> None:
        end: Exception | None = None
        try:
            for line in self._source:
                if not self._put(Read(line, line.problem or self._columns.record(line.values))):
                    return
        except OSError as error:
            end = InputError(f"the input cannot be read on: {error.strerror}")
        except ButterError as error:
            end = error
        except Exception as error:  # noqa: BLE001 - else the backfill would wait for it for ever
            end = InputError(f"the input cannot be read on: {type(error).__name__}")
        self._put(end)

    def _put(self, item: Read | Exception | None) -> bool:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=_LOOK_SECONDS)
            except Full:
                continue
            if self._queue.qsize() == 1 or not isinstance(item, Read):
                self._wake()
            return True
        return False
