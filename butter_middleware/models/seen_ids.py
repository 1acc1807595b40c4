"""The IDs of sent records as they are remembered, so that no checkout is sent with two addresses.

A checkout may be captured again: a page is reloaded, or another route answers with more IDs. With other IDs it is
another record. It may be sent, but only with the address of the first one: the later request may be somebody else's.

- An invoice, a charge or a transaction has one checkout.
- A subscription or a network transaction may have several. Two of its records are two checkouts if both name an
  invoice, a charge or a transaction, and not the same one.
- If neither record says so, they are one checkout.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from butter_middleware.models.checkout import EVIDENCE_IDS

PAYMENT_IDS: Final = ("invoice_id", "charge_id", "transaction_id")
"""The IDs that only one checkout has."""
SEVERAL: Final = -1
"""Instead of an address: checkouts with several addresses had this ID, or it is not known which address it has."""
_CHECKOUTS: Final = 1 << len(PAYMENT_IDS)
"""Among the bits of `payment_ids`: several checkouts had this ID."""


class SeenID(NamedTuple):
    """One ID of a record. Neither the ID nor the address can be found in it."""

    id: int
    """Eight bytes of a digest of the PSP, the field and the ID."""
    address: int
    """Two bytes of a digest. They tell an address from another one; 65,536 addresses of IPv4 have the same."""
    payment_ids: int = 0
    """Of an ID with several checkouts: which of `PAYMENT_IDS` tell them apart, as bits."""


def seen_ids(payload: Mapping[str, str]) -> list[SeenID]:
    """Return what is remembered of a record's IDs."""
    bits = sum(1 << number for number, name in enumerate(PAYMENT_IDS) if name in payload)
    found: list[SeenID] = []
    for name in EVIDENCE_IDS:
        if name in payload:
            text = f"{payload['psp']}\0{name}\0{payload[name]}".encode()
            digest = hashlib.blake2b(text, digest_size=8).digest()
            # Salted: what is remembered of one checkout's address says nothing about another checkout's.
            address = hashlib.blake2b(payload["ipv4_address"].encode(), digest_size=2, salt=digest).digest()
            number = int.from_bytes(digest, signed=True)
            found.append(SeenID(number, int.from_bytes(address), 0 if name in PAYMENT_IDS else bits))
    return found


def after(known: Mapping[int, SeenID], ids: Sequence[SeenID]) -> tuple[bool, list[SeenID]]:
    """Say whether a record with these IDs may be sent after those that are known, and give what to remember."""
    earlier = [(known[one.id], one) for one in ids if one.id in known]
    if any(first.address != one.address and not first.payment_ids & one.payment_ids for first, one in earlier):
        # Its other IDs have the first address too, which is not known any more.
        return False, [one._replace(address=SEVERAL) for one in ids if one.id not in known]
    is_same_payment = any(not one.payment_ids for _first, one in earlier)
    merged = [_merged(first, one, is_same_payment=is_same_payment) for first, one in earlier]
    return True, merged + [one for one in ids if one.id not in known]


def _merged(first: SeenID, one: SeenID, *, is_same_payment: bool) -> SeenID:
    told_apart_by = first.payment_ids & one.payment_ids
    if told_apart_by and not is_same_payment:
        address = one.address if one.address == first.address else SEVERAL
        return SeenID(one.id, address, told_apart_by | _CHECKOUTS)
    if first.payment_ids & _CHECKOUTS:
        return first
    return one._replace(payment_ids=first.payment_ids | one.payment_ids)
