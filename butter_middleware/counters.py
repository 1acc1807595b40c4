"""What happened in this process, counted, and said once."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from threading import Lock

log = logging.getLogger("butter_middleware")


class Skip(StrEnum):
    """Why a response on a checkout route became no record, and needs none."""

    STATUS = "status"
    """It is no 2xx."""
    NOT_JSON = "not_json"
    """The route has an extractor, and the content type is no JSON."""
    TOO_LARGE = "too_large"
    """The body is longer than `max_body_bytes`."""
    INCOMPLETE = "incomplete"
    """The app never finished it."""
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


class Counters:
    """Counts of one process, safe from any thread, and the memory of what was logged already."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a forked child, whose parent may have held the lock."""
        self._lock = Lock()
        self._skipped: Counter[str] = Counter()
        self._strength: Counter[str] = Counter()
        self._said: set[str] = set()
        self.captured = 0
        self.lost = 0

    def capture(self) -> None:
        """Count a response that was captured."""
        with self._lock:
            self.captured += 1

    def skip(self, reason: str, times: int = 1) -> None:
        """Count what was skipped, or has no address."""
        if times:
            with self._lock:
                self._skipped[reason] += times

    def conflict(self, fields: Iterable[str]) -> None:
        """Count the fields of one capture of which annotation and extractor said different values."""
        for name in fields:
            self.skip(f"conflict:{name}")
            said = "annotate() gave another %s than the extractor, whose value holds. Leave one of them out."
            self.say_once(f"conflict:{name}", logging.WARNING, said, name)

    def carry(self, ids: str) -> None:
        """Count a record by the IDs that it carries."""
        with self._lock:
            self._strength[ids] += 1

    def lose(self, times: int = 1) -> None:
        """Count what no process will ever see again."""
        with self._lock:
            self.lost += times

    def skipped(self) -> Mapping[str, int]:
        """Return how much was skipped, by reason."""
        with self._lock:
            return dict(self._skipped)

    def strength(self) -> Mapping[str, int]:
        """Return how many records carried which IDs, the most frequent first."""
        with self._lock:
            return dict(self._strength.most_common())

    def say_once(self, key: str, level: int, message: str, *args: object) -> None:
        """Log a message the first time that its key comes up in this process."""
        with self._lock:
            if key in self._said:
                return
            self._said.add(key)
        with suppress(Exception):  # a handler of the merchant's may raise, and this may stand inside a checkout
            log.log(level, message, *args)
