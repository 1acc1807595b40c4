"""The contract of a store, for the one in memory and the one on disk."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outboxes import (
    NOW,
    SteadyClock,
    append,
    bodies,
    capture,
    invoices,
    known,
    park,
    record,
    resolve,
    settle_all,
    take,
    unread,
)

from butter_middleware import Checkout, MemoryOutbox, SQLiteOutbox
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import Count, Counts, Pending, Resolution, Settled, Settlement, Store
from butter_middleware.outbox.base import new_records

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    return SteadyClock.installed(monkeypatch)


def in_memory(_folder: Path, clock: SteadyClock) -> Store:
    return MemoryOutbox(clock=clock).store()


def on_disk(folder: Path, clock: SteadyClock) -> Store:
    return SQLiteOutbox(folder / "butter.db", clock=clock).store()


@pytest.fixture(params=[in_memory, on_disk])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SteadyClock) -> Iterator[Store]:
    make: Callable[[Path, SteadyClock], Store] = request.param
    store = make(tmp_path, clock)
    store.open()
    assert store.lead()
    yield store
    store.close()


def counted(store: Store) -> tuple[int, int, int, int, int]:
    counts = store.counts()
    return counts.captured, counts.pending, counts.parked, counts.dead, counts.delivered


def the_only(store: Store) -> Pending:
    (pending,) = store.due(10)
    return pending


def prune(store: Store, clock: SteadyClock) -> None:
    """Prune as the pipeline does, once a minute, until the store trusts the clock."""
    for _ in range(22):
        store.prune()
        clock.pass_(MINUTE)
    while store.prune():
        pass


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
def test_a_stored_capture_is_unchanged(store: Store, fields: dict[str, object]) -> None:
    """Headers keep their order and repetitions. A body may have any bytes, and a request may have no body."""
    given = capture(1, **fields)
    numbers = store.append([given])
    (stored,) = store.load(numbers)
    assert (stored.id, stored.capture) == (numbers[0], given)
    assert (stored.owned, stored.parked, stored.tries) == (True, "", 0)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_appended_captures_get_their_own_ids(store: Store, count: int) -> None:
    """IDs are in order, whatever the size of the batch. `counts` has the newest one."""
    numbers = append(store, *range(count))
    assert sorted(set(numbers)) == list(numbers)
    assert bodies(store.load(numbers)) == [f"in_{number}" for number in range(count)]
    assert store.counts().newest_capture == numbers[-1]


def test_load_keeps_the_order_asked_for(store: Store) -> None:
    """A capture that is gone, or never existed, is left out."""
    numbers = append(store, 0, 1, 2)
    resolve(store, numbers[1])
    assert bodies(store.load([numbers[2], numbers[1], 987654321, numbers[0]])) == ["in_2", "in_0"]


def test_unread_returns_the_oldest_captures_first(store: Store) -> None:
    """They are below the mark, up to the limit, without the excluded ones."""
    numbers = append(store, *range(5))
    assert bodies(store.unread(2, below=numbers[3])) == ["in_0", "in_1"]
    assert bodies(store.unread(9, below=numbers[3], exclude=numbers[:2])) == ["in_2", "in_3"]
    assert list(store.unread(9, below=numbers[0] - 1)) == []


def test_captures_without_an_owner_are_read_at_once(store: Store) -> None:
    """A process that does not read appended them. They are returned above the mark too, without an owner."""
    append(store, 0)
    append(store, 1, owned=False)
    append(store, 2)
    found = store.unread(9, below=0)
    assert (bodies(found), [stored.owned for stored in found]) == (["in_1"], [False])
    assert bodies(unread(store)) == ["in_0", "in_1", "in_2"]


def test_a_capture_taken_over_is_abandoned_after_two_marks(store: Store) -> None:
    """A capture that two readers died over is not read a third time. Each capture has its own marks."""
    first, second = append(store, 0, 1)
    assert list(store.mark_taken_over([first, 987654321])) == []
    assert list(store.mark_taken_over([first, second])) == []
    assert list(store.mark_taken_over([first, second])) == [first]
    assert [stored.tries for stored in unread(store)] == [3, 2]


def test_a_capture_is_replaced_by_its_records(store: Store) -> None:
    """A resolved capture is gone, and its records are pending: none, one or several."""
    numbers = append(store, *range(3))
    resolutions = [
        Resolution(number, [record(10 * which + each) for each in range(which)]) for which, number in enumerate(numbers)
    ]
    resolved = store.resolve(resolutions)
    assert [(one.id, one.there, known(one.outcomes), one.replayed) for one in resolved] == [
        (number, True, 0, False) for number in numbers
    ]
    assert counted(store) == (0, 3, 0, 0, 0)
    added = [pending for one in resolved for pending in new_records(one.outcomes)]
    assert invoices(added) == ["in_10", "in_20", "in_21"]
    assert list(store.due(10)) == added


def test_only_the_first_resolution_counts(store: Store) -> None:
    """A capture that is gone is not resolved again: no record is added and nothing is counted."""
    (number,) = append(store, 1)
    resolve(store, number, record(1), counts=[Count("covered", "/checkout")])
    again = resolve(store, number, record(2), counts=[Count("covered", "/checkout")])
    assert (again.there, list(again.outcomes)) == (False, [])
    assert counted(store) == (0, 1, 0, 0, 0)
    assert store.counted() == {("covered", "/checkout", ""): 1}


def test_a_parked_capture_is_kept_and_not_returned_again(store: Store) -> None:
    """It is counted and not read again. The records that it has all the same are sent."""
    park(store, 1, record(1))
    assert counted(store) == (0, 1, 1, 0, 0)
    assert list(unread(store)) == []


def test_unresolved_captures_are_there_after_a_reopening(store: Store) -> None:
    """A stop while reading loses nothing: they are read again."""
    numbers = append(store, *range(3))
    resolve(store, numbers[0], record(0))
    store.close()
    store.open()
    assert bodies(unread(store)) == ["in_1", "in_2"]


# Each record is stored once.


def test_a_record_is_recognised_by_its_key(store: Store) -> None:
    """A second record with the same IDs is left out and counted, from a capture or not."""
    outcomes = store.add([record(1), record(2), record(1)])
    assert (invoices(new_records(outcomes)), outcomes[2]) == (["in_1", "in_2"], Skip.DUPLICATE)
    (number,) = append(store, 1)
    assert known(resolve(store, number, record(2), record(3)).outcomes) == 1
    assert counted(store) == (0, 3, 0, 0, 0)


@pytest.mark.parametrize("state", ["pending", "retry", "dead", "delivered"])
def test_a_key_is_recognised_in_every_state(store: Store, state: str) -> None:
    """A reloaded confirmation page is one record, in any state of the first."""
    store.add([record(1)])
    if state != "pending":
        store.settle([Settlement(the_only(store).id, Settled(state), NOW + HOUR)])
    assert store.add([record(1)]) == [Skip.DUPLICATE]
    assert len(store.due(10)) == (state == "pending")


def test_more_ids_make_another_record(store: Store) -> None:
    """A later capture of the checkout with more IDs is a new record, because it matches better."""
    more = Checkout(
        ipv4_address="81.2.69.142",
        psp="stripe",
        customer_email="shopper@example.com",
        invoice_id="in_1",
        charge_id="ch_1",
    )
    assert known(store.add([record(1), Record.of(more, NOW)])) == 0


def test_a_delivered_key_is_deleted_after_a_week(store: Store, clock: SteadyClock) -> None:
    """It is kept for seven days, and then until the next pruning. A second delivery begins a new week."""
    store.add([record(1)])
    settle_all(store, Settled.DELIVERED)
    clock.pass_(7 * DAY - HOUR)
    prune(store, clock)
    assert known(store.add([record(1)])) == 1
    clock.pass_(2 * HOUR)
    prune(store, clock)
    assert known(store.add([record(1)])) == 0
    settle_all(store, Settled.DELIVERED)
    clock.pass_(6 * DAY)
    prune(store, clock)
    assert known(store.add([record(1)])) == 1


def test_a_clock_that_jumps_ahead_deletes_nothing(store: Store, clock: SteadyClock) -> None:
    """The clock is eight days ahead for some seconds. Keys, parts, tokens and counts are still there."""
    store.add([record(1)])
    store.count([Count("covered", "/checkout")])
    settle_all(store, Settled.DELIVERED)
    take(store, part(2, shopper=True))
    (number,) = append(store, 3)
    resolve(store, number, record(3), token="t")
    for _ in range(30):
        store.prune()
        clock.pass_(MINUTE)
    clock.now += 8 * DAY
    for _ in range(3):
        store.prune()
        assert store.expire(clock.now - HOUR) == 0
        assert known(store.add([record(1)])) == 1
        clock.pass_(MINUTE)
    clock.now -= 8 * DAY
    prune(store, clock)
    assert known(store.add([record(1)])) == 1
    assert store.counts().parts == 1
    (number,) = append(store, 4)
    assert resolve(store, number, record(4), token="t").replayed
    assert store.counted(NOW) == store.counted() == {("covered", "/checkout", ""): 1}


# Records to send.


def test_due_has_a_limit_and_excludes_records(store: Store) -> None:
    """It returns no more than the limit, without the records that the sender has in memory."""
    store.add([record(number, NOW - 10 + number) for number in range(5)])
    first = store.due(2)
    assert invoices(first) == ["in_0", "in_1"]
    assert invoices(store.due(2, {pending.id for pending in first})) == ["in_2", "in_3"]
    assert invoices(store.due(2)) == ["in_0", "in_1"]


def test_the_oldest_checkout_is_sent_first(store: Store) -> None:
    """Records are due in the order of their checkouts, not of their arrival."""
    store.add([record(1, NOW - 5), record(2, NOW - 9), record(3, NOW - 7)])
    assert invoices(store.due(10)) == ["in_2", "in_3", "in_1"]


def test_a_delivered_record_is_deleted(store: Store, clock: SteadyClock) -> None:
    """The delivery is counted, with its time."""
    store.add([record(1)])
    clock.now += 60
    assert settle_all(store, Settled.DELIVERED) == 1
    counts = store.counts()
    assert (counts.pending, counts.delivered, counts.last_delivered_at) == (0, 1, NOW + 60)
    assert list(store.due(10)) == []


def test_a_dead_record_is_kept_and_not_sent(store: Store, clock: SteadyClock) -> None:
    """A dead record waits for an operator, and is never due."""
    store.add([record(1)])
    store.settle([Settlement(the_only(store).id, Settled.DEAD, reason="422")])
    clock.now += 365 * DAY
    assert list(store.due(10)) == []
    assert counted(store) == (0, 0, 0, 1, 0)


def test_a_retried_record_counts_an_attempt_and_is_due_later(store: Store, clock: SteadyClock) -> None:
    """RETRY counts an attempt each time, and delays the record until it is due."""
    store.add([record(1)])
    for attempts in range(3):
        pending = the_only(store)
        assert pending.attempts == attempts
        store.settle([Settlement(pending.id, Settled.RETRY, clock.now + HOUR, "500")])
        clock.now += HOUR - 1
        assert list(store.due(10)) == []
        clock.now += 1
    assert counted(store) == (0, 1, 0, 0, 0)


def test_a_retry_without_a_time_is_due_at_once(store: Store, clock: SteadyClock) -> None:
    """RETRY without `due_at` counts an attempt, and puts the record behind those that were waiting."""
    store.add([record(1, NOW - 9), record(2, NOW - 5)])
    clock.now += 1
    store.settle([Settlement(store.due(1)[0].id, Settled.RETRY)])
    assert [(pending.attempts, *invoices([pending])) for pending in store.due(10)] == [(0, "in_2"), (1, "in_1")]


def test_a_released_record_keeps_its_place_and_attempts(store: Store, clock: SteadyClock) -> None:
    """RELEASED counts no attempt. The record keeps its place, or is due at the given time."""
    store.add([record(1, NOW - 2), record(2, NOW - 1)])
    first, second = store.due(10)
    store.settle([Settlement(second.id, Settled.RELEASED), Settlement(first.id, Settled.RELEASED)])
    assert list(store.due(10)) == [first, second]
    store.settle([Settlement(first.id, Settled.RELEASED, NOW + 60)])
    assert list(store.due(10)) == [second]
    clock.now += 60
    assert list(store.due(10)) == [second, first]


def test_unsettled_records_are_due_after_the_next_open(store: Store) -> None:
    """A record that was in flight when the process ended is sent again."""
    store.add([record(1)])
    pending = the_only(store)
    store.close()
    store.open()
    assert store.lead()
    assert the_only(store) == pending


@pytest.mark.parametrize("settled", [Settled.RETRY, Settled.RELEASED])
def test_a_clock_set_back_delays_no_record(store: Store, clock: SteadyClock, settled: Settled) -> None:
    """A record was postponed while the clock was a year ahead. It is due as soon as the clock is correct."""
    clock.now += 365 * DAY
    store.add([record(1, NOW + 365 * DAY)])
    store.settle([Settlement(the_only(store).id, settled, clock.now + HOUR)])
    assert list(store.due(10)) == []
    clock.now = NOW
    assert invoices(store.due(10)) == ["in_1"]


def test_a_capture_from_the_future_is_due_at_once(store: Store) -> None:
    """Another host's clock may be ahead. This does not delay the record."""
    store.add([record(1, NOW + 1000)])
    assert invoices(store.due(10)) == ["in_1"]


def test_settling_a_missing_record_changes_nothing(store: Store) -> None:
    """An operator may have dropped the record meanwhile."""
    store.add([record(1)])
    store.settle([Settlement(987654321, settled) for settled in Settled])
    assert counted(store) == (0, 1, 0, 0, 0)


# The parts of a checkout.


def part(number: int, *, shopper: bool, at: float = NOW, **fields: str | bytes) -> Part:
    whole: dict[str, Any] = {"ipv4_address": "81.2.69.142"} if shopper else {"customer_email": "shopper@example.com"}
    ids = {} if shopper else {"invoice_id": f"in_{number}"}
    return Part(Part.key_of("stripe", f"cs_{number}"), shopper, {"psp": "stripe"} | whole | ids | fields, at)


@pytest.mark.parametrize("shopper_first", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
def test_two_parts_become_a_record(store: Store, *, shopper_first: bool, reopened: bool) -> None:
    """The second part makes the complete record once, in either order and across a restart."""
    assert take(store, part(1, shopper=shopper_first)) == 0
    assert (store.counts().parts, counted(store)) == (1, (0, 0, 0, 0, 0))
    if reopened:
        store.close()
        store.open()
        assert store.lead()
    (number,) = append(store, 1)
    resolved = resolve(store, number, part=part(1, shopper=not shopper_first))
    assert list(resolved.outcomes) == [the_only(store)]
    assert (store.counts().parts, store.counts().oldest_pending_at) == (0, NOW)
    assert the_only(store).record == record(1)


@pytest.mark.parametrize("shopper_first", [True, False])
def test_an_id_may_be_bytes(store: Store, *, shopper_first: bool) -> None:
    """A `Checkout` accepts bytes for strings. So does a waiting part."""
    for shopper in (shopper_first, not shopper_first):
        given = part(1, shopper=True) if shopper else part(1, shopper=False, invoice_id=b"in_1")
        assert take(store, given) == 0
    assert the_only(store).record == record(1)


def test_the_address_is_not_taken_from_a_payment(store: Store) -> None:
    """The shopper's own part decides on address and browser, whatever the payment's part contains."""
    take(store, part(1, shopper=True))
    take(store, part(1, shopper=False, ipv4_address="9.9.9.9", user_agent="Stripe/1.0"))
    assert the_only(store).record == record(1)


def test_only_parts_of_one_key_and_of_both_kinds_are_joined(store: Store) -> None:
    """Two shoppers' parts, two payments' parts, or parts of two sessions are not a checkout."""
    for number, shopper in [(1, True), (1, True), (2, False), (2, False)]:
        assert take(store, part(number, shopper=shopper, customer_email="a@example.com", invoice_id="in_1")) == 0
    assert (store.counts().parts, counted(store)) == (2, (0, 0, 0, 0, 0))


def test_incomplete_parts_wait_for_more(store: Store) -> None:
    """Without an e-mail both parts wait. Another part of either kind completes them, and the address stays."""
    assert take(store, part(1, shopper=True)) == 0
    assert take(store, part(1, shopper=False, customer_email="")) == 0
    assert counted(store) == (0, 0, 0, 0, 0)
    later = part(1, shopper=True, customer_email="shopper@example.com", ipv4_address="9.9.9.9")
    assert take(store, later) == 0
    assert store.counts().parts == 2  # the payment's empty e-mail counts as a value
    assert take(store, part(1, shopper=False)) == 0
    assert the_only(store).record == record(1)


@pytest.mark.parametrize("agent", [{"user_agent": "the first"}, {}])
def test_address_and_browser_come_from_one_request(store: Store, agent: dict[str, Any]) -> None:
    """If a session is begun twice, the second request sets neither, even if the first had no browser."""
    take(store, part(1, shopper=True, **agent))
    take(store, part(1, shopper=True, ipv4_address="9.9.9.9", user_agent="the second", customer_id="cus_1"))
    take(store, part(1, shopper=False))
    payload = json.loads(the_only(store).record.payload)
    assert {name: payload.get(name) for name in ("ipv4_address", "user_agent", "customer_id")} == {
        "ipv4_address": "81.2.69.142",
        "user_agent": agent.get("user_agent"),
        "customer_id": "cus_1",
    }


def test_a_joined_key_is_kept_for_a_week(store: Store, clock: SteadyClock) -> None:
    """A repeated webhook or a reloaded page adds no part that would wait in vain."""
    take(store, part(1, shopper=True))
    take(store, part(1, shopper=False))
    assert take(store, part(1, shopper=False)) == 1
    assert take(store, part(1, shopper=True)) == 1
    assert store.counts().parts == 0
    clock.pass_(7 * DAY + HOUR)
    prune(store, clock)
    assert take(store, part(1, shopper=False)) == 0
    assert store.counts().parts == 1


@pytest.mark.parametrize("shopper_first", [True, False])
@pytest.mark.parametrize("traces", [("00-1-1-01", "00-2-2-01"), ("00-1-1-01", ""), ("", "00-2-2-01")])
def test_a_joined_record_has_the_time_and_the_trace_of_its_last_part(
    store: Store, traces: tuple[str, str], *, shopper_first: bool
) -> None:
    """This holds in memory and on disk, whichever part completes it, and whether the others were traced."""
    for number, trace in enumerate(traces):
        given = part(1, shopper=shopper_first is not bool(number), at=NOW - 10 + number)
        take(store, replace(given, traceparent=trace))
    record = the_only(store).record
    assert (record.captured_at, record.traceparent) == (NOW - 9, traces[1])


def test_a_joined_record_is_recognised_by_its_key(store: Store) -> None:
    """A complete record and the same record in parts are one."""
    store.add([record(1)])
    take(store, part(1, shopper=True))
    assert take(store, part(1, shopper=False)) == 1
    assert counted(store) == (0, 1, 0, 0, 0)


def test_a_single_part_expires(store: Store, clock: SteadyClock) -> None:
    """Older parts are deleted and counted, younger ones stay."""
    take(store, part(1, shopper=True, at=NOW))
    take(store, part(2, shopper=False, at=NOW + 40 * MINUTE))
    assert store.expire(clock.now - 30 * MINUTE) == 0
    clock.pass_(40 * MINUTE)
    prune(store, clock)
    assert store.expire(clock.now - 30 * MINUTE) == 1
    assert store.expire(clock.now - 30 * MINUTE) == 0
    assert take(store, part(1, shopper=False)) == 0
    assert take(store, part(2, shopper=True)) == 0
    assert store.counts().parts == 1
    assert invoices(store.due(10)) == ["in_2"]


# A beacon's tokens.


def test_a_token_proves_one_checkout_of_the_host(store: Store) -> None:
    """The first capture with a token may use it again when it is read again. Another checkout may not."""
    first, again, other = append(store, 1, 2, 3)
    assert not resolve(store, first, record(1), token="t").replayed
    second = resolve(store, again, record(1), record(1), token="t")  # the second one is a duplicate
    assert (second.replayed, known(second.outcomes)) == (False, 2)
    replayed = resolve(store, other, record(2), token="t", counts=[Count("covered")])
    assert (replayed.there, replayed.replayed, list(replayed.outcomes)) == (True, True, [])
    assert (counted(store), store.counted()) == ((1, 1, 0, 0, 0), {})
    assert resolve(store, other).there  # it is unchanged, to be resolved without an address


def test_a_token_without_a_record_stays_usable(store: Store) -> None:
    """A capture that made no record does not use up its token."""
    first, second = append(store, 1, 2)
    resolve(store, first, token="t")
    assert not resolve(store, second, record(2), token="t").replayed


# The host.


def test_the_hold_is_kept_until_it_ends(store: Store) -> None:
    """A hold survives a reopening. None ends it."""
    assert store.counts().hold is None
    store.set_hold("401")
    store.close()
    store.open()
    assert store.counts().hold == "401"
    store.set_hold(None)
    assert store.counts().hold is None


def test_the_oldest_pending_checkout_is_reported(store: Store) -> None:
    """Its age shows an outage, whenever its record was made."""
    assert store.counts().oldest_pending_at is None
    store.add([record(2), record(1, NOW - 100)])
    assert store.counts().oldest_pending_at == NOW - 100
    settle_all(store, Settled.DELIVERED, 1)
    assert store.counts().oldest_pending_at == NOW


def test_counts_are_kept_by_the_hour_and_in_total(store: Store, clock: SteadyClock) -> None:
    """A count is written together with its change. Hours are kept for a week, the total forever."""
    clock.now = clock.now // HOUR * HOUR
    covered, skipped = ("covered", "/checkout", ""), ("skipped", "/checkout", "not_paid")
    store.count([Count(*covered), Count(*skipped, 2), Count(*covered)])
    clock.pass_(HOUR)
    (number,) = append(store, 1)
    resolve(store, number, record(1), counts=[Count(*covered)])
    store.count([Count("delivered")])
    assert store.counted() == {covered: 3, skipped: 2, ("delivered", "", ""): 1}
    assert store.counted(clock.now + MINUTE) == {covered: 1, ("delivered", "", ""): 1}
    clock.pass_(7 * DAY)
    prune(store, clock)
    assert store.counted(NOW - DAY).get(skipped) is None
    assert store.counted()[covered] == 3


def test_a_store_without_competitors_leads(store: Store) -> None:
    """It takes the lead, releases it and takes it again."""
    assert store.lead()
    store.release_lead()
    assert store.lead()


def test_an_empty_store_has_no_counts() -> None:
    """All counts of an empty store are zero or None."""
    assert MemoryOutbox().store().counts() == Counts()
