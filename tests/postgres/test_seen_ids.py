"""All machines that use a queue send one address for a checkout."""

import json
import random
import threading
from typing import Any

import psycopg
import pytest
from processes import until
from queues import Shop, arrived, enqueue, rows, work

from butter_middleware import Checkout, MemoryOutbox
from butter_middleware.models.checkout import EVIDENCE_IDS, Record
from butter_middleware.outbox import Pending
from butter_middleware.postgres import PostgresOutbox
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.postgres

FIRST, OTHER = ADDRESSES = ["81.2.69.142", "81.2.69.143"]


def of(address: str, **ids: str) -> Record:
    checkout = Checkout.model_validate(
        {"ipv4_address": address, "psp": "stripe", "customer_email": "shopper@example.com", **ids}
    )
    return Record.of(checkout, 0.0)


def test_a_second_address_from_another_machine_is_not_sent(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """Another machine captured the checkout with more IDs and another address. Only the key of that record is kept."""
    enqueue(PostgresOutbox(database), of(FIRST, invoice_id="in_1"))
    late = of(OTHER, invoice_id="in_1", charge_id="ch_1")
    enqueue(PostgresOutbox(database), late, of(FIRST, invoice_id="in_1", transaction_id="pi_1"))
    work(make_butter(), database, lambda: len(fake.records) == 2)
    assert {sent["ipv4_address"] for sent in fake.records} == {FIRST}
    assert arrived(fake) == ["in_1", "in_1"]
    assert rows(database, "SELECT key, record FROM butter.seen WHERE reason = 'other_address'") == [(late.key, None)]


def test_two_open_transactions_send_one_address(database: str) -> None:
    """The second transaction waits for the first, and then sees its address."""
    outbox = PostgresOutbox(database)
    with psycopg.connect(database) as first, psycopg.connect(database) as second:
        outbox.enqueue_in(first, [of(FIRST, invoice_id="in_1")])
        late = [of(OTHER, invoice_id="in_1", charge_id="ch_1")]
        thread = threading.Thread(target=outbox.enqueue_in, args=(second, late))
        thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        until(lambda: rows(database, waiting) == [(1,)], "the wait for the first transaction")
        first.commit()
        thread.join(20)
        second.commit()
    assert rows(database, "SELECT count(record) FROM butter.seen") == [(1,)]


def test_ids_are_forgotten_after_a_week(database: str, make_butter: Shop) -> None:
    """The worker deletes old IDs."""
    enqueue(PostgresOutbox(database), of(FIRST, invoice_id="in_1"), of(FIRST, invoice_id="in_2"))
    rows(
        database,
        """UPDATE butter.seen_ids SET seen_at = now() - interval '8 days'
            WHERE id = (SELECT min(id) FROM butter.seen_ids)""",
    )
    work(make_butter(), database, lambda: rows(database, "SELECT count(*) FROM butter.seen_ids") == [(1,)])


def test_ids_are_known_while_the_record_waits(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """After an outage of eight days, the IDs that are younger than the oldest waiting record are kept."""
    enqueue(PostgresOutbox(database), of(FIRST, invoice_id="in_1"))
    rows(database, "UPDATE butter.procrastinate_events SET at = now() - interval '8 days'")
    rows(database, "UPDATE butter.seen_ids SET seen_at = now() - interval '8 days'")
    rows(database, "INSERT INTO butter.seen_ids VALUES ('older', '', 0, now() - interval '9 days')")
    fake.respond_with(*[503] * 100)
    older = "SELECT count(*) FROM butter.seen_ids WHERE id = 'older'"
    work(make_butter(), database, lambda: rows(database, older) == [(0,)])
    late = of(OTHER, invoice_id="in_1", charge_id="ch_1")
    enqueue(PostgresOutbox(database), late)
    assert rows(database, "SELECT key FROM butter.seen WHERE reason = 'other_address'") == [(late.key,)]


def test_the_database_and_the_process_decide_the_same(database: str) -> None:
    """With random IDs and addresses in random order, both accept the same records."""
    chance = random.Random(7)  # noqa: S311 - no secret
    values: dict[str, list[str]] = {name: [f"{name}_{number}" for number in range(2)] for name in EVIDENCE_IDS}
    with psycopg.connect(database) as connection:
        for _round in range(100):
            store = MemoryOutbox().store()
            for _record in range(6):
                names = chance.sample(EVIDENCE_IDS, chance.randint(1, 3))
                record = of(chance.choice(ADDRESSES), **{name: chance.choice(values[name]) for name in names})
                (outcome,) = store.add([record])
                query: Any = "SELECT butter.enqueue(%s, %s)"
                row = connection.execute(query, (record.key, record.to_json())).fetchone()
                assert row == (isinstance(outcome, Pending),), json.loads(record.payload)
            connection.rollback()
