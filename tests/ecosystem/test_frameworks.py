"""FastAPI, Starlette and a bare app: mounted, wrapped, and with other middlewares."""

import copy
import gzip
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from shops import PAID, ROUTE, SHOPPER
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate
from butter_middleware.testing import FakeButter

HEADERS = {"x-forwarded-for": SHOPPER}


async def checkout(_request: StarletteRequest) -> Response:
    return JSONResponse(PAID | {"padding": "x" * 2000})


async def passing(request: StarletteRequest, call_next: Callable[..., Awaitable[Response]]) -> Response:
    return await call_next(request)


def starlette_app() -> Starlette:
    return Starlette(routes=[Route("/checkout/{cart_id}", checkout, methods=["POST"])])


def fastapi_app() -> FastAPI:
    app = FastAPI()
    router = APIRouter(prefix="/checkout")

    @router.post("/{cart_id}")
    def pay(cart_id: str) -> dict[str, Any]:
        return PAID | {"padding": "x" * 2000}

    app.include_router(router)
    return app


def arrives(app: Any, butter: Butter, fake: FakeButter, path: str = "/checkout/7") -> None:
    """One checkout makes one record, and the client gets the app's response."""
    response = TestClient(app).post(path, headers=HEADERS)
    assert response.status_code == 200
    assert response.json()["invoice"] == {"id": "in_1"}
    assert butter.flush()
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]
    assert butter.status().captured == 1


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
def test_added_to_an_app(make: Callable[[], Any], butter: Butter, fake: FakeButter) -> None:
    """Only `app.add_middleware` is needed."""
    app = make()
    app.add_middleware(ButterMiddleware, butter=butter)
    arrives(app, butter, fake)


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
def test_wrapped_around_an_app(make: Callable[[], Any], butter: Butter, fake: FakeButter) -> None:
    """Any ASGI app can be wrapped."""
    arrives(ButterMiddleware(make(), butter), butter, fake)


@pytest.mark.parametrize("inside", [True, False])
def test_a_mounted_app(butter: Butter, fake: FakeButter, inside: bool) -> None:  # noqa: FBT001 - parametrized
    """On a sub-app the template is the sub-app's own path. On the outer app it is the whole path."""
    shop = fastapi_app()
    outer = Starlette(routes=[Mount("/shop", shop)])
    if inside:
        shop.add_middleware(ButterMiddleware, butter=butter)
    else:
        butter.routes.add(CheckoutRoute("/shop/checkout/{cart_id}", ROUTE.psp, ROUTE.extract))
        outer.add_middleware(ButterMiddleware, butter=butter)
    arrives(outer, butter, fake, "/shop/checkout/7")


def test_a_root_path(butter: Butter, fake: FakeButter) -> None:
    """Behind a proxy that strips or keeps a prefix, `root_path` names it. The template does not contain it."""
    app = fastapi_app()
    app.add_middleware(ButterMiddleware, butter=butter)
    response = TestClient(app, root_path="/api").post("/checkout/7", headers=HEADERS)
    assert response.status_code == 200
    assert butter.flush()
    assert len(fake.records) == 1


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize(
    ("other", "options"),
    [(GZipMiddleware, {"minimum_size": 10}), (BaseHTTPMiddleware, {"dispatch": passing})],
    ids=["gzip", "base"],
)
def test_with_other_middlewares(
    butter: Butter,
    fake: FakeButter,
    other: Any,
    options: dict[str, Any],
    outside: bool,  # noqa: FBT001 - parametrized
) -> None:
    """GZipMiddleware and BaseHTTPMiddleware may be on either side."""
    app = starlette_app()
    if outside:
        app.add_middleware(ButterMiddleware, butter=butter)
        app.add_middleware(other, **options)
    else:
        app.add_middleware(other, **options)
        app.add_middleware(ButterMiddleware, butter=butter)
    arrives(app, butter, fake)


def test_a_stream_that_breaks_inside_a_base_middleware(butter: Butter) -> None:
    """A stream that fails midway is not a checkout, even if an inner middleware ends it cleanly."""

    async def broken(_request: StarletteRequest) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"invoice": '
            raise RuntimeError

        return StreamingResponse(chunks(), media_type="application/json")

    app = Starlette(routes=[Route("/checkout/{cart_id}", broken, methods=["POST"])])
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.add_middleware(ButterMiddleware, butter=butter)
    TestClient(app, raise_server_exceptions=False).post("/checkout/7", headers=HEADERS)
    assert butter.flush()
    status = butter.status()
    assert status.delivered == 0
    assert status.parked + status.skipped.get("incomplete", 0) == 1


def test_an_already_compressed_body(butter: Butter, fake: FakeButter) -> None:
    """An endpoint that compresses its response is read."""

    async def packed(_request: StarletteRequest) -> Response:
        content = gzip.compress(JSONResponse(PAID).body)
        return Response(content, media_type="application/json", headers={"content-encoding": "gzip"})

    app = Starlette(routes=[Route("/checkout/{cart_id}", packed, methods=["POST"])])
    app.add_middleware(ButterMiddleware, butter=butter)
    arrives(app, butter, fake)


def test_a_body_in_zstd(monkeypatch: pytest.MonkeyPatch, butter: Butter, fake: FakeButter) -> None:
    """A compressing middleware inside ours. Its own decoder is the only one that is installed."""
    starlette_compress = pytest.importorskip("starlette_compress")
    for package in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, package, None)
    app = starlette_app()
    app.add_middleware(starlette_compress.CompressMiddleware, minimum_size=10)
    app.add_middleware(ButterMiddleware, butter=butter)
    response = TestClient(app).post("/checkout/7", headers=HEADERS | {"accept-encoding": "zstd"})
    assert response.headers["content-encoding"] == "zstd"
    assert butter.flush()
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_framework_may_copy_the_options_of_a_middleware(butter: Butter, how: Callable[[Any], Any]) -> None:
    """A copy of a `Butter` is the same object, with its routes, threads and file."""
    assert how(butter) is butter
    assert how({"butter": butter})["butter"] is butter


# annotate


def annotated(make_butter: Callable[..., Butter], **route: Any) -> tuple[FastAPI, Butter]:
    options: dict[str, Any] = {"path": "/checkout/{cart_id}", "psp": "stripe"} | route
    butter = make_butter(CheckoutRoute(**options))
    app = FastAPI()
    app.add_middleware(ButterMiddleware, butter=butter)
    return app, butter


def test_an_html_page_that_annotates(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A confirmation page may be an HTML page, read by GET. Its endpoint annotates."""
    app, butter = annotated(make_butter, path="/thanks", methods=["GET"])

    @app.get("/thanks")
    def thanks(request: Request) -> Response:
        annotate(request, customer_email="a@example.com")
        annotate(request.scope, charge_id="ch_1", invoice_id=7)
        return Response("<h1>Thanks</h1>", media_type="text/html")

    client = TestClient(app)
    client.get("/thanks", headers=HEADERS)
    client.get("/thanks", headers=HEADERS)
    assert butter.flush()
    assert fake.records == [
        {
            "customer_email": "a@example.com",
            "ipv4_address": SHOPPER,
            "psp": "stripe",
            "charge_id": "ch_1",
            "invoice_id": "7",
        }
    ]
    assert butter.status().skipped == {"duplicate": 1}


def test_a_dependency_annotates_and_the_extractor_wins(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Annotations fill missing fields, the extractor's own values win, and the route sets the PSP."""
    app, butter = annotated(make_butter, extract=lambda _r: {"invoice_id": "in_x", "customer_email": None})

    def note(request: Request) -> None:
        annotate(request, customer_email="a@example.com", invoice_id="in_note")

    @app.post("/checkout/{cart_id}", dependencies=[Depends(note)])
    def pay(cart_id: str) -> dict[str, str]:
        return {}

    TestClient(app).post("/checkout/7", headers=HEADERS)
    assert butter.flush()
    assert (fake.records[0]["invoice_id"], fake.records[0]["customer_email"]) == ("in_x", "a@example.com")


def test_an_annotation_without_effect_is_logged(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """Outside a checkout route, or after the response, annotate() logs a warning with the remedy and raises nothing."""
    app, butter = annotated(make_butter)

    @app.post("/basket")
    def basket(request: Request) -> None:
        annotate(request, customer_email="a@example.com")

    @app.post("/checkout/{cart_id}")
    def pay(request: Request) -> Response:
        late = BackgroundTask(annotate, request, customer_email="a@example.com")
        return JSONResponse({}, background=late)

    client = TestClient(app)
    assert client.post("/basket").status_code == 200
    assert "no checkout route matched" in caplog.text
    assert client.post("/checkout/7", headers=HEADERS).status_code == 200
    assert "came too late" in caplog.text
    assert butter.flush()
    assert butter.status().skipped == {"not_annotated": 1}
    assert "a@example.com" not in caplog.text


@pytest.mark.parametrize("fields", [{"invoice": "in_1"}, {"invoice_id": object()}, {"invoice_id": ["in_1"]}])
def test_a_wrong_annotation_fails_no_checkout(make_butter: Callable[..., Butter], fields: dict[str, Any]) -> None:
    """An unknown field or a useless value parks the capture. The response is unchanged."""
    app, butter = annotated(make_butter)

    @app.post("/checkout/{cart_id}")
    def pay(request: Request) -> dict[str, str]:
        annotate(request, customer_email="a@example.com", **fields)
        return {"paid": "yes"}

    assert TestClient(app).post("/checkout/7", headers=HEADERS).json() == {"paid": "yes"}
    assert butter.flush()
    assert butter.status().parked == 1
    assert butter.status().skipped == {"parked:invalid": 1}
