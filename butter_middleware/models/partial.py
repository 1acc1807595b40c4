"""The parts of a checkout whose payment is confirmed apart from the shopper's request, and how they become a record.

With a payment page that the PSP hosts, the shopper's request (which makes the session, unpaid) has the address, and the
PSP's webhook has the payment. Each is a *part*, and both name the session: that is their key.

- A record needs the shopper's part **and** a payment's, in either order: what the shopper began is no evidence of a
  payment, and a payment alone has no address.
- The address and the User-Agent are those of the shopper's part. Of other fields the payment's value holds.
- Parts with the same key and of the same kind are one part; a later value of a field replaces an earlier one, but for
  the address and the User-Agent, which stay the first one's: a session begins once.
- Parts that make no valid record together, since an e-mail or an ID is missing, wait on for a further part.
- What has become a record is known by its key for a week, as a record is: a webhook that comes again makes no new part.
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
"""Begins the names under which a part says what gave its fields, for a sandbox; alone it names the route."""
_SHOPPERS: Final = ("ipv4_address", "user_agent", f"{SOURCE}ipv4_address", f"{SOURCE}user_agent")


@dataclass(frozen=True, slots=True, repr=False)
class Part:
    """One part of a checkout."""

    key: str
    """Digest of the PSP and what the route's `join` gave: a session's ID cannot be read from it."""
    shopper: bool
    """Whether the shopper sent it, and not a server that tells of the payment."""
    fields: Mapping[str, Any]
    """Of a record, as far as they are known; the shopper's part has `ipv4_address`. Also their sources: `SOURCE`."""
    captured_at: float
    """Seconds since the epoch."""
    traceparent: str = ""
    """Of the checkout's span; the record is linked to that of the part which completes it."""

    @classmethod
    def key_of(cls, psp: Psp, value: str) -> str:
        """Return the key that parts of one checkout have in common."""
        return "join:" + hashlib.blake2b(f"{psp}\0{value}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def after(self, earlier: "Part | None") -> "Part":
        """Return the part that this one makes of an earlier one of its kind."""
        if earlier is None:
            return self
        later = {name: value for name, value in self.fields.items() if name not in _SHOPPERS}
        return replace(self, fields={**earlier.fields, **later})

    def __repr__(self) -> str:
        return f"Part({'shopper' if self.shopper else 'payment'})"


def joined(shopper: Part | None, payment: Part | None, traceparent: str) -> Record | None:
    """Return the record that two parts make, or None if they do not make one yet.

    Its time is the later part's. Its trace is that of the part which completes it.
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
