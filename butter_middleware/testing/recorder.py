"""What becomes of the checkouts of one test, written down by the stand-ins on their threads."""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Final

from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.reader.reader import ReadResult
from butter_middleware.sandbox.responses import Fault, accepts, checked
from butter_middleware.testing.record import InboxRecord
from butter_middleware.testing.records import ParkedCheckout

ACCEPTED: Final = Answer(AnswerKind.DELIVERED, 200)
_INTERRUPTED: Final = Answer(AnswerKind.INTERRUPTED)


class Recorder:
    """The records, parked checkouts and answers of one test. Safe from any thread.

    A thread that outlives its test goes on to write into that test's ledger, where nobody looks any more.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers: deque[int | Fault] = deque()
        self._answered: dict[str, str] = {}
        self._routes: dict[str, str] = {}
        self._sent: list[InboxRecord] = []
        self._pending: dict[str, Record] = {}
        self._dead: list[InboxRecord] = []
        self._parked: list[ParkedCheckout] = []
        self._seen = 0
        self._remedies: dict[str, str] = {}
        self._reading: dict[int, str] = {}
        self._numbers = itertools.count()
        self.seconds_ahead = 0.0
        """By which delivery is ahead of the clock: for it, time passes only when the test says so."""
        self.asked_for = False
        """Whether the test looks at any of it."""

    # The reading of captures.

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
                self._parked.append(ParkedCheckout.of(capture, reading.parked, reading.error))
            if reading.skipped is not None and reading.remedy:
                self._remedies[reading.skipped] = reading.remedy
            if route is not None:
                self._routes |= {record.key: route for record in reading.records}

    def reading(self) -> list[str]:
        """Return the requests that are being read."""
        with self._lock:
            return list(self._reading.values())

    def remedies(self) -> Mapping[str, str]:
        """Return what the log of production says, by the reason for which something was skipped."""
        with self._lock:
            return dict(self._remedies)

    # What the test sees.

    def sent(self) -> list[InboxRecord]:
        """Return what was accepted, in its order."""
        with self._lock:
            return list(self._sent)

    def pending(self) -> list[InboxRecord]:
        """Return what was not taken, or not even asked about, and waits."""
        with self._lock:
            return [self._shown(record) for record in self._pending.values()]

    def dead(self) -> list[InboxRecord]:
        """Return what will never be accepted."""
        with self._lock:
            return list(self._dead)

    def parked(self) -> list[ParkedCheckout]:
        """Return what was parked."""
        with self._lock:
            return list(self._parked)

    def see_parked(self) -> Sequence[ParkedCheckout]:
        """Return what was parked since the test last looked; it has now seen it."""
        with self._lock:
            unseen = self._parked[self._seen :]
            self._seen = len(self._parked)
            return unseen

    # Butter's part.

    def respond_with(self, answers: Iterable[int | Fault]) -> None:
        """Set the next answers.

        Raises:
            ValueError: one is no answer that there is.
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
                self._sent.append(self._shown(record))
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
            self._dead.append(self._shown(record))

    def _shown(self, record: Record) -> InboxRecord:
        return InboxRecord.of(record, self._routes.get(record.key), self._answered.get(record.key))
