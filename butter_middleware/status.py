"""How the collection of evidence goes, as data."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """How the collection of evidence goes. The first three are of this process, since it started."""

    captured: int
    """Responses on checkout routes that were captured, and requests that were given to `record`."""
    skipped: Mapping[str, int]
    """Responses that became no record, by reason."""
    strength: Mapping[str, int]
    """Records made (in a dry run too), by the IDs that they carry, such as `{"invoice_id+charge_id": 5, ...}`.

    The more IDs, the better Butter matches a dispute; of Stripe's, `invoice_id` and `charge_id` count most.
    """
    pending: int
    """Records that wait to be sent."""
    parts: int
    """Of checkouts in two parts, what waits for its counterpart. Such records are not in `strength`."""
    delivered: int
    """Records that Butter accepted, over the outbox's life."""
    dead: int
    """Records that Butter will never accept as they are."""
    parked: int
    """Captures that wait for a mended extractor or configuration."""
    lost: int
    """Captures and records that are gone for good."""
    oldest_pending_age: float | None
    """Seconds since the oldest pending record's checkout."""
    endpoint: str
    """What this process knows of Butter: ok, open, half_open, paused, hold; `unknown` before the first record."""
    last_delivery_at: float | None
    """Seconds since the epoch."""
