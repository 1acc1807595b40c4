"""The ASGI app of a health route: whether evidence is being collected."""

import json
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import QueryParams

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.pipeline.health import Health

_HEADERS: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class HealthApp:
    """Answers GET and HEAD with `{"status": "healthy" or "degraded", "reasons": [{"code", "detail", "remedy"}]}`.

    The HTTP status is 200 for both, because a readiness probe must not take the shop out of service when only evidence
    is missing. For an alert on the HTTP status, `?strict=1` answers 503 if the status is `degraded`. Mount it, or route
    to it. It ignores scopes other than HTTP, and does not block the event loop. It contains no personal data, but do
    not make it public: it shows how many checkouts fail.
    """

    def __init__(self, health: Callable[[], Awaitable[Health]]) -> None:
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, b"", [(b"allow", b"GET, HEAD")])
            return
        health = await self._health()
        strict = QueryParams(scope.get("query_string", b"")).get("strict", "0") not in {"", "0", "false"}
        content = json.dumps(health.as_json()).encode()
        headers = [*_HEADERS, (b"content-length", str(len(content)).encode())]
        await _answer(
            send, 503 if strict and health.reasons else 200, b"" if scope["method"] == "HEAD" else content, headers
        )


async def _answer(send: Send, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
