"""The web process's side: it puts records into the queue, and has no other rights there."""

import asyncio
import os
import time
from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, LiteralString

import anyio.to_thread
import psycopg
from psycopg_pool import ConnectionPool

from butter_middleware import config
from butter_middleware._utils import overrides
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import Record
from butter_middleware.postgres.names import LINK, Names, first_line, link, quoted, readable

Statement = tuple[LiteralString, dict[str, str]]

ENQUEUE_SECONDS: Final = 0.25
"""The time for one try. If connecting takes longer, as to a distant server, the next try uses that connection."""
_REMEDY: Final = (
    "Check the dsn, the network and the role. `butter-middleware postgres migrate --web ROLE` makes the schema and "
    "grants the rights."
)
LATE_SECONDS: Final = 5.0
"""After this time, a record's next try starts from the beginning."""


class PostgresOutbox:
    """Puts records into one queue for all machines, in PostgreSQL. `butter-middleware worker` sends them from there.

    The constructor does not connect. A separate thread enqueues, never a checkout. While PostgreSQL is away, records
    wait in a bounded queue in memory (`status().pending`), and are lost if the process ends. The only mode without any
    loss is `butter.record(checkout, connection=...)`, within the transaction of the order itself.

    Args:
        dsn: A connection string such as `postgresql://shop@db/shop`. If left out, it is read from BUTTER_POSTGRES_DSN.
            Its role needs only the rights that `butter-middleware postgres migrate --web ROLE` grants.
        pool: Instead of `dsn`, an open `psycopg_pool.ConnectionPool` of the app.
        queue: The queue's name in procrastinate.
        schema: The schema that `butter-middleware postgres migrate` made.

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

    # The method of `Outbox`.

    async def enqueue(self, record: Record) -> None:
        """Put a record into the queue, unless its key is known there.

        Raises:
            TimeoutError: PostgreSQL did not take it within 0.25 seconds. With `pool`, also if an earlier record still
                uses a connection.
            psycopg.Error: PostgreSQL cannot be reached, or refused it.
        """
        home = (os.getpid(), asyncio.get_running_loop())
        if self._home != home:
            # The connections belong to another loop or to the parent: closing them here would close the parent's too.
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
        """Close this loop's connections. The next record opens a new one."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    # For `butter-middleware check`.

    def verify(self) -> None:
        """Enqueue in a transaction that is rolled back. Opens the pool, and blocks for some seconds at most.

        Raises:
            ConfigurationError: PostgreSQL cannot be reached, or refuses. The text has the cause and the remedy.
        """
        values = {"key": "verify", "record": "{}", "queue": self.names.queue}
        try:
            with self._connected() as connection, connection.transaction(force_rollback=True):
                connection.execute(self._sql, values)
        except psycopg.Error as error:
            msg = f"{type(error).__name__}: {first_line(error)}. {_REMEDY}"
            raise ConfigurationError(msg) from None

    def _connected(self) -> "AbstractContextManager[psycopg.Connection[Any]]":
        if self._pool is not None:
            self._pool.open()  # an app may open it only when it starts
            return self._pool.connection(timeout=float(LINK["connect_timeout"]))
        return psycopg.connect(self.dsn, application_name="butter-middleware check", **link(self.dsn))

    # Within the merchant's transaction.

    def statement(self, record: Record) -> Statement:
        """Return SQL and its parameters, to be executed within a transaction of any driver."""
        return self._sql, {"key": record.key, "record": record.to_json(), "queue": self.names.queue}

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> "Awaitable[None] | None":
        """Put records into the queue within the open transaction of a psycopg connection.

        Returns an awaitable if the connection is asynchronous. If another open transaction has the same checkout, this
        waits for it.

        Raises:
            psycopg.Error: PostgreSQL refused. The transaction is then as it was before.
            TypeError: it is not a psycopg connection.
            ValueError: no transaction is open and none would begin, so the record would be committed alone.
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
        # Sorted, so that two transactions with the same records do not wait for each other.
        ordered = sorted(records, key=lambda record: record.key)
        if isinstance(connection, psycopg.AsyncConnection):
            return self._enqueue_in(given, ordered)
        connection.execute("")  # begins the transaction, so that the next one is a savepoint and does not commit
        with connection.transaction():
            for record in ordered:
                connection.execute(*self.statement(record))
        return None

    async def _enqueue_in(self, connection: "psycopg.AsyncConnection[Any]", records: Sequence[Record]) -> None:
        await connection.execute("")
        async with connection.transaction():
            for record in records:
                await connection.execute(*self.statement(record))

    # On its own connections, or those of the app's pool.

    def _late_try(self, key: str) -> "asyncio.Task[None] | None":
        """Return the last try of a record, if it is still running."""
        task, since = self._late.get(key, (None, 0.0))
        if task is None:
            return None
        if self._pool is not None or time.monotonic() - since <= LATE_SECONDS:
            return task
        # Not awaited: cancelling asks the server, which may not answer either.
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
                # It may have been closed long ago, as by a restart of the server. Then the others were too.
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
        return "postgresql://nobody.invalid"  # it is never used
    if not given:
        msg = "PostgresOutbox needs a dsn such as postgresql://db/shop; or set BUTTER_POSTGRES_DSN to it."
        raise ConfigurationError(msg)
    return readable(given)
