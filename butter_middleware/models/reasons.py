"""Why a response on a checkout route became no record, and why a capture is parked."""

import logging
from enum import StrEnum
from typing import Final

from butter_middleware.events import Skipped


class Skip(StrEnum):
    """Why a response on a checkout route became no record."""

    STATUS = "status"
    """It is no 2xx."""
    UNANSWERED = "unanswered"
    """The app raised, or ended, before it began a response."""
    NOT_JSON = "not_json"
    """The route has an extractor, and the content type is no JSON."""
    TOO_LARGE = "too_large"
    """The body is longer than `max_body_bytes`."""
    INCOMPLETE = "incomplete"
    """It is a 2xx, and the app never finished it."""
    UNCAPTURABLE = "uncapturable"
    """The server sends a file by itself: the body never passes by."""
    NOT_A_CHECKOUT = "not_a_checkout"
    """The extractor gave None."""
    GATED = "gated"
    """The route's `when` said no."""
    NOT_PAID = "not_paid"
    """A preset found an object of its PSP, and none that is paid: refused, redirected, a draft, a link, an error."""
    UNRECOGNISED = "unrecognised"
    """A preset found no object of its PSP."""
    TEST_MODE = "test_mode"
    """The object is of the PSP's test mode, and this is production."""
    NOT_ANNOTATED = "not_annotated"
    """The route has no extractor, and the endpoint annotated nothing."""
    JOIN_EXPIRED = "join_expired"
    """A part of a checkout in two parts stayed alone for `join_ttl`."""
    DUPLICATE = "duplicate"
    """A record with the same PSP and IDs was taken before."""
    OTHER_ADDRESS = "other_address"
    """A record of the same checkout was taken before, with another address, which counts."""
    DRY_RUN = "dry_run"
    """It would have been sent."""


NO_CHECKOUT: Final = frozenset(
    {
        Skip.STATUS,
        Skip.UNANSWERED,
        Skip.NOT_A_CHECKOUT,
        Skip.GATED,
        Skip.NOT_PAID,
        Skip.TEST_MODE,
        Skip.JOIN_EXPIRED,  # nearly always a shopper who began and never paid
        Skip.DUPLICATE,
        Skip.OTHER_ADDRESS,
        Skip.DRY_RUN,
    }
)
"""What needs no record. All other reasons are evidence that is missing."""


SEVERAL_ADDRESSES: Final = (
    "a checkout was captured again with other IDs and another address. The first address counts, and the later record "
    "is not sent. Does a server call this route, or is its page opened again elsewhere? If several payments of one "
    "subscription are taken for one, give an invoice_id, charge_id or transaction_id with each."
)
"""The log line of `Skip.OTHER_ADDRESS`."""
EXPLAINED: Final = {
    "status": "It is not a 2xx.",
    "unanswered": "The app ended without an answer.",
    "incomplete": "The app did not finish it.",
    "not_json": "It is not JSON, so the extractor was not called.",
    "too_large": "It is longer than max_body_bytes.",
    "uncapturable": "It is a file that the server sends itself.",
    "not_a_checkout": "The extractor gave None, or nothing.",
    "gated": "The route's when= returned false.",
    "not_paid": "It holds an object of the PSP that is not paid.",
    "unrecognised": "The preset found no object of its PSP in it.",
    "test_mode": "It holds an object of the PSP's test mode.",
    "not_annotated": "The route has no extractor, and the endpoint annotated nothing.",
    "join_expired": "The other part did not come in time.",
    "duplicate": "A record with the same PSP and IDs was taken before.",
    "other_address": "A record of the same checkout was taken before, with another address.",
    "dry_run": "Butter(dry_run=True) sends nothing.",
}
"""What a reason says of the response, for a test and a sandbox, if the log says nothing of it."""


def unwanted(event: Skipped) -> bool:
    """Whether evidence is missing, or production's log warns. A refusal or a reload is neither."""
    return missed(event.reason) or (bool(event.message) and event.level >= logging.WARNING)


def missed(reason: str) -> bool:
    """Whether a response that became no record for this reason is evidence that is missing."""
    return reason not in NO_CHECKOUT


class ParkReason(StrEnum):
    """Why a capture waits for a person, or for the next start."""

    NO_ADDRESS = "no_address"
    EXTRACTOR_ERROR = "extractor_error"
    UNREADABLE = "unreadable"
    NO_EMAIL = "no_email"
    INVALID = "invalid"
    NO_ROUTE = "no_route"
    READ_ELSEWHERE = "read_elsewhere"
    """Another process served it and left it, and the leader found no checkout in it."""
    READER_DIED = "reader_died"
    """The process that read it died, twice."""
    TOO_SLOW = "too_slow"
    """The extractor did not end within a minute."""
