"""The results of the checkouts of one test, which the fakes record on their threads."""

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from threading import Lock
from typing import Final, TypeVar

from butter_middleware._utils.overrides import SHOPPER
from butter_middleware.events import Event, Lost, Skipped
from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.reader.reader import ReadResult
from butter_middleware.sandbox.responses import Fault, accepts, checked
from butter_middleware.testing.record import InboxRecord
from butter_middleware.testing.records import ParkedCheckout

T = TypeVar("T")

ACCEPTED: Final = Answer(AnswerKind.DELIVERED, 200)
_INTERRUPTED: Final = Answer(AnswerKind.INTERRUPTED)


class Noted(list[T]):
    """What a test is to look at. It only grows."""

    _seen = 0

    def see(self) -> Sequence[T]:
        """Return what was added since the test last looked; it has now seen it."""
        unseen = self[self._seen :]
        self._seen += len(unseen)
        return unseen


class Recorder:
    """The records, parked checkouts and answers of one test. Safe from any thread: its lists only grow.

    A thread that outlives its test still writes into that test's recorder, which is not read any more.
    """

    def __init__(self, client_ip: str | None = SHOPPER) -> None:
        self._lock = Lock()
        self._answers: deque[int | Fault] = deque()
        self._answered: dict[str, str] = {}
        self._routes: dict[str, str] = {}
        self._pending: dict[str, Record] = {}
        self.sent: list[InboxRecord] = []
        """What was accepted, in its order."""
        self.dead: list[InboxRecord] = []
        """What will never be accepted."""
        self.parked = Noted[ParkedCheckout]()
        self.skipped = Noted[Skipped]()
        self.ignored = Noted[str]()
        """What is said of calls that had no effect."""
        self._reading: dict[int, str] = {}
        self._numbers = itertools.count()
        self.set_client_ip(client_ip)
        self.seconds_ahead = 0.0
        """By which delivery is ahead of the clock: for it, time passes only when the test says so."""
        self.asked_for = False
        """Whether the test looks at any of it."""

    def set_client_ip(self, address: str | None) -> None:
        """Set whose the test client's own requests are; None: a request of this machine.

        Raises:
            ValueError: it is not an address.
        """
        self.client_ip = None if address is None else str(ip_address(address))

    # What happens to captures.

    def begin(self, capture: Capture) -> int:
        """Write down that a capture is being read."""
        with self._lock:
            number = next(self._numbers)
            self._reading[number] = f"{capture.method} {capture.path}"
            return number

    def end(self, number: int, capture: Capture, route: str | None, reading: ReadResult) -> None:
        """Write down what came of it."""
        with self._lock:
            del self._reading[number]
            if reading.parked is not None:
                self.parked.append(ParkedCheckout.of(capture, reading.parked, reading.error))
            if route is not None:
                self._routes |= {record.key: route for record in reading.records}

    def reading(self) -> list[str]:
        """Return the requests that are being read."""
        with self._lock:
            return list(self._reading.values())

    def hear(self, event: Event) -> None:
        """Write down what became no record."""
        with self._lock:
            if isinstance(event, Skipped):
                self.skipped.append(event)
            elif isinstance(event, Lost):
                self.ignored.append(event.message)

    # What the test sees.

    def pending(self) -> list[InboxRecord]:
        """Return what was not taken, or not even asked about, and waits."""
        with self._lock:
            return [self._shown(record) for record in self._pending.values()]

    # Butter's part.

    def respond_with(self, answers: Iterable[int | Fault]) -> None:
        """Set the next answers.

        Raises:
            ValueError: one is not an answer that there is.
        """
        given = checked(answers)
        with self._lock:
            self._answers.extend(given)

    def answer(self, record: Record) -> Answer:
        """Answer to a record."""
        with self._lock:
            answer = self._answers.popleft() if self._answers else 200
            if accepts(answer):
                self._answered.pop(record.key, None)
                self.sent.append(self._shown(record))
                return ACCEPTED
            self._answered[record.key] = str(answer)
            return classify(answer, {}, b"") if isinstance(answer, int) else _INTERRUPTED

    def set_pending(self, records: Iterable[Record]) -> None:
        """Write down which records wait."""
        with self._lock:
            self._pending = {record.key: record for record in records}

    def dead_letter(self, record: Record) -> None:
        """Write down that a record is dead."""
        with self._lock:
            self.dead.append(self._shown(record))

    def _shown(self, record: Record) -> InboxRecord:
        return InboxRecord.of(record, self._routes.get(record.key), self._answered.get(record.key))
