"""A shop with all of Sentry's data collection, in which everything fails. It prints each envelope for Sentry.

Every log line becomes an event, with the stack, its local variables and what Sentry knows of the request.
"""

import asyncio
import json
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import sentry_sdk
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, annotate, client_ip
from butter_middleware._utils import log_thread
from butter_middleware.events import Event
from butter_middleware.models.http import Capture
from butter_middleware.outbox import MemoryOutbox, MemoryStore
from butter_middleware.testing import FakeButter

SECRETS = [
    *("grace@example.com", "grace", "81.2.69.142", "81.2.69", "in_secret", "sesame", "Jermyn", "coupon7"),
    *("merchant-user", "merchant-pass", "bWVyY2hhbnQ", "cart-77"),
]
"""The shopper's data and the merchant's credentials, which no envelope may contain."""
USERNAME, PASSWORD = SECRETS[-4:-2]
BODY = {"email": "grace@example.com", "street": "Jermyn Street"}


PRINTING = threading.Lock()


class Printer(Transport):
    """It prints instead of sending."""

    def capture_envelope(self, envelope: Envelope) -> None:
        items = [item.payload.json or item.payload.get_bytes().decode("utf-8", "replace") for item in envelope.items]
        line = json.dumps({"headers": envelope.headers, "items": items}, default=str) + "\n"
        with PRINTING:  # a long line is written in parts
            sys.stdout.write(line)
            sys.stdout.flush()


def be_curious() -> None:
    """Start Sentry with all its data collection."""
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Printer,
        integrations=[LoggingIntegration(level=logging.DEBUG, event_level=logging.INFO)],
        attach_stacktrace=True,
        include_local_variables=True,
        max_request_body_size="always",
        send_default_pii=True,
        enable_logs=True,
        max_breadcrumbs=100,
    )


def extract(response: CheckoutResponse) -> Any:
    paid = response.json()
    match paid["case"]:
        case "raises":
            raise ValueError(*SECRETS)
        case "exits":
            sys.exit("grace@example.com")
        case "no_email":
            return {"invoice_id": paid["invoice"]}
        case "wrong_email":
            return {"invoice_id": paid["invoice"], "customer_email": "grace@example.com sesame"}
        case "wrong_name":
            return {"grace@example.com": paid["invoice"]}
        case "wrong_type":
            return "grace@example.com in_secret"
        case _:
            return {"invoice_id": paid["invoice"], "customer_email": paid["email"]}


def tell(event: Event) -> None:
    raise RuntimeError(*SECRETS, event)


class BrokenStore(MemoryStore):
    """It accepts nothing more, and quotes its input."""

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        raise sqlite3.OperationalError(*SECRETS, captures, owned)


class Broken(MemoryOutbox):
    """An outbox with a `BrokenStore`."""

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> MemoryStore:  # noqa: ARG002 - as the protocol names them
        return BrokenStore()


def shop(butter: Butter) -> ButterMiddleware:
    api = FastAPI()

    @api.post("/checkout/{cart_id}")
    async def checkout(cart_id: str, request: Request) -> Any:
        case = request.query_params["case"]
        invoice = f"in_secret_{case}"
        if case == "annotated":
            annotate(request, customer_email="grace@example.com", invoice_id="in_other")
        if case == "text":
            return PlainTextResponse("Jermyn Street")
        return {"case": case, "invoice": invoice, "email": "grace@example.com", "cart": cart_id}

    @api.post("/elsewhere")
    async def elsewhere(request: Request) -> Mapping[str, str]:
        email = "grace@example.com"
        annotate(request, customer_email=email)
        return {"email": email}

    return ButterMiddleware(api, butter)


def build(transport: httpx.AsyncBaseTransport, outbox: Any = None, **options: Any) -> Butter:
    return Butter(
        username=USERNAME,
        password=PASSWORD,
        client_ip=client_ip.TrustedHops(1),
        routes=[CheckoutRoute("/checkout/{cart_id}", "stripe", extract)],
        transport=transport,
        outbox=outbox,
        drain_timeout=2.0,
        **options,
    )


async def buy(app: ButterMiddleware, *cases: str, path: str = "/checkout/cart-77") -> None:
    headers = {"x-forwarded-for": "81.2.69.142", "cookie": "session=sesame", "authorization": "Bearer sesame"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.example") as client:
        for case in cases:
            await client.post(path, params={"case": case, "q": "coupon7"}, headers=headers, json=BODY)


async def break_rules(butter: Butter) -> None:
    """Send what ASGI does not allow to the middleware."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/checkout/cart-77",
        "headers": [(b"x-forwarded-for", b"81.2.69.142"), (b"cookie", b"session=sesame")],
    }

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [("grace@example.com", None)]})
        await send({"type": "http.response.body", "body": b"Jermyn Street"})

    async def nothing(_message: Any = None) -> dict[str, Any]:
        return {}

    await ButterMiddleware(app, butter)(scope, nothing, nothing)


async def main(folder: Path) -> None:
    fake = FakeButter(username=USERNAME, password=PASSWORD)
    kinds = ["raises", "exits", "no_email", "wrong_email", "wrong_name", "wrong_type", "text", "annotated", "paid"]
    path = folder / "butter.db"
    captive = httpx.MockTransport(lambda request: httpx.Response(200, text=f"{BODY} {request.content!r}"))
    memory = build(fake.transport(), on_event=tell)  # all of them before a checkout, as at import
    lost, down = build(fake.transport(), Broken()), build(captive)
    disk, again = build(fake.transport(), path), build(fake.transport(), path)
    await buy(shop(memory), *kinds)  # the first of them starts the threads
    await buy(shop(memory), "annotate", path="/elsewhere")
    await asyncio.to_thread(memory.flush, 10)
    fake.respond_with(422, 422, 401, 401)
    await buy(shop(memory), *(f"refused{number}" for number in range(3)))
    await asyncio.to_thread(memory.flush, 2)
    await asyncio.to_thread(memory.close)

    await buy(shop(lost), "lost")
    await break_rules(lost)
    lost.record({"type": "http", "grace@example.com": "sesame"}, customer_email="grace@example.com")
    await asyncio.to_thread(lost.close)

    await buy(shop(down), *(f"captive{number}" for number in range(4)))
    await asyncio.to_thread(down.flush, 2)
    await asyncio.to_thread(down.close)

    await buy(shop(disk), "paid")
    await asyncio.to_thread(disk.flush, 5)
    with sqlite3.connect(path) as tampered:
        tampered.execute(
            "INSERT INTO captures (pile, captured_at, head, body, request_body) VALUES (0, 0, ?, ?, NULL)",
            ('{"email": "grace@example.com"}', b"Jermyn Street"),
        )
    tampered.close()
    await asyncio.to_thread(disk.close)
    await buy(shop(again), "paid")
    await asyncio.to_thread(again.flush, 5)
    for name in os.listdir(folder):  # noqa: PTH208 - names
        (folder / name).unlink()
    os.rmdir(folder)  # noqa: PTH106 - nothing else runs meanwhile
    await buy(shop(again), *(f"gone{number}" for number in range(3)))
    await asyncio.to_thread(again.flush, 2)
    await asyncio.to_thread(again.close)

    await buy(ButterMiddleware(shop(memory), memory.routes), "misbuilt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - no Butter
    log_thread.settle(5)


if __name__ == "__main__":
    be_curious()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.ERROR)  # the tests' own client
    asyncio.run(main(Path(sys.argv[1])))
    sentry_sdk.flush(5)
