"""One request and its response: the raw capture, and the objects that an extractor gets."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, cast

from pydantic_core import PydanticSerializationError, to_json
from starlette.datastructures import Headers, QueryParams

from butter_middleware._utils.asgi import (
    RawHeaders,
    Scope,
    given_peer,
    make_rereadable,
    raw,
    raw_headers,
)
from butter_middleware.errors import ExtractionError
from butter_middleware.models.checkout import Checkout
from butter_middleware.models.content_encoding import coding_of, decode

CREDENTIAL_HEADERS: Final = frozenset({b"cookie", b"authorization", b"proxy-authorization", b"set-cookie"})
"""These headers are never captured: no extractor needs them, and a capture may wait on disk."""


class Capture(NamedTuple):
    """The raw data of one checkout, sufficient to resolve the address and to extract, now or after a restart.

    It is made before the response's last byte leaves, so it is a tuple. A frozen dataclass takes five times as long.
    """

    method: str
    path: str
    """Without `root_path`."""
    query_string: bytes
    headers: RawHeaders
    client: Any
    """From `given_peer`: None, or a host and a port, or a host alone."""
    status_code: int
    response_headers: RawHeaders
    body: bytes
    """The body as sent, with its Content-Encoding. Empty if the route has no extractor."""
    annotations: Mapping[str, Any]
    captured_at: float
    """Seconds since the epoch."""
    request_body: bytes | None = None
    """None if the route does not need it, it exceeds the limit, or the app answered before it had read all of it."""
    cookies: Mapping[str, str] = MappingProxyType({})
    """The result of `Beacon.cookies`: a token, and the digest of a session key. Nothing else of the Cookie header."""
    recorded: bool = False
    """Whether it came from `butter.record(request, ...)`: without a response, with the record in the annotations."""
    traceparent: str = ""
    """The W3C trace context of the span of the checkout's response. Empty without tracing."""

    @property
    def scope(self) -> dict[str, Any]:
        """The part of the ASGI scope that is necessary to resolve an address."""
        return {"type": "http", "headers": self.headers, "client": self.client}

    def head(self) -> str:
        """Return everything but the two bodies as JSON text. Header bytes are stored as latin-1."""
        head = {
            "method": self.method,
            "path": self.path,
            "query_string": self.query_string.decode("latin-1"),
            "headers": _to_text(self.headers),
            "client": self.client,
            "status_code": self.status_code,
            "response_headers": _to_text(self.response_headers),
            "annotations": dict(self.annotations),
            "captured_at": self.captured_at,
            "cookies": dict(self.cookies),
            "recorded": self.recorded,
            "traceparent": self.traceparent,
        }
        try:
            return to_json(head).decode()  # a third of the time of `json`
        except PydanticSerializationError:  # UTF-8 cannot encode a lone surrogate, but JSON can escape it
            return json.dumps(head)

    @classmethod
    def from_head(cls, head: str, body: bytes, request_body: bytes | None) -> Self:
        """Return the capture that `head` and its two bodies describe."""
        data = cast("dict[str, Any]", json.loads(head))
        return cls(
            method=data["method"],
            path=data["path"],
            query_string=data["query_string"].encode("latin-1"),
            headers=_to_bytes(data["headers"]),
            client=data["client"],
            status_code=data["status_code"],
            response_headers=_to_bytes(data["response_headers"]),
            body=body,
            annotations=data["annotations"],
            captured_at=data["captured_at"],
            request_body=request_body,
            cookies=data.get("cookies", {}),
            recorded=data.get("recorded", False),
            traceparent=data.get("traceparent", ""),
        )

    def __repr__(self) -> str:
        return f"Capture({self.method}, {self.status_code}, {len(self.body)} bytes)"


def snapshot(
    scope: Scope, path: str, captured_at: float, pick: Callable[[RawHeaders], Mapping[str, str]] | None
) -> dict[str, Any]:
    """Copy the request's part of a `Capture` from a scope. The path is without `root_path`.

    `pick` returns the cookies to keep. If the scope's headers can be read only once, they are replaced by a list.
    """
    kept = _uncredentialed(scope)
    if kept is None:
        make_rereadable(scope)
        kept = [header for header in raw_headers(scope["headers"]) if header[0] not in CREDENTIAL_HEADERS]
    query = scope.get("query_string", b"")
    return {
        "method": scope.get("method", "GET"),  # a WebSocket begins with a GET
        "path": path,
        "query_string": query if type(query) is bytes else raw(query),
        # ASGI requires these names in lower case. If a server does not comply, the outbox on disk checks again.
        "headers": kept,
        "client": given_peer(scope),
        "captured_at": captured_at,
        "cookies": {} if pick is None else pick(raw_headers(scope["headers"])),
    }


def _uncredentialed(scope: Scope) -> RawHeaders | None:
    """Return the headers to keep. None if they are not a list of pairs of bytes, or if the peer is an iterator."""
    headers: Any = scope["headers"]
    client: Any = scope.get("client")
    if type(headers) is not list or (type(client) is not tuple and isinstance(client, Iterator)):
        return None
    try:
        kept = [header for header in cast("RawHeaders", headers) if header[0] not in CREDENTIAL_HEADERS]
    except TypeError:  # an iterator is not a pair
        return None
    for name, value in kept:
        if type(name) is not bytes or type(value) is not bytes:
            return None
    return kept


def _to_text(headers: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _to_bytes(headers: list[list[str]]) -> RawHeaders:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


@dataclass(frozen=True, repr=False)
class CheckoutRequest:
    """The request of a checkout, as the middleware saw it before the app ran. Cookies and credentials are left out."""

    method: str
    path: str
    """The path without `root_path`, as the app sees it."""
    path_params: Mapping[str, Any]
    """The parameters of the path, converted by the route's template."""
    headers: Headers
    annotations: Mapping[str, Any]
    """The fields that the endpoint gave to `annotate`."""
    ipv4_address: str
    """The shopper's resolved address, for an extractor that returns a whole `Checkout`.

    Empty with `address_from_body`, or if there is none: the extractor then only decides whether this is a checkout.
    """
    _body: bytes | None = None
    _query_string: bytes = b""

    @cached_property
    def query_params(self) -> QueryParams:
        """The query, parsed."""
        return QueryParams(self._query_string)

    @property
    def body(self) -> bytes:
        """The request's body as it was sent, on a route with `capture_request_body=True` or `source="request"`.

        Raises:
            ExtractionError: the route does not capture it, it was longer than `max_body_bytes`, or the app answered
                before it had read all of it.
        """
        if self._body is None:
            msg = (
                "the request's body was not captured: set capture_request_body=True, raise max_body_bytes, or read all "
                "of it in the endpoint"
            )
            raise ExtractionError(msg)
        return self._body

    def json(self) -> Any:  # noqa: ANN401 - JSON is any type
        """Return the request's body parsed as JSON.

        Raises:
            ExtractionError: it was not captured, or it is not JSON.
        """
        return parse_json(self.body, "request")

    def __repr__(self) -> str:
        return f"CheckoutRequest({self.method})"


@dataclass(frozen=True, repr=False)
class CheckoutResponse:
    """The complete response of a checkout route, and its request.

    `status_code`, `headers`, `request` and `json` are named as in httpx.
    """

    status_code: int
    headers: Headers
    request: CheckoutRequest
    _raw: bytes | None
    _max_body_bytes: int
    _described_by: Headers
    """The headers that belong to `_raw`, with its length and its content coding."""

    @cached_property
    def body(self) -> bytes:
        """The body, decoded by its Content-Encoding. On a route with `source="request"`, it is the request's body.

        Raises:
            ExtractionError: it was not captured, it ends early, or it cannot be decoded within `max_body_bytes`.
        """
        if self._raw is None:
            msg = (
                "the request's body was not captured: it is longer than max_body_bytes, or the app did not read all of "
                "it before it answered"
            )
            raise ExtractionError(msg)
        declared = self._described_by.get("content-length", "")
        if declared.isascii() and declared.isdigit() and len(self._raw) < int(declared):
            msg = "the response's body ends before its Content-Length"
            raise ExtractionError(msg)
        return decode(self._raw, coding_of(self._described_by.raw), self._max_body_bytes)

    def json(self) -> Any:  # noqa: ANN401 - JSON is any type
        """Return the body parsed as JSON, the same object on each call.

        Raises:
            ExtractionError: the body was not captured, it cannot be decoded, or it is not JSON.
        """
        return self._json

    @cached_property
    def _json(self) -> Any:  # noqa: ANN401 - JSON is any type
        return parse_json(self.body, "response")

    def __repr__(self) -> str:
        return f"CheckoutResponse({self.status_code}, {self.request!r})"


def parse_json(body: bytes, whose: str) -> Any:  # noqa: ANN401 - JSON is any type
    """Parse a body. The error contains no part of it.

    Raises:
        ExtractionError: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _not_json(whose) from None


def json_text(body: bytes, whose: str) -> str:
    """Return JSON text, in any of its encodings, for a parser that reads UTF-8 only.

    Raises:
        ExtractionError: it is not text.
    """
    try:
        return body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        raise _not_json(whose) from None


def _not_json(whose: str) -> ExtractionError:
    msg = f"the {whose}'s body is not JSON, or ends early"
    return ExtractionError(msg)


def view(
    capture: Capture,
    path_params: Mapping[str, Any],
    ipv4_address: str,
    max_body_bytes: int,
    *,
    of_request: bool = False,
) -> CheckoutResponse:
    """Return a capture as an extractor gets it. With `of_request`, the request's body replaces the response's."""
    request = CheckoutRequest(
        method=capture.method,
        path=capture.path,
        path_params=path_params,
        headers=Headers(raw=capture.headers),
        annotations=capture.annotations,
        ipv4_address=ipv4_address,
        _body=capture.request_body,
        _query_string=capture.query_string,
    )
    headers = Headers(raw=capture.response_headers)
    raw, described_by = (capture.request_body, request.headers) if of_request else (capture.body, headers)
    return CheckoutResponse(capture.status_code, headers, request, raw, max_body_bytes, described_by)


Extracted = Checkout | Mapping[str, Any] | Iterable[Checkout | Mapping[str, Any]] | None
Extractor = Callable[[CheckoutResponse], Extracted]

EXTRACTOR_REMEDY: Final = (
    "Pass a plain function of one CheckoutResponse, or extract.json(...); what only the endpoint knows goes into "
    "annotate()."
)
