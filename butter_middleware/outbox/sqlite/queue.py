"""What waits for the committer: operations, and the bounded queue that they wait in."""

import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from threading import Condition
from typing import Any, Final, Generic, TypeVar

from butter_middleware.errors import OutboxClosedError, OutboxFullError
from butter_middleware.models.http import Capture
from butter_middleware.outbox.sqlite.seats import SHARED, Seat
from butter_middleware.outbox.sqlite.statements import CaptureRow, append, row_of

T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""Operations, while the file cannot be written. Those that free space may be as many again."""
MAX_WAITING_BYTES: Final = 128 * 1024**2
"""Of bodies and payloads, for the same."""
MAX_READS: Final = 1_000
"""Operations that only read, for the same. Whoever asked may have gone long since: they take no capture's place."""


class Kind(Enum):
    """What an operation does to the file."""

    READ = auto()
    SETTLE = auto()
    """Writes, but hardly grows it: goes through even where it is full."""
    GROW = auto()


class Operation(Generic[T]):
    """One thing to do to the file, once.

    Args:
        kind: What it does to the file.
        run: Does it, in a transaction of its caller; may be run again where the transaction failed.
        after: Called on the committer's thread once it is committed.
        size: Bytes that it keeps in memory.
    """

    __slots__ = ("_error", "_value", "after", "finished", "future", "kind", "run", "size")

    def __init__(
        self,
        kind: Kind,
        run: Callable[[sqlite3.Connection], T],
        after: Callable[[], None] | None = None,
        size: int = 0,
    ) -> None:
        self.kind = kind
        self.run = run
        self.after = after
        self.size = size
        self.finished = False
        self.future: Future[T] = Future()
        self._value: T | None = None
        self._error: Exception | None = None
        if kind is not Kind.READ:
            # What is to be written is written, whether or not somebody still waits for it.
            self.future.set_running_or_notify_cancel()

    def start(self) -> bool:
        """Say whether nobody cancelled it; it cannot be cancelled after this."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def execute(self, connection: sqlite3.Connection) -> None:
        """Run it and keep its result until it is published."""
        self._value = self.run(connection)

    def finish(self, error: Exception | None = None) -> None:
        """Decide its end."""
        self.finished, self._error = True, error
        if error is None and self.after is not None:
            self.after()

    def publish(self) -> None:
        """Tell whoever waits; callbacks run here. A read may have been cancelled meanwhile: then nobody waits."""
        if self.future.cancelled() or not self.start():
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            # Once it has run, the value is of type T, be that None or not.
            self.future.set_result(self._value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Append(Operation[None]):
    """A capture to insert. It is prepared before the lock is taken, and inserted with others in one statement."""

    __slots__ = ("_capture", "_row", "_seat")

    def __init__(self, seat: Seat, capture: Capture) -> None:
        size = len(capture.body) + len(capture.request_body or b"")
        super().__init__(Kind.GROW, self._insert, size=size)
        self._seat = seat
        self._capture = capture
        self._row: CaptureRow | None = None

    @property
    def row(self) -> tuple[int, CaptureRow]:
        """The pile that it goes to now, and the row. An outbox that closed before its place has the shared pile.

        Raises:
            Exception: the capture cannot be stored.
        """
        if self._row is None:
            self._row = row_of(self._capture)
        return self._seat.pile or SHARED, self._row

    def _insert(self, connection: sqlite3.Connection) -> None:
        append(connection, [self.row])


AnyOperation = Operation[Any]


class Intake:
    """The queue before the committer: any thread puts, one takes. Never blocks whoever puts."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._queue: deque[AnyOperation] = deque()
        self._held: Counter[bool] = Counter()
        """How many are in the queue or taken and unfinished, by whether they only read."""
        self._held_bytes = 0
        self._closed = False

    def put(self, operation: AnyOperation) -> None:
        """Take an operation, or fail its future: `OutboxFullError` beyond the bound, `OutboxClosedError` at the end."""
        with self._changed:
            refusal = self._refusal(operation)
            if refusal is None:
                self._put(operation)
        if refusal is not None:
            operation.future.set_exception(refusal)

    def put_last(self, operation: AnyOperation) -> None:
        """Take an operation whatever the bound."""
        with self._changed:
            if not self._closed:
                self._put(operation)
                return
        operation.future.set_exception(_closed())

    def take(self, limit: int, seconds: float) -> list[AnyOperation]:
        """Give the operations that wait, up to `limit`; none where none came within `seconds`, or on `wake`."""
        with self._changed:
            if not self._queue:
                self._changed.wait(seconds)
            return [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]

    def put_back(self, operations: Sequence[AnyOperation]) -> None:
        """Return to the front what could not be done now."""
        with self._changed:
            self._queue.extendleft(reversed(operations))

    def let_go(self, operations: Sequence[AnyOperation]) -> None:
        """Count as gone what was taken and is finished."""
        with self._changed:
            self._held.subtract(operation.kind is Kind.READ for operation in operations)
            self._held_bytes -= sum(operation.size for operation in operations)

    def wake(self) -> None:
        """End a `take` that waits."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> list[AnyOperation]:
        """Take no more; gives what was still waiting."""
        with self._changed:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            return left

    def _put(self, operation: AnyOperation) -> None:
        self._queue.append(operation)
        self._held[operation.kind is Kind.READ] += 1
        self._held_bytes += operation.size
        self._changed.notify()

    def _refusal(self, operation: AnyOperation) -> Exception | None:
        if self._closed:
            return _closed()
        bound = {Kind.READ: MAX_READS, Kind.SETTLE: 2 * MAX_WAITING, Kind.GROW: MAX_WAITING}[operation.kind]
        if self._held[operation.kind is Kind.READ] >= bound or (
            operation.size and self._held_bytes + operation.size > MAX_WAITING_BYTES
        ):
            return OutboxFullError("the outbox's file cannot be written now, and the queue in memory before it is full")
        return None


def _closed() -> OutboxClosedError:
    return OutboxClosedError("the outbox was closed before this could be written")
