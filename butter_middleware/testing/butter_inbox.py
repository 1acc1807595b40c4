"""`ButterInbox`: shows the records to a test, and sets Butter's answers."""

from collections import Counter
from typing import TYPE_CHECKING, Unpack

from butter_middleware import config
from butter_middleware.sandbox.responses import Fault
from butter_middleware.testing.assertions import described, differing, unsent
from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import NAMES, InboxFields, InboxRecord, ParkedCheckout, unexpected

if TYPE_CHECKING:
    from butter_middleware.testing.runtime import InboxRuntime


class ButterInbox:
    """The records of this test, from every `Butter` of this process.

    It is pytest's fixture `butter_inbox`, the result of `with inbox()`, and an attribute of `ButterInboxMixin`.

    Each attribute and assertion waits until all captures have been read and sent. A test fails at its end if a checkout
    did not become a record and the test did not expect this. To expect it, read `parked`, `skipped` or `ignored`, or
    call `assert_not_sent`. If a checkout is parked, reading anything else raises `ParkedError` at once.
    """

    def __init__(self, runtime: "InboxRuntime", recorder: Recorder) -> None:
        self._runtime = runtime
        self._recorder = recorder

    @property
    def client_ip(self) -> str | None:
        """The address of the test client's own requests, if they have no header that `Butter(client_ip=...)` reads.

        It is 203.0.113.1 unless you set another one. If it is None, the requests come from 127.0.0.1, as with a
        misconfigured proxy.

        Raises:
            ValueError: you set a value that is not an address.
        """
        return self._recorder.client_ip

    @client_ip.setter
    def client_ip(self, address: str | None) -> None:
        self._runtime.settle()  # earlier requests use the earlier address
        self._recorder.set_client_ip(address)

    @property
    def sent(self) -> list[InboxRecord]:
        """The records that Butter accepted, in order."""
        __tracebackhide__ = True
        self.check()
        return list(self._recorder.sent)

    @property
    def pending(self) -> list[InboxRecord]:
        """The records that Butter did not accept because of `respond_with`, and that wait for `retry_now`."""
        __tracebackhide__ = True
        self.check()
        return list(self._recorder.pending)

    @property
    def dead(self) -> list[InboxRecord]:
        """The records that Butter will never accept, such as after a 422."""
        __tracebackhide__ = True
        self.check()
        return list(self._recorder.dead)

    @property
    def parked(self) -> list[ParkedCheckout]:
        """The checkouts that wait for a fix, each with the reason. A test that reads it expects them."""
        __tracebackhide__ = True
        self._runtime.settle()
        self._recorder.parked.see()
        return list(self._recorder.parked)

    @property
    def skipped(self) -> dict[str, int]:
        """Counts of other responses on checkout routes that did not become a record, like `Butter.status().skipped`.

        For example `{"not_paid": 1}`, `{"duplicate": 2}` or `{"no_address:ipv6_client": 1}`. `parked` ones are not
        included. A test that reads it expects them.
        """
        __tracebackhide__ = True
        self.check()
        self._recorder.skipped.see()
        counts: Counter[str] = Counter()
        for skipped in self._recorder.skipped:
            counts[skipped.reason] += skipped.times
        return dict(counts)

    @property
    def ignored(self) -> list[str]:
        """The log messages about `annotate()` and `butter.record()` calls without effect.

        A test that reads it expects them.
        """
        __tracebackhide__ = True
        self.check()
        self._recorder.ignored.see()
        return list(self._recorder.ignored)

    def assert_sent(self, *, count: int | None = None, **fields: Unpack[InboxFields]) -> InboxRecord:
        """Return the first record that was sent with these values. None means that the field must be absent.

        With `count`, exactly this number of records must have been sent with these values.

        Raises:
            AssertionError: no such record was sent, or not `count` of them. If none was sent, the text shows the
                nearest record, field by field, and the checkouts that did not become a record.
            ParkedError: as described for the class.
            TypeError: a record has no field with this name.
            ValueError: `count` is less than 1.
        """
        __tracebackhide__ = True
        if count is not None and count < 1:
            msg = f"assert_sent(count={count}) returns a record, so count is at least 1. See assert_not_sent()."
            raise ValueError(msg)
        expected = _expected(fields)
        self.check()
        found = self._matching(expected)
        if count is not None and found and len(found) != count:
            listed = "\n".join(map(repr, found))
            msg = f"records sent{described(expected)}: {len(found)}, and not {count}:\n{listed}"
            raise AssertionError(msg)
        if not found:
            routes, elsewhere = self._runtime.routes(), self._runtime.elsewhere()
            raise AssertionError(unsent(expected, self._recorder, routes, elsewhere=elsewhere))
        return found[0]

    def assert_not_sent(self, **fields: Unpack[InboxFields]) -> None:
        """Check that no record was sent with these values. Without values, check that no record was sent at all.

        The test then expects responses that did not become a record, as if it had read `skipped`.

        Raises:
            AssertionError: such a record was sent.
            ParkedError: as described for the class. So a broken extractor does not look like a refused payment.
            TypeError: a record has no field with this name.
        """
        __tracebackhide__ = True
        expected = _expected(fields)
        self.check()
        self._recorder.skipped.see()
        if found := self._matching(expected):
            listed = "\n".join(map(repr, found))
            msg = f"a record was sent{described(expected)}:\n{listed}"
            raise AssertionError(msg)

    def _matching(self, expected: dict[str, str | None]) -> list[InboxRecord]:
        return [record for record in self._recorder.sent if not differing(expected, record)]

    def respond_with(self, *answers: int | Fault) -> None:
        """Set Butter's next answers, one for each record. Afterwards it accepts again.

        An answer is a status, "reset" (the connection breaks) or "timeout" (no answer, and no wait). The effects are
        those of docs/delivery.md: after a 503 the record is `pending`, after a 422 it is `dead`. After a 401, or five
        times 503, nothing is sent. But time does not pass by itself: `retry_now` tries pending records again.

        Raises:
            ValueError: an answer is not a status, "reset" or "timeout".
        """
        self._recorder.respond_with(answers)

    def retry_now(self) -> None:
        """Let an hour pass, so that pending records are tried once more."""
        self._runtime.settle()
        self._runtime.retry()
        self._runtime.settle()

    def check(self) -> None:
        """Wait until everything is read and sent, like each attribute and assertion.

        Raises:
            ParkedError: a checkout was parked, and the test has not read `parked`. It is raised once for each checkout.
            TimeoutError: an extractor does not return.
        """
        __tracebackhide__ = True
        self._runtime.settle()
        unseen = self._recorder.parked.see()
        if unseen:
            raise unexpected(unseen)

    def __repr__(self) -> str:
        recorder = self._recorder
        return (
            f"ButterInbox({len(recorder.sent)} sent, {len(recorder.pending)} pending, {len(recorder.dead)} dead, "
            f"{len(recorder.parked)} parked, {sum(skipped.times for skipped in recorder.skipped)} skipped)"
        )


def _expected(fields: InboxFields) -> dict[str, str | None]:
    """Return the values in the form of a record, in which IDs are text."""
    for name in fields:
        if name not in NAMES:
            msg = f"a record has no field {name}. {config.meant(name, NAMES, 'fields')}"
            raise TypeError(msg)
    return {name: None if value is None else str(value) for name, value in fields.items()}
