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

_PAYMENT_IDS: Final = {"invoice_id": 1, "charge_id": 2, "transaction_id": 4}
"""The IDs that only one checkout has, with their bits."""
SEVERAL: Final = 1 << 16
"""Instead of an address: checkouts with several addresses had this ID."""


class SeenID(NamedTuple):
    """One ID of a record. Neither the ID nor the address can be found in it."""

    id: int
    """Eight bytes of a digest of the PSP, the field and the ID."""
    address: int
    """Two bytes of a digest, without a salt, so that no ID of a record adds to them. 65,536 addresses have the same."""
    payment_ids: int = 0
    """Of an ID that several checkouts may have: which IDs of a payment tell them apart, as bits."""


def seen_ids(payload: Mapping[str, str]) -> list[SeenID]:
    """Return what is remembered of the IDs of a record with these fields."""
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
    """Say whether a record with these IDs may be sent after those that are known, and give what to remember."""
    earlier = [(known[one.id], one) for one in ids if one.id in known]
    for first, one in earlier:
        if first.address != one.address and not first.payment_ids & one.payment_ids:
            return False, [other._replace(address=first.address) for other in ids if other.id not in known]
    remembered: list[SeenID] = []
    for first, one in earlier:
        address = one.address if one.address == first.address else SEVERAL
        # What not all of the payments have tells no two of them apart.
        told_apart_by = first.payment_ids & one.payment_ids
        remembered.append(SeenID(one.id, address, told_apart_by or first.payment_ids or one.payment_ids))
    return True, remembered + [one for one in ids if one.id not in known]
