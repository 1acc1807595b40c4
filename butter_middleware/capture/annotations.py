"""What the endpoint knows and the response does not show: `annotate`, and the same as a dependency of FastAPI."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, Unpack
from uuid import UUID

from starlette.requests import HTTPConnection

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import ASGIRequest, request_scope
from butter_middleware.models.checkout import CheckoutFields

SCOPE_KEY: Final = "butter_middleware"
"""Where the middleware keeps a request's notes. Its presence also tells a second middleware to step aside."""


class Notes:
    """The annotations of one request, open until the response's last byte."""

    __slots__ = ("closed", "fields", "request")

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        """The request's part of a `Capture`, as it was before the app ran."""
        self.fields: dict[str, Any] = {}
        self.closed = False


def annotate(request_or_scope: ASGIRequest | Mapping[str, Any], **fields: Unpack[CheckoutFields]) -> None:
    """Tell what the response does not show, such as the shopper's e-mail, from inside the endpoint.

    Takes the request of any framework that keeps its ASGI scope (Starlette, FastAPI, Django, Litestar, Quart, Falcon,
    BlackSheep), or the scope itself, and the fields of `Checkout`. May be called more than once: the later value of a
    field holds, and an explicit value from the route's extractor wins over both. It never raises, since it stands
    inside a checkout: a call that cannot take effect is logged as a warning, and a wrong field or value parks the
    capture with the reason.
    """
    scope = request_scope(request_or_scope)
    if scope is None:
        got = type(request_or_scope).__name__  # such as a body, which in FastAPI is often what is called request
        warn(
            f"annotate() had no effect: it got {got}, which is not a request. Pass the endpoint's own, such as "
            "request: Request in FastAPI, or ask for a CheckoutNote. Its ASGI scope will do as well."
        )
        return
    notes: object = scope.get(SCOPE_KEY)
    if not isinstance(notes, Notes):
        warn(
            "annotate() had no effect: no checkout route matched this request. Add a CheckoutRoute for its path and "
            "method, or mount ButterMiddleware around this app."
        )
    elif notes.closed:
        warn(
            "annotate() came too late: the response had already finished. Call it before the endpoint returns, "
            "or use butter.record(request, ...) from a background task."
        )
    else:
        notes.fields.update(plain(fields))


class CheckoutNote:
    """`annotate` as a dependency of FastAPI: `note: Annotated[CheckoutNote, Depends()]`, then `note.annotate(...)`.

    For endpoints, dependencies and services that should not know the request. Where a dependency and its endpoint both
    ask for it, they write the notes of one request.
    """

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def annotate(self, **fields: Unpack[CheckoutFields]) -> None:
        """Tell what the response does not show, as the function `annotate` does; it never raises."""
        annotate(self._connection, **fields)


hourly: Final = log_thread.RateLimiter(time.monotonic)


def warn(message: str) -> None:
    """Say it once an hour, from inside a checkout."""
    times = hourly.due(message)
    if times is not None:
        log_thread.log(logging.WARNING, message, times, event="annotate")


def plain(fields: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields as JSON can carry them, whatever they are."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: object) -> object:
    """Return what JSON can carry; an object of another kind becomes one that no field accepts, so that it is seen."""
    if value is None or isinstance(value, str | int):
        return value
    return str(value) if isinstance(value, UUID) else {"unusable": type(value).__name__}
