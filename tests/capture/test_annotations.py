"""`CheckoutNote`: FastAPI's dependencies annotate a checkout."""

from collections.abc import Callable
from typing import Annotated, Any

import anyio
import pytest
from asgi import drive, http_scope
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from shops import SHOPPER
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutNote, CheckoutRoute, annotate
from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import FakeButter

HEADERS = {"x-forwarded-for": SHOPPER}
WHOLE = {
    "customer_email": "a@example.com",
    "ipv4_address": SHOPPER,
    "psp": "stripe",
    "charge_id": "ch_1",
    "invoice_id": "in_1",
}


class Payments:
    """A service of the shop, three dependencies deep. It knows the charge, but not the request."""

    def __init__(self, note: Annotated[CheckoutNote, Depends()]) -> None:
        self._note = note

    async def charge(self, cart: str) -> None:
        self._note.annotate(charge_id=f"ch_{cart}")


def customer(note: Annotated[CheckoutNote, Depends()], payments: Annotated[Payments, Depends()]) -> Payments:
    note.annotate(customer_email="a@example.com")
    return payments


@pytest.fixture
def shop(make_butter: Callable[..., Butter]) -> tuple[FastAPI, Butter]:
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe"))
    app = FastAPI()
    app.add_middleware(ButterMiddleware, butter=butter)

    @app.post("/checkout/{cart_id}")
    async def pay(
        cart_id: str,
        payments: Annotated[Payments, Depends(customer)],
        note: Annotated[CheckoutNote, Depends()],
    ) -> dict[str, str]:
        await payments.charge(cart_id)
        note.annotate(invoice_id=f"in_{cart_id}")
        return {"status": "paid"}

    @app.post("/basket")
    def basket(note: Annotated[CheckoutNote, Depends()]) -> dict[str, str]:
        note.annotate(customer_email="a@example.com")
        return {}

    return app, butter


def test_dependencies_and_endpoint_write_one_note(shop: tuple[FastAPI, Butter], fake: FakeButter) -> None:
    """A threaded dependency, an asynchronous service below it and the endpoint contribute to one record."""
    app, butter = shop
    assert TestClient(app).post("/checkout/1", headers=HEADERS).json() == {"status": "paid"}
    assert butter.flush()
    assert fake.records == [WHOLE]


def test_checkouts_at_once_do_not_mix(shop: tuple[FastAPI, Butter], fake: FakeButter) -> None:
    """In asyncio, each of many concurrent requests keeps its own note."""
    app, butter = shop

    async def buy() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                headers = [(b"x-forwarded-for", f"81.2.69.{number + 1}".encode())]
                scope: Any = http_scope(f"/checkout/{number}", headers=headers)
                group.start_soon(drive, app, scope)

    anyio.run(buy)
    assert butter.flush()
    found = {record["invoice_id"]: record["ipv4_address"] for record in fake.records}
    assert found == {f"in_{number}": f"81.2.69.{number + 1}" for number in range(20)}


def test_outside_a_checkout_it_has_no_effect(shop: tuple[FastAPI, Butter], caplog: pytest.LogCaptureFixture) -> None:
    """On another route, the log says so with the remedy."""
    app, _butter = shop
    assert TestClient(app).post("/basket").status_code == 200
    assert "annotate() had no effect on POST /basket: no checkout route matched it. The routes are POST" in caplog.text
    assert "a@example.com" not in caplog.text


@pytest.mark.parametrize(
    ("template", "path", "told"),
    [
        ("/users/{name}/pay", "/users/jane/pay", "POST /users/…/pay"),
        ("/users/{path:path}", "/users/jane/doe", "POST /users/…/…"),
        ("/a/{number:int}/0042/pay", "/a/7/0042/pay", "POST /a/…/…/pay"),
        ("/a/{x:uuid}", "/a/12345678-1234-5678-1234-567812345678", "POST /a/…"),
    ],
)
def test_the_request_is_named_without_its_values(
    butter: Butter, caplog: pytest.LogCaptureFixture, template: str, path: str, told: str
) -> None:
    """A path may contain a name or an ID. The message shows only the literals of the route."""

    def pay(request: Request) -> Response:
        annotate(request, customer_email="a@example.com")
        return Response()

    shop = Starlette(routes=[Route(template, pay, methods=["POST"])], middleware=[Middleware(ButterMiddleware, butter)])
    TestClient(shop).post(path)
    assert f"annotate() had no effect on {told}: no checkout route matched it." in caplog.text


def test_a_mounted_app_of_another_framework_shows_no_path(butter: Butter, caplog: pytest.LogCaptureFixture) -> None:
    """Starlette knows only the parameters of its mount. The other router's values are not shown."""

    class Other:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, invoice_id="in_1")
            await Response()(scope, receive, send)

    shop = Starlette(routes=[Mount("/other", Other())], middleware=[Middleware(ButterMiddleware, butter)])
    TestClient(shop).post("/other/jane/pay")
    assert "annotate() had no effect on POST /…/…/…: no checkout route matched it." in caplog.text


def test_a_request_that_the_middleware_did_not_see(butter: Butter, caplog: pytest.LogCaptureFixture) -> None:
    """The route is correct, so the message names the middleware. Without known parameters, no path is shown."""
    watched = ButterMiddleware(FastAPI(), butter)
    annotate({"type": "http", "method": "POST", "path": "/checkout/jane", "root_path": ""}, invoice_id="in_1")
    log_thread.settle()
    assert "on POST /…/…: ButterMiddleware did not see this request. Mount it around this app." in caplog.text
    assert watched.butter is butter


class Order(BaseModel):
    email: str


def test_annotating_a_wrong_object_fails_no_checkout(
    shop: tuple[FastAPI, Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """In FastAPI the body is often named request. Annotating it is logged, and the checkout continues."""
    app, butter = shop
    mistaken: Any = annotate

    @app.put("/checkout/{cart_id}")
    def pay(cart_id: str, request: Order) -> dict[str, str]:
        for given in (request, None, {"butter_middleware": request.email}):
            mistaken(given, customer_email=request.email, invoice_id=cart_id)
        return {"status": "paid"}

    butter.checkout_route("/checkout/{cart_id}", psp="stripe", methods=["PUT"])(lambda _response: None)
    assert TestClient(app).put("/checkout/1", json={"email": "a@example.com"}).json() == {"status": "paid"}
    for kind in ("Order", "NoneType"):
        assert f"it got {kind}, which is not a request. Pass the endpoint's own" in caplog.text
    assert "a@example.com" not in caplog.text


def test_it_adds_no_parameters(shop: tuple[FastAPI, Butter]) -> None:
    """The dependency adds no parameter, body or query, to the endpoint's API."""
    app, _butter = shop
    operation = app.openapi()["paths"]["/checkout/{cart_id}"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["cart_id"]
    assert "requestBody" not in operation
