"""Records, and checkouts that did not become a record, in the form for a test."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

from butter_middleware.errors import ButterError
from butter_middleware.events import Skipped
from butter_middleware.models.checkout import CheckoutFields, Psp
from butter_middleware.models.http import Capture, view
from butter_middleware.models.reasons import EXPLAINED, ParkReason
from butter_middleware.outbox import Parked

FROM_A_SHOPPER: Final = (
    "If the test's request is to come from a shopper, leave out the headers that client_ip reads: it then has the "
    "address butter_inbox.client_ip. Or send what your proxy would."
)
_SHOWN: Final = 1000
_OURS: Final = str(Path(__file__).parents[1])


class InboxFields(CheckoutFields, total=False):
    """The values that `assert_sent` compares. None means that the record must not have the field."""

    ipv4_address: str
    route: str


@dataclass(frozen=True, repr=False)
class InboxRecord:
    """One record, as it was posted to Butter.

    Its repr shows the values, including personal data, because a failing test needs them.
    """

    customer_email: str
    ipv4_address: str
    psp: Psp
    customer_id: str | None = None
    invoice_id: str | None = None
    subscription_id: str | None = None
    charge_id: str | None = None
    transaction_id: str | None = None
    network_transaction_id: str | None = None
    user_agent: str | None = None
    route: str | None = None
    """Its `CheckoutRoute`, such as `POST /checkout/{cart_id}`.

    None for `butter.record(Checkout(...))`, and if two requests made it (`CheckoutRoute(join=...)`).
    """
    answer: str | None = None
    """Butter's last answer from `respond_with`. None if the record was accepted, or not sent yet."""

    @property
    def payload(self) -> dict[str, str]:
        """The JSON object that was posted."""
        return {name: value for name in POSTED if (value := getattr(self, name)) is not None}

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in NAMES)
        return f"InboxRecord({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"


NAMES: Final = tuple(field.name for field in fields(InboxRecord))
POSTED: Final = NAMES[:-2]


class ParkedError(AssertionError):
    """A checkout did not become a record, and the test did not expect this. `__cause__` is the original error."""


class ParkedWarning(UserWarning):
    """An extractor failed in a test that does not use `butter_inbox`, so no assertion would show it."""


@dataclass(frozen=True, slots=True)
class ParkedCheckout:
    """A checkout that would wait until the extractor or the configuration is fixed.

    It shows the captured data, including personal data, because a test needs it.
    """

    reason: ParkReason
    """Such as `"extractor_error"`, `"no_email"`, `"invalid"` or `"no_address"`."""
    detail: str
    """The error, what the extractor tried, and the remedy, as in production's log."""
    request: str
    """Such as `POST /checkout/7`."""
    status_code: int
    """The response's status. 0 for `butter.record(request, ...)`."""
    body: str
    """The response's body, if it was captured and is text."""
    error: BaseException | None
    """The extractor's exception."""

    @classmethod
    def of(cls, capture: Capture, parked: Parked, error: BaseException | None) -> Self:
        """Return a parked capture in the form for a test."""
        request = f"{capture.method} {capture.path}"
        text = ""
        with suppress(ButterError):
            text = view(capture, {}, "", len(capture.body) + (1 << 20)).body.decode("utf-8", "replace")
        if len(text) > _SHOWN:
            text = f"{text[:_SHOWN]} ... ({len(text)} characters)"
        if error is not None:
            # Our own frames before the merchant's function are left out, unless there are only ours.
            frame = error.__traceback__
            while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OURS):
                frame = frame.tb_next
            error = error.with_traceback(frame or error.__traceback__)
        return cls(parked.reason, parked.detail, request, capture.status_code, text, error)

    def explain(self) -> str:
        """Describe in a few lines what happened."""
        lines = [f"{self.request} was parked ({self.reason.value}):", f"  {self.detail}"]
        if self.error is not None and not isinstance(self.error, ButterError):
            lines.append(f"  It raised {type(self.error).__name__}: {self.error}")
        if self.reason is ParkReason.NO_ADDRESS:
            lines.append(f"  {FROM_A_SHOPPER}")
        elif self.body:
            lines.append(f"  The response was {self.status_code}, with the body {self.body}")
        return "\n".join(lines)


def explained(skipped: Skipped) -> str:
    """Return in one line why a response on a checkout route did not become a record, and does not wait."""
    said = skipped.message or f"{skipped.route or 'butter.record()'}: {EXPLAINED.get(skipped.reason, '')}"
    return f"{skipped.times} x {skipped.reason}. {said}"


def unexpected(
    parked: Sequence[ParkedCheckout], skipped: Sequence[Skipped] = (), ignored: Sequence[str] = ()
) -> ParkedError:
    """Return the exception to raise, with an extractor's first error as its cause."""
    number = len(parked) + len(skipped) + len(ignored)
    lines = ["a checkout became no record" if number == 1 else f"{number} checkouts became no record"]
    lines += [checkout.explain() for checkout in parked]
    lines += map(explained, skipped)
    lines += ignored
    looks = [name for name, found in (("parked", parked), ("skipped", skipped), ("ignored", ignored)) if found]
    lines.append(f"A test that expects this reads {' and '.join(f'butter_inbox.{name}' for name in looks)}.")
    error = ParkedError("\n".join(lines))
    error.__cause__ = next((checkout.error for checkout in parked if checkout.error is not None), None)
    return error
