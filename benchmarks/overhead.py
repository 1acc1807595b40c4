"""The cost of the middleware for a request: microseconds, in process, from one interleaved run.

    python benchmarks/overhead.py [--rounds 40] [--requests 500] [--write docs/benchmarks.md]

The mean and the p99 of the matched app include the threads' share of the interpreter, because requests have no pauses.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from machine import machine
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from written import publish, table

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

ORDER = {"status": "paid", "customer": {"email": "shopper@example.com"}, "lines": [{"sku": "a", "n": 1}] * 20}
HEADERS = [
    (b"host", b"shop.example"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"application/json"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"content-type", b"application/json"),
    (b"content-length", b"2"),
    (b"origin", b"https://shop.example"),
    (b"referer", b"https://shop.example/basket"),
    (b"cookie", b"session=0123456789abcdef"),
    (b"x-forwarded-for", b"81.2.69.142"),
    (b"x-forwarded-proto", b"https"),
]


class PassThrough:
    """The smallest possible middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def dispatch(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


class Meter:
    """Measures one app, from the call to the last byte."""

    def __init__(self, app: ASGIApp, invoice: Callable[[], str]) -> None:
        self.app = app
        self.times: list[float] = []
        self._last = 0.0
        self._count = 0
        self._invoice = invoice

    async def run(self, requests: int) -> None:
        for _ in range(requests):
            scope: dict[str, Any] = {
                "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "https",
                "path": f"/checkout/{self._invoice()}", "raw_path": b"/", "query_string": b"", "root_path": "",
                "headers": HEADERS, "client": ("10.0.0.1", 4711), "server": ("127.0.0.1", 80), "state": {},
            }  # fmt: skip
            started = time.perf_counter()
            await self.app(scope, self._receive, self._send)
            self.times.append((self._last - started) * 1e6)

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def _send(self, _message: Message) -> None:
        self._last = time.perf_counter()


def shop() -> Starlette:
    async def checkout(request: Request) -> JSONResponse:
        return JSONResponse(ORDER | {"invoice": request.path_params["invoice"]})

    return Starlette(routes=[Route("/checkout/{invoice}", checkout, methods=["POST"])])


def butter(fake: FakeButter, path: str) -> Butter:
    return Butter(
        username="u",
        password="p",  # noqa: S106 - loopback
        client_ip=client_ip.TrustedHops(1),
        transport=fake.transport(),
        dry_run=True,
        routes=[
            CheckoutRoute(
                path, psp="stripe", extract=extract.json(customer_email="customer.email", invoice_id="invoice")
            )
        ],
    )


async def measure(rounds: int, requests: int) -> dict[str, Meter]:
    fake = FakeButter(username="u", password="p")  # noqa: S106 - loopback
    matched, unmatched = butter(fake, "/checkout/{invoice}"), butter(fake, "/pay/{invoice}")
    counter = iter(range(1 << 62))
    apps: dict[str, ASGIApp] = {
        "bare app": shop(),
        "pass-through": PassThrough(shop()),
        "ours, unmatched": ButterMiddleware(shop(), unmatched),
        "ours, matched": ButterMiddleware(shop(), matched),
        "BaseHTTPMiddleware": BaseHTTPMiddleware(shop(), dispatch),
    }
    meters = {name: Meter(app, lambda: f"in_{next(counter)}") for name, app in apps.items()}
    for _ in range(rounds):
        for meter in meters.values():
            await meter.run(requests)
            # The remaining work of the matched app's threads must not count for the next app.
            await asyncio.to_thread(matched.flush, 30)
    matched.close()
    return meters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the table stands between markers")
    arguments = parser.parse_args()
    meters = asyncio.run(measure(arguments.rounds, arguments.requests))
    base = statistics.median(meters["bare app"].times)
    rows = [
        (
            name,
            f"{(median := statistics.median(meter.times)):.1f}",
            f"{median / base:.2f}",
            f"{statistics.quantiles(meter.times, n=100)[98]:.1f}",
            f"{statistics.fmean(meter.times):.1f}",
        )
        for name, meter in meters.items()
    ]
    measured = (
        f"{arguments.rounds} rounds in turn of {arguments.requests} requests; a response of {len(json.dumps(ORDER))} "
        "bytes."
    )
    head = ["to the last byte", "p50, µs", "p50, x", "p99, µs", "mean, µs"]
    publish(arguments.write, "request", f"{table(head, rows)}\n\n{measured}\n{machine()}.")


if __name__ == "__main__":
    main()
