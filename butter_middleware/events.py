"""The events of the evidence: for `Butter(on_event=...)`, the counts and the log.

No event holds personal data: no address, e-mail or ID, and no part of a body, a header or a path that a shopper chose.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    name: ClassVar[str]
    """The `butter_event` of the log, and the name in the counts."""
    route: str = ""
    """The checkout route, such as `POST /checkout/{cart_id}`, if it is known."""
    reason: str = ""
    """From a short list, or the name of an exception's type."""
    message: str = ""
    """The log line, with the remedy. Empty if there is nothing to say."""
    level: int = logging.WARNING
    """The level of that line."""
    times: int = 1
    """How many occurrences this event stands for."""


class Captured(_Told):
    """A response on a checkout route was captured, or a request was given to `record`."""

    name = "captured"


class Skipped(_Told):
    """A response did not become a record. `reason` is a `Skip`, or `no_address:` and why."""

    name = "skipped"


class Parked(_Told):
    """A capture waits for a fixed extractor or configuration. `reason` is a `ParkReason`."""

    name = "parked"


class Covered(_Told):
    """A response became its records, or its part of a record."""

    name = "covered"


class Recorded(_Told):
    """A record was made. `reason` names the IDs that it carries, such as `invoice_id+charge_id`."""

    name = "recorded"


class Conflicting(_Told):
    """Annotation and extractor gave different values for a field. The extractor's is used. `reason` is the field."""

    name = "conflicting"


class NotDurableInTime(_Told):
    """A response that had to wait for the disk, the queue or Butter left before its capture was there.

    `reason` is `disk`, `queue` or `butter`.
    """

    name = "not_durable_in_time"


class Faulted(_Told):
    """An operation of this package failed. `reason` has the place and the exception's type."""

    name = "faulted"


class Diagnosed(_Told):
    """The requests show that `client_ip` does not fit the proxies of the app. `reason` is the finding's code."""

    name = "diagnosed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered(_Told):
    """A record was accepted."""

    name = "delivered"
    seconds: float
    """The time since its checkout's request."""


class Retried(_Told):
    """A record was not accepted, and will be sent again. `reason` is the answer, such as `409`."""

    name = "retried"


class Died(_Told):
    """Butter will never accept a record as it is. `reason` is the answer, such as `422`."""

    name = "died"


class Lost(_Told):
    """A capture or a record is lost. `reason` is the exception's type."""

    name = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanged(_Told):
    """The endpoint's state, as this process knows it, is now `state`. `reason` is the answer that changed it.

    A hold begins with `state="hold"`, an outage with `state="open"`, and both end with `state="ok"`.
    """

    name = "endpoint"
    state: str
    """ok, open, paused or hold."""
    before: str


class OutboxChanged(_Told):
    """The outbox's file fails in a new way, or works again. `reason` is the fault, or empty."""

    name = "outbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageFell(_Told):
    """Too few of the checkouts of the last one to two hours became records."""

    name = "coverage"
    ratio: float
    """0 to 1."""


class RouteFellSilent(_Told):
    """A route has given no record for a day, or has never given one.

    If it never gave one, `reason` says why: no request (`unmatched`), no success (`status`), or no paid checkout
    (`no_checkout`).
    """

    name = "silent"


Event = (
    Captured
    | Skipped
    | Parked
    | Covered
    | Recorded
    | Conflicting
    | NotDurableInTime
    | Faulted
    | Diagnosed
    | Delivered
    | Retried
    | Died
    | Lost
    | EndpointChanged
    | OutboxChanged
    | CoverageFell
    | RouteFellSilent
)
"""Any of them."""
