"""One DEBUG line with the result of each checkout: `butter: POST /checkout/{cart_id} -> sent: invoice_id`."""

import logging
from collections.abc import Sequence
from typing import Final

from butter_middleware._utils import log_thread
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox.base import Outcome, Settled, Settlement
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.reader import ReadResult

_log: Final = logging.getLogger("butter_middleware")
_MOST_AWAITED: Final = 10_000
_RECORDED: Final = "butter.record()"
"""Instead of the route, for a request that matches no checkout route."""


def is_on() -> bool:
    """Whether the lines are logged. Cheap, because `logging` caches the answer."""
    return _log.isEnabledFor(logging.DEBUG)


def say(route: str, outcome: str) -> None:
    """Log the line of one checkout. It names the route's template, because a path may hold personal data."""
    if is_on():
        log_thread.log(logging.DEBUG, f"{route or _RECORDED} -> {outcome}", event="checkout")


class CheckoutLog:
    """Logs the results of captures, on the store's thread. A record is named by the kinds of its IDs.

    Args:
        sent: The word for a record that reached its destination.
        dry_run: Whether records are neither kept nor sent.
    """

    def __init__(self, sent: str, *, dry_run: bool) -> None:
        self._sent = sent
        self._dry_run = dry_run
        self._awaited: dict[int, tuple[str, str]] = {}
        """The route and the IDs' kinds of the records that this process is sending, by their numbers."""

    def resolved(self, route: str, result: ReadResult, outcomes: Sequence[Outcome], *, sends: bool) -> None:
        """Log the result of a capture. If this process sends its records, the line is logged after their answers."""
        if not is_on():
            return
        if result.parked is not None:
            say(route, f"parked: {result.skipped or result.parked.reason}")
        elif result.skipped is not None:
            say(route, f"skipped: {result.skipped}")
        elif self._dry_run:
            say(route, f"skipped: {Skip.DRY_RUN}")
        elif outcomes:
            self.added(route, outcomes, sends=sends)
        else:
            say(route, "kept: it waits for the other part of the checkout")

    def added(self, route: str, outcomes: Sequence[Outcome], *, sends: bool) -> None:
        """Log the results of added records."""
        if not is_on():
            return
        for outcome in outcomes:
            if isinstance(outcome, Skip):
                say(route, f"skipped: {outcome}")
                continue
            ids = ids_of(outcome.record)
            if sends and len(self._awaited) < _MOST_AWAITED:
                self._awaited[outcome.id] = route, ids
            else:
                say(route, f"kept: {ids}, to be sent later or by another process")

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Log the results of sent records."""
        if not self._awaited:
            return
        for settlement in settlements:
            route, ids = self._awaited.pop(settlement.id, ("", ""))
            if not ids:
                continue
            if settlement.settled is Settled.DELIVERED:
                say(route, f"{self._sent}: {ids}")
            elif settlement.settled is Settled.DEAD:
                say(route, f"dead: {settlement.reason}")
            else:
                say(route, f"kept: {ids}; Butter did not accept it yet {settlement.reason}".rstrip())
