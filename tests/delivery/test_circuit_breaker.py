"""The circuit breaker is a pure state machine: its input is answers and a clock, its output states and settlements."""

import logging
from collections.abc import Callable, Iterable

import pytest

from butter_middleware.delivery.circuit_breaker import BUTTER, MOST_STOPPED, QUEUE, BreakerState, CircuitBreaker, Target
from butter_middleware.events import EndpointChanged
from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Pending, Settled, Settlement

NOW = 1_000_000.0
DAY, HOUR = 86_400.0, 3_600.0


def answered(status: int, retry_after: float | None = None) -> Answer:
    """Return Butter's answer with a status."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return classify(status, headers, b"{}")


DELIVERED, UNAVAILABLE, BUSY = answered(200), answered(503), answered(409)
STRANGER = classify(200, {}, b"<html>")
INTERRUPTED, UNTRUSTED, STALLED = map(Answer, [AnswerKind.INTERRUPTED, AnswerKind.UNTRUSTED, AnswerKind.STALLED])
UNREACHABLE = Answer(AnswerKind.UNREACHABLE)


def middle(least: float, most: float) -> float:
    return (least + most) / 2


def lowest(least: float, _most: float) -> float:
    return least


def highest(_least: float, most: float) -> float:
    return most


class Endpoint:
    """A circuit breaker with a manual clock."""

    def __init__(
        self, senders: int = 4, uniform: Callable[[float, float], float] = middle, target: Target = BUTTER
    ) -> None:
        self.now = 0.0
        self.told: list[EndpointChanged] = []
        self.breaker = CircuitBreaker(
            senders, lambda: NOW + self.now, lambda: self.now, self.told.append, target, uniform
        )

    def record(
        self, answers: Answer | Iterable[Answer], key: str = "r", attempts: int = 0, captured_at: float = NOW
    ) -> list[Settlement]:
        """Record the answers of one record after another, and return the settlements of the last one."""
        settled: list[Settlement] = []
        for answer in [answers] if isinstance(answers, Answer) else answers:
            settled = self.breaker.record(pending(key, attempts, captured_at), answer)
        return settled

    def state(self) -> BreakerState:
        """Return the state."""
        return self.breaker.state

    def changed_at(self) -> float | None:
        """Return when it became healthy or unhealthy."""
        return self.breaker.changed_at

    def admitted(self) -> int:
        """Return how many records may be sent at once."""
        in_flight = 0
        while in_flight < 100 and self.breaker.admit(in_flight):
            in_flight += 1
        return in_flight

    def waits(self) -> float:
        """Return the seconds until the next record may be sent, and send one then."""
        seconds = self.breaker.seconds_to_wait()
        if seconds:
            self.now += seconds * 0.999
            assert not self.breaker.admit(0)
        self.now += seconds * 0.001 + 1e-6
        assert self.breaker.admit(0)
        assert not self.breaker.admit(1)
        return round(seconds, 3)


def pending(key: str = "r", attempts: int = 0, captured_at: float = NOW) -> Pending:
    return Pending(int.from_bytes(key.encode()[:4]), Record(key, "{}", captured_at), attempts)


# Records that are stopped.


def test_its_memory_of_stopped_records_is_limited() -> None:
    """Another process may send them, and this one would never hear of them again."""
    endpoint = Endpoint()
    for number in range(3 * MOST_STOPPED):
        endpoint.record(INTERRUPTED, f"stopped {number}")
        endpoint.record(DELIVERED, f"delivered {number}")
    assert 0 < len(endpoint.breaker._stopped) <= MOST_STOPPED


# Closed, open, half-open.


@pytest.mark.parametrize("answer", [UNAVAILABLE, UNREACHABLE, INTERRUPTED, answered(502), answered(504), answered(507)])
def test_the_fifth_failure_in_a_row_opens(answer: Answer) -> None:
    """Four failures do not, and an accepted record restarts the count. No attempt is counted for a record."""
    endpoint = Endpoint()
    for _time in range(3):
        assert [s.settled for s in endpoint.record([answer] * 4)] == [Settled.RELEASED]
        assert (endpoint.state(), endpoint.admitted()) == (BreakerState.OK, 4)
        endpoint.record(DELIVERED)
    (settled,) = endpoint.record([answer] * 5)
    # It is due at the next probe. A record that is due earlier becomes the probe.
    assert (settled.settled, settled.due_at, settled.reason) == (Settled.RELEASED, NOW + 5, "")
    assert endpoint.state() is BreakerState.OPEN
    assert endpoint.breaker.ill
    assert endpoint.admitted() == 0


@pytest.mark.parametrize(
    ("uniform", "factor"), [(lowest, 0.9), (middle, 1.0), (highest, 1.1)], ids=["lowest", "middle", "highest"]
)
def test_probes_back_off_to_five_minutes(uniform: Callable[[float, float], float], factor: float) -> None:
    """Probes follow after 5, 10, 20, 40, 80, 160 and 300 seconds, ten per cent more or less."""
    endpoint = Endpoint(uniform=uniform)
    endpoint.record([UNAVAILABLE] * 5)
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300, 300]:
        assert endpoint.waits() == pytest.approx(seconds * factor)
        assert endpoint.state() is BreakerState.HALF_OPEN
        endpoint.record(UNAVAILABLE)
        assert endpoint.state() is BreakerState.OPEN


def test_a_queue_is_probed_sooner() -> None:
    """A queue is near, and records are only in memory meanwhile: probes follow after 1, 2, 4 and 5 seconds."""
    endpoint = Endpoint(target=QUEUE)
    endpoint.record([UNREACHABLE] * 5)
    for seconds in [1, 2, 4, 5, 5]:
        assert endpoint.waits() == seconds
        endpoint.record(UNREACHABLE)


def test_after_an_outage_the_concurrency_grows() -> None:
    """One at a time, then two, then four. The next outage is probed after 5 seconds again."""
    endpoint = Endpoint(senders=6)
    endpoint.record([UNAVAILABLE] * 5)
    for _probe in range(3):
        endpoint.waits()
        endpoint.record(UNAVAILABLE)
    endpoint.waits()
    allowed: list[int] = []
    for _record in range(8):
        endpoint.record(DELIVERED)
        allowed.append(endpoint.admitted())
    assert allowed == [1, 2, 2, 4, 4, 4, 4, 6]
    endpoint.record([UNAVAILABLE] * 5)
    assert endpoint.waits() == 5


@pytest.mark.parametrize("answers", [[UNAVAILABLE] * 5, [answered(401)]], ids=["outage", "hold"])
def test_records_accepted_before_a_fault_do_not_count_for_the_growth(answers: list[Answer]) -> None:
    """Any concurrency before: after the fault it is one, for two records."""
    endpoint = Endpoint()
    endpoint.record([DELIVERED] * 3)
    endpoint.record(answers)
    endpoint.waits()
    endpoint.record(DELIVERED)
    assert endpoint.admitted() == 1
    endpoint.record(DELIVERED)
    assert endpoint.admitted() == 2


def test_a_throttled_probe_keeps_the_concurrency_at_one() -> None:
    """It is still one after the pause."""
    endpoint = Endpoint(senders=8)
    endpoint.record([UNAVAILABLE] * 5)
    endpoint.waits()
    endpoint.record(answered(429))
    endpoint.now += 60
    assert (endpoint.admitted(), endpoint.state()) == (1, BreakerState.OK)


def test_answers_to_records_in_flight_are_not_probes() -> None:
    """Twenty connections that break at once do not delay the first probe."""
    endpoint = Endpoint(senders=20)
    endpoint.record([INTERRUPTED] * 20)
    assert endpoint.waits() == 5
    endpoint.record(INTERRUPTED)
    assert endpoint.waits() == 10


@pytest.mark.parametrize(("retry_after", "seconds"), [(1, 5), (5, 5), (30, 30), (3600, 3600), (9999, 3600)])
def test_retry_after_delays_the_first_probe(retry_after: float, seconds: float) -> None:
    """A 503 may ask for a longer wait than the probe's own, not for a shorter one, and for an hour at most."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 4 + [answered(503, retry_after)])
    assert endpoint.waits() == seconds


def test_an_untrusted_certificate_opens_at_once() -> None:
    """It is logged at CRITICAL, and probed every five minutes."""
    endpoint = Endpoint()
    endpoint.record(UNTRUSTED)
    assert endpoint.state() is BreakerState.OPEN
    assert [(told.level, told.reason) for told in endpoint.told] == [(logging.CRITICAL, "untrusted")]
    for _probe in range(4):
        assert endpoint.waits() == 300
        endpoint.record(UNTRUSTED)


def test_a_stall_of_our_own_is_not_a_failure() -> None:
    """A frozen function never opens the breaker. Its record is retried at once, and the state does not change."""
    endpoint = Endpoint()
    (settled,) = endpoint.record([STALLED] * 20)
    assert (settled.settled, settled.due_at) == (Settled.RELEASED, 0.0)
    assert (endpoint.state(), endpoint.admitted(), endpoint.told) == (BreakerState.OK, 4, [])
    endpoint.record([UNAVAILABLE] * 4 + [STALLED])
    assert endpoint.state() is BreakerState.OK
    endpoint.record(UNAVAILABLE)
    assert endpoint.waits() == 5
    endpoint.record(STALLED)
    assert endpoint.state() is BreakerState.HALF_OPEN
    assert endpoint.breaker.admit(0)


@pytest.mark.parametrize("answer", [BUSY, STRANGER, answered(422)], ids=["busy", "stranger", "invalid"])
def test_after_a_probe_that_proves_nothing_another_one_follows_later(answer: Answer) -> None:
    """While half-open, an answer about one record admits no other record at once."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 5)
    endpoint.waits()
    endpoint.record(answer)
    assert endpoint.waits() == 10


def test_only_an_admitted_record_is_a_probe() -> None:
    """An open breaker becomes half-open when a record is sent, not when `admit` is called."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 5)
    endpoint.now = 5.0
    assert not endpoint.breaker.admit(1)
    assert endpoint.state() is BreakerState.OPEN
    assert endpoint.breaker.admit(0)
    assert endpoint.state() is BreakerState.HALF_OPEN
    assert endpoint.record(DELIVERED)[0].settled is Settled.DELIVERED
    assert endpoint.state() is BreakerState.OK


def test_a_record_that_may_not_be_sent_yet_gets_a_later_time() -> None:
    """A queue's consumer gets the time for its next try, a second away at least."""
    endpoint = Endpoint()
    assert endpoint.breaker.not_now(pending()) == Settlement(114, Settled.RELEASED, NOW + 1.0)
    endpoint.record([UNAVAILABLE] * 5)
    endpoint.now = 0.5
    assert endpoint.breaker.not_now(pending()) == Settlement(114, Settled.RELEASED, NOW + 5.0)
    endpoint.now = 4.5
    assert endpoint.breaker.not_now(pending()) == Settlement(114, Settled.RELEASED, NOW + 5.5)


# Paused.


def test_a_429_pauses_for_a_minute_and_halves() -> None:
    """The pause is a minute without Retry-After. Afterwards half as many records are in flight, one at least."""
    endpoint = Endpoint(senders=4)
    for limit in [2, 1, 1]:
        (settled,) = endpoint.record(answered(429))
        assert (settled.settled, settled.due_at) == (Settled.RELEASED, 0.0)
        assert endpoint.state() is BreakerState.PAUSED
        assert endpoint.breaker.seconds_to_wait() == 60
        endpoint.now += 59.999
        assert endpoint.admitted() == 0
        endpoint.now += 0.001
        assert (endpoint.admitted(), endpoint.state()) == (limit, BreakerState.OK)


def test_one_pause_halves_once() -> None:
    """Four records in flight get four times 429. They count as one answer."""
    endpoint = Endpoint(senders=4)
    endpoint.record([answered(429)] * 4)
    endpoint.now = 60
    assert endpoint.admitted() == 2


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        (answered(429, 10), answered(429, 120), 120),
        (answered(429, 120), answered(429, 10), 120),
        (answered(429, 10), answered(429), 60),
        (answered(429, 10), answered(503, 120), 120),
        (answered(429, 120), answered(503, 10), 120),
        (answered(429, 120), UNREACHABLE, 120),
        (answered(429, 120), UNTRUSTED, 300),
        (answered(429, 120), answered(401), 120),
    ],
)
def test_a_retry_after_during_a_pause_is_kept(first: Answer, second: Answer, seconds: float) -> None:
    """The longest wait counts, whatever else is answered meanwhile."""
    endpoint = Endpoint()
    endpoint.record([first, second])
    assert endpoint.breaker.seconds_to_wait() == pytest.approx(seconds)


def test_a_record_in_flight_does_not_end_a_pause() -> None:
    """Butter may accept a record at the time of a 429. Retry-After still applies, and half the concurrency after it."""
    endpoint = Endpoint(senders=4)
    endpoint.record([DELIVERED] * 3)
    assert [s.settled for s in endpoint.record([answered(429, 120), DELIVERED])] == [Settled.DELIVERED]
    assert (endpoint.state(), endpoint.breaker.seconds_to_wait(), endpoint.admitted()) == (BreakerState.PAUSED, 120, 0)
    endpoint.now = 120
    assert (endpoint.admitted(), endpoint.state()) == (2, BreakerState.OK)
    endpoint.record(DELIVERED)
    assert endpoint.admitted() == 2


@pytest.mark.parametrize("first", [UNTRUSTED, answered(401)])
def test_a_wait_that_ended_early_delays_no_later_probe(first: Answer) -> None:
    """Records are accepted after all, and then Butter is away. The first probe follows after 5 seconds."""
    endpoint = Endpoint()
    endpoint.record(first)
    endpoint.now = 1
    endpoint.record([DELIVERED] + [UNAVAILABLE] * 5)
    assert endpoint.waits() == 5


# On hold.


HOLDING = {
    "unauthorized": [answered(401)],
    "redirect": [answered(302)],
    "invalid": [answered(422)] * 5,
    "strangers": [STRANGER] * 3,
}


@pytest.mark.parametrize("why", HOLDING)
def test_which_answers_cause_a_hold(why: str) -> None:
    """The last of these answers causes the hold, no earlier one does. It is logged once, at CRITICAL."""
    endpoint = Endpoint()
    endpoint.record(HOLDING[why][:-1])
    assert (endpoint.state(), endpoint.told, endpoint.breaker.hold_reason) == (BreakerState.OK, [], None)
    (settled,) = endpoint.record(HOLDING[why][-1])
    assert settled.settled is Settled.RELEASED
    assert endpoint.state() is BreakerState.HOLD
    assert [told.level for told in endpoint.told] == [logging.CRITICAL]
    assert endpoint.breaker.hold_reason == HOLDING[why][-1].label
    endpoint.record(HOLDING[why] * 3)
    assert len(endpoint.told) == 1
    assert endpoint.waits() == 5


def test_the_first_probe_of_a_hold_follows_after_5_seconds() -> None:
    """An earlier outage, whose probes had backed off, makes no difference."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 5)
    for _probe in range(6):
        endpoint.waits()
        endpoint.record(UNAVAILABLE)
    endpoint.waits()
    endpoint.record(answered(401))
    assert endpoint.waits() == 5


@pytest.mark.parametrize("why", HOLDING)
def test_an_accepted_record_restarts_the_count(why: str) -> None:
    """Two foreign answers, one of Butter's, two foreign ones again: Butter still answers."""
    endpoint = Endpoint()
    for _time in range(3):
        endpoint.record([*HOLDING[why][:-1], DELIVERED])
    assert (endpoint.state(), endpoint.told) == (BreakerState.OK, [])


def test_a_422_is_dead_until_it_is_the_fifth() -> None:
    """The fifth in a row is our fault. It is kept, and due later, so that another record is the next probe."""
    endpoint = Endpoint()
    for number in range(4):
        (dead,) = endpoint.record(answered(422), key=f"r{number}")
        assert (dead.settled, dead.reason) == (Settled.DEAD, "422")
    (kept,) = endpoint.record(answered(422))
    assert kept == Settlement(114, Settled.RELEASED, NOW + 45.0)


@pytest.mark.parametrize(
    "probe",
    [
        answered(403),
        answered(500),
        answered(400),
        answered(422),
        answered(503),
        answered(302),
        BUSY,
        STRANGER,
        UNREACHABLE,
    ],
    ids=lambda probe: probe.code,
)
def test_probes_of_a_hold_back_off_even_if_the_ping_succeeds(probe: Answer) -> None:
    """The ping shows correct credentials, but the record is not accepted: 5, 10 ... 300 seconds as before."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300]:
        assert endpoint.waits() == seconds
        assert not endpoint.breaker.ping_failed(DELIVERED)
        endpoint.record(probe)
        assert endpoint.state() is BreakerState.HOLD


@pytest.mark.parametrize(
    "ping", [answered(401), answered(302), answered(500), answered(503), UNREACHABLE, INTERRUPTED, UNTRUSTED]
)
def test_probes_of_a_hold_back_off_with_pings_alone(ping: Answer) -> None:
    """While the ping fails, no record is tried."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    for seconds in [5, 10, 20, 40, 80, 160, 300, 300]:
        assert endpoint.waits() == seconds
        assert endpoint.breaker.ping_failed(ping)
    assert endpoint.state() is BreakerState.HOLD


@pytest.mark.parametrize("ping", [DELIVERED, answered(403), answered(404), answered(405), answered(499), STRANGER])
def test_a_ping_that_butter_answers_admits_a_record(ping: Answer) -> None:
    """Only the record shows the cause: a ping that is not allowed proves nothing."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    endpoint.waits()
    assert not endpoint.breaker.ping_failed(ping)
    assert endpoint.breaker.admit(0)


def test_a_ping_during_a_stall_proves_nothing() -> None:
    """The next one follows at once."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    endpoint.waits()
    assert endpoint.breaker.ping_failed(STALLED)
    assert endpoint.breaker.admit(0)


def test_a_429_during_a_hold_delays_the_probe() -> None:
    """The hold stays, and the pause applies: a minute, or Retry-After."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    endpoint.waits()
    endpoint.record(answered(429))
    assert endpoint.state() is BreakerState.HOLD
    assert endpoint.waits() == 60
    endpoint.record(answered(429, 700))
    assert endpoint.waits() == 700


def test_an_accepted_record_ends_a_hold() -> None:
    """It is logged. Then the concurrency grows from one, and the next hold is probed after 5 seconds again."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    for _probe in range(3):
        endpoint.waits()
        endpoint.record(answered(401))
    endpoint.waits()
    endpoint.record(DELIVERED)
    assert (endpoint.state(), endpoint.breaker.hold_reason, endpoint.breaker.ill) == (BreakerState.OK, None, False)
    assert [(told.state, told.level) for told in endpoint.told] == [("hold", 50), ("ok", 30)]
    assert endpoint.admitted() == 1
    endpoint.record(answered(401))
    assert [told.state for told in endpoint.told] == ["hold", "ok", "hold"]
    assert endpoint.waits() == 5


def test_an_operator_ends_the_wait() -> None:
    """The next record is tried at once. If it fails, the probes begin at 5 seconds again."""
    endpoint = Endpoint()
    endpoint.record(answered(401))
    for _probe in range(5):
        endpoint.waits()
        endpoint.record(answered(401))
    endpoint.breaker.probe_now()
    assert endpoint.waits() == 0
    assert endpoint.state() is BreakerState.HOLD
    endpoint.record(answered(401))
    assert endpoint.waits() == 5


def test_a_hold_continues_after_a_restart() -> None:
    """One probe is sent at once. The hold is logged as a warning, and not again at CRITICAL."""
    endpoint = Endpoint()
    endpoint.breaker.resume_hold("401 (unauthorized)")
    assert [(told.level, told.reason) for told in endpoint.told] == [(logging.WARNING, "401")]
    assert endpoint.breaker.hold_reason == "401 (unauthorized)"
    assert endpoint.waits() == 0
    endpoint.record(answered(401))
    assert (endpoint.state(), len(endpoint.told)) == (BreakerState.HOLD, 1)
    assert endpoint.waits() == 5
    endpoint.record(DELIVERED)
    assert endpoint.admitted() == 1


@pytest.mark.parametrize(("reason", "settled"), [("422 (psp)", Settled.RELEASED), ("401", Settled.DEAD)])
def test_after_a_restart_a_hold_of_invalid_records_kills_no_more(reason: str, settled: Settled) -> None:
    """A restart does not restart the count of five."""
    endpoint = Endpoint()
    endpoint.breaker.resume_hold(reason)
    endpoint.waits()
    assert [s.settled for s in endpoint.record(answered(422))] == [settled]


# A suspect, and the record that decides about it.


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 413, 415, 418, 500])
def test_a_suspect_waits_for_the_answer_of_another_record(status: int) -> None:
    """Nothing is settled yet, and one record at a time is admitted. If it is accepted, the suspect gets an attempt."""
    endpoint = Endpoint()
    assert endpoint.record(answered(status), key="bad") == []
    assert (endpoint.breaker.suspects, endpoint.admitted(), endpoint.state()) == (1, 1, BreakerState.OK)
    good, bad = endpoint.record(DELIVERED, key="good")
    assert (good.settled, good.id) == (Settled.DELIVERED, pending("good").id)
    assert (bad.settled, bad.id, bad.reason) == (Settled.RETRY, pending("bad").id, str(status))
    assert (endpoint.breaker.suspects, endpoint.admitted()) == (0, 4)


@pytest.mark.parametrize("status", [400, 403, 500])
def test_during_a_pause_a_refused_record_is_not_a_fault_of_the_system(status: int) -> None:
    """Its answer came after a 429, and no other record shows the cause before the pause ends. It is sent again."""
    endpoint = Endpoint()
    endpoint.record(answered(429))
    for _ in range(5):
        assert endpoint.record(answered(status)) == [Settlement(114, Settled.RELEASED, NOW + 45, key="r")]
    assert (endpoint.state(), endpoint.breaker.suspects, endpoint.admitted()) == (BreakerState.PAUSED, 0, 0)
    assert endpoint.breaker.seconds_to_wait() == 60


@pytest.mark.parametrize(
    ("status", "attempts", "age", "settled"),
    [
        (400, 2, HOUR, Settled.DEAD),
        (400, 1, HOUR, Settled.RETRY),
        (400, 2, HOUR - 0.01, Settled.RETRY),
        (403, 2, HOUR, Settled.DEAD),
        (403, 1, DAY, Settled.RETRY),
        (403, 2, HOUR - 0.01, Settled.RETRY),
        (500, 11, DAY, Settled.DEAD),
        (500, 10, DAY, Settled.RETRY),
        (500, 11, DAY - 0.01, Settled.RETRY),
    ],
)
def test_how_often_and_how_long_a_suspect_is_tried(status: int, attempts: int, age: float, settled: Settled) -> None:
    """Three times over an hour. For a 500, twelve times over a day."""
    endpoint = Endpoint()
    endpoint.record(answered(status), "bad", attempts, NOW - age)
    assert endpoint.record(DELIVERED)[1].settled is settled


@pytest.mark.parametrize(
    ("status", "state"),
    [(400, BreakerState.HOLD), (403, BreakerState.HOLD), (415, BreakerState.HOLD), (500, BreakerState.OPEN)],
)
def test_two_suspects_in_a_row_are_a_fault_of_the_system(status: int, state: BreakerState) -> None:
    """Neither gets an attempt. Both are due later, so that another record is the next probe."""
    endpoint = Endpoint()
    endpoint.record(answered(status), key="one")
    settlements = endpoint.record(answered(status), key="two")
    assert [(s.settled, s.due_at, s.id) for s in settlements] == [
        (Settled.RELEASED, NOW + 45.0, pending("two").id),
        (Settled.RELEASED, NOW + 45.0, pending("one").id),
    ]
    assert (endpoint.state(), endpoint.breaker.suspects) == (state, 0)
    assert endpoint.waits() == 5


@pytest.mark.parametrize(
    ("answer", "due_at"),
    [
        *((UNAVAILABLE, 0.0), (answered(401), 0.0), (answered(429), 0.0), (STALLED, 0.0)),
        *((answered(302), NOW + 5), (UNTRUSTED, NOW + 60)),
    ],
)
def test_a_suspect_is_released_if_the_answer_is_about_the_system(answer: Answer, due_at: float) -> None:
    """No attempt is counted for any record."""
    endpoint = Endpoint()
    endpoint.record(answered(500), key="bad")
    other, bad = endpoint.record(answer, key="other")
    assert (other.settled, other.due_at) == (Settled.RELEASED, due_at)
    assert bad == Settlement(pending("bad").id, Settled.RELEASED, NOW + 45.0)


@pytest.mark.parametrize("answer", [BUSY, STRANGER, answered(422)])
def test_a_suspect_waits_longer_if_the_answer_is_about_another_record(answer: Answer) -> None:
    """The answer neither accepts the record nor shows a fault of the system."""
    endpoint = Endpoint()
    endpoint.record(answered(500), key="bad")
    assert [s.id for s in endpoint.record(answer, key="other")] == [pending("other").id]
    assert endpoint.breaker.suspects == 1


@pytest.mark.parametrize(("seconds", "settled"), [(2.4, [Settled.RETRY]), (2.6, [Settled.RELEASED] * 2)])
def test_others_were_accepted_while_it_waited(seconds: float, settled: list[Settled]) -> None:
    """On its second try a record gets an attempt at once, if others were accepted within half its first wait of 5 s."""
    endpoint = Endpoint()
    endpoint.now = 100.0
    endpoint.record(DELIVERED)
    endpoint.record(answered(500), key="one")
    endpoint.now += seconds
    assert [s.settled for s in endpoint.record(answered(500), "two", attempts=1)] == settled


# Alone: there is no other record to send.


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize("attempts", [0, 1])
def test_a_lone_suspect_is_tried_again(status: int, attempts: int) -> None:
    """No other record can show where the fault is, so it is retried with its own backoff."""
    endpoint = Endpoint()
    endpoint.record(answered(status), attempts=attempts)
    (settled,) = endpoint.breaker.alone()
    assert (settled.settled, settled.due_at) == (Settled.RETRY, NOW + 3.75 * 2**attempts)
    assert (endpoint.breaker.suspects, endpoint.state()) == (0, BreakerState.OK)
    assert endpoint.breaker.alone() == []


@pytest.mark.parametrize(("status", "state"), [(400, BreakerState.HOLD), (403, BreakerState.HOLD)])
def test_a_lone_record_that_is_refused_three_times_holds(status: int, state: BreakerState) -> None:
    """It does not become dead, because the configuration may be wrong."""
    endpoint = Endpoint()
    endpoint.record(answered(status), attempts=2, captured_at=NOW - DAY)
    (settled,) = endpoint.breaker.alone()
    assert (settled.settled, endpoint.state()) == (Settled.RELEASED, state)


@pytest.mark.parametrize("attempts", [*range(30), 1000])
def test_a_lone_record_that_gets_500_never_causes_a_hold(attempts: int) -> None:
    """It does not become dead at any age. It is retried with its own backoff."""
    endpoint = Endpoint()
    endpoint.record(answered(500), attempts=attempts, captured_at=NOW - 90 * DAY)
    (settled,) = endpoint.breaker.alone()
    assert settled.settled is Settled.RETRY
    assert (endpoint.state(), endpoint.told) == (BreakerState.OK, [])


@pytest.mark.parametrize(("status", "state"), [(403, BreakerState.HOLD), (500, BreakerState.OPEN)])
def test_five_lone_records_in_a_row_are_a_fault_of_the_system(status: int, state: BreakerState) -> None:
    """Five different ones, with no accepted one between. Five tries of one record are still one."""
    endpoint = Endpoint()
    for _time in range(10):
        endpoint.record(answered(status), key="same")
        endpoint.breaker.alone()
    for number in range(3):
        endpoint.record(answered(status), key=f"r{number}")
        assert [s.settled for s in endpoint.breaker.alone()] == [Settled.RETRY]
    assert endpoint.state() is BreakerState.OK
    endpoint.record(answered(status), key="last")
    assert [s.settled for s in endpoint.breaker.alone()] == [Settled.RELEASED]
    assert endpoint.state() is state


def test_an_accepted_record_restarts_the_count_of_lone_suspects() -> None:
    """Four lone suspects, one accepted, four again: this is not a fault of the system."""
    endpoint = Endpoint()
    for time in range(3):
        for number in range(4):
            endpoint.record(answered(500), key=f"r{time}{number}")
            endpoint.breaker.alone()
        endpoint.record(DELIVERED)
    assert (endpoint.state(), endpoint.told) == (BreakerState.OK, [])


def test_a_lone_suspect_may_become_dead_if_others_were_accepted() -> None:
    """They were accepted while it waited for this try, so the fault is its own."""
    endpoint = Endpoint()
    endpoint.record(DELIVERED)
    endpoint.record(answered(400), attempts=2, captured_at=NOW - HOUR)
    (settled,) = endpoint.breaker.alone()
    assert (settled.settled, settled.reason) == (Settled.DEAD, "400")


# The wait of one record.


@pytest.mark.parametrize(
    ("attempts", "backoff"),
    [(0, 5), (1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (11, 3600), (20, 3600), (5000, 3600)],
)
@pytest.mark.parametrize(("uniform", "factor"), [(lowest, 0.5), (middle, 0.75), (highest, 1.0)])
def test_the_backoff_of_a_record(
    attempts: int, backoff: float, uniform: Callable[[float, float], float], factor: float
) -> None:
    """5, 10, 20 seconds up to an hour. Half is fixed and half is random, so it is between half and the whole."""
    endpoint = Endpoint(uniform=uniform)
    (settled,) = endpoint.record(BUSY, attempts=attempts)
    assert settled == Settlement(114, Settled.RETRY, NOW + backoff * factor, "409")


@pytest.mark.parametrize(("retry_after", "seconds"), [(1, 3.75), (3, 3.75), (30, 30), (9999, 3600)])
def test_retry_after_lengthens_the_wait_of_a_record(retry_after: float, seconds: float) -> None:
    """It never makes it shorter."""
    (settled,) = Endpoint().record(answered(409, retry_after))
    assert settled.due_at == NOW + seconds


@pytest.mark.parametrize(("uniform", "seconds"), [(lowest, 30), (highest, 60)])
def test_a_released_record_is_due_half_a_minute_later(uniform: Callable[[float, float], float], seconds: float) -> None:
    """Up to a minute, so that not all come at once."""
    (settled,) = Endpoint(uniform=uniform).record(STRANGER)
    assert (settled.settled, settled.due_at) == (Settled.RELEASED, NOW + seconds)


# Events.


def test_each_change_is_reported_once() -> None:
    """Half-open is not reported. A worse reason in the same state is."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 5)
    for _probe in range(3):
        endpoint.waits()
        endpoint.record(UNAVAILABLE)
    endpoint.waits()
    endpoint.record([UNTRUSTED] * 2)
    endpoint.waits()
    endpoint.record([DELIVERED] * 3)
    endpoint.record(answered(429))
    endpoint.now += 60
    endpoint.breaker.admit(0)
    for _ in range(5):
        endpoint.record(UNAVAILABLE)
    endpoint.waits()
    endpoint.record(DELIVERED)
    assert [(told.before, told.state, told.reason, told.level) for told in endpoint.told] == [
        ("ok", "open", "503", logging.WARNING),
        ("open", "open", "untrusted", logging.CRITICAL),
        ("open", "ok", "", logging.WARNING),
        ("ok", "paused", "429", logging.INFO),
        ("paused", "ok", "", logging.INFO),
        ("ok", "open", "503", logging.WARNING),
        ("open", "ok", "", logging.INFO),
    ]
    assert "Butter does not answer (503); records wait" in endpoint.told[0].message
    assert endpoint.told[2].message == "Butter: records are accepted again"
    assert endpoint.told[3].message == ""


def test_changed_at() -> None:
    """The wall-clock time of the last change between healthy and unhealthy. A worse reason does not change it."""
    endpoint = Endpoint()
    assert endpoint.changed_at() is None
    endpoint.now = 7.0
    endpoint.record([UNAVAILABLE] * 5)
    assert endpoint.changed_at() == NOW + 7.0
    endpoint.now = 12.0
    endpoint.record(UNTRUSTED)
    assert endpoint.changed_at() == NOW + 7.0
    endpoint.record(DELIVERED)
    assert endpoint.changed_at() == NOW + 12.0
