"""`butter.record(..., connection=...)` in a transaction of SQLAlchemy, as in docs/postgres.md."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from queues import Shop, arrived, checkout, queued, rows, work
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from butter_middleware import Butter
from butter_middleware.postgres import PostgresOutbox
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.postgres
DOCUMENT = Path(__file__).parents[2] / "docs" / "postgres.md"
ORDERS = Table("orders", MetaData(), Column("id", Integer, primary_key=True))


@pytest.fixture
def shop(database: str, make_butter: Shop) -> Butter:
    rows(database, "CREATE TABLE orders (id int PRIMARY KEY)")
    return make_butter(outbox=PostgresOutbox(database))


def documented(name: str, butter: Butter) -> Callable[..., Any]:
    """Return a function from the document."""
    names: dict[str, Any] = {"butter": butter}
    (block,) = re.findall(rf"```python\n([^`]*\bdef {name}\([^`]*)```", DOCUMENT.read_text())
    exec(block, names)  # noqa: S102 - our own document
    function: Callable[..., Any] = names[name]
    return function


def url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://")


def in_session(shop: Butter, dsn: str, number: int, *, fails: bool = False, **options: Any) -> None:
    engine = create_engine(url(dsn), **options)
    try:
        with Session(engine) as session, session.begin():
            session.execute(insert(ORDERS).values(id=number))
            documented("sync_order", shop)(session, checkout(number))
            if fails:
                raise KeyError(number)
    finally:
        engine.dispose()


def in_async_session(shop: Butter, dsn: str, number: int, *, fails: bool = False, **options: Any) -> None:
    async def main() -> None:
        engine = create_async_engine(url(dsn), **options)
        try:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(insert(ORDERS).values(id=number))
                await documented("async_order", shop)(session, checkout(number))
                if fails:
                    raise KeyError(number)
        finally:
            await engine.dispose()

    asyncio.run(main())


Order = Callable[..., None]
both = pytest.mark.parametrize("order", [in_session, in_async_session])


@both
def test_the_session_commits_both_or_neither(order: Order, shop: Butter, database: str, fake: FakeButter) -> None:
    """A rollback of the session leaves nothing. A commit keeps the order, and the record in the queue."""
    with pytest.raises(KeyError):
        order(shop, database, 1, fails=True)
    assert (rows(database, "SELECT count(*) FROM orders"), queued(database)) == ([(0,)], 0)
    order(shop, database, 2)
    assert (rows(database, "SELECT id FROM orders"), queued(database)) == ([(2,)], 1)
    work(shop, database, lambda: len(fake.records) == 1)
    assert arrived(fake) == ["in_2"]


@both
def test_a_session_without_transactions_is_refused(order: Order, shop: Butter, database: str) -> None:
    """SQLAlchemy's AUTOCOMMIT would commit the record without the order."""
    with pytest.raises(ValueError, match="committed without the order"):
        order(shop, database, 1, isolation_level="AUTOCOMMIT")
    assert queued(database) == 0


def test_a_nested_rollback_removes_its_record(shop: Butter, database: str) -> None:
    """A rollback of `begin_nested` removes the record made in it. What the session did before stays."""
    order = documented("sync_order", shop)
    engine = create_engine(url(database))
    with Session(engine) as session, session.begin():
        order(session, checkout(1))
        nested = session.begin_nested()
        order(session, checkout(2))
        nested.rollback()
    engine.dispose()
    assert queued(database) == 1


def test_sqlalchemys_own_connection_is_refused(shop: Butter, database: str) -> None:
    """The session's connection is not psycopg's. The error says how to get that."""
    wrong: Any
    engine = create_engine(url(database))
    with Session(engine) as session:
        for wrong in (session, session.connection(), session.connection().connection):
            with pytest.raises(TypeError, match="driver_connection"):
                shop.record(checkout(1), connection=wrong)
    engine.dispose()
    assert queued(database) == 0
