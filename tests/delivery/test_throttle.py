"""Sending leaves the interpreter to the checkouts that are served beside it."""

import asyncio
from collections.abc import Callable
from itertools import count

import anyio
import anyio.lowlevel
import pytest
from butter_middleware.pipeline.worker import Worker
from shops import PAID, SHOPPER
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout
from butter_middleware.delivery.delivery import GAP_MOST, POLL_SECONDS, Delivery
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox import MemoryOutbox, Settlement

RECORDS = 5


class Takes:
    """A courier whose records are all accepted."""

    async def post(self, record: Record) -> Answer:  # noqa: ARG002 - named as the protocol names it
        return Answer(AnswerKind.DELIVERED, 200)

    async def ping(self) -> Answer:
        return Answer(AnswerKind.DELIVERED, 200)

    async def aclose(self) -> None:
        return


def gaps(cost: float, prepare: Callable[[Delivery], None], now: float = 0.0) -> list[float]:
    """Drain a few records that cost `cost` seconds of a core each; return the gaps that were left between them."""
    waits: list[float] = []
    clock = [0.0]
    spent = count()

    async def wait(event: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    async def main() -> None:
        outbox = MemoryOutbox()
        outbox.open()
        settled: list[Settlement] = []
        delivery = Delivery(
            Takes,
            on_settled=settled.extend,
            monotonic=lambda: clock[0],
            cpu=lambda: cost * next(spent),
            wait=wait,
        )
        prepare(delivery)
        clock[0] = now
        checkouts = [
            Checkout(
                customer_email="a@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
            )
            for number in range(RECORDS)
        ]
        outbox.add([Record.of(checkout, 0.0) for checkout in checkouts]).result()
        async with anyio.create_task_group() as group:
            group.start_soon(delivery.run, outbox)
            with anyio.fail_after(10):
                while len(settled) < RECORDS:
                    await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    asyncio.run(main())
    return [seconds for seconds in waits if seconds != POLL_SECONDS]


def test_beside_checkouts_half_of_the_time_is_left() -> None:
    """After a record that took 10 ms of a core, the next is sent 20 ms later: half of the time is the checkouts'."""
    assert gaps(0.01, Delivery.throttle)[1:RECORDS] == pytest.approx([0.02] * (RECORDS - 1))


def test_a_gap_has_a_bound() -> None:
    """What took seconds, as the first import of the HTTP client may, does not stop sending for seconds."""
    assert gaps(3.0, Delivery.throttle)[1:RECORDS] == [GAP_MOST] * (RECORDS - 1)


@pytest.mark.parametrize(
    ("prepare", "now"),
    [
        pytest.param(lambda _delivery: None, 0.0, id="no checkout"),
        pytest.param(Delivery.throttle, 60.0, id="the last a minute ago"),
        pytest.param(lambda delivery: (delivery.throttle(), delivery.unthrottle()), 0.0, id="the process stops"),
    ],
)
def test_alone_it_sends_at_full_speed(prepare: Callable[[Delivery], None], now: float) -> None:
    """Without checkouts beside it, no time is left unused."""
    assert gaps(0.01, prepare, now) == []


def test_a_captured_checkout_asks_for_it(butter: Butter) -> None:
    """From its first checkout on, a process sends considerately, until it stops."""

    async def checkout(_request: Request) -> JSONResponse:
        return JSONResponse(PAID)

    app = Starlette(routes=[Route("/checkout/{cart_id}", checkout, methods=["POST"])])
    butter.pipeline.start()
    assert isinstance(butter.pipeline.worker, Worker)
    delivery = butter.pipeline.worker._delivery
    assert delivery is not None
    seen = [delivery.throttled]
    with TestClient(ButterMiddleware(app, butter)) as client:
        client.post("/checkout/7", headers={"x-forwarded-for": SHOPPER})
        seen.append(delivery.throttled)
    seen.append(delivery.throttled)
    assert seen == [False, True, False]
