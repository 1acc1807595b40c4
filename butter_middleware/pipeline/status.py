"""How the collection of evidence goes, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from butter_middleware.telemetry.coverage import Coverage


@dataclass(frozen=True, slots=True)
class Status:
    """How the collection of evidence goes.

    The numbers are of all processes that share the outbox, over its life: a restart changes none. What another process
    counted in the last seconds may be missing. Of this process alone: `endpoint`, and `age`.
    """

    captured: int
    """Responses on checkout routes that were captured, and requests that were given to `record`."""
    skipped: Mapping[str, int]
    """Responses that became no record, by reason: a `Skip`, `no_address:` and why, or `parked:` and why."""
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
    """Captures that wait for a fixed extractor or configuration."""
    lost: int
    """Captures and records that are gone for good."""
    oldest_pending_age: float | None
    """Seconds since the oldest pending record's checkout."""
    endpoint: str
    """What this process knows of Butter: ok, open, half_open, paused, hold; `unknown` before the first record.

    With `delivery="external"` it knows nothing, and says `external`.
    """
    last_delivery_at: float | None
    """Seconds since the epoch."""
    coverage: Coverage
    """Of the checkouts, how many became records, and why the others did not."""
    conflicts: Mapping[str, int]
    """Captures in which annotation and extractor gave different values for a field, by the field."""
    faults: Mapping[str, int]
    """Failures, by place and exception, such as `request:` and `reading:` in this package, or `on_event:` in yours.

    Of the configuration: `credentials`, `delivery:client`, `threads`, `telemetry:`.
    """
    not_durable_in_time: int
    """With `durability="before_response"`, responses that went out before their capture was on the disk, or queued.

    With `delivery="inline"`, those that waited for all of `inline_timeout`. A response that does not wait at all is not
    counted: sending has stopped, or three waits in a row for the queue or for Butter were in vain. Of all processes,
    over the outbox's life: it outlives a process that is killed.
    """
    age: float | None = None
    """Seconds since the outbox gave these numbers, if it does not answer now. None: it has not answered yet."""
