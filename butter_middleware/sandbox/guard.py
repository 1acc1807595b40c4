"""Refuses requests of other origins' pages, and requests with another site's name that resolves to this machine."""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from butter_middleware._utils.asgi import Scope
from butter_middleware.config import is_loopback

HEADERS: Final = {
    # The page shows foreign data, so it allows no inline scripts, HTML from strings, or external files.
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
"""The headers of every answer."""
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def refusal(scope: Scope, names: Collection[str], *, exposed: bool) -> Response | None:
    """Return 421 for a Host that is not ours, 403 for a request from another site's page, and None for the others.

    Another site's page can make the user's browser send requests to loopback. `Origin` (or `Sec-Fetch-Site`) shows
    this. If the site's own name resolves to loopback, the name in `Host` shows it.

    Args:
        scope: The request's scope.
        names: Names of this machine in lower case, in addition to `localhost`.
        exposed: Whether other machines may call it. Then any IP address is a valid Host.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not _is_ours(host, names, exposed=exposed):
        addresses = "an IP address" if exposed else "a loopback address"
        why = f"This sandbox answers to {addresses} and to localhost, in the Host header.\n"
        return Response(why, 421, media_type="text/plain")
    if "origin" in headers:
        is_own = headers["origin"].lower() == f"http://{host}".lower()
    elif headers.get("sec-fetch-mode") == "navigate":
        # A link is safe, because the linking page sees nothing of this page. A form and a frame are not links.
        is_own = scope["method"] == "GET" and headers.get("sec-fetch-dest", "document") == "document"
    else:
        is_own = headers.get("sec-fetch-site", "none") in {"same-origin", "none"}
    why = "This sandbox takes no requests from pages of other sites.\n"
    return None if is_own else Response(why, 403, media_type="text/plain")


def _is_ours(host: str, names: Collection[str], *, exposed: bool) -> bool:
    match = _HOST.fullmatch(host)
    name = match[1].strip("[]").lower() if match else ""
    try:
        return is_loopback(name) or name in names or (exposed and bool(ip_address(name)))
    except ValueError:
        return False
