"""A shop for tests under real servers. It is configured by the environment, like a deployed one."""

import os
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, client_ip

EXTRACTOR = os.environ.get("SHOP_EXTRACTOR", "good")


def extract(response: CheckoutResponse) -> Any:
    order = response.json()
    if EXTRACTOR == "raises":
        raise KeyError(order["email"])
    if EXTRACTOR == "slow":
        time.sleep(10)
    if EXTRACTOR == "loops":
        until = time.monotonic() + 10
        while time.monotonic() < until:
            pass
    if EXTRACTOR == "nonsense":
        return 42
    return {"customer_email": order["email"], "invoice_id": order["invoice"]}


def extract_wrongly(response: CheckoutResponse) -> Any:
    """Extract as an earlier release, which a deploy replaces."""
    raise KeyError(response.json()["email"])


def release() -> Any:
    """Return the extractor of the deployed release: a file names it, and each new worker reads it."""
    where = os.environ.get("SHOP_RELEASE")
    return extract_wrongly if where is not None and Path(where).read_text() == "wrong" else extract


def outbox() -> Any:
    """Return a path, or a queue for a DSN."""
    where = os.environ.get("SHOP_OUTBOX")
    if where is None or not where.startswith("postgresql:"):
        return where
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    return PostgresOutbox(where)


def checkout_body(invoice: str) -> dict[str, str]:
    return {
        "invoice": invoice,
        "email": "shopper@example.com",
        "padding": "x" * int(os.environ.get("SHOP_PADDING", "10")),
    }


async def checkout(request: Request) -> JSONResponse:
    return JSONResponse(checkout_body(request.path_params["invoice"]))


plain = Starlette(routes=[Route("/checkout/{invoice}", checkout, methods=["POST"])])

if EXTRACTOR != "absent":
    butter = Butter(
        username=None if "SHOP_BARE" in os.environ else "merchant",
        password="s3cret-pass",
        base_url=os.environ["SHOP_BUTTER"],
        client_ip=client_ip.TrustedHops(1),
        outbox=outbox(),
        delivery=os.environ.get("SHOP_DELIVERY", "embedded"),  # type: ignore[arg-type]
        durability="before_response" if "SHOP_BEFORE" in os.environ else "after_response",
        durability_timeout=float(os.environ.get("SHOP_BEFORE", "0.025")),
        max_body_bytes=int(os.environ.get("SHOP_CAP", "1048576")),
        routes=[CheckoutRoute("/checkout/{invoice}", psp="stripe", extract=release())],
    )
    plain.add_middleware(ButterMiddleware, butter=butter)


def __getattr__(name: str) -> Any:
    """Build `api`, the shop in FastAPI, only if a server asks for it, because importing FastAPI is slow."""
    if name != "api":
        raise AttributeError(name)
    from fastapi import FastAPI  # noqa: PLC0415

    api = FastAPI()

    @api.post("/checkout/{invoice}")
    async def api_checkout(invoice: str) -> dict[str, str]:
        return checkout_body(invoice)

    if EXTRACTOR != "absent":
        api.add_middleware(ButterMiddleware, butter=butter)
    return api
