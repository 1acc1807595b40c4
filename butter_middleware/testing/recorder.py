"""The results of the checkouts of one test, which the fakes record on their threads."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from threading import Lock
from typing import Final, TypeVar

from butter_middleware._utils.overrides import SHOPPER
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.events import Event, Lost, Skipped
from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.reader.reader import ReadResult
from butter_middleware.sandbox.responses import Fault, accepts, checked
from butter_middleware.testing.records import InboxRecord, ParkedCheckout

T = TypeVar("T")

ACCEPTED: Final = Answer(AnswerKind.DELIVERED, 200)


class Noted(list[T]):
    """A list that a test should read. It only grows."""

    _seen = 0

    def see(self) -> Sequence[T]:
        """Return the items that the test has not read yet, and mark them as read."""
        unseen = self[self._seen :]
        self._seen += len(unseen)
        return unseen


class Recorder:
    """The records, parked checkouts and answers of one test. Any thread may append to its lists.

    A thread that outlives its test still writes into that test's recorder, which is no longer read.
    """

    def __init__(self, client_ip: str | None = SHOPPER) -> None:
        self._lock = Lock()
        self._answers: deque[int | Fault] = deque()
        self._answered: dict[str, str] = {}
        self._routes: dict[str, str] = {}
        self.sent: list[InboxRecord] = []
        """The accepted records, in order."""
        self.pending: list[InboxRecord] = []
        """The records that wait, because they were not accepted or not sent yet."""
        self.dead: list[InboxRecord] = []
        """The records that will never be accepted."""
        self.parked = Noted[ParkedCheckout]()
        self.skipped = Noted[Skipped]()
        self.ignored = Noted[str]()
        """The messages about calls without effect."""
        self.reading: list[str] = []
        """The requests of the captures that are being read."""
        self.set_client_ip(client_ip)
        self.seconds_ahead = 0.0
        """How far the delivery's time is ahead of the clock. Only the test advances it."""
        self.asked_for = False
        """Whether the test uses the inbox."""

    def set_client_ip(self, address: str | None) -> None:
        """Set the address of the test client's own requests. None means 127.0.0.1.

        Raises:
            ValueError: it is not an address.
        """
        self.client_ip = None if address is None else str(ip_address(address))

    def read(self, capture: Capture, route: CheckoutRoute | None, result: ReadResult) -> None:
        """Record the result of a capture."""
        if result.parked is not None:
            self.parked.append(ParkedCheckout.of(capture, result.parked, result.error))
        if route is not None:
            self._routes |= {record.key: route.name for record in result.records}

    def hear(self, event: Event) -> None:
        """Record a checkout that did not become a record."""
        if isinstance(event, Skipped):
            self.skipped.append(event)
        elif isinstance(event, Lost):
            self.ignored.append(event.message)

    def respond_with(self, answers: Iterable[int | Fault]) -> None:
        """Set Butter's next answers. Raises what `checked` raises."""
        self._answers.extend(checked(answers))

    def answer(self, record: Record) -> Answer:
        """Answer a record like Butter."""
        with self._lock:
            answer = self._answers.popleft() if self._answers else 200
            if accepts(answer):
                self._answered.pop(record.key, None)
                self.sent.append(self.shown(record))
                return ACCEPTED
            self._answered[record.key] = str(answer)
            return classify(answer, {}, b"") if isinstance(answer, int) else Answer(AnswerKind.INTERRUPTED)

    def shown(self, record: Record) -> InboxRecord:
        """Return a record in the form for a test."""
        route, answer = self._routes.get(record.key), self._answered.get(record.key)
        return InboxRecord(**json.loads(record.payload), route=route, answer=answer)
