"""Checks that the app has a route for each checkout route, and finds the one that was probably meant.

With a typo, a forgotten prefix, a trailing slash or a wrong method, no checkout is ever seen. The routers of Starlette
and FastAPI can be walked, so this is found before the first checkout. An app that cannot be walked may answer anything.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import islice, product
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from butter_middleware.capture.routes import CheckoutRoute, Template
from butter_middleware.errors import ConfigurationError

LAYERS: Final = 64
"""The most middlewares around an app, and levels of mounts, that are searched."""
_ALIKE: Final = 0.6
"""How alike two paths must be, from 0 to 1, for one to be suggested instead of the other."""
_REST: Final = "/{butter_rest:path}"
_VALUES: Final = ("1", "12345678-1234-5678-1234-567812345678")
"""Each converter accepts at least one of these."""
_SAMPLES: Final = 1000
"""The most paths that are tried for one template."""


@dataclass(frozen=True)
class AppRoute:
    """One route of the app, as the middleware sees its path."""

    path: str
    methods: frozenset[str] | None
    """None: any."""

    @cached_property
    def template(self) -> Template | None:
        """Its path as a template. None if a checkout route cannot have this path."""
        try:
            return Template(self.path or "/")
        except ConfigurationError:
            return None

    def answers(self, method: str) -> bool:
        """Whether a request with this method is served."""
        return self.methods is None or method in self.methods

    def __str__(self) -> str:
        methods = "any method" if self.methods is None else "|".join(sorted(self.methods - {"HEAD"} or self.methods))
        return f"{methods} {self.path}"


def unanswered(apps: Iterable[object], routes: Iterable[CheckoutRoute]) -> list[str]:
    """Return one message for each checkout route that none of the apps answers.

    Args:
        apps: The ASGI apps that the `ButterMiddleware` of one `Butter` wraps.
        routes: The checkout routes.
    """
    known = [route for app in apps for route in app_routes(app)]
    return [text for route in routes if (text := _unanswered(route, known))]


def walkable(app: object) -> bool:
    """Whether an app, under its middlewares, is Starlette's or FastAPI's."""
    return isinstance(_innermost(app), Starlette | Router)


def matches_as_written(app: object) -> bool:
    """Whether an app has only routers of Starlette and FastAPI. Other frameworks' routers may ignore slashes or case.

    With another framework's router, `//checkout` and `/Checkout/` can be the same checkout as `/checkout`.
    """
    return not any(route.methods is None and route.path.endswith(_REST) for route in app_routes(app))


def mounted(app: object, depth: int = LAYERS) -> Iterator[tuple[object, object]]:
    """Yield each argument of the middlewares around an app, inside it and in its mounts, with the app that each wraps.

    The `Butter` of a `ButterMiddleware` is one of the arguments.
    """
    for layer in _layers(app):
        yield getattr(layer, "butter", None), getattr(layer, "app", None)
        if isinstance(layer, Starlette):
            values = (value for entry in layer.user_middleware for value in (*entry.args, *entry.kwargs.values()))
            yield from ((value, layer.router) for value in values)
        if isinstance(layer, Starlette | Router) and depth:
            for route in _effective(layer.routes):
                if isinstance(_kind(route), Mount | Host):
                    yield from mounted(route.app, depth - 1)


def watched(app: object, butter: object) -> list[object]:
    """Find the apps that the `ButterMiddleware` of a `Butter` wraps: in an app, around it, and in its mounts."""
    return [wrapped for given, wrapped in mounted(app) if given is butter]


def _layers(app: object) -> Iterator[object]:
    """Yield an app, then the `app` of each middleware."""
    for _layer in range(LAYERS):
        if app is None:
            return
        yield app
        if isinstance(app, Starlette | Router):
            return
        app = getattr(app, "app", None)


def _innermost(app: object) -> object:
    *_outer, innermost = _layers(app)
    return innermost


def app_routes(app: object, prefix: str = "", depth: int = LAYERS) -> Iterator[AppRoute]:
    """Yield each route of the app, with its mounts' prefixes."""
    inner = _innermost(app)
    if isinstance(inner, StaticFiles):
        yield AppRoute(prefix + _REST, frozenset({"GET", "HEAD"}))
        return
    if not isinstance(inner, Starlette | Router) or not depth:
        yield AppRoute(prefix + _REST, None)
        return
    router = inner.router if isinstance(inner, Starlette) else inner
    if getattr(router.default, "__func__", None) is not Router.not_found:
        yield AppRoute(prefix + _REST, None)
    # FastAPI sets root_path within the app: a middleware around it sees the path with or without it.
    root_path = str(getattr(inner, "root_path", "")).rstrip("/")
    for start in dict.fromkeys((prefix, prefix + root_path)):
        for route in _effective(router.routes):
            yield from _of(route, start, depth)


def _of(route: Any, prefix: str, depth: int) -> Iterator[AppRoute]:  # noqa: ANN401 - a route, or FastAPI's view of one
    kind = _kind(route)
    if isinstance(kind, Mount):
        yield from app_routes(route.app, prefix + route.path, depth - 1)
    elif isinstance(kind, Host):
        yield from app_routes(route.app, prefix, depth - 1)
    elif isinstance(kind, Route):
        yield AppRoute(prefix + route.path, _methods(route))
    elif not isinstance(kind, WebSocketRoute):
        yield AppRoute(prefix + _REST, None)


def _effective(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    """Yield the routes as they are served. Newer FastAPI keeps an included router as one entry with its prefix."""
    contexts: Any = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    yield from routes if contexts is None else contexts(routes)


def _kind(route: Any) -> object:  # noqa: ANN401 - a route, or FastAPI's view of one
    return getattr(route, "original_route", route)


def _methods(route: Any) -> frozenset[str] | None:  # noqa: ANN401 - a route, or FastAPI's view of one
    endpoint = route.endpoint
    if not route.methods and isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        verbs = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        return frozenset(verb for verb in verbs if hasattr(endpoint, verb.lower()))
    return frozenset(cast("set[str]", route.methods)) if route.methods else None


def _meet(one: Template, other: Template | None) -> bool:
    """Whether both templates match one of the paths that are made from their literals."""
    if other is None:
        return False
    begins, other_begins = one.parts[0][0], other.parts[0][0]
    if not (begins.startswith(other_begins) or other_begins.startswith(begins)):
        return False  # most templates fail here, and with several parameters there would be a thousand paths to try
    return any(map(other.match, _samples(one, other))) or any(map(one.match, _samples(other, one)))


def _samples(template: Template, other: Template) -> Iterator[str]:
    """Yield paths that match a template. Pieces of another template fill its parameters."""
    pieces = [piece for literal, _name in other.parts for piece in literal.split("/") if piece]
    names = [name for _literal, name in template.parts if name is not None]
    for values in islice(product((*_VALUES, *pieces), repeat=len(names)), _SAMPLES):
        path = "".join(
            "".join(pair) for pair in zip([text for text, _name in template.parts], (*values, ""), strict=False)
        )
        if template.match(path):
            yield path


def _unanswered(route: CheckoutRoute, known: list[AppRoute]) -> str:
    on_path = [each for each in known if _meet(route.template, each.template)]
    if any(each.answers(method) for each in on_path for method in route.methods):
        return ""
    said = f"no route of the app answers {route}"
    same = [each for each in on_path if not each.path.endswith(_REST)]
    if same:
        return f"{said}; on this path it answers {same[0]}. Set methods=, or correct the path."
    nearest = _nearest(route, [each for each in known if not each.path.endswith(_REST)])
    if nearest is None:
        return f"{said}. Write the path as the app serves it, with the prefixes of its routers and mounts."
    return f"{said}; nearest: {nearest}. Correct the path of this CheckoutRoute{_difference(route, nearest)}."


def _nearest(route: CheckoutRoute, known: list[AppRoute]) -> AppRoute | None:
    def likeness(each: AppRoute) -> float:
        mine, other = _plain(route), _plain(each)
        part = mine.endswith(other) or other.endswith(mine)
        alike = SequenceMatcher(None, mine, other).ratio()
        if len(other.strip("/")) and part:
            alike = max(alike, _ALIKE)
        return alike + 0.1 * any(map(each.answers, route.methods))

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= _ALIKE else None


def _difference(route: CheckoutRoute, nearest: AppRoute) -> str:
    mine, other = _plain(route), _plain(nearest)
    if mine.rstrip("/") == other.rstrip("/"):
        return ": a trailing slash counts"
    if other.endswith(mine):
        return f": the prefix {other.removesuffix(mine)} is missing"
    if mine.endswith(other):
        return f": the app serves it without {mine.removesuffix(other)} (a root_path is not part of it)"
    return ""


def _plain(route: CheckoutRoute | AppRoute) -> str:
    """Return a path without the names of its parameters."""
    if route.template is None:
        return route.path
    return "".join(f"{text}{{}}" if name else text for text, name in route.template.parts)
