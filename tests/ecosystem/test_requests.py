"""`annotate` and `record` take the request of each framework that keeps its ASGI scope."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import drive, http_scope

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate
from butter_middleware._utils.asgi import Message, Receive
from butter_middleware.testing import FakeButter

Pay = Callable[[Any], None]
App = Any
FIELDS: dict[str, Any] = {"customer_email": "a@example.com", "invoice_id": "in_1"}


def litestar(pay: Pay) -> App:
    module = pytest.importorskip("litestar")

    async def endpoint(request: Any) -> dict[str, str]:
        pay(request)
        return {}

    endpoint.__annotations__["request"] = module.Request
    return module.Litestar([module.post("/checkout/{cart:str}")(endpoint)], openapi_config=None)


def quart(pay: Pay) -> App:
    module = pytest.importorskip("quart")
    app: Any = module.Quart("shop")

    async def endpoint(cart: str) -> dict[str, str]:
        pay(module.request)
        return {"cart": cart}

    app.post("/checkout/<cart>")(endpoint)
    return app


def falcon(pay: Pay) -> App:
    app: Any = pytest.importorskip("falcon.asgi").App()

    class Checkout:
        async def on_post(self, request: Any, response: Any, cart: str) -> None:
            pay(request)
            response.media = {"cart": cart}

    app.add_route("/checkout/{cart}", Checkout())
    return app


def blacksheep(pay: Pay) -> App:
    module = pytest.importorskip("blacksheep")
    app: Any = module.Application(router=pytest.importorskip("blacksheep.server.routing").Router())

    def endpoint(request: Any) -> Any:
        pay(request)
        return module.json({})

    endpoint.__annotations__["request"] = module.Request
    app.router.add_post("/checkout/:cart", endpoint)
    anyio.run(app.start)
    return app


def django_request(scope: Any) -> Any:
    settings: Any = pytest.importorskip("django.conf").settings
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"])
    return pytest.importorskip("django.core.handlers.asgi").ASGIRequest(scope, None)


def django(pay: Pay) -> App:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        pay(django_request(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    return app


def rest_framework(pay: Pay) -> App:
    request: Any = pytest.importorskip("rest_framework.request").Request
    return django(lambda inner: pay(request(inner)))


def requests() -> Receive:
    """Return a channel with one request, whose client stays: Quart waits for it to go."""
    left = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        for message in left:
            return message
        await anyio.sleep_forever()
        raise AssertionError

    return receive


FRAMEWORKS = [litestar, quart, falcon, blacksheep, django, rest_framework]


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("how", ["annotate", "record"])
def test_a_framework_passes_its_own_request(
    make_butter: Callable[..., Butter], fake: FakeButter, framework: Callable[[Pay], App], how: str
) -> None:
    """The endpoint gives what its framework calls the request, and the record has its fields."""
    butter = make_butter(CheckoutRoute("/checkout/{cart}", psp="stripe", extract=None if how == "annotate" else none))

    def pay(request: Any) -> None:
        if how == "annotate":
            annotate(request, **FIELDS)
        else:
            butter.record(request, **FIELDS)

    scope = http_scope("/checkout/7", headers=[*http_scope()["headers"], (b"content-length", b"0")])
    app = ButterMiddleware(framework(pay), butter)
    sent = anyio.run(drive, app, scope, requests())
    assert sent[0]["status"] in {200, 201}
    assert butter.flush()
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_1", "81.2.69.142")]


def none(_response: object) -> None:
    """Extract nothing: the endpoint records by itself."""
