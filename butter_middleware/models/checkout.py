"""The record: exactly what Butter's Data Collection API accepts."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, TypedDict

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Psp = Literal["stripe", "braintree", "adyen", "worldpay", "recurly", "recharge"]

EVIDENCE_IDS: Final = (
    "invoice_id",
    "subscription_id",
    "charge_id",
    "transaction_id",
    "network_transaction_id",
)
"""A record has at least one of these fields. The last one counts only if the account accepts it."""


_USUAL_EMAIL: Final = re.compile(
    r"(?!.{65})[a-z0-9]+(?:[._+-][a-z0-9]+)*@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+"
    r"(?!(?:alt|arpa|example|invalid|local|localhost|onion|test)\Z)[a-z]{2,}"
)
"""Addresses that `email-validator` accepts unchanged. Its check would take a third of the time of reading a capture."""


def _email(value: object, check: Callable[[object], str]) -> str:
    if type(value) is str and _USUAL_EMAIL.fullmatch(value) is not None:
        return value
    try:
        return check(value)
    except ValueError:
        # The text of `email-validator` quotes parts of the address.
        raise PydanticCustomError("email", "not a valid email address") from None


LONGEST_SOURCE: Final = 200
"""The most characters of one source of a record: an expression may have any length, but a header may not."""
_SORTED: Final = json.JSONEncoder(sort_keys=True)
_PLAIN: Final = json.JSONEncoder(ensure_ascii=False)
"""Made once, because `json.dumps` makes an encoder for each call that has options."""
_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_DOTTED_QUAD: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
"""The strict form of RFC 6943, section 3.1.1. It takes a tenth of the time of `ipaddress`."""


def _dotted_quad(value: str) -> str:
    if _DOTTED_QUAD.fullmatch(value) is None:
        raise PydanticCustomError("ipv4", "not a dotted-quad IPv4 address")
    return value


def _text(value: object) -> object:
    """PSPs send IDs as strings or integers. An empty string means absent."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        if not value.isprintable():
            if "\0" in value:
                reason = "a NUL character, which no database keeps"
                raise PydanticCustomError("nul", reason)
            if any("\ud800" <= character <= "\udfff" for character in value):
                reason = "a lone surrogate, which no encoding can carry"
                raise PydanticCustomError("surrogate", reason)
        return value.strip() or None
    return value


def as_text(value: object) -> str | None:
    """Return an ID or an address in the form of a record: stripped, an integer as a string. None if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value. None and a string of white space mean absent."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


Identifier = Annotated[str | None, BeforeValidator(_text)]


class CheckoutFields(TypedDict, total=False):
    """The mapping that an extractor may return, and the arguments of `annotate`. `None` and `""` mean absent."""

    psp: Psp
    customer_email: str | None
    customer_id: str | int | None
    invoice_id: str | int | None
    subscription_id: str | int | None
    charge_id: str | int | None
    transaction_id: str | int | None
    network_transaction_id: str | int | None
    user_agent: str | None


class Checkout(BaseModel):
    """One successful checkout, as Butter's `POST /v1/analytics` accepts it.

    IDs are stripped, integers become strings, and an empty string means an absent field. At least one of
    `invoice_id`, `subscription_id`, `charge_id` and `transaction_id` is set (or `network_transaction_id`,
    if the account accepts it). Its repr names the fields that are set, without their values.

    Raises:
        pydantic.ValidationError: a field is missing, wrong or unknown. The text contains nothing of the input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    customer_email: Annotated[EmailStr, BeforeValidator(_text), WrapValidator(_email)]
    ipv4_address: Annotated[str, AfterValidator(_dotted_quad)]
    psp: Psp
    customer_id: Identifier = None
    invoice_id: Identifier = None
    subscription_id: Identifier = None
    charge_id: Identifier = None
    transaction_id: Identifier = None
    network_transaction_id: Identifier = None
    user_agent: Identifier = None

    @model_validator(mode="after")
    def _has_evidence(self) -> Self:
        if all(getattr(self, name) is None for name in EVIDENCE_IDS):
            reason = "none of invoice_id, subscription_id, charge_id, transaction_id is set"
            raise PydanticCustomError("no_ids", reason)
        return self

    def payload(self) -> dict[str, str]:
        """Return the JSON object to post: absent fields are left out, never null."""
        return self.model_dump(exclude_none=True)

    def __repr__(self) -> str:
        return f"Checkout({', '.join(self.payload())})"

    __str__ = __repr__


def key_of(payload: Mapping[str, str]) -> str:
    """Return a record's key: the digest of its PSP and its IDs."""
    # Without customer_id: it is not always known, and does not identify a payment.
    identity = {name: value for name, value in payload.items() if name == "psp" or name in EVIDENCE_IDS}
    return hashlib.blake2b(_SORTED.encode(identity).encode(), digest_size=16).hexdigest()


def sources_text(route: str, sources: Mapping[str, str]) -> str:
    """Return `Record.sources`: a record's route, and the source of each field. It fits into a header."""
    fields = {name: source[:LONGEST_SOURCE] for name, source in sources.items()}
    return json.dumps({"route": route[:LONGEST_SOURCE], "fields": fields})


@dataclass(frozen=True)
class Record:
    """A checkout on its way to Butter. `to_json` and `from_json` convert it for any queue."""

    key: str
    """The digest of the PSP and the payment's IDs, the same for two captures of one checkout. No personal data."""
    payload: str
    """The JSON text to post."""
    captured_at: float
    """The time of the checkout's request, or of the call of `record` with a `Checkout`, in seconds since the epoch."""
    traceparent: str = ""
    """The W3C trace context of the span of the checkout's response. Empty without tracing."""
    sources: str = ""
    """The source of each field, as ASCII JSON without values, for a sandbox only. Empty if there is no sandbox."""

    @classmethod
    def of(cls, checkout: Checkout, captured_at: float, traceparent: str = "", sources: str = "") -> Self:
        """Make the record of a checkout whose request came at `captured_at`."""
        payload = checkout.payload()
        record = cls(key_of(payload), _PLAIN.encode(payload), captured_at, traceparent, sources)
        vars(record)["fields"] = MappingProxyType(payload)
        return record

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """The values of `payload` by field. They are personal data."""
        return MappingProxyType(json.loads(self.payload))

    def __reduce__(self) -> tuple[type["Record"], tuple[str, str, float, str, str]]:
        """Pickle and copy it without `fields`, which are in the payload."""
        return Record, (self.key, self.payload, self.captured_at, self.traceparent, self.sources)

    def to_json(self) -> str:
        """Return the record as JSON text, for the merchant's own queue."""
        told = {name: text for name in ("traceparent", "sources") if (text := getattr(self, name))}
        return json.dumps({"key": self.key, "payload": self.payload, "captured_at": self.captured_at, **told})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the record that `to_json` wrote.

        Raises:
            ValueError: the text is not such a record.
        """
        try:
            fields: Any = json.loads(text)
            told = (str(fields.get(name, "")) for name in ("traceparent", "sources"))
            return cls(str(fields["key"]), str(fields["payload"]), float(fields["captured_at"]), *told)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            msg = "not a record: Record.from_json takes what Record.to_json gave"
            raise ValueError(msg) from None

    def __repr__(self) -> str:
        return f"Record({self.key})"
