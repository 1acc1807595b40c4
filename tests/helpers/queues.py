"""Shared by the tests of the queue in PostgreSQL."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import anyio
import psycopg
from anyio.abc import SocketStream
from processes import free_port, listening, until
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from butter_middleware import Butter, Checkout
from butter_middleware.models.checkout import Record
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
    # Direct changes of procrastinate's tables need the search path: their triggers use names without a schema.
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=public,butter") as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def queued(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM butter.procrastinate_jobs")[0][0])


def work(butter: Butter, dsn: str, done: Callable[[], bool], names: Names | None = None) -> None:
    """Run a worker until a condition is true."""

    async def main() -> None:
        worker = Worker(dsn, names or Names(), butter.delivery)
        running = asyncio.create_task(worker.run())
        await asyncio.to_thread(until, done, "what the worker does", 40)
        worker.stop()
        async with asyncio.timeout(40):
            await running

    asyncio.run(main())


@contextlib.contextmanager
def far(dsn: str, seconds: float) -> Generator[str]:
    """Return a DSN of the same database that delays each message."""
    host, port, over = conninfo_to_dict(dsn), free_port(), threading.Event()

    async def carry(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in source:
                await anyio.sleep(seconds)
                await sink.send(data)
        scope.cancel()

    async def accept(here: SocketStream) -> None:
        async with (
            here,
            await anyio.connect_tcp(str(host["host"]), int(str(host["port"]))) as there,
            anyio.create_task_group() as group,
        ):
            group.start_soon(carry, here, there, group.cancel_scope)
            group.start_soon(carry, there, here, group.cancel_scope)

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, accept)
            await anyio.to_thread.run_sync(over.wait)
            group.cancel_scope.cancel()

    thread = threading.Thread(target=anyio.run, args=(main,))
    thread.start()
    try:
        until(lambda: listening(port), "the way to the server")
        yield make_conninfo(dsn, port=port)
    finally:
        over.set()
        thread.join()


async def put(outbox: PostgresOutbox, one: Record) -> None:
    """Put a record into the queue, as the shop's thread does. A try that took too long is repeated."""
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(TimeoutError, psycopg.OperationalError):
                await outbox.enqueue(one)
                return
            await asyncio.sleep(0)  # the outbox learns here that a connection is free again


def enqueue(outbox: PostgresOutbox, *records: Record) -> None:
    """Put records into the queue."""

    async def main() -> None:
        for one in records:
            await put(outbox, one)
        await outbox.aclose()

    asyncio.run(main())
