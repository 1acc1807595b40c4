"""`ButterInbox`: what a test sees of the records, and what it has Butter answer."""

from difflib import get_close_matches
from typing import Protocol, Unpack

from butter_middleware.sandbox.responses import Fault
from butter_middleware.testing.assertions import Snapshot, differing, unsent
from butter_middleware.testing.record import NAMES, InboxFields, InboxRecord
from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import ParkedCheckout, unexpected


class Surroundings(Protocol):
    """What an inbox asks about every `Butter` of the process."""

    def settle(self) -> None:
        """Wait until everything that was captured is read and sent."""
        ...

    def retry(self) -> None:
        """Try anew what is pending."""
        ...

    def whereabouts(self, recorder: Recorder) -> Snapshot:
        """Return what became of the checkouts of a test."""
        ...


class ButterInbox:
    """What reached Butter in this test, from every `Butter` of this process. pytest's fixture `butter_inbox` is one.

    Each look waits until everything that was captured has been read and sent. And each, but for `parked`, raises
    `ParkedError` where a checkout became no record because its extractor failed, because the record is none that Butter
    would take, or because no address was found; at the end of the test whatever was not seen by then is raised too. A
    test that expects it reads `parked`.
    """

    def __init__(self, surroundings: Surroundings, recorder: Recorder) -> None:
        self._surroundings = surroundings
        self._recorder = recorder

    @property
    def sent(self) -> list[InboxRecord]:
        """The records that Butter accepted, in their order."""
        __tracebackhide__ = True
        self.check()
        return self._recorder.sent()

    @property
    def pending(self) -> list[InboxRecord]:
        """The records that Butter did not take, as `respond_with` has it, and that wait for `retry_now`."""
        __tracebackhide__ = True
        self.check()
        return self._recorder.pending()

    @property
    def dead(self) -> list[InboxRecord]:
        """The records that Butter will never take, such as after a 422."""
        __tracebackhide__ = True
        self.check()
        return self._recorder.dead()

    @property
    def parked(self) -> list[ParkedCheckout]:
        """The checkouts that became no record, each with the reason. To read it is to expect them."""
        __tracebackhide__ = True
        self._surroundings.settle()
        self._recorder.see_parked()
        return self._recorder.parked()

    @property
    def skipped(self) -> dict[str, int]:
        """Why other responses on checkout routes became no record, counted: as `Butter.status().skipped` has it.

        Such as `{"not_paid": 1}`, `{"duplicate": 2}` or `{"no_address:ipv6_client": 1}`; without what is `parked`.
        """
        __tracebackhide__ = True
        self.check()
        return dict(self._surroundings.whereabouts(self._recorder).skipped)

    def assert_sent(self, **fields: Unpack[InboxFields]) -> InboxRecord:
        """Return the first record that was sent with these values. None stands for a field that is to be absent.

        Raises:
            AssertionError: there is none. The text shows the nearest, field by field, and what became of the others.
            ParkedError: as the class says.
        """
        __tracebackhide__ = True
        for name in fields:
            if name not in NAMES:
                near = get_close_matches(name, NAMES, 1)
                msg = f"a record has no field {name}. {f'Did you mean {near[0]}?' if near else ', '.join(NAMES)}"
                raise TypeError(msg)
        self.check()
        expected = {name: _as_posted(value) for name, value in fields.items()}
        for record in self._recorder.sent():
            if not differing(expected, record):
                return record
        raise AssertionError(unsent(expected, self._surroundings.whereabouts(self._recorder)))

    def respond_with(self, *answers: int | Fault) -> None:
        """Set Butter's next answers, one a record; afterwards it accepts again.

        A status, "reset" (the connection breaks) or "timeout" (no answer; nothing waits for it). What follows is what
        docs/delivery.md says: a 503 leaves the record `pending`, a 422 `dead`; after a 401, or five times 503, nothing
        is sent. But no time passes by itself: what is pending is tried again at `retry_now`.

        Raises:
            ValueError: one is no answer that there is.
        """
        self._recorder.respond_with(answers)

    def retry_now(self) -> None:
        """Let an hour pass: what is pending is tried once more."""
        self._surroundings.settle()
        self._surroundings.retry()
        self._surroundings.settle()

    def check(self) -> None:
        """Wait until everything is read and sent, as each look does.

        Raises:
            ParkedError: a checkout became no record, and the test has not seen it.
            TimeoutError: an extractor does not come back.
        """
        __tracebackhide__ = True
        self._surroundings.settle()
        unseen = self._recorder.see_parked()
        if unseen:
            raise unexpected(unseen)

    def __repr__(self) -> str:
        whereabouts = self._surroundings.whereabouts(self._recorder)
        parts = ("sent", "pending", "dead", "parked")
        counts = ", ".join(f"{len(getattr(whereabouts, part))} {part}" for part in parts)
        return f"ButterInbox({counts})"


def _as_posted(value: object) -> str | None:
    """Return a value as a record has it: IDs are text there."""
    return None if value is None else str(value)
