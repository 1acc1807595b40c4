"""Who may talk to the sandbox: no page of another origin, and no name that somebody lets point at this machine."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from starlette.responses import Response

from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.config import is_loopback

HEADERS: Final = {
    # The page shows what others wrote: no inline script, no HTML from strings, nothing from elsewhere.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


class Guard:
    """Lets pass what comes from this machine's programs and from the sandbox's own page.

    A page elsewhere can make the browser of the sandbox's user send requests to loopback. Two things give it
    away: `Origin` (or `Sec-Fetch-Site`), and where it made its own name resolve to loopback, that name in `Host`.

    Args:
        app: What is guarded.
        exposed: Whether others than this machine may call it: then any IP address is a Host.
        names: Names that are this machine's, beside `localhost`.
    """

    def __init__(self, app: ASGIApp, *, exposed: bool = False, names: Iterable[str] = ()) -> None:
        self._app = app
        self._exposed = exposed
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or 421 for a Host that is not ours, or pass it on; every answer gets the page's headers."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        status, why = self._judge(scope)
        app = self._app if status == 0 else Response(why, status, {"content-type": "text/plain"})
        await app(scope, receive, send_with_headers)

    def _judge(self, scope: Scope) -> tuple[int, str]:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        host = headers.get("host", "")
        if not self._is_ours(host):
            names = "an IP address" if self._exposed else "a loopback address"
            return 421, f"This sandbox answers to {names} and to localhost, in the Host header.\n"
        if not _same_origin(scope["method"], headers, f"http://{host}".lower()):
            return 403, "This sandbox takes no requests from pages of other sites.\n"
        return 0, ""

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        with suppress(ValueError):
            return is_loopback(name) or name in self._names or (self._exposed and bool(ip_address(name)))
        return False


def _same_origin(method: str, headers: Mapping[str, str], own: str) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() == own
    if headers.get("sec-fetch-mode") == "navigate":
        # A link to the page shows nothing to the page that links to it. A form and a frame are not links.
        return method == "GET" and headers.get("sec-fetch-dest", "document") == "document"
    return headers.get("sec-fetch-site", "none") in {"same-origin", "none"}
