"""How many checkouts became records, on a clock moved by hand."""

import logging
from collections.abc import Callable

import pytest
from outboxes import Clock
from processes import until
from shops import ROUTE, SHOPPER, buy

from butter_middleware import Butter, Checkout, ConfigurationError, events
from butter_middleware.events import CoverageFell, Event, RouteFellSilent
from butter_middleware.models.reasons import NO_CHECKOUT, Skip
from butter_middleware.outbox import MemoryStore
from butter_middleware.outbox.base import Count
from butter_middleware.telemetry.counters import Tally
from butter_middleware.telemetry.coverage import Coverage, Watch
from butter_middleware.telemetry.dispatcher import EventDispatcher

HOUR, DAY = 3600.0, 86400.0


class Told:
    """A watch on a clock, and what it told."""

    def __init__(self, threshold: float = 0.9, *routes: str) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.dispatcher = EventDispatcher(self.clock, observe=self.events.append)
        self.watch = Watch(self.dispatcher, self.clock, threshold, routes)
        self._store = MemoryStore(clock=self.clock)

    @property
    def coverage(self) -> Coverage:
        return Coverage.of(self._tally(None))

    @property
    def recent(self) -> Coverage:
        return Coverage.of(self._tally(self.clock.now - HOUR))

    def _tally(self, since: float | None) -> Tally:
        self._store.count([Count(*key, times) for key, times in self.dispatcher.counters.take_unwritten().items()])
        return Tally(self._store.counted(since))

    def look(self) -> None:
        if self.watch.is_due(self.clock.now):
            self.watch.look(self.clock.now, self._tally(None), self.recent)

    def count(self, covered: int = 0, missed: int = 0, route: str = "POST /pay") -> None:
        self.dispatcher.emit(events.Covered(route=route, times=covered))
        self.dispatcher.emit(events.Parked(route=route, reason="no_email", times=missed))

    def pass_by(self, seconds: float) -> list[Event]:
        """Let the time go by, an hour at a step, and return what was told meanwhile."""
        before = len(self.events)
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += min(HOUR, until - self.clock.now)
            self.look()
        return self.events[before:]


def test_what_is_no_checkout_counts_for_nothing(make_butter: Callable[..., Butter]) -> None:
    """Refused payments are no missing evidence; a checkout that became no record is, with its reason."""
    butter = make_butter()
    buy(butter, "a", "b", "c", "refused", "text", "free")
    coverage = butter.status().coverage
    assert (coverage.covered, dict(coverage.missed)) == (3, {"not_json": 1, "parked:invalid": 1})
    assert coverage.ratio == 0.6
    assert str(coverage) == "3 of 5 checkouts became records (not: not_json 1, parked:invalid 1)"


def test_without_checkouts_there_is_no_ratio() -> None:
    """Nothing of nothing is neither good nor bad."""
    assert Coverage().ratio is None
    assert Told().pass_by(3 * HOUR) == []


def test_a_dry_run_has_a_coverage(make_butter: Callable[..., Butter]) -> None:
    """It is what a dry run is for."""
    butter = make_butter(dry_run=True)
    buy(butter, "a", "free")
    assert butter.status().coverage.ratio == 0.5


@pytest.mark.parametrize("reason", Skip)
def test_each_reason_is_evidence_or_none(reason: Skip) -> None:
    """The reasons that a person can mend are missing evidence; the others are no checkouts."""
    told = Told()
    told.dispatcher.emit(events.Skipped(reason=reason))
    assert told.coverage.missed == ({} if reason in NO_CHECKOUT else {reason: 1})


def test_what_is_lost_or_failed_is_missing() -> None:
    """A lost capture and a fault on a request count; a fault of elsewhere is no checkout."""
    told = Told()
    told.dispatcher.emit(events.Lost(reason="OutboxFullError"))
    for reason in ("request:KeyError", "delivery:OSError", "on_event:ValueError"):
        told.dispatcher.emit(events.Faulted(reason=reason))
    told.dispatcher.emit(events.Skipped(reason="no_address:ipv6_client", times=2))
    assert told.coverage.missed == {"no_address:ipv6_client": 2, "lost": 1, "fault": 1}


def test_too_little_is_said_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """One line for each hour in which too few became records, of that hour alone."""
    told = Told()
    told.count(covered=8, missed=2)
    (event,) = told.pass_by(HOUR)
    assert isinstance(event, CoverageFell)
    assert event.ratio == 0.8
    assert "in the last hour 8 of 10 checkouts became records (not: parked:no_email 2)" in event.message
    told.count(covered=100)
    assert told.pass_by(HOUR) == []
    told.count(missed=1)
    (event,) = told.pass_by(2 * HOUR)
    assert isinstance(event, CoverageFell)
    assert event.ratio == 0
    lines = [record for record in caplog.records if "evidence is missing" in record.message]
    assert [line.levelno for line in lines] == [logging.WARNING, logging.WARNING]


@pytest.mark.parametrize(("threshold", "told_of"), [(0.8, 0), (0.81, 1), (0.0, 0), (1.0, 1)])
def test_the_threshold_is_the_users(threshold: float, told_of: int) -> None:
    """At the threshold all is well, below it is not."""
    told = Told(threshold)
    told.count(covered=8, missed=2)
    assert (told.recent.is_below(threshold), len(told.pass_by(HOUR))) == (bool(told_of), told_of)


def test_the_recent_coverage_forgets() -> None:
    """What was two hours ago makes no health of today."""
    told = Told()
    told.count(missed=5)
    assert told.recent.ratio == 0
    told.pass_by(HOUR)
    assert told.recent.ratio == 0
    told.pass_by(HOUR)
    assert told.recent == Coverage()


def test_a_route_that_falls_silent_is_said_once() -> None:
    """After a day without a record, on a route that gave some before; again only after it gave one anew."""
    told = Told()
    told.count(covered=10)
    told.count(covered=9, route="POST /rare")
    assert told.pass_by(DAY) == []
    (event,) = told.pass_by(2 * DAY)
    assert isinstance(event, RouteFellSilent)
    assert event.route == "POST /pay"
    assert "has given no record for a day, after 10 before" in event.message
    told.dispatcher.emit(events.Covered(route="POST /pay"))
    assert len([event for event in told.pass_by(3 * DAY) if isinstance(event, RouteFellSilent)]) == 1


def test_a_route_that_matched_no_request_is_said_once() -> None:
    """After a day, of an app whose routes cannot be listed; a route whose responses were all skipped has matched."""
    told = Told(0.9, "POST /pay", "POST /skipped", "POST /chekout")
    told.dispatcher.emit(events.Captured(route="POST /pay"))
    told.dispatcher.emit(events.Skipped(route="POST /skipped", reason=Skip.STATUS))
    assert told.pass_by(DAY - HOUR) == []
    (event,) = told.pass_by(3 * DAY)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /chekout", "unmatched")
    assert "has matched no request for 24 hours" in event.message


def test_a_route_that_never_answers_with_a_success_is_said_once() -> None:
    """Ten redirects without an annotation: the next look says what to do. Of a route that has captured, nothing."""
    told = Told(0.9, "POST /form", "POST /pay")
    told.dispatcher.emit(events.Captured(route="POST /pay"))
    for route in ("POST /form", "POST /pay"):
        told.dispatcher.emit(events.Skipped(route=route, reason=Skip.STATUS, times=9))
    assert told.pass_by(HOUR) == []
    for route in ("POST /form", "POST /pay"):
        told.dispatcher.emit(events.Skipped(route=route, reason=Skip.STATUS))
    (event,) = told.pass_by(12 * HOUR)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /form", "status")
    assert "10 requests" in event.message
    assert "call annotate()" in event.message


@pytest.mark.parametrize("reason", [Skip.NOT_A_CHECKOUT, Skip.GATED, Skip.NOT_PAID])
def test_a_route_that_never_finds_a_checkout_is_said_once(reason: Skip) -> None:
    """Fifty responses, none a paid checkout: no line was logged of any. Of a route that gave a record, nothing."""
    told = Told(0.9, "POST /none", "POST /pay")
    told.count(covered=1)
    for route in ("POST /none", "POST /pay"):
        told.dispatcher.emit(events.Captured(route=route, times=50))
        told.dispatcher.emit(events.Skipped(route=route, reason=reason, times=49))
    assert told.pass_by(HOUR) == []
    for route in ("POST /none", "POST /pay"):
        told.dispatcher.emit(events.Skipped(route=route, reason=reason))
    (event,) = told.pass_by(12 * HOUR)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /none", "no_checkout")
    assert f"50 responses were not paid checkouts ({reason} 50)" in event.message
    assert "correct its extract= or when=" in event.message


def test_the_pipeline_names_its_routes(make_butter: Callable[..., Butter]) -> None:
    """The process that leads watches the routes of its `Butter`."""
    clock, heard = Clock(), list[Event]()
    butter = make_butter(ROUTE, clock=clock, on_event=heard.append)
    butter.pipeline.start()
    until(lambda: butter.pipeline.leads, "the lead")
    clock.now += DAY
    until(lambda: any(isinstance(event, RouteFellSilent) for event in heard), "the look")
    assert [(event.route, event.reason) for event in heard if isinstance(event, RouteFellSilent)] == [
        (ROUTE.name, "unmatched")
    ]


def test_a_clock_that_jumps_back_stops_nothing() -> None:
    """The next look is an hour away at most, whatever the clock does."""
    told = Told()
    told.clock.now -= 10 * DAY
    told.count(missed=1)
    told.look()
    assert isinstance(told.events[-1], CoverageFell)


def test_the_worker_looks(make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture) -> None:
    """In a running process the hour is looked at by itself."""
    clock = Clock()
    heard: list[Event] = []
    butter = make_butter(ROUTE, clock=clock, on_event=heard.append)
    buy(butter, "free")
    clock.now += HOUR
    until(lambda: any(isinstance(event, CoverageFell) for event in heard), "the look")
    assert "evidence is missing: in the last hour 0 of 1 checkouts became records" in caplog.text


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "0.9"])
def test_the_threshold_is_checked(make_butter: Callable[..., Butter], wrong: object) -> None:
    """It is a share."""
    with pytest.raises(ConfigurationError, match="coverage_threshold"):
        make_butter(coverage_threshold=wrong)


def test_a_record_made_outside_is_none_of_it(make_butter: Callable[..., Butter]) -> None:
    """`butter.record(Checkout(...))` is a record, and no response."""
    butter = make_butter()
    butter.record(Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"))
    assert butter.status().coverage == Coverage()
