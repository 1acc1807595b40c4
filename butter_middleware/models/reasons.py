"""The reasons why a response on a checkout route is not a record, and why a capture is parked."""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from butter_middleware.events import Skipped


class Skip(StrEnum):
    """Why a response on a checkout route is not a record. `EXPLAINED` has the meaning of each."""

    STATUS = "status"
    UNANSWERED = "unanswered"
    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"
    INCOMPLETE = "incomplete"
    UNCAPTURABLE = "uncapturable"
    NOT_A_CHECKOUT = "not_a_checkout"
    GATED = "gated"
    NOT_PAID = "not_paid"
    UNRECOGNISED = "unrecognised"
    TEST_MODE = "test_mode"
    NOT_ANNOTATED = "not_annotated"
    JOIN_EXPIRED = "join_expired"
    DUPLICATE = "duplicate"
    OTHER_ADDRESS = "other_address"
    DRY_RUN = "dry_run"


NO_CHECKOUT: Final[Mapping[str, str]] = {
    Skip.STATUS: "It is not a 2xx.",
    Skip.UNANSWERED: "The app raised or ended without an answer.",
    Skip.NOT_A_CHECKOUT: "The extractor gave None, or nothing.",
    Skip.GATED: "The route's when= returned false.",
    Skip.NOT_PAID: "It holds an object of the PSP that is not paid.",
    Skip.TEST_MODE: "It holds an object of the PSP's test mode.",
    Skip.JOIN_EXPIRED: "The other part did not come in time.",  # nearly always the shopper began and never paid
    Skip.DUPLICATE: "A record with the same PSP and IDs was taken before.",
    Skip.OTHER_ADDRESS: "A record of the same checkout was taken before, with another address.",
    Skip.DRY_RUN: "Butter(dry_run=True) sends nothing.",
}
"""The reasons for which no record is necessary, with their meaning."""
EXPLAINED: Final[Mapping[str, str]] = {
    **NO_CHECKOUT,
    Skip.INCOMPLETE: "The app did not finish it.",
    Skip.NOT_JSON: "It is not JSON, so the extractor was not called.",
    Skip.TOO_LARGE: "It is longer than max_body_bytes.",
    Skip.UNCAPTURABLE: "It is a file that the server sends itself.",
    Skip.UNRECOGNISED: "The preset found no object of its PSP in it.",
    Skip.NOT_ANNOTATED: "The route has no extractor, and the endpoint annotated nothing.",
}
"""The meaning of each reason. A test and a sandbox show it if nothing was logged. A reason that is not in
`NO_CHECKOUT` means that evidence is missing."""
SEVERAL_ADDRESSES: Final = (
    "a checkout was captured again with other IDs and another address. The first address counts, and the later record "
    "is not sent. Does a server call this route, or is its page opened again elsewhere? If several payments of one "
    "subscription are taken for one, give an invoice_id, charge_id or transaction_id with each."
)
"""The log line of `Skip.OTHER_ADDRESS`."""


def unwanted(event: Skipped) -> bool:
    """Whether evidence is missing, or the log warns in production. A refusal or a reload is neither."""
    return missed(event.reason) or (bool(event.message) and event.level >= logging.WARNING)


def missed(reason: str) -> bool:
    """Whether evidence is missing if a response is not a record for this reason."""
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
    """Another process served it and did not read it, and the leader found no checkout in it."""
    READER_DIED = "reader_died"
    """Two processes died while they read it."""
    TOO_SLOW = "too_slow"
    """The extractor did not end within a minute."""
