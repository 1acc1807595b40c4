"""What the tests of the queue in PostgreSQL have in common."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import psycopg
from processes import until

from butter_middleware import Butter, Checkout
from butter_middleware.checkout import Record
from butter_middleware.postgres import Names, PostgresOutbox, Worker
from butter_middleware.testing import FakeButter

Shop = Callable[..., Butter]


def checkout(number: int) -> Checkout:
    return Checkout(
        customer_email="shopper@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
    )


def record(number: int) -> Record:
    return Record.of(checkout(number), time.time())


def arrived(fake: FakeButter) -> list[str]:
    return sorted(record["invoice_id"] for record in fake.records)


def rows(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    # What is done by hand to procrastinate's tables needs the path: their triggers name each other without a schema.
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=public,butter") as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def queued(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM butter.procrastinate_jobs")[0][0])


def work(butter: Butter, dsn: str, done: Callable[[], bool], names: Names | None = None) -> None:
    """Run a worker until something is so."""

    async def main() -> None:
        worker = Worker(dsn, names or Names(), butter.delivery)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(until, done, "what the worker does", 40)
        worker.stop()
        async with asyncio.timeout(40):
            await running

    asyncio.run(main())


def enqueue(outbox: PostgresOutbox, *records: Record) -> None:
    """Put records into the queue, as the shop's thread does: a try that took too long is made again."""

    async def main() -> None:
        for one in records:
            for _ in range(20):
                with contextlib.suppress(TimeoutError, psycopg.OperationalError):
                    await outbox.enqueue(one)
                    break
        await outbox.aclose()

    asyncio.run(main())
