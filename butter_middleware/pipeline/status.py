"""The status of the collection of evidence."""

from collections.abc import Mapping
from dataclasses import dataclass

from butter_middleware.telemetry.coverage import Coverage


@dataclass(frozen=True, slots=True)
class Status:
    """The status of the collection of evidence.

    The numbers are for all processes that share the outbox, over its life. A restart does not change them. Counts of
    other processes from the last seconds may be missing. `endpoint` and `age` are for this process only.
    """

    captured: int
    """Responses on checkout routes that were captured, and requests that were given to `record`."""
    skipped: Mapping[str, int]
    """Responses that did not become a record, by reason: a `Skip`, `no_address:` and why, or `parked:` and why."""
    strength: Mapping[str, int]
    """Records made (in a dry run too), by the IDs that they carry, such as `{"invoice_id+charge_id": 5, ...}`.

    With more IDs, Butter can match a dispute better. For Stripe, `invoice_id` and `charge_id` are the most important.
    """
    pending: int
    """Records that wait to be sent."""
    parts: int
    """Parts of checkouts that wait for their counterpart. Such records are not in `strength`."""
    delivered: int
    """Records that Butter accepted, over the outbox's life."""
    dead: int
    """Records that Butter will never accept as they are."""
    parked: int
    """Captures that wait for a fixed extractor or configuration."""
    lost: int
    """Captures and records that are lost for good."""
    oldest_pending_age: float | None
    """Seconds since the oldest pending record's checkout."""
    endpoint: str
    """Butter's state, as this process knows it: ok, open, half_open, paused, hold; `unknown` before the first record.

    With `delivery="external"` it is `external`, because this process does not send.
    """
    last_delivery_at: float | None
    """Seconds since the epoch."""
    coverage: Coverage
    """How many checkouts became records, and why the others did not."""
    conflicts: Mapping[str, int]
    """Captures with different values from annotation and extractor, by field."""
    faults: Mapping[str, int]
    """Failures, by place and exception: `request:` and `reading:` in this package, or `on_event:` in your code.

    For the configuration: `credentials`, `delivery:client`, `threads`, `telemetry:`.
    """
    not_durable_in_time: int
    """With `durability="before_response"`, responses that left before their capture was on the disk, or queued.

    With `delivery="inline"`, those that waited for all of `inline_timeout`. A response that does not wait at all is not
    counted: sending has stopped, or three waits in a row for the queue or for Butter failed. The number is for all
    processes, over the outbox's life, and outlives a process that is killed.
    """
    age: float | None = None
    """Seconds since the outbox returned these numbers, if it does not answer now. None: it has not answered yet."""
