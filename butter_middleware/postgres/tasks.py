"""The task that procrastinate's workers run for a record, and its retries."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from procrastinate import BaseRetryStrategy, Blueprint, JobContext, RetryDecision
from procrastinate.connector import BaseConnector
from procrastinate.jobs import Job

from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.checkout import Record
from butter_middleware.outbox import Settled, Settlement
from butter_middleware.postgres.names import TASK, Names, quoted

FAULT_SECONDS: Final = 60.0
"""The pause before a job is retried that failed for another reason than Butter's answer."""
AFTER_OTHERS_SECONDS: Final = 1.0
"""The distance to the next probe, so that another job is first."""


class NotYetError(Exception):
    """Ends a job that must be retried."""

    def __init__(self, due_at: float) -> None:
        super().__init__("the record is not delivered yet")
        self.due_at = due_at


class FaultError(Exception):
    """Ends a job that failed for another reason than Butter's answer. Its text is the type of the error."""


class DeadRecordError(Exception):
    """Ends a job whose record Butter will never accept. procrastinate keeps it as failed."""


class _Again(BaseRetryStrategy):
    """Retries a job, unless its record is dead."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:  # noqa: ARG002 - procrastinate's
        if isinstance(exception, DeadRecordError):
            return None
        if isinstance(exception, NotYetError):
            # Clamped, so that a clock that jumped delays no job for long.
            now = datetime.now(UTC)
            due = datetime.fromtimestamp(max(0.0, exception.due_at), UTC)
            return RetryDecision(retry_at=min(max(due, now), now + timedelta(hours=1)))
        seconds = FAULT_SECONDS if isinstance(exception, Exception) else 0.0  # 0 if cancelled, because the worker stops
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=seconds))


class Deliverer:
    """Sends the records of jobs with one `Delivery`, which tracks Butter's state. It is made in the worker's loop."""

    def __init__(
        self, names: Names, make_delivery: Callable[[], Delivery], on_settled: Callable[[], None] = lambda: None
    ) -> None:
        self._make_delivery = make_delivery
        self._on_settled = on_settled
        self._queue = names.queue
        self._kept_hold: str | None = None
        self._recalled = False
        self._recalling = asyncio.Lock()
        seen, holds = f"{quoted(names.schema)}.seen", f"{quoted(names.schema)}.holds"
        self._find: Any = f"SELECT record, attempts FROM {seen} WHERE key = %(key)s"
        # The only durable commit of a worker: even if the start or end of a job is undone, nothing is sent twice.
        self._delivered: Any = (
            f"UPDATE {seen} SET record = NULL, job = NULL, delivered_at = now() "
            "FROM (SELECT set_config('synchronous_commit', 'on', true)) AS durable WHERE key = %(key)s"
        )
        self._failed: Any = f"UPDATE {seen} SET attempts = attempts + 1, reason = %(reason)s WHERE key = %(key)s"
        self._hold: Any = f"SELECT reason FROM {holds} WHERE queue = %(queue)s"
        self._keep_hold: Any = (
            f"INSERT INTO {holds} (queue, reason) VALUES (%(queue)s, %(reason)s) "
            "ON CONFLICT (queue) DO UPDATE SET reason = %(reason)s"
        )
        self._lift_hold: Any = f"DELETE FROM {holds} WHERE queue = %(queue)s"

    @cached_property
    def delivery(self) -> Delivery:
        """The delivery, which tracks Butter's state."""
        return self._make_delivery()

    async def deliver(self, context: JobContext, key: str) -> None:
        """Send the record of a job, if it was not delivered before.

        Raises:
            NotYetError: the job is retried.
            DeadRecordError: it is not retried.
            FaultError: the job is retried. The original error is hidden, because procrastinate would log its frames,
                which have personal data.
        """
        try:
            settlement = await self._deliver(context.app.connector, key)
        except asyncio.CancelledError as error:
            raise asyncio.CancelledError(*error.args) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, the record is kept
            raise FaultError(type(error.__cause__ or error).__name__) from None
        if settlement is not None:
            self._on_settled()
            if settlement.settled is Settled.DEAD:
                raise DeadRecordError(settlement.reason)
            if settlement.settled is not Settled.DELIVERED:
                # procrastinate takes the oldest due job. This job is due later, so that the next probe is another one.
                wait = self.delivery.breaker.seconds_to_wait()
                raise NotYetError(max(settlement.due_at, time.time() + wait + AFTER_OTHERS_SECONDS if wait else 0.0))

    async def _deliver(self, connector: BaseConnector, key: str) -> Settlement | None:
        await self.recall_hold(connector)
        rows = await connector.execute_query_all_async(self._find, key=key)
        if not rows or rows[0]["record"] is None:
            return None
        settlement = await self.delivery.deliver(Record.from_json(rows[0]["record"]), rows[0]["attempts"])
        if settlement.settled is Settled.DELIVERED:
            await connector.execute_query_async(self._delivered, key=key)
        elif settlement.settled is not Settled.RELEASED:
            await connector.execute_query_async(self._failed, key=key, reason=settlement.reason)
        hold = self.delivery.breaker.hold_reason
        if hold != self._kept_hold:
            self._kept_hold = hold
            query = self._lift_hold if hold is None else self._keep_hold
            await connector.execute_query_async(query, queue=self._queue, reason=hold)
        return settlement

    async def recall_hold(self, connector: BaseConnector) -> None:
        """Continue, once, a hold of an earlier process, or of another process of this queue."""
        async with self._recalling:
            if self._recalled:
                return
            for row in await connector.execute_query_all_async(self._hold, queue=self._queue):
                self._kept_hold = row["reason"]
                self.delivery.resume_hold(row["reason"])
            self._recalled = True

    async def aclose(self) -> None:
        """Close the connections to Butter."""
        if "delivery" in vars(self):
            await self.delivery.aclose()


def blueprint(make_delivery: Callable[[], Delivery], schema: str = "butter") -> Blueprint:
    """Return the task for your own app: `app.add_tasks_from(blueprint(butter.delivery), namespace="butter")`.

    Args:
        make_delivery: The `butter.delivery` of the `Butter` whose credentials are used.
        schema: The schema that `butter-middleware postgres migrate --procrastinate-schema ...` made.
    """
    return tasks_of(Deliverer(Names(schema), make_delivery))


def tasks_of(deliverer: Deliverer) -> Blueprint:
    """Return the task of a deliverer."""
    tasks = Blueprint()
    namespace, _colon, name = TASK.partition(":")

    @tasks.task(name=name, queue=namespace, retry=_Again(), pass_context=True)
    async def deliver(context: JobContext, /, key: str) -> None:
        await deliverer.deliver(context, key)

    return tasks
