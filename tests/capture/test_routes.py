"""A template matches the same requests here as in Starlette."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from fastapi import FastAPI
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, ConfigurationError, annotate, client_ip
from butter_middleware._utils.asgi import Receive, Scope, Send, route_path
from butter_middleware.capture.routes import RouteTable, Template


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("/checkout", "/checkout", {}),
        ("/checkout/{cart}", "/checkout/a-b", {"cart": "a-b"}),
        ("/checkout/{cart:int}/pay", "/checkout/12/pay", {"cart": 12}),
        ("/a/{x:float}", "/a/1.5", {"x": 1.5}),
        (
            "/a/{x:uuid}",
            "/a/12345678-1234-5678-1234-567812345678",
            {"x": UUID("12345678-1234-5678-1234-567812345678")},
        ),
        ("/a/{rest:path}", "/a/b/c", {"rest": "b/c"}),
        ("/a.{kind}.html", "/a.x.html", {"kind": "x"}),
    ],
)
def test_parameters_are_converted(template: str, path: str, params: dict[str, object]) -> None:
    """Each of Starlette's converters returns its type."""
    assert Template(template).params(path) == params


TEMPLATES = [
    *("/a", "/a/", "/a/b1", "/a.b", "/caf\xe9", "/a%20b", "/{x}", "/a/{x}", "/a/{x}/", "/a/{x:int}", "/a/{x:float}"),
    *("/a/{x:path}", "/{x:path}", "/{x}.html", "/a-{x:int}/{y}", "/a/{x:uuid}", "/"),
]
PIECES = [
    *("a", "b1", "12", "1.5", "q.html", "a-7", "", ".", "..", "\n", "\r", "\r\n", "\0", "\x85", "\u2028", " ", "%0A"),
    *("%2F", "caf\xe9", "cafe\u0301", "A", "\u0661\u0662", "12345678-1234-5678-1234-567812345678", ";v=1", "//"),
]
ENDS = ["", "/", "\n", "/\n", "\n\n", "\n/", "\r", "%0A", " "]
paths = st.builds(
    lambda pieces, end: "/" + "/".join(pieces) + end,
    st.lists(st.sampled_from(PIECES), max_size=4),
    st.sampled_from(ENDS),
)
roots = st.sampled_from(["", "/", "/a", "/shop", "/shop/", "/a/b1", "\n"])


@settings(max_examples=tries(1000), deadline=None)
@given(st.sampled_from(TEMPLATES), paths | st.sampled_from(TEMPLATES), roots, roots, st.sampled_from(["POST", "GET"]))
def test_the_same_requests_match_as_in_starlette(template: str, path: str, before: str, root: str, method: str) -> None:
    """For any path and any root, no checkout is missed, and nothing else matches."""
    scope = {"type": "http", "method": method, "path": before + path, "root_path": root}
    theirs = Route(template, lambda _request: None, methods=["POST"]).matches(scope)[0] is Match.FULL
    found = RouteTable([CheckoutRoute(template, "stripe")]).find(method, route_path(scope))
    assert (found is not None) is theirs


class Shop:
    """Checkouts by a literal and a parametrized path, in an app and in a mounted one, below any root."""

    def __init__(self) -> None:
        self.paid = 0
        routes = [CheckoutRoute(path, "stripe") for path in ("/checkout", "/checkout/{cart}", "/checkout/{cart}/pay/")]
        self.butter = Butter(client_ip=client_ip.direct(), routes=routes, dry_run=True)
        inner = [Route(route.path, self._pay, methods=["POST"]) for route in routes]
        mounted = Starlette(routes=inner)
        mounted.add_middleware(ButterMiddleware, butter=self.butter)
        self.mounted = Starlette(routes=[Mount("/shop", mounted)])
        self.plain = Starlette(routes=inner)
        self.plain.add_middleware(ButterMiddleware, butter=self.butter)

    def post(self, path: str, root: str, *, mounted: bool) -> tuple[int, int]:
        """Post to a raw path. Return how often it was paid, and how often that was captured."""
        paid, captured = self.paid, self.butter.status().captured
        client = TestClient(self.mounted if mounted else self.plain, root_path=root, follow_redirects=False)
        client.post(path)
        return self.paid - paid, self.butter.status().captured - captured

    def _pay(self, request: Request) -> Response:
        self.paid += 1
        annotate(request, customer_email="a@example.com", invoice_id=str(self.paid))
        return JSONResponse({})


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.butter.close()


raw_paths = st.builds(
    lambda root, path, end: root + path + end,
    st.sampled_from(["", "/shop", "/api", "/api/shop", "/checkout"]),
    st.sampled_from(["/checkout", "/checkout/7", "/checkout/7%2F8", "/checkout/%0A", "/checkout/7/pay/", "/CHECKOUT"]),
    st.sampled_from(
        ["", "/", "%0A", "%0a", "%0D%0A", "%0A%0A", "/%0A", "%2F", "%20", "%00", "%E2%80%A8", "?a=1", "//"]
    ),
)


@settings(max_examples=tries(300), deadline=None)
@given(raw_paths, st.sampled_from(["", "/api", "/checkout"]), st.booleans())
def test_each_payment_is_captured(shop: Shop, path: str, root: str, mounted: bool) -> None:  # noqa: FBT001 - drawn
    """Starlette's own router handles any path that a shopper writes."""
    paid, captured = shop.post(path, root, mounted=mounted)
    assert captured == paid


@pytest.mark.parametrize("path", ["/checkout/7", "/api/checkout/7", "/api/checkout/7/pay/%0A", "/apis/checkout/7"])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_the_root_path_of_an_app_prevents_no_capture(shop: Shop, path: str, layers: int) -> None:
    """FastAPI puts its own root path into the scope, after an outer middleware has seen the request."""
    app = FastAPI(root_path="/api", routes=shop.plain.routes)
    wrapped: Any = app
    for _layer in range(layers):
        wrapped = GZipMiddleware(wrapped)
    if layers:
        wrapped = ButterMiddleware(wrapped, shop.butter)
    else:
        app.add_middleware(ButterMiddleware, butter=shop.butter)
    paid, captured = shop.paid, shop.butter.status().captured
    TestClient(wrapped).post(path)
    assert shop.butter.status().captured - captured == shop.paid - paid
    assert (shop.paid - paid) == (not path.startswith("/apis"))
    assert shop.butter.flush()
    assert "parked:no_route" not in shop.butter.status().skipped


def test_a_newline_prevents_no_capture(shop: Shop) -> None:
    """Starlette matches `/checkout` with a trailing newline too."""
    assert shop.post("/checkout%0A", "", mounted=False) == (1, 1)


folded_paths = st.builds(
    lambda pieces, end: "/" + "/".join(pieces) + end,
    st.lists(st.sampled_from(["checkout", "CheckOut", "7", "", "pay", "shop"]), max_size=6),
    st.sampled_from(["", "/", "//", "\n"]),
)


@settings(max_examples=tries(300), deadline=None)
@given(folded_paths, st.booleans())
def test_a_router_that_folds_paths_prevents_no_capture(path: str, mounted: bool) -> None:  # noqa: FBT001 - drawn
    """Another framework's router, alone or mounted in Starlette, may ignore case and slashes."""
    paid = False

    async def folds(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal paid
        segments = [segment for segment in scope["path"].lower().split("/") if segment]
        paid = segments[-2:-1] == ["checkout"] and len(segments) == 2 + mounted
        annotate(scope, customer_email="a@example.com", invoice_id="in_1")
        await sends(start(200 if paid else 404), body())(scope, receive, send)

    template = "/shop/checkout/{cart}" if mounted else "/checkout/{cart}"
    butter = Butter(client_ip=client_ip.direct(), routes=[CheckoutRoute(template, "stripe")], dry_run=True)
    app: Any = Starlette(routes=[Mount("/shop", folds)]) if mounted else folds
    anyio.run(drive, ButterMiddleware(app, butter), http_scope(path))
    assert butter.status().captured == paid
    butter.close()


def test_a_table_finds_by_method_and_path() -> None:
    """Literal and parametrized routes are found, for their own methods only."""
    literal = CheckoutRoute("/pay", psp="adyen", methods=["post", "PUT"])
    template = CheckoutRoute("/pay/{x}", psp="adyen")
    table = RouteTable([literal, template])
    assert table.find("PUT", "/pay") is literal
    assert table.find("POST", "/pay/1") is template
    assert table.find("PUT", "/pay/1") is None
    assert table.find("POST", "/pay/1/2") is None


def test_a_method_in_lower_case_prevents_no_capture() -> None:
    """Some servers pass the method as it was written, and Django converts it to upper case."""
    table = RouteTable([CheckoutRoute("/pay", psp="adyen")])
    assert table.find("post", "/pay") is table.routes[0]
    assert table.find("get", "/pay") is None


def test_the_first_match_wins() -> None:
    """Routes may overlap. The first match counts, as in Starlette."""
    new, any_cart = CheckoutRoute("/checkout/new", psp="adyen"), CheckoutRoute("/checkout/{cart}", psp="stripe")
    assert RouteTable([new, any_cart]).find("POST", "/checkout/new") is new
    assert RouteTable([any_cart, new]).find("POST", "/checkout/new") is any_cart
    slash = CheckoutRoute("/checkout/", psp="stripe")
    table = RouteTable([slash, any_cart])
    assert (table.find("POST", "/checkout/"), table.find("POST", "/checkout/7")) == (slash, any_cart)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("/a", "/a", True),
        ("/a/{x}", "/a/{y}", True),
        ("/a/{x:int}", "/a/{y:int}", True),
        ("/a/{x:int}", "/a/{y}", False),
        ("/a", "/a/", False),
        ("/a/{x}", "/a/b", False),
        ("/a.b", "/a-b", False),
    ],
)
def test_equal_templates_are_refused(one: str, other: str, equal: bool) -> None:  # noqa: FBT001 - parametrized
    """The second route could never match. The names of its parameters make no difference."""
    first = CheckoutRoute(one, psp="stripe", methods=["POST", "PUT"])
    if equal:
        with pytest.raises(ConfigurationError, match=f"POST\\|PUT {re.escape(one)} and PUT {re.escape(other)} match"):
            RouteTable([first, CheckoutRoute(other, psp="adyen", methods=["PUT"])])
    else:
        RouteTable([first, CheckoutRoute(other, psp="adyen")])
    RouteTable([first, CheckoutRoute(other, psp="adyen", methods=["GET"])])


@pytest.mark.parametrize("path", ["/a/{x", "/a/{x:nosuch}", "/a/{x}/{x}", "/a/{1}", "/a/{x-y}", "/a/{}", "a", "/a?b"])
def test_an_invalid_template_is_refused(path: str) -> None:
    """Errors of Starlette's compiler become our own error with the remedy."""
    with pytest.raises(ConfigurationError, match="Write a path as Starlette does"):
        CheckoutRoute(path, psp="stripe")


def test_equal_options_make_equal_routes() -> None:
    """They can be compared, such as in an app's own tests, and be members of a set."""
    first, second = (CheckoutRoute("/checkout/{cart_id}", psp="stripe", join="cart_id") for _ in range(2))
    assert (first == second, len({first, second})) == (True, 1)
    assert first != CheckoutRoute("/checkout/{order_id}", psp="stripe", join="cart_id")
