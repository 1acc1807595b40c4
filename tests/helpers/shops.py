"""Shared by the tests' shops."""

import threading
from typing import Any

import anyio
import httpx
from asgi import JSON, body, sends, start
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, extract
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import FakeButter

CREDENTIALS: dict[str, Any] = {"username": "merchant", "password": "s3cret-pass"}
ROUTE = CheckoutRoute(
    "/checkout/{cart_id}",
    psp="stripe",
    extract=extract.json(customer_email="customer.email", invoice_id="invoice.id || invoice"),
)
PAID: dict[str, Any] = {"customer": {"email": "shopper@example.com"}, "invoice": {"id": "in_1"}}
SHOPPER = "81.2.69.142"


async def refusing_shop(scope: Scope, receive: Receive, send: Send) -> None:
    """Pay, unless the cart's name selects another response."""
    name = scope["path"].rpartition("/")[2]
    status, content = {
        "refused": (402, b"{}"),
        "free": (200, b'{"customer": {"email": "shopper@example.com"}}'),
        "text": (200, b"thanks"),
    }.get(name, (200, b'{"customer": {"email": "shopper@example.com"}, "invoice": "in_%s"}' % name.encode()))
    headers = JSON if name != "text" else [(b"content-type", b"text/plain")]
    await sends(start(status, headers), body(content))(scope, receive, send)


def buy(butter: Butter, *carts: str) -> None:
    client = TestClient(ButterMiddleware(refusing_shop, butter))
    for cart in carts:
        client.post(f"/checkout/{cart}", headers={"x-forwarded-for": SHOPPER})
    butter.flush()


class Held(httpx.AsyncBaseTransport):
    """It holds each request back until a test sets `answers`, and then asks a Butter in this process."""

    def __init__(self, fake: FakeButter) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()
        self._transport = fake.transport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        await anyio.to_thread.run_sync(self.answers.wait, 20, abandon_on_cancel=True)
        return await self._transport.handle_async_request(request)
