"""The possible answers of Butter, or of something in its place, and their meaning."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, Final

from butter_middleware.models.checkout import CheckoutFields

RETRY_AFTER_LEAST: Final = 1.0
RETRY_AFTER_MOST: Final = 3600.0


class AnswerKind(Enum):
    """The kinds of answers. Each is handled differently."""

    DELIVERED = auto()
    """2xx with a JSON object."""
    IMPOSTOR = auto()
    """2xx with anything else, from a captive portal or a firewall in Butter's place."""
    UNREACHABLE = auto()
    """No connection: DNS, refused, connect or pool timeout, a proxy's error."""
    UNTRUSTED = auto()
    """TLS verification fails. It is never switched off."""
    INTERRUPTED = auto()
    """A connection broke or timed out. The record may have been accepted."""
    STALLED = auto()
    """It failed while this process was stopped or blocked. The endpoint is not the cause. It may have been accepted."""
    REDIRECTED = auto()
    """A redirect that is not followed."""
    UNAUTHORIZED = auto()
    """401: the credentials are missing or wrong."""
    REFUSED = auto()
    """403, 404, 405, 410: the cause is our configuration or this record."""
    REJECTED = auto()
    """400, 413, 415, and other 4xx: the cause is our requests in general or this record."""
    INVALID = auto()
    """422: this record will never be accepted as it is."""
    BUSY = auto()
    """408, 409, 425: send this record later."""
    THROTTLED = auto()
    """429: send all records later, and more slowly."""
    FAILED = auto()
    """500: the cause is the endpoint or this record."""
    UNAVAILABLE = auto()
    """502, 503, 504, and other 5xx: the endpoint has a fault."""


_KINDS: Final = {
    401: AnswerKind.UNAUTHORIZED,
    **dict.fromkeys((403, 404, 405, 410), AnswerKind.REFUSED),
    **dict.fromkeys((408, 409, 425), AnswerKind.BUSY),
    422: AnswerKind.INVALID,
    429: AnswerKind.THROTTLED,
    500: AnswerKind.FAILED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, without its body."""

    kind: AnswerKind
    status: int | None = None
    retry_after: float | None = None
    """Seconds, from 1 to 3600."""
    detail: str = ""
    """For a person: an exception's name, a redirect's target, or the fields of a 422. Never personal data."""
    date: str = ""
    """The answer's Date header, unparsed."""

    @property
    def label(self) -> str:
        """The answer in a few words, for a log line or a dead letter."""
        return f"{self.code} ({self.detail})" if self.detail else self.code

    @property
    def answered_at(self) -> float | None:
        """The time of the answer by the server's clock, in seconds since the epoch."""
        return _timestamp(self.date)

    @property
    def code(self) -> str:
        """The answer in a word."""
        return self.kind.name.lower() if self.status is None else str(self.status)


def classify(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """Classify a response. The names in `headers` must be in lower case. Never raises."""
    date = headers.get("date", "")
    if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
        return Answer(AnswerKind.DELIVERED if _is_object(body) else AnswerKind.IMPOSTOR, status, date=date)
    if status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4; a 1xx is not an answer to a POST either
        return Answer(AnswerKind.REDIRECTED, status, date=date)
    kind = _KINDS.get(status, AnswerKind.REJECTED if status < 500 else AnswerKind.UNAVAILABLE)  # noqa: PLR2004
    detail = _wrong_fields(body) if kind is AnswerKind.INVALID else ""
    return Answer(kind, status, retry_after(headers), detail, date)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After (RFC 9110, section 10.2.3) as 1 to 3600 seconds. None if it is absent or cannot be read.

    A date is compared with the answer's Date header, because clocks differ. If the answer has no Date, the date is
    compared with this machine's clock.
    """
    value = headers.get("retry-after", "")
    if match := _SECONDS.fullmatch(value):
        seconds = float(match[1])
    else:
        then, now = _timestamp(value), _timestamp(headers.get("date", ""))
        if then is None:
            return None
        seconds = then - (time.time() if now is None else now)
    return min(max(seconds, RETRY_AFTER_LEAST), RETRY_AFTER_MOST)


_SECONDS: Final = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*(?:,.*)?")
"""Some servers send a fraction. Two servers in a row send the header twice, which arrives as a list."""


def _timestamp(date: str) -> float | None:
    """Return an HTTP date in any of its three forms as seconds since the epoch."""
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _wrong_fields(body: bytes) -> str:
    """Return the names of Butter's fields in a `detail` in FastAPI's format, and no other text."""
    try:
        detail: Any = json.loads(body)["detail"]
        places = {str(place) for problem in detail for place in problem["loc"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return ", ".join(sorted(places & {*CheckoutFields.__annotations__, "ipv4_address"}))
