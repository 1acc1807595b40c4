"""Each ASGI framework: its own request object, the spellings of a path, and its example."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from processes import HERE, free_port, listening, numbered, until
from shops import CREDENTIALS, PAID, SHOPPER
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, SQLiteOutbox, annotate, extract
from butter_middleware.testing import FakeButter

EXAMPLES = Path(__file__).parents[2] / "examples/frameworks"
Act = Callable[[Any], None]
"""What an endpoint does with its request."""


def fastapi(act: Act) -> Any:
    from fastapi import FastAPI, Request

    app = FastAPI()

    @app.post("/checkout/{cart}")
    def checkout(cart: str, request: Request) -> Any:
        act(request)
        return PAID

    return app


def starlette(act: Act) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def checkout(request: Request) -> JSONResponse:
        act(request)
        return JSONResponse(PAID)

    return Starlette(routes=[Route("/checkout/{cart}", checkout, methods=["POST"])])


def litestar(act: Act, **options: Any) -> Any:
    from litestar import Litestar, Request, post
    from litestar.params import FromPath

    @post("/checkout/{cart:str}", status_code=200)
    async def checkout(cart: FromPath[str], request: Request[Any, Any, Any]) -> dict[str, Any]:
        act(request)
        return PAID

    return Litestar([checkout], **options)


@cache
def django_settings() -> None:
    import django
    from django.conf import settings

    if not settings.configured:  # another test module may have configured it
        settings.configure()
    settings.ALLOWED_HOSTS = ["*"]
    settings.REST_FRAMEWORK = {"UNAUTHENTICATED_USER": None}
    django.setup()


def served_by_django(view: Any, route: str = "checkout/<str:cart>") -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.urls import clear_url_caches, path

    settings.ROOT_URLCONF = (path(route, view),)
    clear_url_caches()
    return get_asgi_application()


def django(act: Act) -> Any:
    django_settings()
    from django.http import HttpRequest, JsonResponse

    def checkout(request: HttpRequest, cart: str) -> JsonResponse:
        act(request)
        return JsonResponse(PAID)

    return served_by_django(checkout)


def rest_framework(act: Act) -> Any:
    django_settings()
    from rest_framework.decorators import api_view
    from rest_framework.response import Response
    from rest_framework.settings import api_settings

    api_settings.reload()  # the first test module that read them may have read others

    @api_view(["POST"])
    def checkout(request: Any, cart: str) -> Any:
        act(request)
        return Response(PAID)

    return served_by_django(checkout)


def ninja(act: Act) -> Any:
    django_settings()
    from django.http import HttpRequest
    from ninja import NinjaAPI

    api = NinjaAPI(urls_namespace=f"shop-{id(act)}")

    @api.post("/checkout/{cart}")
    async def checkout(request: HttpRequest, cart: str) -> dict[str, Any]:
        act(request)
        return PAID

    return served_by_django(api.urls, "")


def quart(act: Act) -> Any:
    from quart import Quart, request

    app = Quart(__name__)

    @app.post("/checkout/<cart>")
    async def checkout(cart: str) -> dict[str, Any]:
        act(request)
        return PAID

    return app


def falcon(act: Act) -> Any:
    from falcon.asgi import App, Request, Response

    class Checkout:
        async def on_post(self, req: Request, resp: Response, cart: str) -> None:
            assert cart == "7"
            act(req)
            resp.media = PAID

    app = App()
    app.add_route("/checkout/{cart}", Checkout())
    return app


def blacksheep(act: Act) -> Any:
    from blacksheep import Application, Request
    from blacksheep.server.routing import Router

    router = Router()

    @router.post("/checkout/{cart}")
    async def checkout(cart: str, request: Request) -> dict[str, Any]:
        act(request)
        return PAID

    return Application(router=router)


def graphql(act: Act) -> Any:
    import strawberry
    from fastapi import FastAPI
    from strawberry.fastapi import GraphQLRouter
    from strawberry.scalars import JSON

    @strawberry.type
    class Query:
        price: int = 42

    @strawberry.type
    class Mutation:
        @strawberry.mutation
        def pay(self, info: strawberry.Info) -> JSON:
            act(info.context["request"])
            return JSON(PAID)

    app = FastAPI()
    app.include_router(GraphQLRouter[Any, Any](strawberry.Schema(Query, Mutation)), prefix="/checkout/{cart}")
    return app


FRAMEWORKS = [fastapi, starlette, litestar, django, rest_framework, ninja, quart, falcon, blacksheep, graphql]
EITHER = extract.json(customer_email="(data.pay || @).customer.email", invoice_id="(data.pay || @).invoice.id")
"""The checkout, or a GraphQL response with it."""
by_name = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.__name__)


def nothing(_request: Any) -> None:
    """Do nothing: the response makes the record."""


def buy(app: Any, butter: Butter, framework: Any) -> None:
    query = {"query": "mutation { pay }"} if framework is graphql else None
    response = TestClient(app).post("/checkout/7", json=query, headers={"x-forwarded-for": SHOPPER})
    assert (response.status_code, response.json()) == (200, {"data": {"pay": PAID}} if query else PAID)
    assert butter.flush()


SPELLINGS = [
    "/checkout/7",
    "/checkout/7/",
    "//checkout/7",
    "/checkout//7",
    "/checkout/7//",
    "/Checkout/7",
    "/checkout/7%2F",
    "/checkout/a%2Fb",
    "/checkout%2F7",
    "/%63heckout/7",
    "/checkout/7%0A",
    "/checkout/7?a=/",
]


@by_name
def test_no_spelling_of_the_path_prevents_a_capture(make_butter: Callable[..., Butter], framework: Any) -> None:
    """Routers fold slashes or case in different ways. Each request that reaches the endpoint is captured."""
    if framework is graphql:
        pytest.skip("its router is FastAPI's")
    paid = 0

    def pay(_request: Any) -> None:
        nonlocal paid
        paid += 1

    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", extract=EITHER))
    client = TestClient(ButterMiddleware(framework(pay), butter), raise_server_exceptions=False)
    for spelling in SPELLINGS:
        client.post(f"http://testserver{spelling}", follow_redirects=False)
        assert butter.status().captured == paid, spelling
    assert paid
    assert butter.flush()
    assert "parked:no_route" not in butter.status().skipped


@by_name
def test_the_response_is_read(make_butter: Callable[..., Butter], fake: FakeButter, framework: Any) -> None:
    """The middleware around the app reads the checkout's response."""
    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", EITHER))
    buy(ButterMiddleware(framework(nothing), butter), butter, framework)
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_1", SHOPPER)]


@by_name
def test_the_endpoint_annotates(make_butter: Callable[..., Butter], fake: FakeButter, framework: Any) -> None:
    """`annotate` accepts the framework's own request."""
    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe"))
    act = lambda request: annotate(request, customer_email="a@example.com", charge_id="ch_1")
    buy(ButterMiddleware(framework(act), butter), butter, framework)
    assert [(record["customer_email"], record["charge_id"]) for record in fake.records] == [("a@example.com", "ch_1")]


@by_name
def test_the_endpoint_records(make_butter: Callable[..., Butter], fake: FakeButter, framework: Any) -> None:
    """`butter.record` accepts the framework's own request, with the shopper's address and the PSP of its route."""
    butter = make_butter(CheckoutRoute("/other/{cart}", "stripe"))
    act = lambda request: butter.record(request, psp="adyen", customer_email="a@example.com", charge_id="ch_1")
    buy(ButterMiddleware(framework(act), butter), butter, framework)
    assert [(record["psp"], record["ipv4_address"]) for record in fake.records] == [("adyen", SHOPPER)]


def test_litestars_own_middleware(butter: Butter, fake: FakeButter) -> None:
    """Litestar deep-copies the options of a middleware. The `Butter` stays the same."""
    from litestar.middleware import DefineMiddleware

    buy(litestar(nothing, middleware=[DefineMiddleware(ButterMiddleware, butter=butter)]), butter, litestar)
    assert len(fake.records) == 1


# The examples, each under a real server.

NAMES = sorted(path.stem.removesuffix("_shop") for path in EXAMPLES.glob("*_shop.py"))
FIVE, FIVE_MORE = numbered(10)[:5], numbered(10)[5:]
by_example = pytest.mark.parametrize("example", NAMES)


@contextmanager
def running(example: str, url: str, outbox: Path) -> Generator[tuple[int, "subprocess.Popen[str]"]]:
    """Run an example with an outbox on disk. Return its port and its process."""
    port = free_port()
    environment = {f"BUTTER_{name.upper()}": value for name, value in CREDENTIALS.items()}
    environment |= {"BUTTER_BASE_URL": url, "EXAMPLE": f"{example}_shop", "EXAMPLE_OUTBOX": str(outbox)}
    options = ["--port", str(port), "--no-access-log", "--app-dir", str(HERE / "servers")]
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "example:app", *options],
        cwd=EXAMPLES,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            until(lambda: listening(port) or process.poll() is not None, "the example listens", 40)
            yield port, process
        finally:
            process.kill()


def post(port: int, path: str, body: Any = None) -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        headers = {"X-Forwarded-For": SHOPPER, "Content-Type": "application/json"}
        connection.request("POST", path, body=None if body is None else json.dumps(body), headers=headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())


def pay(port: int, example: str, invoice: str) -> None:
    cart = invoice.removeprefix("in_")
    if example == "graphql":
        query = f'mutation {{ pay: checkout(cart: "{cart}") }}'
        assert post(port, "/graphql", {"query": query}) == {"data": {"pay": invoice}}
        assert post(port, "/graphql", {"query": "{ price }"}) == {"data": {"price": 42}}
    else:
        assert post(port, f"/checkout/{cart}") == {"invoice": invoice}


def stop(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output
    return output


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with an outbox in which five checkouts wait, because Butter did not answer."""
    folder = tmp_path_factory.mktemp("waiting")
    with running("starlette", f"http://127.0.0.1:{free_port()}", folder / "butter.db") as (port, process):
        for invoice in FIVE:
            pay(port, "starlette", invoice)
        stop(process)
    return folder


@pytest.mark.server
@by_example
def test_an_example_sends_after_a_restart_and_loses_nothing_at_a_stop(
    fake: FakeButter, url: str, waiting: Path, tmp_path: Path, example: str
) -> None:
    """Waiting records are sent after a start, without a request. SIGTERM right after five checkouts loses none.

    Their records are sent, or in the file for the next start. Each has the e-mail that the endpoint annotated.
    """
    shutil.copytree(waiting, tmp_path, dirs_exist_ok=True)
    with running(example, url, tmp_path / "butter.db") as (port, process):
        until(lambda: len(fake.records) == 5, "the five that wait")
        for invoice in FIVE_MORE:
            pay(port, example, invoice)
        output = stop(process)
    store = SQLiteOutbox(tmp_path / "butter.db").store()
    store.open()
    records = [*fake.records, *(pending.record.fields for pending in store.due(10))]
    store.close()
    assert sorted(record["invoice_id"] for record in records) == [*FIVE, *FIVE_MORE], output
    assert {record["customer_email"] for record in records} == {"shopper@example.com"}
    assert {record["ipv4_address"] for record in records} == {SHOPPER}
