"""A record as a test sees it."""

from dataclasses import dataclass, fields
from typing import Final

from butter_middleware.models.checkout import CheckoutFields, Psp


class InboxFields(CheckoutFields, total=False):
    """What `assert_sent` compares. None means that the record is to lack the field."""

    ipv4_address: str
    route: str


@dataclass(frozen=True, repr=False)
class InboxRecord:
    """One record, as it was posted to Butter.

    Its repr shows the values, personal data included: a failing test is the one place where they are wanted.
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
    """The `CheckoutRoute` that it came from, such as `POST /checkout/{cart_id}`.

    None for `butter.record(Checkout(...))`, and where two requests made it (`CheckoutRoute(join=...)`).
    """
    answer: str | None = None
    """What Butter answered last, as `respond_with` was told; None where it was accepted, or not yet asked."""

    @property
    def payload(self) -> dict[str, str]:
        """The JSON object that was posted."""
        return {name: value for name in POSTED if (value := getattr(self, name)) is not None}

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in NAMES)
        return f"InboxRecord({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"


NAMES: Final = tuple(field.name for field in fields(InboxRecord))
POSTED: Final = NAMES[:-2]
