"""procrastinate's connection to PostgreSQL, which survives outages of PostgreSQL."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import psycopg
from procrastinate import PsycopgConnector, exceptions
from procrastinate.connector import Notify
from psycopg import errors
from psycopg_pool import AsyncConnectionPool

from butter_middleware.postgres.names import Names, first_line, link

T = TypeVar("T")

log = logging.getLogger("butter_middleware")

AGAIN_SECONDS: Final = 0.5
SAY_SECONDS: Final = 60.0
"""Between two log lines about an outage."""
CANCELLED_MOST: Final = 3
"""How often a query may be cancelled. An administrator may do it once, but a `statement_timeout` does it each time."""
POOL_SECONDS: Final = 2.0
"""How long a connection of the pool may take. The pool's own retries are worse: it doubles its pauses, so it reconnects
long after PostgreSQL is back. After its `reconnect_timeout`, waiting callers wait forever."""

_AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)
"""The errors of a server that is away, is starting, has a full disk, or has become a standby."""


class PatientConnector(PsycopgConnector):
    """Repeats queries while PostgreSQL is away, instead of raising, so that the end of a job is always stored.

    Otherwise a job that was sent while PostgreSQL went away would stay `doing` with a live worker. A repeated query may
    have been executed already, and callers must allow for that. If a query is cancelled each time, this raises.
    """

    def __init__(self, dsn: str, names: Names, connections: int) -> None:
        async def configure(connection: "psycopg.AsyncConnection[Any]") -> None:
            # A commit that a crash of PostgreSQL undoes is repeated. `tasks` has the one that must be durable.
            sql = f"SET search_path = {names.search_path}; SET synchronous_commit = off"
            await connection.execute(sql.encode())
            await connection.commit()

        self._make_pool: Callable[[], AsyncConnectionPool[Any]] = lambda: AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            timeout=POOL_SECONDS,
            reconnect_timeout=POOL_SECONDS,
            configure=configure,
            open=False,
            kwargs={"application_name": "butter-middleware worker", **link(dsn)},
        )
        super().__init__(configure=configure)  # pyright: ignore[reportUnknownMemberType] - as in procrastinate
        self._own: AsyncConnectionPool[Any] | None = None
        self._say_at = 0.0

    async def open_async(self, pool: "AsyncConnectionPool[Any] | None" = None) -> None:
        """Open the pool. The first query connects."""
        if pool is None:
            pool = self._own = self._make_pool()
            await pool.open(wait=False)
        await super().open_async(pool)

    async def close_async(self) -> None:
        """Close the pool."""
        own, self._own, self._async_pool = self._own, None, None
        if own is not None:
            await own.close(timeout=1.0)

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:  # noqa: ANN401 - procrastinate's types
        """Run a query."""
        await self._patiently(lambda: super(PatientConnector, self).execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
        """Run a query, and return its one row."""
        return await self._patiently(lambda: super(PatientConnector, self).execute_query_one_async(query, **arguments))

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Run a query, and return its rows."""
        return await self._patiently(lambda: super(PatientConnector, self).execute_query_all_async(query, **arguments))

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Listen, and listen again after an outage."""
        names = list(channels)
        await self._patiently(lambda: super(PatientConnector, self).listen_notify(on_notification, names))

    async def _patiently(self, question: Callable[[], Awaitable[T]]) -> T:
        cancelled = 0
        while True:
            try:
                return await question()
            except exceptions.ConnectorException as error:
                cause = error.__cause__
                cancelled += isinstance(cause, errors.QueryCanceled)
                if not isinstance(cause, _AWAY) or cancelled >= CANCELLED_MOST:
                    raise
                if time.monotonic() >= self._say_at:
                    self._say_at = time.monotonic() + SAY_SECONDS
                    log.warning(
                        "butter: PostgreSQL did not run a query of the worker (%s); the worker tries again",
                        first_line(cause),
                    )
            await asyncio.sleep(AGAIN_SECONDS)
