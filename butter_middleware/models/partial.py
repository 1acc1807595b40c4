"""The two parts of a checkout whose payment another request confirms, and how they become a record.

With a payment page that the PSP hosts, the shopper's request makes the session, which is not paid yet, and has the
address. The PSP's webhook has the payment. Each is a *part*. Both name the session, which is their key.

- A record needs the shopper's part **and** a payment's, in either order. The shopper's part does not prove a payment,
  and a payment has no address.
- The address and the User-Agent are those of the shopper's part. For other fields, the payment's value is used.
- Parts with the same key and of the same kind are one part. A later value of a field replaces an earlier one. The
  address and the User-Agent stay those of the first part, because a session begins once.
- If two parts make no valid record, because an e-mail or an ID is missing, they wait for a further part.
- The key of a completed checkout is remembered for a week, like a record's. A repeated webhook makes no new part.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from butter_middleware.models.checkout import Checkout, Psp, Record, sources_text

EXPIRED: Final = (
    "parts of checkouts expired: the other part did not come within join_ttl, or both together had no e-mail or no ID. "
    "Shoppers who did not pay are among them: see status().skipped."
)
SOURCE: Final = "source:"
"""For a sandbox, a part also has the source of each field. Its key is this prefix and the field's name. The prefix
alone is the key of the route's name."""
_SHOPPERS: Final = ("ipv4_address", "user_agent", f"{SOURCE}ipv4_address", f"{SOURCE}user_agent")


@dataclass(frozen=True, slots=True, repr=False)
class Part:
    """One part of a checkout."""

    key: str
    """The digest of the PSP and the value of the route's `join`. A session's ID cannot be read from it."""
    shopper: bool
    """Whether the shopper sent it, and not a server that reports the payment."""
    fields: Mapping[str, Any]
    """The known fields of the record, and their sources (`SOURCE`). The shopper's part has `ipv4_address`."""
    captured_at: float
    """Seconds since the epoch."""
    traceparent: str = ""
    """The trace context of the part's request. The record has that of the part that completes it."""

    @classmethod
    def key_of(cls, psp: Psp, value: str) -> str:
        """Return the common key of the parts of one checkout."""
        return "join:" + hashlib.blake2b(f"{psp}\0{value}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def after(self, earlier: "Part | None") -> "Part":
        """Return this part merged with an earlier one of its kind."""
        if earlier is None:
            return self
        later = {name: value for name, value in self.fields.items() if name not in _SHOPPERS}
        return replace(self, fields={**earlier.fields, **later})

    def __repr__(self) -> str:
        return f"Part({'shopper' if self.shopper else 'payment'})"


def joined(shopper: Part | None, payment: Part | None, traceparent: str) -> Record | None:
    """Return the record of two parts, or None if they are not sufficient.

    Its time is the later part's. Its trace is that of the part that completes it.
    """
    if shopper is None or payment is None:
        return None
    theirs = {name: value for name, value in payment.fields.items() if name not in _SHOPPERS}
    fields = {**shopper.fields, **theirs}
    sources = {name.removeprefix(SOURCE): fields.pop(name) for name in list(fields) if name.startswith(SOURCE)}
    try:
        checkout = Checkout.model_validate(fields)
    except ValidationError:
        return None
    last = max(shopper.captured_at, payment.captured_at)
    told = sources_text(sources.pop("", ""), sources) if sources else ""
    return Record.of(checkout, last, traceparent, told)
