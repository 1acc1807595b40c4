"""An ASGI exchange without a server: the app sends given messages, and the test sees what a server would."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send

JSON = [(b"content-type", b"application/json")]


def http_scope(path: str = "/checkout/7", method: str = "POST", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop.example"), (b"x-forwarded-for", b"81.2.69.142")],
        "client": ("10.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
    } | more


def sends(*messages: Message, then: BaseException | None = None) -> ASGIApp:
    """Return an app that sends these messages, and then raises."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if then is not None:
            raise then

    return app


def start(status: int = 200, headers: Iterable[Any] | None = None, **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": JSON if headers is None else headers, **more}


def body(content: Any = b"", **more: Any) -> Message:
    return {"type": "http.response.body", "body": content, **more}


async def no_request() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def drive(app: ASGIApp, scope: Scope, receive: Callable[[], Awaitable[Message]] = no_request) -> list[Message]:
    """Run one exchange and return the message objects that reached the server."""
    seen: list[Message] = []

    async def send(message: Message) -> None:
        seen.append(message)

    await app(scope, receive, send)
    return seen
