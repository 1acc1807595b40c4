"""The app for a host with A records only. It gives a shopper's browser a signed token with its IPv4 address."""

from collections.abc import Callable
from typing import Final

from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.client_ip import Reason, Strategy
from butter_middleware.client_ip.headers import lines
from butter_middleware.errors import ConfigurationError
from butter_middleware.events import Diagnosed, Event
from butter_middleware.ipv6.beacon import Beacon

CHECKOUT_BYTES: Final = 512
"""A longer checkout or session key is refused."""


class BeaconApp:
    """The ASGI app that gives tokens. It has no state, so any number of processes can run it.

    Send a `POST` with the checkout's key as the body, or `GET ?key=...`. The body is plain text, so a browser sends no
    preflight, and access logs do not show it. The answer is `{"token": ..., "expires_in": seconds}`, or 4xx and
    `{"reason": ...}`. Scopes other than HTTP are ignored.

    Raises:
        ConfigurationError: there is no beacon.
    """

    def __init__(
        self, beacon: Beacon | None, strategy: Strategy, clock: Callable[[], float], tell: Callable[[Event], object]
    ) -> None:
        if beacon is None:
            msg = (
                "butter.ipv4_beacon: this Butter has no beacon. Pass Butter(ipv4_beacon=Beacon(...)) first. See "
                "docs/ipv6.md."
            )
            raise ConfigurationError(msg)
        self._beacon = beacon
        self._strategy = beacon.client_ip or strategy
        self._clock = clock
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        origin = b",".join(lines(scope, b"origin")).decode("latin-1")
        headers = {"cache-control": "no-store", "vary": "origin"}
        if origin in self._beacon.origins:
            headers["access-control-allow-origin"] = origin
        if origin and origin not in self._beacon.origins:
            status, answer = 403, dict[str, object](reason="foreign_origin")
        else:  # without an origin: a browser sends it for every page of another site
            status, answer = await self._answer(scope, receive)
        if status in {204, 405}:
            headers |= _ALLOWED
        response = JSONResponse(answer, status, headers) if answer else Response(None, status, headers)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, object]]:
        method: str = scope["method"]
        if method == "OPTIONS":
            return 204, {}
        if method not in {"GET", "HEAD", "POST"}:
            return 405, {"reason": "method_not_allowed"}
        key = await _body(receive) if method == "POST" else QueryParams(scope.get("query_string", b"")).get("key", "")
        if not 0 < len(key.encode("utf-8", "replace")) <= CHECKOUT_BYTES:
            return 400, {"reason": "no_key"}
        address = self._strategy.resolve(scope)
        if address.ipv4 is None:
            reason = address.reason
            remedy = _NOT_V4_ONLY if reason is Reason.IPV6_CLIENT else address.remedy
            message = f"ipv4_beacon: no token ({reason.value}). {remedy}"
            self._tell(Diagnosed(reason=f"beacon:{reason.value}", message=message))
            return 422, {"reason": reason.value}
        token = self._beacon.issue(address.ipv4, key, self._clock())
        return 200, {"token": token, "expires_in": self._beacon.ttl}


_NOT_V4_ONLY: Final = "It was reached over IPv6: let its host have A records only, and no CDN that adds AAAA records."
_ALLOWED: Final = {
    "allow": "GET, HEAD, POST, OPTIONS",
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "content-type",
    "access-control-max-age": "86400",
}


async def _body(receive: Receive) -> str:
    """Return a short body as text. Empty if it is too long, incomplete, or not UTF-8."""
    content, more = b"", True
    while more and len(content) <= CHECKOUT_BYTES:
        message = await receive()
        content += bytes(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        return ""
