"""`butter.record(..., connection=...)`: the order and its evidence commit together, or not at all."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI, Request
from queues import Shop, arrived, checkout, queued, rows, work
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware import Butter, CheckoutRoute, ConfigurationError
from butter_middleware.postgres import PostgresOutbox
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.postgres


@pytest.fixture
def shop(database: str, make_butter: Shop) -> Butter:
    rows(database, "CREATE TABLE orders (id int PRIMARY KEY)")
    return make_butter(CheckoutRoute("/pay/{cart}", psp="stripe"), outbox=PostgresOutbox(database))


def sync_order(shop: Butter, dsn: str, number: int, *, fails: bool = False) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO orders VALUES (%s)", [number])
        shop.record(checkout(number), connection=connection)
        if fails:
            raise KeyError(number)


def async_order(shop: Butter, dsn: str, number: int, *, fails: bool = False) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("INSERT INTO orders VALUES (%s)", [number])
            await shop.record(checkout(number), connection=connection)
            if fails:
                raise KeyError(number)

    asyncio.run(main())


Order = Callable[..., None]


@pytest.mark.parametrize("order", [sync_order, async_order])
def test_the_order_and_its_evidence_commit_together(
    order: Order, shop: Butter, database: str, fake: FakeButter
) -> None:
    """Both are in one transaction. A rollback leaves nothing, and a commit has the record in the queue."""
    with pytest.raises(KeyError):
        order(shop, database, 1, fails=True)
    assert (rows(database, "SELECT count(*) FROM orders"), queued(database)) == ([(0,)], 0)
    assert rows(database, "SELECT count(*) FROM butter.seen") == [(0,)]
    order(shop, database, 1)
    order(shop, database, 2)
    assert (rows(database, "SELECT count(*) FROM orders"), queued(database)) == ([(2,)], 2)
    work(shop, database, lambda: len(fake.records) == 2)
    assert arrived(fake) == ["in_1", "in_2"]


def test_the_same_checkout_in_two_transactions_is_recorded_once(shop: Butter, database: str) -> None:
    """The page was sent twice. The second transaction waits for the first, and then sees its key."""
    waiting = threading.Event()
    with psycopg.connect(database) as first:
        shop.record(checkout(1), connection=first)

        def second() -> None:
            with psycopg.connect(database) as connection:
                waiting.set()
                shop.record(checkout(1), connection=connection)

        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
    thread.join(20)
    assert queued(database) == 1


def test_both_orders_of_a_deadlock_get_their_records(shop: Butter, database: str) -> None:
    """Each records two checkouts, in opposite order. PostgreSQL raises in one of them, which then tries again."""
    both, refused = threading.Barrier(2), list[int]()

    def order(*numbers: int) -> None:
        with psycopg.connect(database) as connection:
            connection.execute("INSERT INTO orders VALUES (%s)", [numbers[0]])
            shop.record(checkout(numbers[0]), connection=connection)
            both.wait(20)
            try:
                shop.record(checkout(numbers[1]), connection=connection)
            except psycopg.errors.DeadlockDetected:
                refused.append(numbers[1])
        if refused == [numbers[1]]:
            with psycopg.connect(database) as connection:
                shop.record(checkout(numbers[1]), connection=connection)

    threads = [threading.Thread(target=order, args=numbers) for numbers in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(refused) == 1
    assert (rows(database, "SELECT count(*) FROM orders"), queued(database)) == ([(2,)], 2)


def test_a_checkout_that_was_rolled_back_can_be_recorded_again(shop: Butter, database: str) -> None:
    """The rollback also removes the record's key."""
    with psycopg.connect(database) as connection:
        shop.record(checkout(1), connection=connection)
        connection.rollback()
    sync_order(shop, database, 1)
    assert queued(database) == 1


def test_a_refusal_leaves_the_transaction_usable(database: str, make_butter: Shop) -> None:
    """The schema does not exist, so it raises. An app that catches the error can still commit the order."""
    rows(database, "CREATE TABLE orders (id int PRIMARY KEY)")
    shop = make_butter(outbox=PostgresOutbox(database, schema="elsewhere"))
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(psycopg.errors.InvalidSchemaName):
            shop.record(checkout(1), connection=connection)
    assert rows(database, "SELECT count(*) FROM orders") == [(1,)]


def test_a_connection_that_is_cut_leaves_neither(shop: Butter, database: str) -> None:
    """PostgreSQL closes the connection before the commit."""
    with closing(psycopg.connect(database)) as connection:
        connection.execute("INSERT INTO orders VALUES (1)")
        shop.record(checkout(1), connection=connection)
        rows(database, f"SELECT pg_terminate_backend({connection.info.backend_pid}, 30000)")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    assert (rows(database, "SELECT count(*) FROM orders"), queued(database)) == ([(0,)], 0)


def test_a_connection_without_a_transaction_is_refused(shop: Butter, database: str) -> None:
    """With autocommit the record would be committed without the order. In a transaction block it is accepted."""
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(ValueError, match="committed without the order"):
            shop.record(checkout(1), connection=connection)
        assert queued(database) == 0
        with connection.transaction():
            shop.record(checkout(1), connection=connection)
    assert queued(database) == 1


def test_wrong_arguments_are_refused(shop: Butter, make_butter: Shop, database: str) -> None:
    """A wrong connection or outbox raises. A wrong request is counted as lost, and the order still commits."""
    wrong: Any = object()
    with pytest.raises(TypeError, match="not a psycopg connection"):
        shop.record(checkout(1), connection=wrong)
    with psycopg.connect(database) as connection:
        with pytest.raises(ConfigurationError, match="PostgresOutbox"):
            make_butter().record(checkout(1), connection=connection)
        with connection.transaction():
            shop.record(wrong, connection=connection, invoice_id="in_2")
    assert (queued(database), shop.status().lost) == (0, 1)


def test_a_dry_run_writes_nothing(database: str, make_butter: Shop) -> None:
    """The same code with `dry_run=True` puts nothing into the queue."""
    shop = make_butter(outbox=PostgresOutbox(database), dry_run=True)
    with psycopg.connect(database) as connection:
        shop.record(checkout(1), connection=connection)
    assert queued(database) == 0
    assert shop.status().skipped == {"dry_run": 1}


@pytest.mark.parametrize("address", [SHOPPER, "2001:db8::1"])
def test_an_endpoint_records_its_own_request(shop: Butter, database: str, fake: FakeButter, address: str) -> None:
    """The address is found as usual. If there is none, the order commits without a record, which is counted."""
    app = FastAPI()

    @app.post("/order/{number}")
    def order(number: int, request: Request) -> None:
        with psycopg.connect(database) as connection:
            connection.execute("INSERT INTO orders VALUES (%s)", [number])
            shop.record(
                request,
                connection=connection,
                psp="stripe",
                customer_email="shopper@example.com",
                invoice_id=f"in_{number}",
            )

    assert TestClient(app).post("/order/7", headers={"x-forwarded-for": address}).status_code == 200
    assert rows(database, "SELECT count(*) FROM orders") == [(1,)]
    if address == SHOPPER:
        work(shop, database, lambda: len(fake.records) == 1)
        assert fake.records[0]["ipv4_address"] == SHOPPER
    else:
        shop.flush()
        assert (queued(database), shop.status().skipped) == (0, {"no_address:ipv6_client": 1})
