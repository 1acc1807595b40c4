"""The ASGI app of a health route, which reports whether evidence is being collected."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.pipeline.health import Health


class HealthApp:
    """Answers GET and HEAD with `{"status": "healthy" or "degraded", "reasons": [{"code", "detail", "remedy"}]}`.

    The HTTP status is 200 for both, because a readiness probe must not take the shop out of service when only evidence
    is missing. For an alert on the HTTP status, `?strict=1` answers 503 if the status is `degraded`. Mount it, or route
    to it. It ignores scopes other than HTTP, and does not block the event loop. The answer has no personal data, but
    do not make it public: it shows how many checkouts fail.
    """

    def __init__(self, health: Callable[[], Awaitable[Health]]) -> None:
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["method"] in {"GET", "HEAD"}:
            health = await self._health()
            strict = QueryParams(scope.get("query_string", b"")).get("strict", "0") not in {"", "0", "false"}
            status = 503 if strict and health.reasons else 200
            response: Response = JSONResponse(health.as_json(), status, {"cache-control": "no-store"})
        else:
            response = Response(status_code=405, headers={"allow": "GET, HEAD"})
        await response(scope, receive, send)
