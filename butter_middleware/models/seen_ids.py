"""Remembers the IDs of sent records, so that no checkout is sent with two addresses.

A checkout may be captured again: a page is reloaded, or another route answers with more IDs. With other IDs it is
another record. It is sent only with the first record's address, because the later request may be another person's.

- An invoice, a charge or a transaction belongs to one checkout.
- A subscription or a network transaction may belong to several. Two of its records are two checkouts if both have an
  invoice, a charge or a transaction, and these differ.
- Otherwise, they are one checkout.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from butter_middleware.models.checkout import EVIDENCE_IDS

_PAYMENT_IDS: Final = {"invoice_id": 1, "charge_id": 2, "transaction_id": 4}
"""The IDs that belong to one checkout only, with their bits."""
SEVERAL: Final = 1 << 16
"""Instead of an address, if checkouts with several addresses had this ID."""


class SeenID(NamedTuple):
    """One ID of a record. Neither the ID nor the address can be read from it."""

    id: int
    """Eight bytes of a digest of the PSP, the field and the ID."""
    address: int
    """Two bytes of the address's digest, so 65,536 addresses share each value. It has no salt: with a salt
    for each ID, the IDs of one record together would reveal more of the address."""
    payment_ids: int = 0
    """For an ID of several checkouts: the payment IDs that distinguish them, as bits."""


def seen_ids(payload: Mapping[str, str]) -> list[SeenID]:
    """Return the IDs of a record with these fields, in the form to remember."""
    names = [name for name in EVIDENCE_IDS if name in payload]
    bits = sum(_PAYMENT_IDS.get(name, 0) for name in names)
    address = _digest(payload["ipv4_address"], 2)
    return [
        SeenID(_digest(f"{payload['psp']}\0{name}\0{payload[name]}", 8), address, 0 if name in _PAYMENT_IDS else bits)
        for name in names
    ]


def _digest(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), signed=True)


def after(known: Mapping[int, SeenID], ids: Sequence[SeenID]) -> tuple[bool, list[SeenID]]:
    """Return whether a record with these IDs may be sent after the known ones, and the IDs to remember."""
    earlier = [(known[one.id], one) for one in ids if one.id in known]
    for first, one in earlier:
        if first.address != one.address and not first.payment_ids & one.payment_ids:
            return False, [other._replace(address=first.address) for other in ids if other.id not in known]
    remembered: list[SeenID] = []
    for first, one in earlier:
        address = one.address if one.address == first.address else SEVERAL
        # An ID that some payments lack cannot distinguish them.
        told_apart_by = first.payment_ids & one.payment_ids
        remembered.append(SeenID(one.id, address, told_apart_by or first.payment_ids or one.payment_ids))
    return True, remembered + [one for one in ids if one.id not in known]
