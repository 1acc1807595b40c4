"""Brings back jobs without a live worker: it was killed, or PostgreSQL's answer to it was lost."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from procrastinate import App, exceptions

from butter_middleware.postgres.names import TASK, Names, quoted
from butter_middleware.postgres.schema import REMEMBERED

log = logging.getLogger("butter_middleware")

STALLED_SECONDS: Final = 30.0
"""Since a worker's last heartbeat, which comes every ten seconds."""


class Reaper:
    """Looks for such jobs.

    Args:
        app: procrastinate's, open.
        names: Where in the database everything is.
        stalled: Seconds since its last heartbeat, after which a worker counts as dead.
        longest: Seconds that a job can take; one that takes longer was forgotten by a worker that lives.
    """

    def __init__(self, app: App, names: Names, stalled: float, longest: float) -> None:
        self._app = app
        self._names = names
        self._stalled = stalled
        self._longest = longest

    async def reap(self) -> int:
        """Have them done again; give how many there were."""
        dead = await self._app.job_manager.get_stalled_jobs(
            queue=self._names.queue, task_name=TASK, seconds_since_heartbeat=self._stalled
        )
        jobs = {job.id for job in dead if job.id is not None} | {*await self._forgotten()}
        for job in jobs:
            try:
                await self._app.job_manager.retry_job_by_id_async(job, retry_at=datetime.now(UTC))
            except exceptions.ConnectorException:
                log.debug("butter: job %d was ended, or brought back, meanwhile", job)
        if jobs:
            log.warning("butter: brought back %d jobs that no live worker has", len(jobs))
        return len(jobs)

    async def _forgotten(self) -> Iterable[int]:
        engine = quoted(self._names.engine)
        query: Any = (
            f"SELECT id FROM {engine}.procrastinate_jobs AS job "
            "WHERE status = 'doing' AND queue_name = %(queue)s AND task_name = %(task)s AND now() - "
            f"make_interval(secs => %(longest)s) > (SELECT max(at) FROM {engine}.procrastinate_events "
            "WHERE job_id = job.id AND type = 'started')"
        )
        rows = await self._app.connector.execute_query_all_async(
            query, queue=self._names.queue, task=TASK, longest=self._longest
        )
        return [row["id"] for row in rows]

    async def forget(self) -> None:
        """Forget keys and IDs that need not be known any more: old ones, and those of jobs that a person deleted."""
        seen, jobs = f"{quoted(self._names.schema)}.seen", f"{quoted(self._names.engine)}.procrastinate_jobs"
        # A key may be enqueued again meanwhile, with a job that these statements do not see: PostgreSQL then asks each
        # condition of the row again, and what was orphaned is compared with the job that the row had.
        delivered: Any = f"DELETE FROM {seen} WHERE delivered_at < now() - interval '{REMEMBERED}'"
        orphaned: Any = (
            f"DELETE FROM {seen} AS known USING (SELECT key, job FROM {seen} AS found WHERE delivered_at IS NULL "
            f"AND NOT EXISTS (SELECT 1 FROM {jobs} WHERE id = found.job) AND job IS NOT NULL) AS orphan "
            "WHERE known.key = orphan.key AND known.job = orphan.job AND known.delivered_at IS NULL"
        )
        events = f"{quoted(self._names.engine)}.procrastinate_events"
        # The IDs of what is still to be sent are kept, as in the other outboxes.
        seen_ids: Any = (
            f"DELETE FROM {quoted(self._names.schema)}.seen_ids WHERE seen_at < now() - interval '{REMEMBERED}' "
            f"AND seen_at < coalesce((SELECT min(at) FROM {events} WHERE type = 'deferred' AND job_id = "
            f"(SELECT min(id) FROM {jobs} WHERE status IN ('todo', 'doing') AND task_name = '{TASK}')), now())"
        )
        for query in (delivered, orphaned, seen_ids):
            await self._app.connector.execute_query_async(query)
