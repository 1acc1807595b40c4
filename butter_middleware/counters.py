"""What happened in this process, counted."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from threading import Lock
from typing import Final


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
        Skip.DRY_RUN,
    }
)
"""What needs no record. All other reasons are evidence that is missing."""


class Counters:
    """Counts of one process by name, route and reason; safe from any thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child, whose parent may have held the lock."""
        self._lock = Lock()
        self._counts: dict[tuple[str, str, str], int] = {}

    def add(self, name: str, route: str = "", reason: str = "", times: int = 1) -> None:
        """Count."""
        key = name, route, reason
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + times

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return all counts, by name, route and reason."""
        with self._lock:
            return dict(self._counts)

    def total(self, name: str) -> int:
        """Return how often something happened."""
        return sum(self.by_reason(name).values())

    def by_reason(self, name: str) -> Mapping[str, int]:
        """Return how often something happened by its reason, the most frequent first."""
        return self._by(name, 2)

    def by_route(self, name: str) -> Mapping[str, int]:
        """Return how often something happened by its route, the most frequent first."""
        return self._by(name, 1)

    def _by(self, name: str, part: int) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for key, count in self.counts().items():
            if key[0] == name:
                found[key[part]] += count
        return dict(found.most_common())

    def skipped(self) -> Mapping[str, int]:
        """Return how many responses became no record, by reason: parked ones too."""
        parked = {_parked(reason): count for reason, count in self.by_reason("parked").items()}
        return dict(Counter(self.by_reason("skipped")) + Counter(parked))


def missed(reason: str) -> bool:
    """Whether a response that became no record for this reason is evidence that is missing."""
    return reason not in NO_CHECKOUT


def _parked(reason: str) -> str:
    return reason if reason.startswith("no_address:") else f"parked:{reason}"
