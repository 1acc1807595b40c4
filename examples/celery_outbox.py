"""A shop that sends its records through Celery, because it runs Celery workers anyway.

    uvicorn celery_outbox:app
    celery -A celery_outbox worker

Any other queue works in the same way. One method enqueues, and a consumer sends with
`Delivery`.
"""

# Celery has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportFunctionMemberAccess=false

import asyncio
import os
from datetime import UTC, datetime
from functools import cache
from typing import Any

import anyio.to_thread
from celery import Celery, Task
from fastapi import FastAPI, Request

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    Delivery,
    Record,
    Settled,
    annotate,
    client_ip,
    extract,
)

queue = Celery("shop", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost"))
queue.conf.task_acks_late = True  # a killed worker loses nothing
queue.conf.task_reject_on_worker_lost = True


class CeleryOutbox:
    """The outbox. Its one method runs on a thread of the middleware."""

    async def enqueue(self, record: Record) -> None:
        """Publish the record. If this raises, it is tried again."""
        await anyio.to_thread.run_sync(publish, record.to_json())


butter = Butter(
    client_ip=client_ip.nginx(["10.0.0.0/8"]),
    outbox=CeleryOutbox(),
    routes=[
        CheckoutRoute(
            "/checkout/{cart_id}",
            psp="stripe",
            extract=extract.json(invoice_id="invoice"),
        )
    ],
)


class DeadRecordError(Exception):
    """Butter will never accept the record. Celery shows the failed task to a person."""


@cache
def delivery() -> tuple[asyncio.Runner, Delivery]:
    """Return this process's delivery. It remembers Butter's state, so keep it."""
    return asyncio.Runner(), butter.delivery()


@queue.task(  # type: ignore[untyped-decorator]
    bind=True, name="butter.deliver", max_retries=None, ignore_result=True
)
def deliver(task: "Task[Any, Any]", text: str, attempts: int = 0) -> None:
    """Send one record. Celery keeps it until Butter accepts it.

    Raises:
        DeadRecordError: Butter will never accept it.
    """
    runner, sender = delivery()
    settlement = runner.run(sender.deliver(Record.from_json(text), attempts))
    if settlement.settled is Settled.DEAD:
        raise DeadRecordError(settlement.reason)
    if settlement.settled is not Settled.DELIVERED:
        charged = settlement.settled is Settled.RETRY
        due = datetime.fromtimestamp(
            max(settlement.due_at, datetime.now(UTC).timestamp()), UTC
        )
        raise task.retry(
            args=(text, attempts + charged), eta=due, argsrepr="(a record)", throw=False
        )


def publish(text: str) -> None:
    """Publish a record. Celery logs `argsrepr` instead of the personal data."""
    deliver.apply_async(args=(text,), argsrepr="(a record)")


app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.post("/checkout/{cart_id}")
def checkout(cart_id: str, request: Request) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart_id}"}
