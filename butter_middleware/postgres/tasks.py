"""What procrastinate's workers do with a record: the one task, and how it comes again."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from procrastinate import BaseRetryStrategy, Blueprint, JobContext, RetryDecision
from procrastinate.jobs import Job

from butter_middleware.checkout import Record
from butter_middleware.delivery import Delivery
from butter_middleware.outbox import Settled, Settlement
from butter_middleware.postgres.names import TASK, Names, quoted

FAULT_SECONDS: Final = 60.0
"""Until a job that failed otherwise than by Butter's answer comes again."""


class NotYetError(Exception):
    """Ends a job that is to come again."""

    def __init__(self, due_at: float) -> None:
        super().__init__("the record is not delivered yet")
        self.due_at = due_at


class DeadRecordError(Exception):
    """Ends a job whose record Butter will never accept; procrastinate keeps it as failed."""


class _Again(BaseRetryStrategy):
    """Whatever happens but a dead record: the job comes again."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:  # noqa: ARG002 - procrastinate's
        if isinstance(exception, DeadRecordError):
            return None
        if isinstance(exception, NotYetError):
            # Clamped: a clock that jumped strands nothing.
            now = datetime.now(UTC)
            due = datetime.fromtimestamp(max(0.0, exception.due_at), UTC)
            return RetryDecision(retry_at=min(max(due, now), now + timedelta(hours=1)))
        seconds = FAULT_SECONDS if isinstance(exception, Exception) else 0.0  # cancelled: the worker stops
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=seconds))


class Deliverer:
    """Sends the records of jobs, by one `Delivery` that knows how Butter is.

    Args:
        names: Where in the database everything is.
        make_delivery: Makes it, in the worker's loop, for the first job.
        on_settled: Called after each job.
    """

    def __init__(
        self, names: Names, make_delivery: Callable[[], Delivery], on_settled: Callable[[], None] = lambda: None
    ) -> None:
        self._make_delivery = make_delivery
        self._on_settled = on_settled
        self._delivery: Delivery | None = None
        seen = f"{quoted(names.schema)}.seen"
        self._find: Any = f"SELECT record, attempts FROM {seen} WHERE key = %(key)s"
        # The one durable commit of a worker: while it stands, an undone start or end of the job sends nothing twice.
        self._delivered: Any = (
            f"UPDATE {seen} SET record = NULL, job = NULL, delivered_at = now() "
            "FROM (SELECT set_config('synchronous_commit', 'on', true)) AS durable WHERE key = %(key)s"
        )
        self._failed: Any = f"UPDATE {seen} SET attempts = attempts + 1, reason = %(reason)s WHERE key = %(key)s"

    @property
    def delivery(self) -> Delivery:
        """What knows how Butter is."""
        if self._delivery is None:
            self._delivery = self._make_delivery()
        return self._delivery

    async def deliver(self, context: JobContext, key: str) -> None:
        """Send the record of a job, if it was not delivered before.

        Raises:
            NotYetError: the job comes again.
            DeadRecordError: it does not.
        """
        connector = context.app.connector
        rows = await connector.execute_query_all_async(self._find, key=key)
        if not rows or rows[0]["record"] is None:
            return
        settlement = await self.delivery.deliver(Record.from_json(rows[0]["record"]), rows[0]["attempts"])
        if settlement.settled is Settled.DELIVERED:
            await connector.execute_query_async(self._delivered, key=key)
        elif settlement.settled is not Settled.RELEASED:
            await connector.execute_query_async(self._failed, key=key, reason=settlement.reason)
        self._on_settled()
        _raise_unless_delivered(settlement)

    async def aclose(self) -> None:
        """Let go of the connections to Butter."""
        if self._delivery is not None:
            await self._delivery.aclose()


def _raise_unless_delivered(settlement: Settlement) -> None:
    if settlement.settled is Settled.DEAD:
        raise DeadRecordError(settlement.reason)
    if settlement.settled is not Settled.DELIVERED:
        raise NotYetError(settlement.due_at)


def blueprint(make_delivery: Callable[[], Delivery], schema: str = "butter") -> Blueprint:
    """Return the task for an app of your own: `app.add_tasks_from(blueprint(butter.delivery), namespace="butter")`.

    Args:
        make_delivery: `butter.delivery`, of the `Butter` whose credentials send.
        schema: The one that `butter-middleware postgres migrate --procrastinate-schema ...` has made.
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
