"""One shop with each peer, and with our package, configured as usual. `peers.py` measures them.

    python benchmarks/peer_shops.py NAME

The shop is built by its name, and configured by the environment: PEERS_SINK is the destination of records, PEERS_SECRET
the credentials, PEERS_OUTBOX a file. As a script it measures the shop in this process. Each line of standard input is
a number. The script sends this number of requests, and answers with a line of JSON.
"""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

from openloop import checkout_id
from overhead import Meter, PassThrough, dispatch, shop
from recipient import USERNAME
from starlette.middleware.base import BaseHTTPMiddleware

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send

PAGE = 8192
PAGES = 128
"""The pages that are written in turn, because a growing file takes longer."""


def sink() -> str:
    return os.environ["PEERS_SINK"]


def secret() -> str:
    return os.environ["PEERS_SECRET"]


def ours(
    path: str,
    outbox: str | None,
    durability: Literal["after_response", "before_response"],
    delivery: Literal["embedded", "external"] = "embedded",
) -> ASGIApp:
    butter = Butter(
        username=USERNAME,
        password=secret(),
        base_url=sink(),
        client_ip=client_ip.TrustedHops(1),
        outbox=outbox,
        durability=durability,
        delivery=delivery,
        routes=[
            CheckoutRoute(
                path, psp="stripe", extract=extract.json(customer_email="customer.email", invoice_id="invoice")
            )
        ],
    )
    return ButterMiddleware(shop(), butter)


def ours_unmatched() -> ASGIApp:
    return ours("/pay/{invoice}", None, "after_response")


def ours_memory() -> ASGIApp:
    return ours("/checkout/{invoice}", None, "after_response")


def ours_after_response() -> ASGIApp:
    return ours("/checkout/{invoice}", os.environ["PEERS_OUTBOX"], "after_response")


def ours_before_response() -> ASGIApp:
    return ours("/checkout/{invoice}", os.environ["PEERS_OUTBOX"], "before_response")


def ours_external() -> ASGIApp:
    return ours("/checkout/{invoice}", os.environ["PEERS_OUTBOX"], "after_response", "external")


class Synced:
    """The least cost of a response that waits for the disk: a page is written and synced before its last chunk."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(self._file, bytes(PAGES * PAGE), 0)
        self._pages = cycle(range(PAGES))
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wait(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write)
            await send(message)

        await self._app(scope, receive, wait)

    def _write(self) -> None:
        os.pwrite(self._file, bytes(PAGE), PAGE * next(self._pages))
        os.fdatasync(self._file)


def moesif() -> ASGIApp:
    """Build it as in its README: bodies are logged, one batch per second."""
    module: Any = importlib.import_module("moesifasgi")
    return module.MoesifMiddleware(shop(), settings={"APPLICATION_ID": secret(), "BASE_URI": sink()})  # type: ignore[no-any-return]


def apitally() -> ASGIApp:
    """Build it as in its set-up guide."""
    module: Any = importlib.import_module("apitally.starlette")
    app = shop()
    module.init(app, write_token=secret(), env="prod", otlp_endpoint=sink())
    return app


def sentry() -> ASGIApp:
    """Build it with a transaction for each request."""
    module: Any = importlib.import_module("sentry_sdk")
    scheme, _, host = sink().partition("://")
    module.init(dsn=f"{scheme}://{secret()}@{host}/1", traces_sample_rate=1.0)
    return shop()


def opentelemetry() -> ASGIApp:
    """Build it with the SDK's batches, exported over HTTP, and defaults otherwise."""
    trace: Any = importlib.import_module("opentelemetry.sdk.trace")
    export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
    otlp: Any = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    asgi: Any = importlib.import_module("opentelemetry.instrumentation.asgi")
    provider = trace.TracerProvider()
    exporter = otlp.OTLPSpanExporter(f"{sink()}/v1/traces", headers={"authorization": secret()})
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return asgi.OpenTelemetryMiddleware(shop(), tracer_provider=provider)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Kind:
    """One variant of the shop."""

    title: str
    build: Callable[[], ASGIApp]
    packages: tuple[str, ...] = ()
    """The other packages that it needs, by their names on PyPI."""
    delivers: bool = True
    """Whether checkouts leave the shop for a recipient."""
    sidecar: bool = False
    """Whether another process sends them."""


KINDS = {
    "bare": Kind("bare app", shop, delivers=False),
    "pass-through": Kind("pass-through middleware", lambda: PassThrough(shop()), delivers=False),
    "synced": Kind("bare app, one fdatasync", lambda: Synced(shop(), os.environ["PEERS_OUTBOX"]), delivers=False),
    "unmatched": Kind("ours, another route", ours_unmatched, delivers=False),
    "memory": Kind("ours, memory", ours_memory),
    "after": Kind("ours, SQLite, after_response", ours_after_response),
    "before": Kind("ours, SQLite, before_response", ours_before_response),
    "external": Kind("ours, SQLite, a sidecar", ours_external, ("rich",), sidecar=True),
    "base-http": Kind("one BaseHTTPMiddleware", lambda: BaseHTTPMiddleware(shop(), dispatch), delivers=False),
    "sentry": Kind("Sentry", sentry, ("sentry-sdk",)),
    "opentelemetry": Kind(
        "OpenTelemetry ASGI",
        opentelemetry,
        ("opentelemetry-instrumentation-asgi", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
    ),
    "apitally": Kind("Apitally", apitally, ("apitally",)),
    "moesif": Kind("Moesif ASGI", moesif, ("moesifasgi",)),
}


def app() -> ASGIApp:
    """Build the shop that the environment names, for uvicorn."""
    return KINDS[os.environ["PEERS_KIND"]].build()


async def idle() -> None:
    """Wait until this process's threads are idle, at most ten seconds."""
    for _ in range(100):
        before = time.process_time()
        await asyncio.sleep(0.1)
        if time.process_time() - before < 0.002:
            return


async def meter(name: str) -> None:
    """Answer each number with the microseconds of that number of requests, and the CPU time of one."""
    metered = Meter(KINDS[name].build(), checkout_id)
    while line := await asyncio.to_thread(sys.stdin.readline):
        metered.times.clear()
        began = time.process_time()
        await metered.run(int(line))
        await idle()
        answer = {"times": metered.times, "processor": 1e6 * (time.process_time() - began) / int(line)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(meter(sys.argv[1]))
