"""Simultaneous checkouts, on asyncio and on trio: how many records are missing or have another checkout's data.

    python benchmarks/interleaved.py [--checkouts 10000] [--at-once 200]

Each checkout has its own shopper, e-mail and IDs. Endpoints, dependencies and body chunks yield to the others many
times, so that all of them are interleaved. The exit code is 1 if a record is wrong, missing or duplicate.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract
from butter_middleware.testing import FakeButter

CREDENTIALS: dict[str, Any] = {"username": "merchant", "password": "proof"}


async def give_way(rng: random.Random) -> None:
    for _turn in range(rng.randrange(5)):
        await anyio.lowlevel.checkpoint()


async def pay(request: Request) -> Response:
    """Answer with the invoice. Annotate the e-mail before, between or after other checkouts' steps."""
    number = request.path_params["number"]
    rng = random.Random(number)
    await give_way(rng)
    annotate(request, customer_email=f"shopper-{number}@example.com")
    await give_way(rng)
    content = json.dumps({"invoice": f"in_{number}", "customer": f"cus_{number}"}).encode()
    if rng.random() < 0.5:
        return JSONResponse(json.loads(content))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 7):
            await give_way(rng)
            yield content[start : start + 7]

    return StreamingResponse(chunks(), media_type="application/json")


async def note(request: Request) -> Response:
    """Annotate everything in two steps. The response is a stream that is not JSON."""
    number = request.path_params["number"]
    rng = random.Random(number)
    annotate(request, customer_email=f"shopper-{number}@example.com", invoice_id=f"in_{number}")
    await give_way(rng)
    annotate(request, customer_id=f"cus_{number}")
    await give_way(rng)
    return Response(b"thanks")


def address(number: int) -> str:
    return f"81.{number // 65536 % 256}.{number // 256 % 256}.{number % 256}"


def expected(number: int) -> dict[str, Any]:
    return {
        "customer_email": f"shopper-{number}@example.com",
        "ipv4_address": address(number),
        "psp": "stripe",
        "customer_id": f"cus_{number}",
        "invoice_id": f"in_{number}",
    }


async def buy(app: ASGIApp, number: int) -> None:
    """Send one checkout, like a server."""
    path = f"/{'pay' if number % 3 else 'note'}/{number}"
    headers = [(b"x-forwarded-for", f"9.9.9.9, {address(number)}".encode())]
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "headers": headers}
    rng = random.Random(-number)

    async def receive() -> Message:
        await give_way(rng)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        await give_way(rng)

    await app(scope | {"client": ("10.0.0.1", 4711), "scheme": "https", "http_version": "1.1"}, receive, send)


async def shop(app: ASGIApp, numbers: list[int], at_once: int) -> None:
    """Let `at_once` shoppers buy until all checkouts are done."""
    left = iter(numbers)

    async def shopper() -> None:
        for number in left:
            await buy(app, number)

    async with anyio.create_task_group() as group:
        for _shopper in range(at_once):
            group.start_soon(shopper)


def prove(backend: str, checkouts: int, at_once: int) -> tuple[int, int, int]:
    """Return how many records are wrong, missing and duplicate."""
    fake = FakeButter(**CREDENTIALS)
    with tempfile.TemporaryDirectory() as directory:
        butter = Butter(
            client_ip=client_ip.nginx(["10.0.0.0/8"]),
            routes=[
                CheckoutRoute(
                    "/pay/{number:int}", "stripe", extract.json(invoice_id="invoice", customer_id="customer")
                ),
                CheckoutRoute("/note/{number:int}", "stripe"),
            ],
            outbox=Path(directory) / "butter.db",
            transport=fake.transport(),
            senders=8,
            **CREDENTIALS,
        )
        routes = [
            Route(f"/{name}/{{number:int}}", app, methods=["POST"]) for name, app in (("pay", pay), ("note", note))
        ]
        numbers = list(range(1, checkouts + 1))
        anyio.run(shop, ButterMiddleware(Starlette(routes=routes), butter), numbers, at_once, backend=backend)
        butter.flush(600)
        butter.close()
    seen = [int(record["invoice_id"].removeprefix("in_")) for record in fake.records]
    wrong = sum(record != expected(number) for number, record in zip(seen, fake.records, strict=True))
    return wrong, len({*numbers} - {*seen}), len(seen) - len({*seen})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkouts", type=int, default=10_000, help="on each of asyncio and trio")
    parser.add_argument("--at-once", type=int, default=200, help="how many are interleaved")
    options = parser.parse_args()
    print(f"{options.checkouts} checkouts, {options.at_once} at once\n")
    print(f"{'loop':8} {'wrong':>6} {'missing':>8} {'double':>7} {'seconds':>8}")
    bad = 0
    for backend in ("asyncio", "trio"):
        began = time.perf_counter()
        wrong, missing, double = prove(backend, options.checkouts, options.at_once)
        print(f"{backend:8} {wrong:6} {missing:8} {double:7} {time.perf_counter() - began:8.1f}", flush=True)
        bad += wrong + missing + double
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
