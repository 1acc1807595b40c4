"""What the worker relies on, the same of the outbox in memory and of the one on disk."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from outboxes import NOW, Clock, bodies, capture, invoices, record, result, settle_all

from butter_middleware import Checkout, MemoryOutbox, SQLiteOutbox
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Counts, LocalOutbox, Parked, Pending, Settled, Settlement

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def clock() -> Clock:
    return Clock()


def in_memory(_folder: Path, clock: Clock) -> LocalOutbox:
    return MemoryOutbox(clock=clock)


def on_disk(folder: Path, clock: Clock) -> LocalOutbox:
    return SQLiteOutbox(folder / "butter.db", clock=clock)


@pytest.fixture(params=[in_memory, on_disk])
def outbox(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[LocalOutbox]:
    make: Callable[[Path, Clock], LocalOutbox] = request.param
    outbox = make(tmp_path, clock)
    outbox.open()
    assert outbox.lead()
    yield outbox
    outbox.close()


def counted(outbox: LocalOutbox) -> tuple[int, int, int, int, int]:
    counts = result(outbox.counts())
    return counts.captured, counts.pending, counts.parked, counts.dead, counts.delivered


def claim_one(outbox: LocalOutbox) -> Pending:
    (pending,) = result(outbox.claim(10))
    return pending


# Captures.


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"body": b"", "annotations": {}},
        {"body": bytes(range(256)) * 1000},
        {"client": None, "query_string": b"\xff"},
        {"request_body": b""},
        {"request_body": b"\x00\xff"},
        {"annotations": {"customer_email": "zoë@example.com", "invoice_id": None}},
        {"headers": [(b"x", b"1"), (b"x", b"2"), (b"X-Odd", bytes(range(128, 256)))]},
    ],
)
def test_a_capture_comes_back_as_it_was(outbox: LocalOutbox, fields: dict[str, object]) -> None:
    """Every byte of a capture survives: headers in order and twice, bodies of any bytes, an absent request body."""
    given = capture(1, **fields)
    result(outbox.append(given))
    found = result(outbox.captures(10))
    assert [stored.capture for stored in found] == [given]


def test_captures_are_given_oldest_first_and_none_twice(outbox: LocalOutbox) -> None:
    """A capture is given once, in the order in which it came, up to the limit."""
    for number in range(5):
        result(outbox.append(capture(number)))
    assert bodies(result(outbox.captures(3))) == ["in_0", "in_1", "in_2"]
    assert bodies(result(outbox.captures(3))) == ["in_3", "in_4"]
    assert result(outbox.captures(3)) == []
    assert counted(outbox) == (5, 0, 0, 0, 0)


def test_a_capture_is_replaced_by_its_records(outbox: LocalOutbox) -> None:
    """Resolved, a capture is gone and its records are pending, none of them, one or several."""
    for number in range(3):
        result(outbox.append(capture(number)))
    given = result(outbox.captures(10))
    for number, stored in enumerate(given):
        records = [record(10 * number + which) for which in range(number)]
        assert result(outbox.resolve(stored.id, records)) == 0
    assert counted(outbox) == (0, 3, 0, 0, 0)
    assert invoices(result(outbox.claim(10))) == ["in_10", "in_20", "in_21"]


def test_a_parked_capture_is_kept_and_not_given_again(outbox: LocalOutbox) -> None:
    """Parked, a capture counts as such and is out of the way."""
    result(outbox.append(capture(1)))
    (stored,) = result(outbox.captures(10))
    assert result(outbox.resolve(stored.id, Parked(ParkReason.EXTRACTOR_ERROR, "KeyError in shop.py:7"))) == 0
    assert counted(outbox) == (0, 0, 1, 0, 0)
    assert result(outbox.captures(10)) == []


def test_what_was_given_and_not_resolved_is_given_after_a_reopening(outbox: LocalOutbox) -> None:
    """A stop in the midst of reading loses nothing: what was not resolved is read again."""
    for number in range(3):
        result(outbox.append(capture(number)))
    given = result(outbox.captures(2))
    result(outbox.resolve(given[0].id, [record(0)]))
    outbox.close()
    outbox.open()
    result(outbox.adopt())
    assert bodies(result(outbox.captures(10))) == ["in_1", "in_2"]


# Each record once.


def test_a_record_is_known_by_its_key(outbox: LocalOutbox) -> None:
    """A second record of the same IDs is left out and counted, however it came."""
    assert result(outbox.add([record(1), record(2), record(1)])) == 1
    result(outbox.append(capture(1)))
    (stored,) = result(outbox.captures(10))
    assert result(outbox.resolve(stored.id, [record(2), record(3)])) == 1
    assert counted(outbox) == (0, 3, 0, 0, 0)


@pytest.mark.parametrize("state", ["pending", "claimed", "dead", "delivered"])
def test_it_is_known_in_every_state(outbox: LocalOutbox, state: str) -> None:
    """A reloaded confirmation page is one record, whatever has become of the first."""
    result(outbox.add([record(1)]))
    if state != "pending":
        pending = claim_one(outbox)
        if state != "claimed":
            result(outbox.settle([Settlement(pending.id, Settled(state))]))
    assert result(outbox.add([record(1)])) == 1
    assert len(result(outbox.claim(10))) == (state == "pending")


def test_more_ids_make_another_record(outbox: LocalOutbox) -> None:
    """A later capture that brings more IDs of the same checkout is a new record: it matches better."""
    more = Checkout(
        ipv4_address="81.2.69.142",
        psp="stripe",
        customer_email="shopper@example.com",
        invoice_id="in_1",
        charge_id="ch_1",
    )
    assert result(outbox.add([record(1), Record.of(more, NOW)])) == 0


def test_a_delivered_key_is_forgotten_after_a_week(outbox: LocalOutbox, clock: Clock) -> None:
    """The tombstone holds for seven days, no longer."""
    result(outbox.add([record(1)]))
    settle_all(outbox, Settled.DELIVERED)
    clock.now += 7 * DAY - 1
    assert result(outbox.add([record(1)])) == 1
    clock.now += 2
    assert result(outbox.add([record(1)])) == 0


# Claims.


def test_a_claimed_record_is_given_to_nobody_else(outbox: LocalOutbox) -> None:
    """A claim lasts until it is settled; a limit is a limit."""
    result(outbox.add([record(number, NOW - 10 + number) for number in range(5)]))
    assert invoices(result(outbox.claim(2))) == ["in_0", "in_1"]
    assert invoices(result(outbox.claim(2))) == ["in_2", "in_3"]
    assert invoices(result(outbox.claim(2))) == ["in_4"]
    assert result(outbox.claim(2)) in ([], ())


def test_the_oldest_checkout_goes_first(outbox: LocalOutbox) -> None:
    """Records are due in the order of their checkouts, not of their coming."""
    result(outbox.add([record(1, NOW - 5), record(2, NOW - 9), record(3, NOW - 7)]))
    assert invoices(result(outbox.claim(10))) == ["in_2", "in_3", "in_1"]


def test_a_delivered_record_is_gone(outbox: LocalOutbox, clock: Clock) -> None:
    """Delivered, it is counted, and when."""
    result(outbox.add([record(1)]))
    clock.now += 60
    assert settle_all(outbox, Settled.DELIVERED) == 1
    counts = result(outbox.counts())
    assert counts == Counts(delivered=1, last_delivered_at=NOW + 60)
    assert result(outbox.claim(10)) in ([], ())


def test_a_dead_record_is_kept_and_not_sent(outbox: LocalOutbox, clock: Clock) -> None:
    """Dead, it waits for a person, and is never due."""
    result(outbox.add([record(1)]))
    result(outbox.settle([Settlement(claim_one(outbox).id, Settled.DEAD, reason="422")]))
    clock.now += 365 * DAY
    assert result(outbox.claim(10)) in ([], ())
    assert counted(outbox) == (0, 0, 0, 1, 0)


def test_a_retried_record_is_charged_and_due_later(outbox: LocalOutbox, clock: Clock) -> None:
    """RETRY counts an attempt each time, and holds the record back until it is due."""
    result(outbox.add([record(1)]))
    for attempts in range(3):
        pending = claim_one(outbox)
        assert pending.attempts == attempts
        result(outbox.settle([Settlement(pending.id, Settled.RETRY, clock.now + HOUR, "500")]))
        clock.now += HOUR - 1
        assert result(outbox.claim(10)) in ([], ())
        clock.now += 1
    assert counted(outbox) == (0, 1, 0, 0, 0)


def test_a_released_record_keeps_its_place_and_its_attempts(outbox: LocalOutbox, clock: Clock) -> None:
    """RELEASED charges nothing: the record is at its old place, or due when it is said."""
    result(outbox.add([record(1, NOW - 2), record(2, NOW - 1)]))
    first, second = result(outbox.claim(10))
    result(outbox.settle([Settlement(second.id, Settled.RELEASED), Settlement(first.id, Settled.RELEASED)]))
    assert [pending.attempts for pending in result(outbox.claim(1))] == [0]
    result(outbox.settle([Settlement(first.id, Settled.RELEASED, NOW + 60)]))
    assert invoices(result(outbox.claim(10))) == ["in_2"]
    clock.now += 60
    assert invoices(result(outbox.claim(10))) == ["in_1"]


def test_what_is_claimed_at_a_close_is_given_after_the_next_open(outbox: LocalOutbox) -> None:
    """A claim dies with its process: the record goes out once more rather than never."""
    result(outbox.add([record(1)]))
    claim_one(outbox)
    outbox.close()
    outbox.open()
    assert outbox.lead()
    assert claim_one(outbox).attempts == 0


@pytest.mark.parametrize("settled", [Settled.RETRY, Settled.RELEASED])
def test_a_clock_set_back_strands_no_record(outbox: LocalOutbox, clock: Clock, settled: Settled) -> None:
    """A record that was put off under a clock a year ahead is due as soon as the clock is right again."""
    clock.now += 365 * DAY
    result(outbox.add([record(1, clock.now), record(2, clock.now)]))
    first, _second = result(outbox.claim(10))
    result(outbox.settle([Settlement(first.id, settled, clock.now + HOUR)]))
    clock.now = NOW
    assert invoices(result(outbox.claim(10))) == ["in_1"]


def test_a_capture_from_the_future_is_due_at_once(outbox: LocalOutbox) -> None:
    """A record is not held back because another host's clock is ahead."""
    result(outbox.add([record(1, NOW + 1000)]))
    assert invoices(result(outbox.claim(10))) == ["in_1"]


def test_settling_what_is_not_there_changes_nothing(outbox: LocalOutbox) -> None:
    """A settlement of a record that a person dropped meanwhile is passed over."""
    result(outbox.add([record(1)]))
    result(outbox.settle([Settlement(987654321, settled) for settled in Settled]))
    assert counted(outbox) == (0, 1, 0, 0, 0)


# The parts of a checkout.


def part(number: int, *, shopper: bool, at: float = NOW, **fields: str | bytes) -> Part:
    whole: dict[str, Any] = {"ipv4_address": "81.2.69.142"} if shopper else {"customer_email": "shopper@example.com"}
    ids = {} if shopper else {"invoice_id": f"in_{number}"}
    return Part(Part.key_of("stripe", f"cs_{number}"), shopper, {"psp": "stripe"} | whole | ids | fields, at)


def take(outbox: LocalOutbox, given: Part) -> int:
    """Resolve a capture to a part; give how many were known."""
    result(outbox.append(capture(1)))
    (stored,) = result(outbox.captures(1))
    return result(outbox.resolve(stored.id, given))


@pytest.mark.parametrize("shopper_first", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
def test_two_parts_become_a_record(outbox: LocalOutbox, *, shopper_first: bool, reopened: bool) -> None:
    """In either order, and across a restart, the second part makes the record, whole and once."""
    assert take(outbox, part(1, shopper=shopper_first)) == 0
    assert result(outbox.counts()) == Counts(parts=1)
    if reopened:
        outbox.close()
        outbox.open()
        assert outbox.lead()
    assert take(outbox, part(1, shopper=not shopper_first)) == 0
    assert result(outbox.counts()) == Counts(pending=1, oldest_pending_at=NOW)
    assert claim_one(outbox).record == record(1)


@pytest.mark.parametrize("shopper_first", [True, False])
def test_an_id_in_bytes_is_that_of_text(outbox: LocalOutbox, *, shopper_first: bool) -> None:
    """A `Checkout` takes bytes for text; so does the part that waits for its counterpart."""
    for shopper in (shopper_first, not shopper_first):
        given = part(1, shopper=True) if shopper else part(1, shopper=False, invoice_id=b"in_1")
        assert take(outbox, given) == 0
    assert claim_one(outbox).record == record(1)


def test_a_payment_gives_no_address(outbox: LocalOutbox) -> None:
    """Whatever a payment's part says of the shopper's address and browser, the shopper's own part holds."""
    take(outbox, part(1, shopper=True))
    take(outbox, part(1, shopper=False, ipv4_address="9.9.9.9", user_agent="Stripe/1.0"))
    assert claim_one(outbox).record == record(1)


def test_only_parts_of_one_key_and_of_both_kinds_meet(outbox: LocalOutbox) -> None:
    """Neither two shoppers' parts nor two payments', nor parts of two sessions, are a checkout."""
    for number, shopper in [(1, True), (1, True), (2, False), (2, False)]:
        assert take(outbox, part(number, shopper=shopper, customer_email="a@example.com", invoice_id="in_1")) == 0
    assert result(outbox.counts()) == Counts(parts=2)


def test_parts_that_lack_something_wait_for_more(outbox: LocalOutbox) -> None:
    """Without an e-mail both parts wait; a further one of either kind completes them, and the address stays."""
    assert take(outbox, part(1, shopper=True)) == 0
    assert take(outbox, part(1, shopper=False, customer_email="")) == 0
    assert counted(outbox) == (0, 0, 0, 0, 0)
    later = part(1, shopper=True, customer_email="shopper@example.com", ipv4_address="9.9.9.9")
    assert take(outbox, later) == 0
    assert result(outbox.counts()).parts == 2  # the payment's own e-mail is empty, and holds
    assert take(outbox, part(1, shopper=False)) == 0
    assert claim_one(outbox).record == record(1)


@pytest.mark.parametrize("agent", [{"user_agent": "the first"}, {}])
def test_address_and_browser_are_of_one_request(outbox: LocalOutbox, agent: dict[str, Any]) -> None:
    """Of a session that is begun twice, the second request gives neither, not even where the first named no browser."""
    take(outbox, part(1, shopper=True, **agent))
    take(outbox, part(1, shopper=True, ipv4_address="9.9.9.9", user_agent="the second", customer_id="cus_1"))
    take(outbox, part(1, shopper=False))
    payload = json.loads(claim_one(outbox).record.payload)
    assert {name: payload.get(name) for name in ("ipv4_address", "user_agent", "customer_id")} == {
        "ipv4_address": "81.2.69.142",
        "user_agent": agent.get("user_agent"),
        "customer_id": "cus_1",
    }


def test_what_was_joined_is_known_for_a_week(outbox: LocalOutbox, clock: Clock) -> None:
    """A webhook that comes again, or a reloaded page, makes no part that waits for nothing."""
    take(outbox, part(1, shopper=True))
    take(outbox, part(1, shopper=False))
    assert take(outbox, part(1, shopper=False)) == 1
    assert take(outbox, part(1, shopper=True)) == 1
    assert result(outbox.counts()).parts == 0
    clock.now += 7 * DAY + 1
    assert take(outbox, part(1, shopper=False)) == 0
    assert result(outbox.counts()).parts == 1


def test_a_joined_record_is_known_by_its_key(outbox: LocalOutbox) -> None:
    """A record that came whole and the same one in parts are one."""
    result(outbox.add([record(1)]))
    take(outbox, part(1, shopper=True))
    assert take(outbox, part(1, shopper=False)) == 1
    assert counted(outbox) == (0, 1, 0, 0, 0)


def test_a_lonely_part_expires(outbox: LocalOutbox) -> None:
    """Parts older than that are gone and counted, younger ones stay."""
    take(outbox, part(1, shopper=True, at=NOW - 10))
    take(outbox, part(2, shopper=False, at=NOW - 5))
    assert result(outbox.expire(NOW - 10)) == 0
    assert result(outbox.expire(NOW - 5)) == 1
    assert result(outbox.expire(NOW - 5)) == 0
    assert take(outbox, part(1, shopper=False)) == 0
    assert take(outbox, part(2, shopper=True)) == 0
    assert result(outbox.counts()).parts == 1
    assert invoices(result(outbox.claim(10))) == ["in_2"]


# The rest.


def test_the_hold_is_kept_until_it_ends(outbox: LocalOutbox) -> None:
    """A hold survives a reopening; None ends it."""
    assert result(outbox.hold()) is None
    result(outbox.set_hold("401"))
    outbox.close()
    outbox.open()
    assert result(outbox.hold()) == "401"
    result(outbox.set_hold(None))
    assert result(outbox.hold()) is None


def test_the_oldest_pending_checkout_is_told(outbox: LocalOutbox) -> None:
    """The age of the oldest record shows an outage."""
    assert result(outbox.counts()).oldest_pending_at is None
    result(outbox.add([record(1, NOW - 100), record(2)]))
    assert result(outbox.counts()).oldest_pending_at == NOW - 100
