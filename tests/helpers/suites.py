"""Run a merchant's tests in pytest: a shop, its test suite, and this package's plugin."""

from pathlib import Path

import pytest

from butter_middleware._utils import overrides
from butter_middleware.testing.runtime import InboxRuntime

INI = """
[pytest]
filterwarnings = error
asyncio_mode = strict
asyncio_default_fixture_loop_scope = function
"""
SHOP = """
from fastapi import FastAPI, Request

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

butter = Butter(
    client_ip=client_ip.aws_alb(),
    outbox="/var/lib/no-such-shop/butter.db",
    routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)
app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@butter.checkout_route("/orders", psp="adyen")
def order(response):
    return {"transaction_id": response.json()["payment"]["reference"], "customer_email": "ada@example.com"}


@app.post("/checkout/{cart_id}")
def checkout(cart_id: str, request: Request) -> dict[str, str]:
    annotate(request, customer_email="ada@example.com")
    return {"status": "paid", "invoice": f"in_{cart_id}"}


@app.post("/orders")
def orders() -> dict[str, str]:
    return {"status": "paid"}
"""
HEAD = """
import pytest
from starlette.testclient import TestClient

from shop import app, butter

SHOPPER = {"x-forwarded-for": "203.0.113.7"}


def buy(cart="7", client=None):
    (client or TestClient(app)).post(f"/checkout/{cart}", headers=SHOPPER)


def order():
    TestClient(app).post("/orders", headers=SHOPPER)
"""
LOADED = ("-p", "no:butter_middleware", "-p", "butter_middleware.testing.plugin", "-p", "no:faker")
"""Load the plugin by its module, because the installed entry point may be older. Faker's plugin is slow to load."""


RUNTIME = InboxRuntime
"""Loads the module here, so that its classes are the same in each run."""


class Suite:
    """A merchant's project, whose tests it runs."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        overrides._pipelines.clear()  # pipelines of other tests are not part of this project
        pytester.makefile(".ini", pytest=INI)
        self.write("shop", SHOP)

    @property
    def path(self) -> Path:
        return self._pytester.path

    def write(self, name: str, text: str) -> None:
        self._pytester.makepyfile(**{name: text})

    def run(self, tests: str, *args: str, head: str = HEAD) -> pytest.RunResult:
        self.write("test_shop", head + tests)
        return self._pytester.runpytest_inprocess(*LOADED, *args)

    def run_subprocess(self, tests: str, *args: str, head: str = HEAD) -> pytest.RunResult:
        """Run the tests in a separate process."""
        self.write("test_shop", head + tests)
        return self._pytester.runpytest_subprocess(*LOADED, *args)
