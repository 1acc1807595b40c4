"""Runs procrastinate's worker. It is stopped while Butter is not available, and started again after a fault."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
from procrastinate import App
from procrastinate.worker import Worker as Engine
from psycopg import errors

from butter_middleware.delivery.delivery import Delivery
from butter_middleware.outbox.base import FAR_FUTURE
from butter_middleware.postgres.connector import PatientConnector
from butter_middleware.postgres.names import TASK, Names, quoted, readable
from butter_middleware.postgres.schema import REMEMBERED
from butter_middleware.postgres.slots import Slots
from butter_middleware.postgres.tasks import Deliverer, tasks_of

log = logging.getLogger("butter_middleware")

LOOK_SECONDS: Final = 2.0
"""The time between checks of the slots, and of the queue if no notification came."""
FORGET_SECONDS: Final = 3600.0
LAST_SECONDS: Final = 5.0
"""The time to store the results of jobs that were cancelled."""
OTHER_CONNECTIONS: Final = 3
"""Connections of the pool in addition to one for each job: heartbeat, next job, reaper."""

_UNGRANTED: Final = (
    errors.InvalidSchemaName,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InsufficientPrivilege,
)
_UNGRANTED_REMEDY: Final = ". The database's owner runs `butter-middleware postgres migrate --worker ROLE`"


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits and times of a worker."""

    concurrency: int = 4
    """The most records on their way at once from this worker."""
    slots: int = 8
    """The most records on their way at once from all workers together."""
    stop_seconds: float = 25.0
    """The time for the jobs in flight after SIGTERM. One record takes at most 20 s."""
    stalled_seconds: float = 30.0
    """Seconds since a worker's last heartbeat, after which others take its jobs. This is three heartbeats."""


class Worker:
    """Delivers the records of a queue until it is told to stop.

    The role of `dsn` needs the rights of `butter-middleware postgres migrate --worker ROLE`. `make_delivery` gets the
    most records that are sent at once.

    Raises:
        ConfigurationError: `dsn` is not a connection string.
    """

    def __init__(
        self, dsn: str, names: Names, make_delivery: Callable[[int], Delivery], pace: Pace | None = None
    ) -> None:
        self._pace = pace or Pace()
        self._names = names
        readable(dsn)
        self._deliverer = Deliverer(names, lambda: make_delivery(self._pace.concurrency), self._settled)
        self._slots = Slots(dsn, f"butter-middleware {names.schema} {names.queue}", self._pace.slots)
        self._app = App(connector=PatientConnector(dsn, names, self._pace.concurrency + OTHER_CONNECTIONS))
        self._app.add_tasks_from(tasks_of(self._deliverer), namespace=TASK.partition(":")[0])
        self._stop = asyncio.Event()
        self._engine: Any = None  # procrastinate's, which is only partly typed
        self._concurrency = self._held = 0

    def stop(self) -> None:
        """Take no more jobs. `run` ends when those in flight have ended, or after `stop_seconds`."""
        self._stop.set()
        self._stop_engine()

    async def run(self) -> None:
        """Work until `stop`. No failure of PostgreSQL or Butter ends it."""
        async with self._app.open_async():
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._forever, self._bring_back)
                    group.start_soon(self._cut_off, group.cancel_scope)
                    await self._forever(self._work)
                    group.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._slots.give_up()
                    await self._deliverer.aclose()

    async def _cut_off(self, scope: anyio.CancelScope) -> None:
        await self._stop.wait()
        await anyio.sleep(self._pace.stop_seconds + LAST_SECONDS)
        log.error(
            "butter: jobs in flight are left to another worker: stopping took more than %g s", self._pace.stop_seconds
        )
        scope.cancel()

    async def _forever(self, what: Callable[[], Awaitable[None]]) -> None:
        while not self._stop.is_set():
            try:
                await what()
            except Exception as error:  # noqa: BLE001 - this process must outlive any fault
                root = _root(error)
                remedy = _UNGRANTED_REMEDY if isinstance(root, _UNGRANTED) else ""
                log.error("butter: the worker failed (%s); it continues%s", type(root).__name__, remedy)  # noqa: TRY400 - frames hold personal data
            await self._wait(LOOK_SECONDS)

    # Sending.

    async def _work(self) -> None:
        """Run procrastinate's worker while it has slots and Butter may be asked."""
        held = await self._slots.hold(self._pace.concurrency)
        if held:
            await self._deliverer.recall_hold(self._app.connector)
        delivery = self._deliverer.delivery
        pause = delivery.breaker.seconds_to_wait()
        while not self._stop.is_set() and held and pause:
            # Meanwhile no job is fetched, because each would be postponed: millions of writes.
            await self._wait(min(pause, LOOK_SECONDS))
            held, pause = await self._slots.hold(self._pace.concurrency), delivery.breaker.seconds_to_wait()
        if held and not self._stop.is_set():
            self._concurrency, self._held = 1 if delivery.ill else held, held
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_slots, held)
                self._engine = Engine(
                    self._app,
                    queues=[self._names.queue],
                    name="butter",
                    concurrency=self._concurrency,
                    fetch_job_polling_interval=LOOK_SECONDS,
                    shutdown_graceful_timeout=self._pace.stop_seconds,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._pace.stalled_seconds / 3,
                    stalled_worker_timeout=self._pace.stalled_seconds,
                )
                try:
                    await self._engine.run()
                finally:
                    self._engine = None
                group.cancel_scope.cancel()

    async def _watch_slots(self, held: int) -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            if await self._slots.hold(self._pace.concurrency) != held:
                break
        self._stop_engine()  # the number of slots has changed, so it starts again with the new one

    def _settled(self) -> None:
        """After each job, stop procrastinate's worker if Butter is not available, or if more jobs may run again."""
        ill = self._deliverer.delivery.ill
        if (ill and self._deliverer.delivery.breaker.seconds_to_wait()) or (not ill and self._concurrency < self._held):
            self._stop_engine()

    def _stop_engine(self) -> None:
        if self._engine is not None:
            self._engine.stop()

    # Bringing back.

    async def _bring_back(self) -> None:
        forget_at = anyio.current_time()
        while not self._stop.is_set():
            await _reap(self._app, self._names, self._pace.stalled_seconds)
            if anyio.current_time() >= forget_at:
                forget_at = anyio.current_time() + FORGET_SECONDS
                await _bring_forward(self._app, self._names)
                await _forget(self._app, self._names)
            await self._wait(self._pace.stalled_seconds / 3)

    async def _wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stop.wait()


def _root(error: BaseException) -> BaseException:
    """Return the original error of a group, or of procrastinate's exception."""
    several = cast("BaseExceptionGroup[BaseException]", error).exceptions if hasattr(error, "exceptions") else ()
    inner = several[0] if several else error.__cause__
    return error if inner is None else _root(inner)


async def _reap(app: App, names: Names, stalled: float) -> None:
    """Retry jobs without a live worker: it was killed, or PostgreSQL's answer to it was lost.

    A worker counts as dead after `stalled` seconds without a heartbeat. A job that takes four times as long was
    forgotten by a worker that lives.
    """
    engine = quoted(names.engine)
    # Another worker may do the same meanwhile. PostgreSQL then checks the row again, and `attempts` has changed.
    query: Any = (
        f"UPDATE {engine}.procrastinate_jobs AS job SET attempts = job.attempts + 1, scheduled_at = now(), "
        f"status = (CASE WHEN job.abort_requested THEN 'failed' ELSE 'todo' END)::{engine}.procrastinate_job_status "
        f"FROM {engine}.procrastinate_jobs AS found LEFT JOIN {engine}.procrastinate_workers AS worker "
        "ON worker.id = found.worker_id "
        "WHERE job.id = found.id AND job.status = found.status AND job.attempts = found.attempts "
        "AND found.status = 'doing' AND found.queue_name = %(queue)s AND found.task_name = %(task)s "
        "AND (found.worker_id IS NULL OR worker.last_heartbeat < now() - make_interval(secs => %(stalled)s) "
        "OR now() - make_interval(secs => %(longest)s) > "
        f"(SELECT max(at) FROM {engine}.procrastinate_events WHERE job_id = found.id AND type = 'started')) "
        "RETURNING job.id"
    )
    jobs = await app.connector.execute_query_all_async(
        query, queue=names.queue, task=TASK, stalled=stalled, longest=4 * stalled
    )
    if jobs:
        log.warning("butter: brought back %d jobs that no live worker has", len(jobs))


async def _bring_forward(app: App, names: Names) -> None:
    """Make jobs due that a worker with a fast clock postponed: no job is postponed for more than an hour."""
    query: Any = (
        f"UPDATE {quoted(names.engine)}.procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo' "
        "AND queue_name = %(queue)s AND task_name = %(task)s AND scheduled_at > now() + make_interval(secs => %(far)s)"
    )
    await app.connector.execute_query_async(query, queue=names.queue, task=TASK, far=FAR_FUTURE)


async def _forget(app: App, names: Names) -> None:
    """Delete keys and IDs that are not needed: old ones, and those of jobs that a person deleted."""
    seen, jobs = f"{quoted(names.schema)}.seen", f"{quoted(names.engine)}.procrastinate_jobs"
    # Meanwhile a key may be enqueued again with a job that these statements do not see. PostgreSQL then checks each
    # condition of the row again, and the orphaned key is compared with the job that the row had.
    delivered: Any = f"DELETE FROM {seen} WHERE delivered_at < now() - interval '{REMEMBERED}'"
    orphaned: Any = (
        f"DELETE FROM {seen} AS known USING (SELECT key, job FROM {seen} AS found WHERE delivered_at IS NULL "
        f"AND NOT EXISTS (SELECT 1 FROM {jobs} WHERE id = found.job) AND job IS NOT NULL) AS orphan "
        "WHERE known.key = orphan.key AND known.job = orphan.job AND known.delivered_at IS NULL"
    )
    # The IDs of unsent records are kept, as in the other outboxes.
    events = f"{quoted(names.engine)}.procrastinate_events"
    seen_ids: Any = (
        f"DELETE FROM {quoted(names.schema)}.seen_ids WHERE seen_at < now() - interval '{REMEMBERED}' "
        f"AND seen_at < coalesce((SELECT min(at) FROM {events} WHERE type = 'deferred' AND job_id = "
        f"(SELECT min(id) FROM {jobs} WHERE status IN ('todo', 'doing') AND task_name = '{TASK}')), now())"
    )
    for query in (delivered, orphaned, seen_ids):
        await app.connector.execute_query_async(query)
