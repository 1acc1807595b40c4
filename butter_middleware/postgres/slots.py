"""Limits the records on their way to Butter from all workers together, with one advisory lock for each record.

A lock ends with its connection, so a killed worker releases its locks, without a clock or a lease.
"""

import logging
from typing import Any, Final

import psycopg

from butter_middleware.postgres.names import LINK, first_line, link

log = logging.getLogger("butter_middleware")

NOTICE: Final = "; ".join(
    f"SET tcp_{option.removeprefix('tcp_')} = {value}" for option, value in LINK.items() if option != "connect_timeout"
)
"""Sent to PostgreSQL. Otherwise it would keep the locks of a worker on a failed machine for two hours."""
TAKE: Final = "SELECT pg_try_advisory_lock(hashtext(%s), %s)"


class Slots:
    """The slots of this worker, out of `total` that all workers with the same `name` share."""

    def __init__(self, dsn: str, name: str, total: int) -> None:
        self._dsn = dsn
        self._name = name
        self._total = total
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._held: set[int] = set()
        self._away = False

    async def hold(self, wanted: int) -> int:
        """Take free slots, up to `wanted`. Return how many this worker has now.

        If the connection is lost, its slots are lost too, and taken again later.
        """
        try:
            if self._connection is None:
                self._connection = await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, application_name="butter-middleware slots", **link(self._dsn)
                )
                await self._connection.execute(NOTICE.encode())
            await self._connection.execute("SELECT 1")  # even if no slot is needed, because the connection may be lost
            for place in range(self._total):
                if len(self._held) >= wanted:
                    break
                if place not in self._held:
                    taken = await self._connection.execute(TAKE, (self._name, place))
                    if await taken.fetchone() == (True,):
                        self._held.add(place)
        except psycopg.Error as error:
            if not self._away:
                log.warning("butter: PostgreSQL is away (%s); the worker waits for it", first_line(error))
            self._away = True
            await self.give_up()
        else:
            self._away = False
        return len(self._held)

    async def give_up(self) -> None:
        """Release all slots."""
        connection, self._connection = self._connection, None
        self._held = set()
        if connection is not None:
            await connection.close()
