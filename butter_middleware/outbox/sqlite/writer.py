"""How operations reach the file: in groups, each failing for itself, and growth last where the file is full.

A full file starves only what makes it grow. What ends a claim or a capture goes on, frees space, and feeds the starved.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from butter_middleware.outbox.sqlite.connection import Database
from butter_middleware.outbox.sqlite.faults import Alerts, Fault, fault_of
from butter_middleware.outbox.sqlite.queue import AnyOperation, Append, Kind

FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 5.0
"""Seconds between tries to feed the starved; the first one again after each that succeeds."""
MOST_FED: Final = 512


class Writer:
    """Runs operations on the file. For the committer's thread, which holds the lock and the connection meanwhile."""

    def __init__(self, database: Database, alerts: Alerts) -> None:
        self._database = database
        self._alerts = alerts
        self._starved: deque[AnyOperation] = deque()
        self._feed_at = 0.0
        self._feed_pause, self._feed_size = FIRST_PAUSE, 1
        self._finished: list[AnyOperation] = []

    @property
    def starves(self) -> bool:
        """Whether something waits for room in the file."""
        return bool(self._starved)

    @property
    def feed_at(self) -> float:
        """When the starved get another try, on the monotonic clock."""
        return self._feed_at

    def take_starved(self, most: int | None = None) -> list[AnyOperation]:
        """Take the first of the starved: as many as are likely to fit, or `most`."""
        count = min(self._feed_size if most is None else most, len(self._starved))
        return [self._starved.popleft() for _ in range(count)]

    def undone(self, operations: Iterable[AnyOperation]) -> list[AnyOperation]:
        """Return those of the operations that are neither finished nor kept among the starved."""
        starved = set(self._starved)
        return [operation for operation in operations if not operation.finished and operation not in starved]

    def finish(self, operations: Iterable[AnyOperation], error: Exception | None = None) -> None:
        """Decide the end of operations that have none yet."""
        for operation in operations:
            if not operation.finished:
                operation.finish(error)
                self._finished.append(operation)

    def take_finished(self) -> list[AnyOperation]:
        """Take what is finished, to be published."""
        finished, self._finished = self._finished, []
        return finished

    def prepare(self, writes: Iterable[AnyOperation]) -> None:
        """Do what needs no lock; what cannot be stored ends here."""
        for operation in writes:
            if isinstance(operation, Append):
                try:
                    _ = operation.row
                except Exception as error:  # noqa: BLE001 - whatever it is, it is this capture's and no other's
                    self.finish([operation], error)

    def read(self, reads: Iterable[AnyOperation]) -> None:
        """Run what only reads.

        Raises:
            Exception: a fault of the file; what is not finished then is not done.
        """
        for operation in reads:
            if not operation.start():
                self.finish([operation])
                continue
            try:
                operation.execute(self._database.connection)
            except Exception as error:
                if fault_of(error) is not Fault.OWN:
                    raise
                self.finish([operation], error)
            else:
                self.finish([operation])

    def write(self, writes: Sequence[AnyOperation], fed: Sequence[AnyOperation]) -> None:
        """Commit what came in, and what starved and is `fed` now; where there are such, new growth queues behind them.

        Raises:
            Exception: a fault of the file; what is `undone` then is to be tried again.
        """
        if not (self._starved or fed):
            self._commit(writes)
            return
        settling, growing = _split(writes)
        self._commit(settling)
        behind, self._starved = [*self._starved, *growing], deque()
        try:
            self._commit(fed)
            self._judge_feeding(fed, freed=bool(settling))
        finally:
            self._starved.extend(behind)

    def _judge_feeding(self, fed: Sequence[AnyOperation], *, freed: bool) -> None:
        """Feed more and at once where it succeeded, one at a time and later where it did not."""
        if self._starved:
            self._feed_pause, self._feed_size = min(2 * self._feed_pause, LAST_PAUSE), 1
            self._feed_at = time.monotonic() + self._feed_pause
        elif fed:
            self._feed_pause, self._feed_size = FIRST_PAUSE, min(2 * self._feed_size, MOST_FED)
            self._feed_at = 0.0
        elif freed:
            self._feed_at = 0.0

    def _commit(self, writes: Sequence[AnyOperation]) -> None:
        """Commit operations in one transaction; where one fails by its own fault, all but that one."""
        if not writes:
            return
        try:
            self._database.transact(writes)
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.FULL:
                self._commit_to_full(writes, error)
            elif fault is not Fault.OWN:
                raise
            elif len(writes) == 1:
                self.finish(writes, error)
            else:
                self._commit_halves(writes)
        else:
            self.finish(writes)

    def _commit_halves(self, writes: Sequence[AnyOperation]) -> None:
        middle = len(writes) // 2
        self._commit(writes[:middle])
        self._commit(writes[middle:])

    def _commit_to_full(self, writes: Sequence[AnyOperation], error: Exception) -> None:
        """Commit what a full file can take: settlements from its reserve, and as much growth as still fits."""
        settling, growing = _split(writes)
        if settling:
            if self._database.reserved:
                raise error  # not the file's bound: the disk itself
            with self._database.reserve():
                self._commit(settling)
            self._commit(growing)
        elif len(growing) == 1 or self._starved:
            self._starve(growing)
        else:
            middle = len(growing) // 2
            self._commit(growing[:middle])
            if self._starved:  # the disk may have room by now, but what came first goes first
                self._starve(growing[middle:])
            else:
                self._commit(growing[middle:])

    def _starve(self, growing: Sequence[AnyOperation]) -> None:
        self._starved.extend(growing)
        self._feed_at = time.monotonic() + self._feed_pause
        self._alerts.raise_(
            "full",
            "it is full. What comes now waits in memory, up to a bound. Let deliveries go out, raise max_bytes, make "
            "room on the disk, or drop dead and parked entries",
        )


def _split(writes: Iterable[AnyOperation]) -> tuple[list[AnyOperation], list[AnyOperation]]:
    """Part what settles from what grows."""
    settling: list[AnyOperation] = []
    growing: list[AnyOperation] = []
    for operation in writes:
        (growing if operation.kind is Kind.GROW else settling).append(operation)
    return settling, growing
