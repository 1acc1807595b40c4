"""The ratio of checkouts that became records, with a clock that the test sets."""

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


class Watched:
    """A watch with a clock, and the events that it emitted."""

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
        """Advance the clock in steps of an hour. Return the events of that time."""
        before = len(self.events)
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += min(HOUR, until - self.clock.now)
            self.look()
        return self.events[before:]


def test_responses_that_are_not_checkouts_do_not_count(make_butter: Callable[..., Butter]) -> None:
    """A refused payment is not missing evidence. A checkout without a record is, and has its reason."""
    butter = make_butter()
    buy(butter, "a", "b", "c", "refused", "text", "free")
    coverage = butter.status().coverage
    assert (coverage.covered, dict(coverage.missed)) == (3, {"not_json": 1, "parked:invalid": 1})
    assert coverage.ratio == 0.6
    assert str(coverage) == "3 of 5 checkouts became records (not: not_json 1, parked:invalid 1)"


def test_without_checkouts_there_is_no_ratio() -> None:
    """The ratio is None, and nothing is reported."""
    assert Coverage().ratio is None
    assert Watched().pass_by(3 * HOUR) == []


def test_a_dry_run_has_a_coverage(make_butter: Callable[..., Butter]) -> None:
    """This is the purpose of a dry run."""
    butter = make_butter(dry_run=True)
    buy(butter, "a", "free")
    assert butter.status().coverage.ratio == 0.5


@pytest.mark.parametrize("reason", Skip)
def test_each_reason_is_missing_evidence_or_not_a_checkout(reason: Skip) -> None:
    """A reason that a person can fix is missing evidence. The others are not checkouts."""
    watched = Watched()
    watched.dispatcher.emit(events.Skipped(reason=reason))
    assert watched.coverage.missed == ({} if reason in NO_CHECKOUT else {reason: 1})


def test_lost_and_failed_checkouts_are_missing() -> None:
    """A lost capture and a fault of a request count. Other faults are not about a checkout."""
    watched = Watched()
    watched.dispatcher.emit(events.Lost(reason="OutboxFullError"))
    for reason in ("request:KeyError", "delivery:OSError", "on_event:ValueError"):
        watched.dispatcher.emit(events.Faulted(reason=reason))
    watched.dispatcher.emit(events.Skipped(reason="no_address:ipv6_client", times=2))
    assert watched.coverage.missed == {"no_address:ipv6_client": 2, "lost": 1, "fault": 1}


def test_low_coverage_is_reported_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """There is one line for each hour in which too few became records. It is about that hour only."""
    watched = Watched()
    watched.count(covered=8, missed=2)
    (event,) = watched.pass_by(HOUR)
    assert isinstance(event, CoverageFell)
    assert event.ratio == 0.8
    assert "in the last hour 8 of 10 checkouts became records (not: parked:no_email 2)" in event.message
    watched.count(covered=100)
    assert watched.pass_by(HOUR) == []
    watched.count(missed=1)
    (event,) = watched.pass_by(2 * HOUR)
    assert isinstance(event, CoverageFell)
    assert event.ratio == 0
    lines = [record for record in caplog.records if "evidence is missing" in record.message]
    assert [line.levelno for line in lines] == [logging.WARNING, logging.WARNING]


@pytest.mark.parametrize(("threshold", "told_of"), [(0.8, 0), (0.81, 1), (0.0, 0), (1.0, 1)])
def test_the_threshold_is_configurable(threshold: float, told_of: int) -> None:
    """A warning comes below the threshold, not at it."""
    watched = Watched(threshold)
    watched.count(covered=8, missed=2)
    assert (watched.recent.is_below(threshold), len(watched.pass_by(HOUR))) == (bool(told_of), told_of)


def test_the_recent_coverage_forgets() -> None:
    """Checkouts of two hours ago do not count."""
    watched = Watched()
    watched.count(missed=5)
    assert watched.recent.ratio == 0
    watched.pass_by(HOUR)
    assert watched.recent.ratio == 0
    watched.pass_by(HOUR)
    assert watched.recent == Coverage()


def test_a_route_that_falls_silent_is_reported_once() -> None:
    """This is after a day without a record, if the route gave some before. It is repeated only after a new record."""
    watched = Watched()
    watched.count(covered=10)
    watched.count(covered=9, route="POST /rare")
    assert watched.pass_by(DAY) == []
    (event,) = watched.pass_by(2 * DAY)
    assert isinstance(event, RouteFellSilent)
    assert event.route == "POST /pay"
    assert "has given no record for a day, after 10 before" in event.message
    watched.dispatcher.emit(events.Covered(route="POST /pay"))
    assert len([event for event in watched.pass_by(3 * DAY) if isinstance(event, RouteFellSilent)]) == 1


def test_a_route_that_matched_no_request_is_reported_once() -> None:
    """This is after a day, if the app's routes cannot be listed. A route whose responses were skipped has matched."""
    watched = Watched(0.9, "POST /pay", "POST /skipped", "POST /chekout")
    watched.dispatcher.emit(events.Captured(route="POST /pay"))
    watched.dispatcher.emit(events.Skipped(route="POST /skipped", reason=Skip.STATUS))
    assert watched.pass_by(DAY - HOUR) == []
    (event,) = watched.pass_by(3 * DAY)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /chekout", "unmatched")
    assert "has matched no request for 24 hours" in event.message


def test_a_route_that_never_answers_with_a_success_is_reported_once() -> None:
    """After ten redirects without an annotation, the next check says what to do. A route that has captured is fine."""
    watched = Watched(0.9, "POST /form", "POST /pay")
    watched.dispatcher.emit(events.Captured(route="POST /pay"))
    for route in ("POST /form", "POST /pay"):
        watched.dispatcher.emit(events.Skipped(route=route, reason=Skip.STATUS, times=9))
    assert watched.pass_by(HOUR) == []
    for route in ("POST /form", "POST /pay"):
        watched.dispatcher.emit(events.Skipped(route=route, reason=Skip.STATUS))
    (event,) = watched.pass_by(12 * HOUR)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /form", "status")
    assert "10 requests" in event.message
    assert "call annotate()" in event.message


@pytest.mark.parametrize("reason", [Skip.NOT_A_CHECKOUT, Skip.GATED, Skip.NOT_PAID])
def test_a_route_that_never_finds_a_checkout_is_reported_once(reason: Skip) -> None:
    """Fifty responses were not paid checkouts, and nothing was logged. A route that gave a record is fine."""
    watched = Watched(0.9, "POST /none", "POST /pay")
    watched.count(covered=1)
    for route in ("POST /none", "POST /pay"):
        watched.dispatcher.emit(events.Captured(route=route, times=50))
        watched.dispatcher.emit(events.Skipped(route=route, reason=reason, times=49))
    assert watched.pass_by(HOUR) == []
    for route in ("POST /none", "POST /pay"):
        watched.dispatcher.emit(events.Skipped(route=route, reason=reason))
    (event,) = watched.pass_by(12 * HOUR)
    assert isinstance(event, RouteFellSilent)
    assert (event.route, event.reason) == ("POST /none", "no_checkout")
    assert f"50 responses were not paid checkouts ({reason} 50)" in event.message
    assert "correct its extract= or when=" in event.message


def test_the_pipeline_names_its_routes(make_butter: Callable[..., Butter]) -> None:
    """The leader watches the routes of its `Butter`."""
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
    """The next check comes within an hour, whatever the clock does."""
    watched = Watched()
    watched.clock.now -= 10 * DAY
    watched.count(missed=1)
    watched.look()
    assert isinstance(watched.events[-1], CoverageFell)


def test_a_running_process_checks_by_itself(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """A running process checks each hour by itself."""
    clock = Clock()
    heard: list[Event] = []
    butter = make_butter(ROUTE, clock=clock, on_event=heard.append)
    buy(butter, "free")
    clock.now += HOUR
    until(lambda: any(isinstance(event, CoverageFell) for event in heard), "the look")
    assert "evidence is missing: in the last hour 0 of 1 checkouts became records" in caplog.text


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "0.9"])
def test_the_threshold_is_checked(make_butter: Callable[..., Butter], wrong: object) -> None:
    """It must be between 0 and 1."""
    with pytest.raises(ConfigurationError, match="coverage_threshold"):
        make_butter(coverage_threshold=wrong)


def test_a_record_made_outside_a_request_does_not_count(make_butter: Callable[..., Butter]) -> None:
    """`butter.record(Checkout(...))` makes a record without a response."""
    butter = make_butter()
    butter.record(Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"))
    assert butter.status().coverage == Coverage()
