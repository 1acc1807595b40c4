"""A sandbox on this machine gets the source of each field beside a record. Other servers do not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from processes import until
from shops import CREDENTIALS, SHOPPER
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutResponse, CheckoutRoute, annotate, extract
from butter_middleware.config import SANDBOX_SOURCES
from butter_middleware.models.checkout import LONGEST_SOURCE, Record
from butter_middleware.outbox import SQLiteOutbox

SANDBOX = "http://127.0.0.1:8025"
EMAIL = "shopper@example.com"


class Down(httpx.AsyncBaseTransport):
    """A sandbox that is not running."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise ConnectionRefusedError(request.url.host)


class Wire(httpx.AsyncBaseTransport):
    """It keeps the headers of each request, and accepts it."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, json={"status": "ok"}, request=request)

    @property
    def told(self) -> list[Any]:
        return [json.loads(request.headers[SANDBOX_SOURCES]) for request in self.requests]


@pytest.fixture
def wire() -> Wire:
    return Wire()


Told = Callable[..., dict[str, Any]]


def plain(response: CheckoutResponse) -> dict[str, Any]:
    return {"charge_id": response.json()["charge"]}


def shop(butter: Butter) -> TestClient:
    app = FastAPI()

    @app.post("/checkout")
    @app.post("/checkout/7")
    @app.post("/begin")
    @app.post("/paid")
    def checkout(request: Request) -> dict[str, Any]:
        annotate(request, customer_email=EMAIL, customer_id="cus_1")
        return {"id": "cs_1", "invoice": "in_1", "charge": "ch_1", "address": "216.160.83.56"}

    app.add_middleware(ButterMiddleware, butter=butter)
    return TestClient(app, headers={"x-forwarded-for": SHOPPER})


@pytest.fixture
def told(make_butter: Callable[..., Butter], wire: Wire) -> Told:
    """Check out on one route against a sandbox. Return what the sandbox received."""

    def check_out(route: CheckoutRoute, **options: Any) -> dict[str, Any]:
        butter = make_butter(route, base_url=SANDBOX, transport=wire, **options)
        shop(butter).post("/checkout")
        assert butter.flush()
        (told,) = wire.told
        return dict(told)

    return check_out


def test_each_field_has_its_source(told: Told) -> None:
    """It is the matching expression, annotate(), the route, or the strategy with its header. Values are not sent."""
    expression = extract.json(invoice_id="invoice.id || invoice", customer_email="nobody")
    answer = told(CheckoutRoute("/checkout", psp="stripe", extract=expression), send_user_agent=True)
    assert answer == {
        "route": "POST /checkout",
        "fields": {
            "psp": "the route's psp=",
            "user_agent": "the request's User-Agent",
            "customer_email": "annotate()",
            "customer_id": "annotate()",
            "invoice_id": "extract.json(): invoice",
            "ipv4_address": "client_ip.TrustedHops: X-Forwarded-For",
        },
    }


def test_a_function_is_named_as_the_source(told: Told) -> None:
    """The middleware cannot look into a merchant's function."""
    assert told(CheckoutRoute("/checkout", psp="stripe", extract=plain))["fields"]["charge_id"] == "plain()"


def test_an_address_from_the_body_is_the_extractors(told: Told) -> None:
    """The route states that a server calls it, so no strategy is asked."""
    expressions = extract.json(charge_id="charge", ipv4_address="address")
    route = CheckoutRoute("/checkout", psp="stripe", extract=expressions, address_from_body=True)
    assert told(route)["fields"]["ipv4_address"] == "extract.json(): address"


def test_an_extractor_whose_explain_fails_loses_no_record(told: Told) -> None:
    """The record is sent, and the extractor is named like a function."""

    class Odd:
        def __call__(self, response: CheckoutResponse) -> dict[str, Any]:
            return plain(response)

        def explain(self, _response: CheckoutResponse) -> Any:
            raise RuntimeError

    assert told(CheckoutRoute("/checkout", psp="stripe", extract=Odd()))["fields"]["charge_id"] == "Odd()"


def test_records_of_butter_record_have_a_source(make_butter: Callable[..., Butter], wire: Wire) -> None:
    """`butter.record()` takes a whole Checkout, or the shopper's request."""
    butter = make_butter(base_url=SANDBOX, transport=wire)
    butter.record(Checkout(customer_email=EMAIL, ipv4_address=SHOPPER, psp="adyen", transaction_id="1"))
    request = {
        "type": "http",
        "method": "POST",
        "path": "/checkout/7",
        "headers": [(b"x-forwarded-for", b"81.2.69.142")],
    }
    butter.record(request, customer_email=EMAIL, invoice_id="in_2")
    assert butter.flush()
    whole, fields = wire.told
    assert set(whole["fields"].values()) == {"the Checkout"}
    assert whole["route"] == "butter.record()"
    assert fields["fields"]["invoice_id"] == "butter.record()"


def test_a_checkout_in_two_parts_has_the_sources_of_both(
    make_butter: Callable[..., Butter], wire: Wire, tmp_path: Any
) -> None:
    """The address comes from the shopper's request, the IDs from the payment. The parts may be joined in a file."""
    butter = make_butter(
        CheckoutRoute("/begin", psp="stripe", join="id"),
        CheckoutRoute("/paid", psp="stripe", join="id", address=False, extract=extract.json(invoice_id="invoice")),
        base_url=SANDBOX,
        transport=wire,
        outbox=SQLiteOutbox(tmp_path / "butter.db"),
    )
    client = shop(butter)
    client.post("/begin")
    client.post("/paid")
    assert butter.flush()
    (told,) = wire.told
    assert told["fields"]["ipv4_address"] == "client_ip.TrustedHops: X-Forwarded-For"
    assert told["fields"]["invoice_id"] == "extract.json(): invoice"
    assert told["route"] == "POST /paid"


@pytest.mark.parametrize("base_url", [None, "https://butter.example", "https://127.0.0.1:8025"])
def test_no_other_server_gets_sources(make_butter: Callable[..., Butter], wire: Wire, base_url: str | None) -> None:
    """Butter, and any server reached by https, gets only the record. The sources are not even kept."""
    butter = make_butter(base_url=base_url, transport=wire)
    butter.record(Checkout(customer_email=EMAIL, ipv4_address=SHOPPER, psp="adyen", transaction_id="1"))
    shop(butter).post("/checkout/7")
    assert butter.flush()
    assert wire.requests
    for request in wire.requests:
        assert SANDBOX_SOURCES not in request.headers
        assert set(request.headers) == {
            *("host", "accept", "accept-encoding", "user-agent", "content-type", "content-length"),
            "authorization",
        }


def test_a_sandbox_is_reached_without_a_proxy(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's proxy has another loopback address, so requests to this machine do not use it."""
    from processes import served  # noqa: PLC0415 - this test alone needs a socket

    from butter_middleware.testing import FakeButter  # noqa: PLC0415

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fake = FakeButter(**CREDENTIALS)
    with served(fake) as url:
        butter = make_butter(base_url=url, transport=None)
        butter.record(Checkout(customer_email=EMAIL, ipv4_address=SHOPPER, psp="adyen", transaction_id="1"))
        assert butter.flush()
    assert len(fake.records) == 1


def test_a_source_fits_into_a_header(told: Told) -> None:
    """An expression may have any length."""
    expression = f'charge && `"{"x" * 1000}"` && charge'
    answer = told(CheckoutRoute("/checkout", psp="stripe", extract=extract.json(charge_id=expression)))
    assert len(answer["fields"]["charge_id"]) <= LONGEST_SOURCE


def test_a_source_is_ascii(make_butter: Callable[..., Butter], wire: Wire) -> None:
    """Non-ASCII characters of a route or an expression are escaped."""
    butter = make_butter(
        CheckoutRoute("/checkout", psp="stripe", extract=extract.json(invoice_id='`"Käse"` && invoice')),
        base_url=SANDBOX,
        transport=wire,
    )
    shop(butter).post("/checkout")
    assert butter.flush()
    assert wire.requests[0].headers[SANDBOX_SOURCES].isascii()


def test_sources_travel_with_the_record(make_butter: Callable[..., Butter], wire: Wire, path: Path) -> None:
    """One process reads and another sends, from their shared file. A queue's message has the sources too."""
    first = make_butter(base_url=SANDBOX, transport=Down(), outbox=str(path))
    shop(first).post("/checkout/7")
    until(lambda: first.status().pending == 1, "the record")
    first.close()
    second = make_butter(base_url=SANDBOX, transport=wire, outbox=str(path))
    with second:
        second.pipeline.start()
        until(lambda: second.status().delivered == 1, "the delivery")
    (told,) = wire.told
    assert told["route"] == "POST /checkout/{cart_id}"
    record = Record("key", "{}", 1.0, sources=json.dumps(told))
    assert Record.from_json(record.to_json()) == record
