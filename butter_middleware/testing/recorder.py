"""What becomes of the checkouts of one test, written down by the stand-ins on their threads."""

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
from butter_middleware.testing.records import ParkedCheckout, SkippedCheckout

T = TypeVar("T")

ACCEPTED: Final = Answer(AnswerKind.DELIVERED, 200)
_INTERRUPTED: Final = Answer(AnswerKind.INTERRUPTED)


class Recorder:
    """The records, parked checkouts and answers of one test. Safe from any thread.

    A thread that outlives its test goes on to write into that test's recorder, which nobody reads any more.
    """

    def __init__(self, client_ip: str | None = SHOPPER) -> None:
        self._lock = Lock()
        self._answers: deque[int | Fault] = deque()
        self._answered: dict[str, str] = {}
        self._routes: dict[str, str] = {}
        self._sent: list[InboxRecord] = []
        self._pending: dict[str, Record] = {}
        self._dead: list[InboxRecord] = []
        self._parked: list[ParkedCheckout] = []
        self._skipped: list[SkippedCheckout] = []
        self._ignored: list[str] = []
        self._seen = {"parked": 0, "skipped": 0, "ignored": 0}
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
                self._parked.append(ParkedCheckout.of(capture, reading.parked, reading.error))
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
                self._skipped.append(SkippedCheckout.of(event))
            elif isinstance(event, Lost):
                self._ignored.append(event.message)

    def ignore(self, message: str) -> None:
        """Write down that a call had no effect."""
        with self._lock:
            self._ignored.append(message)

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

    def skips(self) -> list[SkippedCheckout]:
        """Return what was skipped."""
        with self._lock:
            return list(self._skipped)

    def ignored(self) -> list[str]:
        """Return the calls without effect."""
        with self._lock:
            return list(self._ignored)

    def see_parked(self) -> Sequence[ParkedCheckout]:
        """Return what was parked since the test last looked; it has now seen it."""
        return self._unseen("parked", self._parked)

    def see_skips(self) -> Sequence[SkippedCheckout]:
        """Return what was skipped since the test last looked; it has now seen it."""
        return self._unseen("skipped", self._skipped)

    def see_ignored(self) -> Sequence[str]:
        """Return the calls without effect since the test last looked; it has now seen them."""
        return self._unseen("ignored", self._ignored)

    def _unseen(self, name: str, items: list[T]) -> Sequence[T]:
        with self._lock:
            unseen = items[self._seen[name] :]
            self._seen[name] = len(items)
            return unseen

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
