"""ASGI's shapes, as the specification at https://asgi.readthedocs.io names them."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the path less `root_path`: what a mounted app calls its own path.

    The rule is Starlette's `get_route_path`: a `root_path` that is no prefix on a segment boundary is ignored.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if not rest or rest[0] == "/" else path
