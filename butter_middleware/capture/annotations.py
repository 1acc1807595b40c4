"""`annotate`, for fields that only the endpoint knows, and the same as a dependency of FastAPI."""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, Protocol, Unpack, cast
from uuid import UUID
from weakref import ReferenceType, WeakSet, ref

from starlette.requests import HTTPConnection

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import ASGIRequest, request_scope, route_path
from butter_middleware.errors import see
from butter_middleware.models.checkout import CheckoutFields

if TYPE_CHECKING:
    from butter_middleware.capture.routes import RouteTable  # loads Starlette's router

SCOPE_KEY: Final = "butter_middleware"
"""The scope's key for a request's notes. If it is set, a second middleware does nothing."""

_MOST_NAMES: Final = 5
_WORD: Final = re.compile(r"[A-Za-z_-]{1,30}")
"""A path segment of this form is a name. Other segments, such as one with a digit or an @, may be values."""


class Notes:
    """The annotations of one request, which can be added until the response's last byte."""

    __slots__ = ("closed", "fields", "request")

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        """The request's part of a `Capture`, as it was before the app ran."""
        self.fields: dict[str, Any] = {}
        self.closed = False


def annotate(request_or_scope: ASGIRequest | Mapping[str, Any], **fields: Unpack[CheckoutFields]) -> None:
    """Add fields of the record that the response does not contain, such as the e-mail, from inside the endpoint.

    Takes the request of any framework that keeps its ASGI scope (Starlette, FastAPI, Django, Litestar, Quart, Falcon,
    BlackSheep), or the scope itself, and the fields of `CheckoutFields`. The address is not one of them. It may be
    called more than once: the later value of a field is used. A value from the route's extractor has precedence. It
    never raises, because it is called inside a checkout. A call without effect is logged as a warning. A wrong field or
    value parks the capture with the reason.
    """
    scope = request_scope(request_or_scope)
    if scope is None:
        got = type(request_or_scope).__name__  # such as a body: in FastAPI it is often named `request`
        warn(
            f"annotate() had no effect: it got {got}, which is not a request. Pass the endpoint's own, such as "
            "request: Request in FastAPI, or ask for a CheckoutNote. You can also pass its ASGI scope. "
            + see("annotate-had-no-effect-it-got-which-is-not-a-request")
        )
        return
    notes: object = scope.get(SCOPE_KEY)
    if not isinstance(notes, Notes):
        warn(_unmatched(scope))
    elif notes.closed:
        warn(
            f"annotate() came too late: the response to {shown(scope)} had already finished. Call it before the "
            "endpoint returns, or use butter.record(request, ...) from a background task. "
            + see("annotate-came-too-late-the-response-to-had-already-finished")
        )
    else:
        notes.fields.update(plain(fields))


_tables: tuple["ReferenceType[RouteTable]", ...] = ()
"""The routes of each `ButterMiddleware` in this process, for the message about a request that matches none."""


def watching(routes: "RouteTable") -> None:
    """Register the routes of a middleware."""
    global _tables  # noqa: PLW0603 - replaced as a whole, because other threads read it
    _tables = (*(known for known in _tables if known() not in {None, routes}), ref(routes))


def _unmatched(scope: Mapping[str, Any]) -> str:
    """Return why a request has no notes, and name the routes."""
    tables = [table for known in _tables if (table := known()) is not None]
    names = [route.name for table in tables for route in table.routes]
    said = f"annotate() had no effect on {shown(scope)}"
    if any(_matches(table, scope) for table in tables):
        message = f"{said}: ButterMiddleware did not see this request. Mount it around this app. "
        return message + see("annotate-had-no-effect-on-buttermiddleware-did-not-see-this")
    if not names:
        message = f"{said}: no ButterMiddleware watches a checkout route in this process. Mount it around this app. "
        return message + see("annotate-had-no-effect-on-no-buttermiddleware-watches-a")
    listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    message = f"{said}: no checkout route matched it. The routes are {listed}. Correct the path or methods= of one. "
    return message + see("annotate-had-no-effect-on-no-checkout-route-matched-it-the")


def _matches(table: "RouteTable", scope: Mapping[str, Any]) -> bool:
    with suppress(Exception):  # the scope may be invalid
        return any(table.find(scope["method"], path) for path in (scope["path"], route_path(scope)))
    return False


def shown(scope: Mapping[str, Any]) -> str:
    """Return method and path for a message, without the path's values: they may be personal data."""
    params: object = scope.get("path_params")
    values: set[str] | None = None
    # Within a mounted app of another framework than Starlette, these are the parameters of the mount only.
    if isinstance(params, Mapping) and isinstance(scope.get("endpoint"), FunctionType | MethodType | type):
        with suppress(Exception):  # the merchant may have a converter that raises
            given = cast("Mapping[str, object]", params).values()
            values = {part for value in given for part in str(value).split("/")}

    def masked(segment: str) -> str:
        is_literal = values is not None and segment not in values and _WORD.fullmatch(segment)
        return segment if is_literal or not segment else "…"

    method, path = str(scope.get("method", "")), str(scope.get("path", ""))
    return f"{method if _WORD.fullmatch(method) else '…'} {'/'.join(map(masked, path.split('/')))}"


class CheckoutNote:
    """`annotate` as a dependency of FastAPI: `note: Annotated[CheckoutNote, Depends()]`, then `note.annotate(...)`.

    Use it in endpoints, dependencies and services that do not have the request. All notes of one request are joined.
    """

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def annotate(self, **fields: Unpack[CheckoutFields]) -> None:
        """Add fields of the record, as the function `annotate` does. It never raises."""
        annotate(self._connection, **fields)


hourly: Final = log_thread.RateLimiter(time.monotonic)


class Listener(Protocol):
    """Gets the messages about calls without effect: a test, or a sandbox."""

    def ignored(self, message: str) -> None:
        """Take the message about a call. It must not raise or block."""
        ...


listeners: Final[WeakSet[Listener]] = WeakSet()


def warn(message: str) -> None:
    """Log the message, at most once an hour. It is called inside a checkout."""
    for listener in list(listeners):
        listener.ignored(message)
    times = hourly.due(message)
    if times is not None:
        log_thread.log(logging.WARNING, message, times, event="annotate")


def plain(fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields in a form that JSON can carry, whatever they are."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> object:
    """Return a value that JSON can carry. Any other object becomes one that no field accepts, so it is reported."""
    if value is None or isinstance(value, bool):
        return value
    # Only exact types: for a member of an enumeration, a serializer may write another value than the text.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return str(value) if isinstance(value, UUID) else {"unusable": type(value).__name__}
