"""`Collector`: what the middleware tells, what the worker asks, and the counts of it."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from butter_middleware import settings
from butter_middleware.beacon import Beacon, Redeemer
from butter_middleware.checkout import Checkout, Record
from butter_middleware.client_ip import ClientIP, Strategy
from butter_middleware.client_ip.diagnosis import Diagnosis
from butter_middleware.counters import Counters, Skip
from butter_middleware.delivery import Delivery
from butter_middleware.exchange import Capture, snapshot
from butter_middleware.notes import SCOPE_KEY, Notes, plain
from butter_middleware.outbox import LocalOutbox
from butter_middleware.reading import Reader, Reading
from butter_middleware.routes import CheckoutRoute, RouteTable
from butter_middleware.status import Status
from butter_middleware.strength import carried
from butter_middleware.waiting import wait_at_most
from butter_middleware.worker import Worker

DURABLE_CAP: Final = 0.025
"""Seconds for which `durability="before_response"` holds back the last chunk at most."""


class Collector:
    """The way of a checkout into the outbox, in one process. None of what the middleware calls raises, but `snapshot`.

    Built by `Butter`, whose options its arguments are.
    """

    def __init__(  # noqa: PLR0913 - the options of the product, which Butter has checked
        self,
        routes: RouteTable,
        strategy: Strategy,
        beacon: Beacon | None,
        outbox: LocalOutbox,
        make_delivery: Callable[[Callable[[], None]], Delivery],
        *,
        optional_fields: frozenset[str],
        max_body_bytes: int,
        durability: settings.Durability,
        staging: bool,
        dry_run: bool,
        drain_timeout: float,
        join_ttl: float,
        clock: Callable[[], float],
    ) -> None:
        self.routes = routes
        self.max_body_bytes = max_body_bytes
        self.counters = Counters()
        self._diagnosis = Diagnosis(strategy)
        self._cookies = None if beacon is None else beacon.cookies
        self._waits = durability == "before_response"
        self._dry_run = dry_run
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._reader = Reader(
            routes,
            strategy,
            max_body_bytes,
            optional_fields,
            self._observe,
            None if beacon is None else Redeemer(beacon),
            staging=staging,
        )
        self.worker = Worker(
            outbox, self._read, make_delivery, self.counters, drain_timeout, lambda: clock() - join_ttl
        )

    # What `Butter` calls.

    def add(self, checkout: Checkout) -> None:
        """Take a whole checkout."""
        record = Record.of(checkout, self._clock())
        self.counters.carry(carried(record))
        if self._dry_run:
            self.counters.skip(Skip.DRY_RUN)
        else:
            self.worker.add(record)

    def record(self, request: Mapping[str, Any], fields: Mapping[str, object]) -> None:
        """Take the fields of a checkout, and the shopper's request."""
        try:
            notes: Notes | None = request.get(SCOPE_KEY)
            seen = self.snapshot(request) if notes is None else notes.request
            self.capture(
                Capture(**seen, status_code=0, response_headers=[], body=b"", annotations=plain(fields), recorded=True)
            )
        except Exception as error:  # noqa: BLE001 - it may stand inside a checkout
            self.fault(error)

    def status(self) -> Status:
        """Return how the collection goes."""
        counts = self.worker.counts()
        oldest = counts.oldest_pending_at
        at_risk = counts.captured + counts.pending + counts.parked + counts.parts if self.worker.stopped else 0
        return Status(
            captured=self.counters.captured,
            skipped=self.counters.skipped(),
            strength=self.counters.strength(),
            pending=counts.pending,
            delivered=counts.delivered,
            dead=counts.dead,
            parked=counts.parked,
            parts=counts.parts,
            lost=self.counters.lost + at_risk,
            oldest_pending_age=None if oldest is None else max(0.0, self._clock() - oldest),
            endpoint=self.worker.endpoint,
            last_delivery_at=counts.last_delivered_at,
        )

    # What the middleware calls.

    def start(self) -> None:
        """Start the worker of this process."""
        try:
            self.worker.start()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the app must start
            self.fault(error)

    def shutdown(self) -> None:
        """Bring to safety, within `drain_timeout`, what was captured; more may come afterwards."""
        try:
            self.worker.shutdown(self._drain_timeout)
        except Exception as error:  # noqa: BLE001 - the app's own shutdown must go on
            self.fault(error)

    def snapshot(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Copy from the scope what a capture needs, before the app can change it. Raises on a scope that is none."""
        return snapshot(scope, self._clock(), self._cookies)

    def capture(self, capture: Capture) -> "Future[None] | None":
        """Take a capture; give what to wait for before the last chunk leaves, if anything."""
        self.counters.capture()
        try:
            future = self.worker.append(capture)
        except BaseException:
            self.counters.lose()
            raise
        return future if self._waits else None

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait until the capture is on disk, 25 ms at most."""
        if not await wait_at_most(future, DURABLE_CAP):
            self.counters.skip("not_durable_in_time")

    def skip(self, route: CheckoutRoute, reason: Skip) -> None:
        """Count a response that is not captured."""
        self.counters.skip(reason)
        if reason in _REMEDIES:
            self.counters.say_once(f"{reason}:{route}", logging.WARNING, "%s: %s", route, _REMEDIES[reason])

    def fault(self, error: Exception) -> None:
        """Count a fault of our own, and say it without what it may quote."""
        self.counters.skip("fault")
        name = type(error).__name__
        self.counters.say_once(f"fault:{name}", logging.ERROR, "the middleware failed on a request: %s", name)

    # What the worker calls.

    def _read(self, capture: Capture) -> Reading:
        reading = self._reader.read(capture)
        self.counters.conflict(reading.conflicts)
        if reading.skipped is not None:
            self.counters.skip(reading.skipped)
        elif reading.parked is not None:
            self.counters.skip(f"parked:{reading.parked.reason}")
        detail = reading.remedy if reading.parked is None else reading.parked.detail
        if detail:
            self.counters.say_once(detail, logging.WARNING, "%s", detail)
        for record in reading.records:
            self.counters.carry(carried(record))
        if not self._dry_run:
            return reading
        self.counters.skip(Skip.DRY_RUN, len(reading.records) + (reading.part is not None))
        return Reading(skipped=Skip.DRY_RUN)

    def _observe(self, capture: Capture, address: ClientIP) -> None:
        for finding in self._diagnosis.observe(capture.scope, address):
            self.counters.say_once(f"diagnosis:{finding.code}", logging.WARNING, "%s", finding.message)


_REMEDIES: Final = {
    Skip.NOT_JSON: "the response is no JSON, so the extractor was not asked. Leave extract out and annotate instead.",
    Skip.TOO_LARGE: "the response is longer than max_body_bytes and was not captured. Raise max_body_bytes.",
    Skip.UNCAPTURABLE: "the response is a file sent by the server, whose body cannot be read. Annotate instead.",
}
