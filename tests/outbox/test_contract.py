"""What the pipeline relies on, the same of the store in memory and of the one on disk."""

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
    """Prune as the pipeline does, once a minute, for as long as a clock is not believed."""
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
def test_a_capture_comes_back_as_it_was(store: Store, fields: dict[str, object]) -> None:
    """Every byte of a capture survives: headers in order and twice, bodies of any bytes, an absent request body."""
    given = capture(1, **fields)
    numbers = store.append([given])
    (stored,) = store.load(numbers)
    assert (stored.id, stored.capture) == (numbers[0], given)
    assert (stored.owned, stored.parked, stored.tries) == (True, "", 0)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
def test_appended_captures_have_numbers_of_their_own(store: Store, count: int) -> None:
    """Each of a batch gets its number, in order, whatever the size of the batch; the newest is told."""
    numbers = append(store, *range(count))
    assert sorted(set(numbers)) == list(numbers)
    assert bodies(store.load(numbers)) == [f"in_{number}" for number in range(count)]
    assert store.counts().newest_capture == numbers[-1]


def test_load_gives_what_is_there_in_the_order_asked(store: Store) -> None:
    """Captures are given as asked; one that is gone, or never was, is left out."""
    numbers = append(store, 0, 1, 2)
    resolve(store, numbers[1])
    assert bodies(store.load([numbers[2], numbers[1], 987654321, numbers[0]])) == ["in_2", "in_0"]


def test_unread_gives_what_was_left_oldest_first(store: Store) -> None:
    """Below the mark, oldest first, up to the limit, without what is excluded."""
    numbers = append(store, *range(5))
    assert bodies(store.unread(2, below=numbers[3])) == ["in_0", "in_1"]
    assert bodies(store.unread(9, below=numbers[3], exclude=numbers[:2])) == ["in_2", "in_3"]
    assert list(store.unread(9, below=numbers[0] - 1)) == []


def test_unowned_captures_are_read_at_once(store: Store) -> None:
    """What a process appended that does not read is given whatever the mark, and says so."""
    append(store, 0)
    append(store, 1, owned=False)
    append(store, 2)
    found = store.unread(9, below=0)
    assert (bodies(found), [stored.owned for stored in found]) == (["in_1"], [False])
    assert bodies(unread(store)) == ["in_0", "in_1", "in_2"]


def test_a_capture_taken_over_is_given_up_after_two_marks(store: Store) -> None:
    """A reader that died twice over a capture does not get it a third time; marks of others are their own."""
    first, second = append(store, 0, 1)
    assert list(store.mark_taken_over([first, 987654321])) == []
    assert list(store.mark_taken_over([first, second])) == []
    assert list(store.mark_taken_over([first, second])) == [first]
    assert [stored.tries for stored in unread(store)] == [3, 2]


def test_a_capture_is_replaced_by_its_records(store: Store) -> None:
    """Resolved, a capture is gone and its records are pending, none of them, one or several."""
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


def test_the_first_to_resolve_wins(store: Store) -> None:
    """A capture that is gone is not resolved again: nothing is added, nothing is counted."""
    (number,) = append(store, 1)
    resolve(store, number, record(1), counts=[Count("covered", "/checkout")])
    again = resolve(store, number, record(2), counts=[Count("covered", "/checkout")])
    assert (again.there, list(again.outcomes)) == (False, [])
    assert counted(store) == (0, 1, 0, 0, 0)
    assert store.counted() == {("covered", "/checkout", ""): 1}


def test_a_parked_capture_is_kept_and_not_given_again(store: Store) -> None:
    """Parked, a capture counts as such and is out of the way; what it gave all the same goes out."""
    park(store, 1, record(1))
    assert counted(store) == (0, 1, 1, 0, 0)
    assert list(unread(store)) == []


def test_what_was_not_resolved_is_there_after_a_reopening(store: Store) -> None:
    """A stop amid reading loses nothing: what was not resolved is read again."""
    numbers = append(store, *range(3))
    resolve(store, numbers[0], record(0))
    store.close()
    store.open()
    assert bodies(unread(store)) == ["in_1", "in_2"]


# Each record once.


def test_a_record_is_known_by_its_key(store: Store) -> None:
    """A second record of the same IDs is left out and counted, however it came."""
    outcomes = store.add([record(1), record(2), record(1)])
    assert (invoices(new_records(outcomes)), outcomes[2]) == (["in_1", "in_2"], Skip.DUPLICATE)
    (number,) = append(store, 1)
    assert known(resolve(store, number, record(2), record(3)).outcomes) == 1
    assert counted(store) == (0, 3, 0, 0, 0)


@pytest.mark.parametrize("state", ["pending", "retry", "dead", "delivered"])
def test_it_is_known_in_every_state(store: Store, state: str) -> None:
    """A reloaded confirmation page is one record, whatever has become of the first."""
    store.add([record(1)])
    if state != "pending":
        store.settle([Settlement(the_only(store).id, Settled(state), NOW + HOUR)])
    assert store.add([record(1)]) == [Skip.DUPLICATE]
    assert len(store.due(10)) == (state == "pending")


def test_more_ids_make_another_record(store: Store) -> None:
    """A later capture that brings more IDs of the same checkout is a new record: it matches better."""
    more = Checkout(
        ipv4_address="81.2.69.142",
        psp="stripe",
        customer_email="shopper@example.com",
        invoice_id="in_1",
        charge_id="ch_1",
    )
    assert known(store.add([record(1), Record.of(more, NOW)])) == 0


def test_a_delivered_key_is_forgotten_after_a_week(store: Store, clock: SteadyClock) -> None:
    """A delivered key is known for seven days, and then until the next pruning; one delivered again is known anew."""
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
    """Eight days ahead for some seconds, then right again: keys, parts, tokens and counts are all there."""
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


# What is to be sent.


def test_due_gives_up_to_its_limit_without_what_is_excluded(store: Store) -> None:
    """A limit is a limit; what the sender has in memory is left out."""
    store.add([record(number, NOW - 10 + number) for number in range(5)])
    first = store.due(2)
    assert invoices(first) == ["in_0", "in_1"]
    assert invoices(store.due(2, {pending.id for pending in first})) == ["in_2", "in_3"]
    assert invoices(store.due(2)) == ["in_0", "in_1"]


def test_the_oldest_checkout_goes_first(store: Store) -> None:
    """Records are due in the order of their checkouts, not of their coming."""
    store.add([record(1, NOW - 5), record(2, NOW - 9), record(3, NOW - 7)])
    assert invoices(store.due(10)) == ["in_2", "in_3", "in_1"]


def test_a_delivered_record_is_gone(store: Store, clock: SteadyClock) -> None:
    """Delivered, it is counted, and when."""
    store.add([record(1)])
    clock.now += 60
    assert settle_all(store, Settled.DELIVERED) == 1
    counts = store.counts()
    assert (counts.pending, counts.delivered, counts.last_delivered_at) == (0, 1, NOW + 60)
    assert list(store.due(10)) == []


def test_a_dead_record_is_kept_and_not_sent(store: Store, clock: SteadyClock) -> None:
    """Dead, it waits for a person, and is never due."""
    store.add([record(1)])
    store.settle([Settlement(the_only(store).id, Settled.DEAD, reason="422")])
    clock.now += 365 * DAY
    assert list(store.due(10)) == []
    assert counted(store) == (0, 0, 0, 1, 0)


def test_a_retried_record_is_charged_and_due_later(store: Store, clock: SteadyClock) -> None:
    """RETRY counts an attempt each time, and holds the record back until it is due."""
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
    """RETRY with no `due_at` charges an attempt, and puts the record behind those that wait since before."""
    store.add([record(1, NOW - 9), record(2, NOW - 5)])
    clock.now += 1
    store.settle([Settlement(store.due(1)[0].id, Settled.RETRY)])
    assert [(pending.attempts, *invoices([pending])) for pending in store.due(10)] == [(0, "in_2"), (1, "in_1")]


def test_a_released_record_keeps_its_place_and_its_attempts(store: Store, clock: SteadyClock) -> None:
    """RELEASED charges nothing: the record is at its old place, or due when it is said."""
    store.add([record(1, NOW - 2), record(2, NOW - 1)])
    first, second = store.due(10)
    store.settle([Settlement(second.id, Settled.RELEASED), Settlement(first.id, Settled.RELEASED)])
    assert list(store.due(10)) == [first, second]
    store.settle([Settlement(first.id, Settled.RELEASED, NOW + 60)])
    assert list(store.due(10)) == [second]
    clock.now += 60
    assert list(store.due(10)) == [second, first]


def test_what_was_not_settled_is_due_after_the_next_open(store: Store) -> None:
    """A record on its way when the process ends goes out once more rather than never."""
    store.add([record(1)])
    pending = the_only(store)
    store.close()
    store.open()
    assert store.lead()
    assert the_only(store) == pending


@pytest.mark.parametrize("settled", [Settled.RETRY, Settled.RELEASED])
def test_a_clock_set_back_strands_no_record(store: Store, clock: SteadyClock, settled: Settled) -> None:
    """A record that was put off under a clock a year ahead is due as soon as the clock is right again."""
    clock.now += 365 * DAY
    store.add([record(1, NOW + 365 * DAY)])
    store.settle([Settlement(the_only(store).id, settled, clock.now + HOUR)])
    assert list(store.due(10)) == []
    clock.now = NOW
    assert invoices(store.due(10)) == ["in_1"]


def test_a_capture_from_the_future_is_due_at_once(store: Store) -> None:
    """A record is not held back because another host's clock is ahead."""
    store.add([record(1, NOW + 1000)])
    assert invoices(store.due(10)) == ["in_1"]


def test_settling_what_is_not_there_changes_nothing(store: Store) -> None:
    """A settlement of a record that a person dropped meanwhile is passed over."""
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
    """In either order, and across a restart, the second part makes the record, whole and once."""
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
def test_an_id_in_bytes_is_that_of_text(store: Store, *, shopper_first: bool) -> None:
    """A `Checkout` takes bytes for text; so does the part that waits for its counterpart."""
    for shopper in (shopper_first, not shopper_first):
        given = part(1, shopper=True) if shopper else part(1, shopper=False, invoice_id=b"in_1")
        assert take(store, given) == 0
    assert the_only(store).record == record(1)


def test_a_payment_gives_no_address(store: Store) -> None:
    """Whatever a payment's part says of the shopper's address and browser, the shopper's own part holds."""
    take(store, part(1, shopper=True))
    take(store, part(1, shopper=False, ipv4_address="9.9.9.9", user_agent="Stripe/1.0"))
    assert the_only(store).record == record(1)


def test_only_parts_of_one_key_and_of_both_kinds_meet(store: Store) -> None:
    """Neither two shoppers' parts nor two payments', nor parts of two sessions, are a checkout."""
    for number, shopper in [(1, True), (1, True), (2, False), (2, False)]:
        assert take(store, part(number, shopper=shopper, customer_email="a@example.com", invoice_id="in_1")) == 0
    assert (store.counts().parts, counted(store)) == (2, (0, 0, 0, 0, 0))


def test_parts_that_lack_something_wait_for_more(store: Store) -> None:
    """Without an e-mail both parts wait; a further one of either kind completes them, and the address stays."""
    assert take(store, part(1, shopper=True)) == 0
    assert take(store, part(1, shopper=False, customer_email="")) == 0
    assert counted(store) == (0, 0, 0, 0, 0)
    later = part(1, shopper=True, customer_email="shopper@example.com", ipv4_address="9.9.9.9")
    assert take(store, later) == 0
    assert store.counts().parts == 2  # the payment's own e-mail is empty, and holds
    assert take(store, part(1, shopper=False)) == 0
    assert the_only(store).record == record(1)


@pytest.mark.parametrize("agent", [{"user_agent": "the first"}, {}])
def test_address_and_browser_are_of_one_request(store: Store, agent: dict[str, Any]) -> None:
    """Of a session that is begun twice, the second request gives neither, not even if the first named no browser."""
    take(store, part(1, shopper=True, **agent))
    take(store, part(1, shopper=True, ipv4_address="9.9.9.9", user_agent="the second", customer_id="cus_1"))
    take(store, part(1, shopper=False))
    payload = json.loads(the_only(store).record.payload)
    assert {name: payload.get(name) for name in ("ipv4_address", "user_agent", "customer_id")} == {
        "ipv4_address": "81.2.69.142",
        "user_agent": agent.get("user_agent"),
        "customer_id": "cus_1",
    }


def test_what_was_joined_is_known_for_a_week(store: Store, clock: SteadyClock) -> None:
    """A webhook that comes again, or a reloaded page, makes no part that waits for nothing."""
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
    """In memory and on disk alike, whichever part completes it and whether the others were traced."""
    for number, trace in enumerate(traces):
        given = part(1, shopper=shopper_first is not bool(number), at=NOW - 10 + number)
        take(store, replace(given, traceparent=trace))
    record = the_only(store).record
    assert (record.captured_at, record.traceparent) == (NOW - 9, traces[1])


def test_a_joined_record_is_known_by_its_key(store: Store) -> None:
    """A record that came whole and the same one in parts are one."""
    store.add([record(1)])
    take(store, part(1, shopper=True))
    assert take(store, part(1, shopper=False)) == 1
    assert counted(store) == (0, 1, 0, 0, 0)


def test_a_lonely_part_expires(store: Store, clock: SteadyClock) -> None:
    """Parts older than that are gone and counted, younger ones stay."""
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
    """The capture that had it first, read again or loaded again, may use it; another checkout may not."""
    first, again, other = append(store, 1, 2, 3)
    assert not resolve(store, first, record(1), token="t").replayed
    second = resolve(store, again, record(1), record(1), token="t")  # named twice, it is the same one
    assert (second.replayed, known(second.outcomes)) == (False, 2)
    replayed = resolve(store, other, record(2), token="t", counts=[Count("covered")])
    assert (replayed.there, replayed.replayed, list(replayed.outcomes)) == (True, True, [])
    assert (counted(store), store.counted()) == ((1, 1, 0, 0, 0), {})
    assert resolve(store, other).there  # as it was, to be resolved without an address


def test_a_token_that_gave_nothing_is_not_used(store: Store) -> None:
    """A checkout that became no record leaves its token for the one that does."""
    first, second = append(store, 1, 2)
    resolve(store, first, token="t")
    assert not resolve(store, second, record(2), token="t").replayed


# The host.


def test_the_hold_is_kept_until_it_ends(store: Store) -> None:
    """A hold survives a reopening; None ends it."""
    assert store.counts().hold is None
    store.set_hold("401")
    store.close()
    store.open()
    assert store.counts().hold == "401"
    store.set_hold(None)
    assert store.counts().hold is None


def test_the_oldest_pending_checkout_is_told(store: Store) -> None:
    """The age of the oldest checkout shows an outage, whenever its record was made."""
    assert store.counts().oldest_pending_at is None
    store.add([record(2), record(1, NOW - 100)])
    assert store.counts().oldest_pending_at == NOW - 100
    settle_all(store, Settled.DELIVERED, 1)
    assert store.counts().oldest_pending_at == NOW


def test_counts_are_kept_by_the_hour_and_in_total(store: Store, clock: SteadyClock) -> None:
    """What is counted beside a change is there with it; hours are kept for a week, the total for ever."""
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


def test_a_store_that_nobody_else_uses_leads(store: Store) -> None:
    """The lead is had, let go of and had again."""
    assert store.lead()
    store.release_lead()
    assert store.lead()


def test_an_empty_store_says_so() -> None:
    """The counts of an empty store are all nothing."""
    assert MemoryOutbox().store().counts() == Counts()
