"""Checkout routes are compared with the app's routes. A wrong path or method is logged before the first checkout."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip
from butter_middleware._utils import log_thread
from butter_middleware.capture import app_routes
from butter_middleware.capture.app_routes import unanswered, walkable, watched
from butter_middleware.capture.routes import Template


async def pay(_request: Request) -> Response:
    return JSONResponse({"status": "paid"})


class Pay(HTTPEndpoint):
    async def post(self, _request: Request) -> Response:
        return JSONResponse({"status": "paid"})


async def foreign(_scope: Any, _receive: Any, _send: Any) -> None:
    """An app that cannot be inspected."""


def starlette(path: str = "/checkout/{cart}", methods: tuple[str, ...] = ("POST",)) -> Starlette:
    return Starlette(
        routes=[Route("/", pay), Route("/orders", pay, methods=["POST"]), Route(path, pay, methods=methods)]
    )


def fastapi(prefix: str = "", path: str = "/checkout/{cart}", root_path: str = "") -> FastAPI:
    app = FastAPI()
    app.root_path = root_path  # the constructor's argument is deprecated, and sets the same
    router = APIRouter(prefix="/v1" if prefix else "")
    router.post(path)(lambda cart: {"cart": cart})
    app.include_router(router, prefix=prefix)
    return app


def mounted(app: Any, at: str = "/shop") -> Starlette:
    return Starlette(routes=[Mount(at, app)])


def said(app: Any, path: str, *methods: str) -> str:
    """Return the text about one checkout route, or nothing."""
    return "".join(unanswered([app], [CheckoutRoute(path, psp="stripe", methods=methods or ("POST",))]))


ANSWERED: list[tuple[Any, str]] = [
    # Starlette's own.
    (starlette(), "/checkout/{cart_id}"),
    (starlette("/checkout/{cart:int}"), "/checkout/{cart_id}"),
    (Router(routes=[Route("/checkout", Pay)]), "/checkout"),
    # Prefixes.
    (fastapi(), "/checkout/{cart}"),
    (fastapi("/api"), "/api/v1/checkout/{cart}"),
    (mounted(fastapi("/api")), "/shop/api/v1/checkout/{cart}"),
    (mounted(mounted(starlette())), "/shop/shop/checkout/{cart}"),
    (Starlette(routes=[Host("{tenant}.shop.example", mounted(starlette()))]), "/shop/checkout/{cart}"),
    (Starlette(routes=[Mount("/{tenant}", starlette())]), "/{tenant}/checkout/{cart}"),
    (Starlette(routes=[Mount("/a", starlette(), middleware=[Middleware(GZipMiddleware)])]), "/a/checkout/{cart}"),
    # A middleware around FastAPI sees the path with the root_path that it sets, or without.
    (fastapi(root_path="/proxied"), "/proxied/checkout/{cart}"),
    (fastapi(root_path="/proxied"), "/checkout/{cart}"),
    # An app that cannot be inspected may answer anything.
    (foreign, "/checkout"),
    (mounted(foreign), "/shop/checkout"),
    (Router(routes=[], default=foreign), "/checkout"),
    (GZipMiddleware(starlette()), "/checkout/{cart}"),
]


@pytest.mark.parametrize(("app", "path"), ANSWERED)
def test_a_route_of_the_app_causes_no_text(app: Any, path: str) -> None:
    """The app answers it, or may answer it."""
    assert said(app, path) == ""


@pytest.mark.parametrize(
    ("app", "path", "methods", "text"),
    [
        (
            starlette(),
            "/chekout/{cart}",
            (),
            "no route of the app answers POST /chekout/{cart}; nearest: POST /checkout/{cart}. Correct the path",
        ),
        (
            starlette("/checkout/"),
            "/checkout",
            (),
            "nearest: POST /checkout/. Correct the path of this CheckoutRoute: a",
        ),
        (starlette("/checkout"), "/checkout/", (), "nearest: POST /checkout. Correct"),
        (
            fastapi("/api"),
            "/checkout/{id}",
            (),
            "nearest: POST /api/v1/checkout/{cart}. Correct the path of this",
        ),
        (fastapi("/api"), "/checkout/{id}", (), "CheckoutRoute: the prefix /api/v1 is missing."),
        (mounted(fastapi()), "/checkout/{id}", (), "CheckoutRoute: the prefix /shop is missing."),
        (starlette("/a/prefix/of/this/shop/pay"), "/pay", ("PUT",), "the prefix /a/prefix/of/this/shop is missing."),
        (starlette(), "/api/checkout/{id}", (), "without /api (a root_path is not part of it)."),
        (starlette(methods=("PUT",)), "/checkout/{cart}", (), "answers PUT /checkout/{cart}. Set methods="),
        (starlette(), "/checkout/{cart}", ("PUT", "PATCH"), "answers PUT|PATCH /checkout/{cart}; on this path"),
        (Router(routes=[Route("/checkout", Pay)]), "/checkout", ("PUT",), "it answers POST /checkout."),
        (starlette("/checkout/{cart:int}"), "/checkout/new", (), "nearest: POST /checkout/{cart:int}"),
        (Starlette(routes=[Mount("/", StaticFiles())]), "/checkout", (), "Write the path as the app serves it"),
        (Starlette(), "/checkout", (), "no route of the app answers POST /checkout. Write the path"),
        (Starlette(routes=[Host("a.example", starlette())]), "/chekout/{cart}", (), "nearest: POST /checkout/{cart}"),
    ],
)
def test_a_route_that_nothing_answers_is_named_with_the_near_miss(
    app: Any, path: str, methods: tuple[str, ...], text: str
) -> None:
    """Typo, slash, prefix, root_path, method and converter: the text names the route and the nearest one."""
    assert text in said(app, path, *methods)


def test_a_path_with_an_open_brace_answers_no_checkout_route() -> None:
    """Starlette reads the brace as a literal."""
    assert "no route of the app answers POST /checkout;" in said(starlette("/checkout/{cart"), "/checkout")


def butter_of(path: str) -> Butter:
    return Butter(client_ip=client_ip.direct(), dry_run=True, routes=[CheckoutRoute(path, psp="stripe")])


def added(butter: Butter) -> Any:
    app = starlette()
    app.add_middleware(ButterMiddleware, butter=butter)
    return app


def mounted_with_its_own(butter: Butter) -> Any:
    middleware = [Middleware(ButterMiddleware, butter=butter)]
    return Starlette(routes=[Mount("/a", starlette(), middleware=middleware)])


PLACES: list[Callable[[Butter], Any]] = [
    added,
    lambda butter: ButterMiddleware(starlette(), butter),
    lambda butter: GZipMiddleware(added(butter)),
    lambda butter: mounted(added(butter)),
    mounted_with_its_own,
]


@pytest.mark.parametrize("place", PLACES)
def test_the_middleware_is_found_in_any_place(place: Callable[[Butter], Any]) -> None:
    """It may be added, wrapped around, or in a mounted app. Its routes are compared with the app inside it."""
    butter = butter_of("/checkout/{cart}")
    (inner,) = watched(place(butter), butter)
    assert walkable(inner)
    assert unanswered([inner], butter.routes.routes) == []
    assert list(watched(place(butter), butter_of("/other"))) == []


@pytest.mark.parametrize("lifespan", [True, False])
def test_a_typo_is_logged_when_the_app_starts(caplog: pytest.LogCaptureFixture, *, lifespan: bool) -> None:
    """It is logged once: at the start, or at the first request if the app gets no lifespan."""
    with butter_of("/chekout/{cart}") as butter, caplog.at_level(logging.WARNING, "butter_middleware"):
        client = TestClient(added(butter))
        if lifespan:
            with client:
                pass
        for _request in range(3):
            client.get("/")
        assert log_thread.settle(10)
    (record,) = [each for each in caplog.records if "no route" in each.getMessage()]
    assert "answers POST /chekout/{cart}; nearest: POST /checkout/{cart}" in record.getMessage()
    assert record.levelno == logging.WARNING


def test_a_butter_of_two_apps_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The outer middleware has the same Butter, so the inner app's routes count for it too."""
    with butter_of("/checkout/{cart}") as butter:
        outer = mounted(added(butter))
        outer.add_middleware(ButterMiddleware, butter=butter)
        with TestClient(outer) as client:
            client.get("/")
        assert log_thread.settle(10)
    assert [each for each in caplog.records if "no route" in each.getMessage()] == []


@pytest.mark.parametrize("name", ["app", "butter", "wrapped"])
def test_check_compares_the_routes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check --app` fails on a route that the app does not answer, given the app or the Butter."""
    from butter_middleware.cli.check import compared  # noqa: PLC0415 - the command line is an extra

    (tmp_path / "shop_with_a_typo.py").write_text(SHOP)
    monkeypatch.syspath_prepend(str(tmp_path))
    from butter_middleware.cli.options import load  # noqa: PLC0415 - the command line is an extra

    app = f"shop_with_a_typo:{name}"
    (finding,) = compared(load(app), app)
    sys.modules.pop("shop_with_a_typo")
    assert (finding.state, finding.check) == ("failed", "route")
    assert "answers POST /chekout; nearest: POST /checkout." in finding.detail


SHOP = """
from fastapi import FastAPI
from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip

butter = Butter(client_ip=client_ip.direct(), dry_run=True, routes=[CheckoutRoute("/chekout", psp="stripe")])
app = FastAPI()
app.post("/checkout")(lambda: {})
app.add_middleware(ButterMiddleware, butter=butter)
wrapped = ButterMiddleware(app, butter)
"""


def test_a_large_app_is_compared_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only routes with the same beginning are tried: a route with three parameters has hundreds of paths."""
    tried: list[Template] = []

    def note(template: Template, other: Template) -> Iterator[str]:
        tried.append(template)
        return samples(template, other)

    samples = app_routes._samples
    monkeypatch.setattr(app_routes, "_samples", note)
    paths = [f"/items{number}/{{a}}/{{b}}/{{c}}" for number in range(300)]
    app = Starlette(routes=[Route(path, pay, methods=["POST"]) for path in paths])
    assert unanswered([app], [CheckoutRoute(paths[7], psp="stripe")]) == []
    assert {template.pattern for template in tried} == {Template(paths[7]).pattern}
