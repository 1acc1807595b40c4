"""One checkout, one address: it may be captured again with other IDs, but is never sent with another address."""

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from hypothesis import given, settings
from hypothesis import strategies as st
from outboxes import NOW, SteadyClock, append, record, resolve, settle_all

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, MemoryOutbox, SQLiteOutbox
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import Parked, ParkReason, Pending, Settled, Store
from butter_middleware.outbox.base import Outcome
from butter_middleware.outbox.sqlite.schema import ADDITIONS, APPLICATION_ID, MIGRATIONS
from butter_middleware.testing import FakeButter

MINUTE = 60.0
DAY = 86400.0
ADDRESSES = ["81.2.69.142", "81.2.69.143", "8.8.8.8"]
FIRST, OTHER, _THIRD = ADDRESSES
OUTBOXES: dict[str, Callable[..., MemoryOutbox | SQLiteOutbox]] = {
    "memory": lambda _folder, clock: MemoryOutbox(clock=clock),
    "disk": lambda folder, clock: SQLiteOutbox(folder / "butter.db", clock=clock),
}


def of(address: str = FIRST, psp: Any = "stripe", **ids: str) -> Record:
    """Return a record with these IDs."""
    checkout = Checkout(ipv4_address=address, psp=psp, customer_email="shopper@example.com", **ids)
    return Record.of(checkout, NOW)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    return SteadyClock.installed(monkeypatch)


@pytest.fixture(params=OUTBOXES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SteadyClock) -> Iterator[Store]:
    store = OUTBOXES[request.param](tmp_path, clock).store()
    store.open()
    yield store
    store.close()


def outcome(store: Store, record: Record) -> Skip | None:
    """Add a record. Return why it was left out."""
    (found,) = store.add([record])
    return None if isinstance(found, Pending) else found


@pytest.mark.parametrize("state", [None, Settled.DELIVERED, Settled.DEAD])
@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"invoice_id": "in_1"}, {"invoice_id": "in_1", "charge_id": "ch_1"}),
        ({"invoice_id": "in_1", "charge_id": "ch_1"}, {"invoice_id": "in_1"}),
        ({"invoice_id": "in_1", "charge_id": "ch_1"}, {"charge_id": "ch_1", "transaction_id": "pi_1"}),
        ({"subscription_id": "sub_1"}, {"subscription_id": "sub_1", "invoice_id": "in_1"}),
        ({"subscription_id": "sub_1", "invoice_id": "in_1"}, {"subscription_id": "sub_1"}),
        ({"subscription_id": "sub_1", "invoice_id": "in_1"}, {"subscription_id": "sub_1", "charge_id": "ch_1"}),
        ({"network_transaction_id": "n1", "charge_id": "ch_1"}, {"network_transaction_id": "n1"}),
    ],
)
def test_a_checkout_with_other_ids_keeps_its_first_address(
    store: Store, first: dict[str, str], again: dict[str, str], state: Settled | None
) -> None:
    """With other IDs it is not sent with another address, in any state of its first record."""
    assert outcome(store, of(**first)) is None
    if state is not None:
        settle_all(store, state)
    assert outcome(store, of(OTHER, **again)) is Skip.OTHER_ADDRESS
    assert outcome(store, of(FIRST, **first)) is Skip.DUPLICATE
    assert outcome(store, of(OTHER, **first)) is Skip.DUPLICATE


def test_more_ids_with_the_same_address_are_sent(store: Store) -> None:
    """They match a dispute better."""
    assert outcome(store, of(invoice_id="in_1")) is None
    assert outcome(store, of(invoice_id="in_1", charge_id="ch_1")) is None
    assert outcome(store, of(charge_id="ch_1", transaction_id="pi_1")) is None


def test_the_ids_of_a_refused_record_are_known_too(store: Store) -> None:
    """Its charge belongs to the first address, and cannot be sent with another one."""
    store.add([of(invoice_id="in_1")])
    assert outcome(store, of(OTHER, invoice_id="in_1", charge_id="ch_1")) is Skip.OTHER_ADDRESS
    assert outcome(store, of(OTHER, charge_id="ch_1")) is Skip.OTHER_ADDRESS
    assert outcome(store, of(FIRST, charge_id="ch_1")) is None


@pytest.mark.parametrize("name", ["subscription_id", "network_transaction_id"])
def test_payments_of_one_subscription_have_their_own_addresses(store: Store, name: str) -> None:
    """An upgrade from elsewhere is another checkout. A record with only the subscription may be of either."""
    shared = {name: "1"}
    assert outcome(store, of(FIRST, invoice_id="in_1", charge_id="ch_1", **shared)) is None
    assert outcome(store, of(OTHER, invoice_id="in_2", **shared)) is None
    assert outcome(store, of(FIRST, invoice_id="in_3", **shared)) is None
    for address in (FIRST, OTHER):
        assert outcome(store, of(address, **shared)) is Skip.OTHER_ADDRESS
        assert outcome(store, of(address, charge_id="ch_2", **shared)) is Skip.OTHER_ADDRESS


def test_an_upgrade_after_a_reload_is_sent(store: Store) -> None:
    """The same checkout with more or fewer IDs keeps its invoice, which tells the next one apart."""
    for ids in ({}, {"invoice_id": "in_1"}, {"invoice_id": "in_1", "charge_id": "ch_1"}):
        assert outcome(store, of(subscription_id="sub_1", **ids)) is None
    assert outcome(store, of(OTHER, subscription_id="sub_1", invoice_id="in_2")) is None


def test_an_upgrade_known_by_its_invoice_alone_is_another_checkout(store: Store) -> None:
    """Its invoice does not claim the subscription. A record with only the subscription may be of either."""
    assert outcome(store, of(FIRST, invoice_id="in_1", subscription_id="sub_1")) is None
    assert outcome(store, of(OTHER, invoice_id="in_2")) is None
    assert outcome(store, of(OTHER, invoice_id="in_2", subscription_id="sub_1")) is None
    for address in (FIRST, OTHER):
        assert outcome(store, of(address, subscription_id="sub_1")) is Skip.OTHER_ADDRESS
        assert outcome(store, of(address, subscription_id="sub_1", charge_id="ch_1")) is Skip.OTHER_ADDRESS


def test_different_shoppers_share_nothing(store: Store) -> None:
    """The same number at another PSP, in another field, or of another shopper is another checkout."""
    assert outcome(store, of(transaction_id="1", psp="adyen")) is None
    assert outcome(store, of(OTHER, transaction_id="1", psp="worldpay")) is None
    assert outcome(store, of(OTHER, invoice_id="1", psp="adyen")) is None
    assert outcome(store, of(OTHER, transaction_id="2", psp="adyen")) is None


def test_parts_and_captures_follow_the_same_rule(store: Store) -> None:
    """A record may come from a capture, a parked one or two parts."""
    store.add([of(charge_id="ch_1")])
    late = of(OTHER, charge_id="ch_1", invoice_id="in_1")
    first, second = append(store, 1, 2)
    assert resolve(store, first, late, record(7)).outcomes[0] is Skip.OTHER_ADDRESS
    fields: dict[str, Any] = {"psp": "stripe", "customer_email": "shopper@example.com"}
    parts = [
        Part("join:1", shopper=True, fields=fields | {"ipv4_address": OTHER}, captured_at=NOW),
        Part("join:1", shopper=False, fields=fields | {"charge_id": "ch_1", "invoice_id": "in_1"}, captured_at=NOW),
    ]
    third, fourth = append(store, 3, 4)
    assert list(resolve(store, second, part=parts[0]).outcomes) == []
    assert list(resolve(store, third, part=parts[1]).outcomes) == [Skip.OTHER_ADDRESS]
    parked = Parked(ParkReason.NO_EMAIL, "", [of(OTHER, charge_id="ch_1", transaction_id="pi_1")])
    assert list(resolve(store, fourth, parked=parked).outcomes) == [Skip.OTHER_ADDRESS]


def prune(store: Store, clock: SteadyClock) -> None:
    for _ in range(22):
        while store.prune():
            pass
        clock.pass_(MINUTE)


def test_ids_are_kept_for_a_week_and_while_the_record_waits(store: Store, clock: SteadyClock) -> None:
    """A record that waits longer because of an outage keeps its IDs."""
    store.add([of(invoice_id="in_1")])
    clock.pass_(30 * DAY)
    prune(store, clock)
    assert outcome(store, of(OTHER, invoice_id="in_1", charge_id="ch_1")) is Skip.OTHER_ADDRESS
    settle_all(store, Settled.DELIVERED)
    prune(store, clock)
    assert outcome(store, of(OTHER, invoice_id="in_1", transaction_id="pi_1")) is None


def test_ids_seen_again_are_kept_for_another_week(store: Store, clock: SteadyClock) -> None:
    """Each record of the checkout that is sent begins the week again."""
    store.add([of(invoice_id="in_1")])
    settle_all(store, Settled.DELIVERED)
    clock.pass_(6 * DAY)
    store.add([of(invoice_id="in_1", charge_id="ch_1")])
    settle_all(store, Settled.DELIVERED)
    clock.pass_(6 * DAY)
    prune(store, clock)
    assert outcome(store, of(OTHER, invoice_id="in_1", transaction_id="pi_1")) is Skip.OTHER_ADDRESS


def test_the_file_contains_neither_id_nor_address(tmp_path: Path) -> None:
    """It has digests. Two bytes are of the address, so that 65,536 addresses share each value."""
    store = SQLiteOutbox(tmp_path / "butter.db").store()
    store.open()
    store.add([of(invoice_id="in_1", charge_id="ch_1")])
    settle_all(store, Settled.DELIVERED)
    store.close()
    with closing(sqlite3.connect(tmp_path / "butter.db")) as connection:
        rows = connection.execute("SELECT * FROM seen_ids").fetchall()
    assert len(rows) == 2
    for number, address, payment_ids, _seen_at in rows:
        assert (-(2**15) <= address < 2**15, payment_ids) == (True, 0)
        assert -(2**63) <= number < 2**63
    content = (tmp_path / "butter.db").read_bytes()
    assert not any(word in content for word in (b"in_1", b"ch_1", FIRST.encode()))


def test_all_processes_know_them_after_a_restart(tmp_path: Path) -> None:
    """Another process of the host, and the next one, know what was sent."""
    first, second = (SQLiteOutbox(tmp_path / "butter.db").store() for _ in range(2))
    first.open()
    second.open()
    first.add([of(invoice_id="in_1")])
    again = of(OTHER, invoice_id="in_1", charge_id="ch_1")
    assert outcome(second, again) is Skip.OTHER_ADDRESS
    first.close()
    second.close()
    first.open()
    assert outcome(first, again) is Skip.OTHER_ADDRESS
    first.close()


def test_a_file_of_an_earlier_schema_is_migrated(tmp_path: Path) -> None:
    """A file of schema 3 keeps its waiting records, and gets the table."""
    path = tmp_path / "butter.db"
    with closing(sqlite3.connect(path)) as connection:
        for statements in (*MIGRATIONS, ADDITIONS[0]):
            for statement in statements:
                connection.execute(statement)
        connection.execute("ALTER TABLE records ADD COLUMN traceparent TEXT")
        connection.execute("UPDATE meta SET value = 3 WHERE name = 'schema'")
        waiting = record(1)
        sql = "INSERT INTO records (key, captured_at, due_at, payload) VALUES (?, ?, ?, ?)"
        connection.execute(sql, (waiting.key, NOW, NOW, waiting.payload))
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.commit()
    store = SQLiteOutbox(path, clock=lambda: NOW).store()
    store.open()
    assert [pending.record for pending in store.due(9)] == [waiting]
    store.add([of(charge_id="ch_1")])
    assert outcome(store, of(OTHER, charge_id="ch_1", invoice_id="in_2")) is Skip.OTHER_ADDRESS
    store.close()


# What an app sees.


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_page_opened_by_another_person_sends_no_second_address(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    on_disk: bool,
) -> None:
    """This response names the charge, and goes to another address. It is counted, logged and not sent."""
    options = {"outbox": tmp_path / "butter.db"} if on_disk else {}
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda response: response.json())
    butter = make_butter(route, **options)
    paid = {"customer_email": "a@example.com", "invoice_id": "in_1"}

    def open_page(address: str, **ids: str) -> None:
        scope = http_scope(headers=[(b"x-forwarded-for", address.encode())])
        app = ButterMiddleware(sends(start(200), body(json.dumps(paid | ids).encode())), butter)
        anyio.run(drive, app, scope)
        assert butter.flush()

    open_page(FIRST)
    open_page(OTHER, charge_id="ch_1")
    butter.record(Checkout.model_validate(fake.records[0] | {"transaction_id": "pi_1", "ipv4_address": OTHER}))
    assert butter.flush()
    assert [found["ipv4_address"] for found in fake.records] == [FIRST]
    open_page(FIRST, transaction_id="pi_2")
    assert [found.get("transaction_id") for found in fake.records] == [None, "pi_2"]
    status = butter.status()
    assert (status.skipped, status.lost) == ({"other_address": 2}, 0)
    assert status.coverage.missed == {}
    assert caplog.text.count("The first address counts, and the later record is not sent") == 1


@pytest.mark.parametrize(("on_disk", "addresses"), [(False, [FIRST, OTHER]), (True, [FIRST])])
def test_memory_knows_only_what_its_own_process_sent(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path, addresses: list[str], *, on_disk: bool
) -> None:
    """Two workers with memory send a page that both answer, as docs/losses.md says. With a file they send it once."""
    options = {"outbox": tmp_path / "butter.db"} if on_disk else {}
    paid = json.dumps({"customer_email": "a@example.com", "invoice_id": "in_1"}).encode()
    for address in (FIRST, OTHER):
        butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", lambda r: r.json()), **options)
        scope = http_scope(headers=[(b"x-forwarded-for", address.encode())])
        anyio.run(drive, ButterMiddleware(sends(start(200), body(paid)), butter), scope)
        assert butter.flush()
    assert [found["ipv4_address"] for found in fake.records] == addresses


# Any captures in any order.

IDS = {
    "invoice_id": "in_1",
    "subscription_id": "sub_1",
    "charge_id": "ch_1",
    "transaction_id": "pi_1",
    "network_transaction_id": "n1",
}
SUBSETS = st.sets(st.sampled_from(sorted(IDS)), min_size=1)
CAPTURES = st.lists(st.tuples(SUBSETS, st.sampled_from(ADDRESSES)), min_size=2, max_size=8)


def sent(outcomes: list[Outcome]) -> set[str]:
    return {json.loads(one.record.payload)["ipv4_address"] for one in outcomes if isinstance(one, Pending)}


@pytest.mark.parametrize("kind", OUTBOXES)
def test_at_most_one_address_of_a_checkout_is_sent(kind: str, tmp_path: Path) -> None:
    """Each capture of the checkout shares an ID with an earlier one. IDs and addresses are random."""
    store = OUTBOXES[kind](tmp_path, lambda: NOW).store()
    examples = itertools.count()

    @settings(max_examples=300, deadline=None)
    @given(captures=CAPTURES)
    def run(captures: list[tuple[set[str], str]]) -> None:
        example, named, outcomes = next(examples), set[str](), list[Outcome]()
        for names, address in captures:
            if not named or names & named:
                named |= names
                outcomes += store.add([of(address, **{name: f"{IDS[name]}_{example}" for name in names})])
        assert len(sent(outcomes)) == 1

    store.open()
    try:
        run()
    finally:
        store.close()


NAMES = st.sampled_from(
    [{"invoice_id"}, {"subscription_id"}, {"invoice_id", "subscription_id"}, {"invoice_id", "charge_id"}, set(IDS)]
)
"""With a subscription comes the invoice or no payment ID, so that its payments can be told apart."""
OF_PAYMENTS = st.lists(st.tuples(NAMES, st.integers(1, 2), st.sampled_from(ADDRESSES[:2])), min_size=2, max_size=6)


def test_each_payment_of_a_subscription_has_one_address(tmp_path: Path) -> None:
    """Captures come again from any address. Both outboxes decide the same."""
    stores = [make(tmp_path, lambda: NOW).store() for make in OUTBOXES.values()]
    examples = itertools.count()

    @settings(max_examples=500, deadline=None)
    @given(captures=OF_PAYMENTS)
    def run(captures: list[tuple[set[str], int, str]]) -> None:
        example, sent = next(examples), list[Mapping[str, str]]()
        for names, number, address in captures:
            ids = {name: f"{example}_{name}_{number}" for name in names}
            if "subscription_id" in names:
                ids["subscription_id"] = str(example)
            one = of(address, **ids)
            outcomes = [outcome(store, one) for store in stores]
            assert outcomes[0] == outcomes[1]
            if outcomes[0] is None:
                sent.append(json.loads(one.payload))
        for at, later in enumerate(sent):
            for earlier in sent[:at]:
                same = {name for name in IDS if name in earlier and earlier[name] == later.get(name)}
                # A record with only the subscription may belong to any of its payments.
                if same - {"subscription_id"} or (same and "invoice_id" not in later):
                    assert earlier["ipv4_address"] == later["ipv4_address"]

    for store in stores:
        store.open()
    try:
        run()
    finally:
        for store in stores:
            store.close()
