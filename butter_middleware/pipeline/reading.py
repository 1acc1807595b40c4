"""The thread that reads captures, where the merchant's extractors run."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from threading import Event
from typing import Final

from butter_middleware.events import Faulted, Parked, Skipped
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import EXPIRED, Part
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox.base import LocalOutbox, StoredCapture
from butter_middleware.outbox.base import Parked as ParkedCapture
from butter_middleware.pipeline.waiters import Waiters
from butter_middleware.reader.messages import unreadable
from butter_middleware.reader.reader import ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher

READ_AHEAD: Final = 32
ADOPT_EVERY: Final = 5.0
"""Seconds between looks for what dead processes left behind."""
SHARED_SECONDS: Final = 0.5
"""Between looks where others only append to what this process reads: nobody here knows when."""


class ReaderThread:
    """Reads what is captured, puts the records into the outbox, and tells what could not be.

    Args:
        outbox: Where captures lie, and records go.
        read: Reads one capture.
        notices: Is told.
        expire_before: Seconds since the epoch: older parts of checkouts are deleted.
        changed: Called on any thread when something was read or taken, with how many captures fewer are unread.
        added: Called on any thread when records are in the outbox.
        awaited: Is told which records a capture has.
    """

    def __init__(
        self,
        outbox: LocalOutbox,
        read: Callable[[Capture], ReadResult],
        events: EventDispatcher,
        expire_before: Callable[[], float],
        changed: Callable[[int], object],
        added: Callable[[], object],
        awaited: Waiters,
    ) -> None:
        self._outbox = outbox
        self._read = read
        self._events = events
        self._expire_before = expire_before
        self._changed = changed
        self._added = added
        self._waiters = awaited
        self._wake = Event()
        self._stopping = Event()
        self._since: float | None = None
        self._idle_seconds = ADOPT_EVERY

    @property
    def busy_for(self) -> float:
        """Seconds for which one capture is being read; an extractor that hangs stops all reading."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """End `run` after the capture that it reads now."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Read captures until `stop`."""
        look_again, adopted = 0.0, 0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                if time.monotonic() >= look_again:
                    look_again = time.monotonic() + ADOPT_EVERY
                    adopted = self._look_round()
                found = self._read_some()
                if not found and adopted > 0:
                    look_again, adopted = 0.0, 0  # to hear at once of those that could not be given
                    continue
            except (Exception, CancelledError) as error:  # noqa: BLE001 - this thread must outlive any fault
                kind = type(error).__name__
                said = f"reading failed: {kind}"
                self._events.emit(Faulted(reason=f"reading:{kind}", message=said, level=logging.CRITICAL))
                self._stopping.wait(1.0)
                continue
            if not found:
                self._wake.wait(self._idle_seconds)

    def _look_round(self) -> int:
        adopted = self._outbox.adopt().result()
        self._changed(-adopted)
        expired = self._outbox.expire(self._expire_before()).result()
        if expired:
            self._events.emit(Skipped(reason=Skip.JOIN_EXPIRED, times=expired, message=EXPIRED))
        return adopted

    def _read_some(self) -> int:
        captures: Sequence[StoredCapture] = self._outbox.captures(READ_AHEAD).result()
        shared = sum(stored.shared for stored in captures)
        if shared:
            self._idle_seconds = SHARED_SECONDS
            self._changed(-shared)
        for stored in captures:
            self._since = time.monotonic()
            try:
                self._read_one(stored)
            finally:
                self._since = None
        return len(captures)

    def _read_one(self, stored: StoredCapture) -> None:
        try:
            reading = self._read(stored.capture)
        except BaseException as error:  # noqa: BLE001 - the merchant's code runs in it, which may even call sys.exit()
            reading = ReadResult(parked=unreadable(error))
            self._events.emit(Parked(reason=unreadable(error).reason, message=unreadable(error).detail))
        keys = [record.key for record in reading.records]
        self._waiters.read(stored.capture, keys)
        outcome: Sequence[Record] | ParkedCapture | Part = reading.part or reading.records
        if reading.parked is not None:
            outcome = replace(reading.parked, records=reading.records)
        self._outbox.resolve(stored.id, outcome).add_done_callback(lambda done: self._resolved(done, keys))

    # Callbacks of the outbox's futures, on its thread.

    def appended(self, capture: Capture, future: "Future[None]") -> None:
        """Read a capture that is in the outbox, or tell that it is lost: then nobody waits for its records."""
        if self._events.lost(future):
            self._waiters.read(capture, ())
            self._changed(1)
        elif not self._wake.is_set():
            self._wake.set()

    def took(self, future: "Future[int]") -> None:
        """Have records sent that are in the outbox, or tell that they are lost."""
        if not self._events.lost(future):
            if known := future.result():
                self._events.emit(Skipped(reason=Skip.DUPLICATE, times=known))
            self._added()
        self._changed(0)

    def _resolved(self, future: "Future[int]", keys: Sequence[str]) -> None:
        if future.cancelled() or future.exception() is not None or future.result():
            self._waiters.over(keys)  # lost, or known: which of them is not, and comes, nobody waits for
        self.took(future)
        self._changed(1)
