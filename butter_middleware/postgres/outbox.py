"""The web process's side: it puts records into the queue, and may do nothing else there."""

import asyncio
import os
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final, LiteralString

import anyio.to_thread
import psycopg
from psycopg_pool import ConnectionPool

from butter_middleware import config
from butter_middleware._utils import overrides
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import Record
from butter_middleware.postgres.names import Names, link, quoted, readable

Statement = tuple[LiteralString, dict[str, str]]

ENQUEUE_SECONDS: Final = 0.25
"""For one try. If connecting takes longer, as to a far server, the next try continues with the same connection."""
LATE_SECONDS: Final = 5.0
"""After which a record's next try starts again."""


class PostgresOutbox:
    """Records in one queue for all machines, in PostgreSQL; `butter-middleware worker` sends them from there.

    Building it connects to nothing. A thread of its own enqueues, never a checkout. While PostgreSQL is away, records
    wait in a bounded queue in memory (`status().pending`), and are lost if the process ends. The only mode without any
    loss is `butter.record(checkout, connection=...)`, within the transaction of the order itself.

    Args:
        dsn: A connection string such as `postgresql://shop@db/shop`; or BUTTER_POSTGRES_DSN. Its role needs no more
            than what `butter-middleware postgres migrate --web ROLE` grants.
        pool: Instead of `dsn`, an open `psycopg_pool.ConnectionPool` of the app.
        queue: The queue's name in procrastinate.
        schema: The schema that `butter-middleware postgres migrate` has made.

    Raises:
        ConfigurationError: neither or both of `dsn` and `pool` are given, or an argument cannot be used.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: "ConnectionPool[Any] | None" = None,
        queue: str = "butter",
        schema: str = "butter",
    ) -> None:
        self.names = Names(schema, queue=queue)
        self._sql: Any = f"SELECT {quoted(schema)}.enqueue(%(key)s, %(record)s, %(queue)s)"
        self.dsn = _dsn(dsn, pool)
        self._pool = pool
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None

    def __repr__(self) -> str:
        return f"PostgresOutbox(queue={self.names.queue!r}, schema={self.names.schema!r})"

    # As `Outbox` has it.

    async def enqueue(self, record: Record) -> None:
        """Put a record into the queue, unless its key is known there; raises when that took 0.25 seconds."""
        home = (os.getpid(), asyncio.get_running_loop())
        if self._home != home:
            # What there is belongs to another loop or to the parent: closing connections here would tell its server.
            self._idle, self._tasks, self._late, self._home = [], set(), {}, home
        task = self._late_try(record.key)
        if task is None:
            if self._pool is not None and self._late:
                msg = "an earlier record still has its connection, and the app needs the rest of its pool"
                raise TimeoutError(msg)
            task = asyncio.ensure_future(self._enqueue(record))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, record.key))
        done, _ = await asyncio.wait({task}, timeout=ENQUEUE_SECONDS)
        if not done:
            self._late.setdefault(record.key, (task, time.monotonic()))
            msg = "PostgreSQL did not take a record in time"
            raise TimeoutError(msg)
        task.result()

    async def aclose(self) -> None:
        """Close this loop's connections. The next record opens another one."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    # Within a transaction of the merchant's.

    def statement(self, record: Record) -> Statement:
        """Return SQL and its parameters, to be executed within a transaction of any driver's."""
        return self._sql, {"key": record.key, "record": record.to_json(), "queue": self.names.queue}

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> "Awaitable[None] | None":
        """Put records into the queue within the transaction of a psycopg connection, which commits, or does not, later.

        Gives something to await where the connection is asynchronous. What the database refuses is raised, with the
        transaction as it was before. The same checkout in another open transaction is waited for.

        Raises:
            TypeError: it is not a connection of psycopg's.
            ValueError: no transaction is open and none would begin: the record would be committed alone.
        """
        given: Any = connection
        if not isinstance(connection, psycopg.AsyncConnection | psycopg.Connection):
            msg = (
                f"connection= is a {type(connection).__name__}, and not a psycopg connection. SQLAlchemy gives its own "
                "as session.connection().connection.driver_connection; for other drivers see PostgresOutbox.statement."
            )
            raise TypeError(msg)
        if given.autocommit and given.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
            msg = (
                "connection= commits each statement by itself, so the record would be committed without the order. "
                "Call record() within `with connection.transaction():`."
            )
            raise ValueError(msg)
        # In one order, so that two transactions with the same records do not wait for each other.
        ordered = sorted(records, key=lambda record: record.key)
        if isinstance(connection, psycopg.AsyncConnection):
            return self._enqueue_in(given, ordered)
        connection.execute("")  # begins the transaction, so that what follows is a savepoint in it and commits nothing
        with connection.transaction():
            for record in ordered:
                connection.execute(*self.statement(record))
        return None

    async def _enqueue_in(self, connection: "psycopg.AsyncConnection[Any]", records: Sequence[Record]) -> None:
        await connection.execute("")
        async with connection.transaction():
            for record in records:
                await connection.execute(*self.statement(record))

    # On connections of its own, or of the app's pool.

    def _late_try(self, key: str) -> "asyncio.Task[None] | None":
        """Return the last try of a record, if it is still under way."""
        task, since = self._late.get(key, (None, 0.0))
        if task is None:
            return None
        if self._pool is not None or time.monotonic() - since <= LATE_SECONDS:
            return task
        # Cancelling asks the server, which may not answer either, so nothing waits for it.
        task.cancel()
        del self._late[key]
        return None

    def _ended(self, key: str, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if key in self._late and self._late[key][0] is task:
            del self._late[key]
        if not task.cancelled():
            task.exception()

    async def _enqueue(self, record: Record) -> None:
        statement = self.statement(record)
        if self._pool is not None:
            pool = self._pool

            def run() -> None:
                with pool.connection(timeout=ENQUEUE_SECONDS) as connection:
                    connection.execute(*statement)

            await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
            return
        if self._idle:
            try:
                await self._execute(self._idle.pop(), statement)
            except psycopg.OperationalError:
                # It may have been cut long ago, as by a restart of the server; then the others were too.
                self._idle = []
            else:
                return
        connection = await psycopg.AsyncConnection.connect(
            self.dsn,
            autocommit=True,
            application_name="butter-middleware web",
            prepare_threshold=None,
            **link(self.dsn),
        )
        await self._execute(connection, statement)

    async def _execute(self, connection: "psycopg.AsyncConnection[Any]", statement: Statement) -> None:
        try:
            await connection.execute(*statement)
        except BaseException:
            await connection.close()
            raise
        self._idle.append(connection)


def _dsn(dsn: str | None, pool: object) -> str:
    if pool is not None:
        if dsn is not None:
            msg = "PostgresOutbox got both dsn and pool: give one of them."
            raise ConfigurationError(msg)
        if not isinstance(pool, ConnectionPool):
            msg = (
                f"PostgresOutbox(pool=...) is a {type(pool).__name__}. Give a psycopg_pool.ConnectionPool, or a dsn: "
                "an asynchronous pool belongs to the app's event loop, which records must not keep busy."
            )
            raise ConfigurationError(msg)
        return ""
    given = dsn if dsn is not None else config.variable("BUTTER_POSTGRES_DSN")
    if not given and overrides.current() is not None:
        return "postgresql://nobody.invalid"  # nobody connects to it
    if not given:
        msg = "PostgresOutbox needs a dsn such as postgresql://db/shop; or set BUTTER_POSTGRES_DSN to it."
        raise ConfigurationError(msg)
    return readable(given)
