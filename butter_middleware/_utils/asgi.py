"""ASGI's types, named as in its specification, https://asgi.readthedocs.io."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final, Protocol, cast, runtime_checkable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
AnyASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
"""An app of any framework. Each framework has its own types for the three arguments."""
RawHeaders = list[tuple[bytes, bytes]]

_PAIRS: Final = frozenset({tuple, list})


def route_path(scope: Mapping[str, Any], root_path: str = "") -> str:
    """Return the path without `root_path` (by default the scope's), as a mounted app sees it.

    The rule is Starlette's `get_route_path`: a `root_path` that does not end at the end of a segment is ignored.
    """
    path: str = scope["path"]
    root: str = root_path or scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if not rest or rest[0] == "/" else path


@runtime_checkable
class ASGIRequest(Protocol):
    """A request of any framework that keeps its ASGI scope, as Starlette, Django, Litestar, Quart and Falcon do."""

    @property
    def scope(self) -> Any:  # noqa: ANN401 - each framework types it in its own way
        """The ASGI scope, a mapping."""
        ...


def request_scope(given: object) -> MutableMapping[str, Any] | None:
    """Return the ASGI scope of a framework's request, or the scope itself. None for anything else. Never raises."""
    try:
        scope: object = getattr(given, "scope", None)
        if not isinstance(scope, Mapping):
            scope = given
        return cast("MutableMapping[str, Any]", scope) if isinstance(scope, Mapping) and "type" in scope else None
    except Exception:  # noqa: BLE001 - a proxy object raises outside its request
        return None


def rereadable(headers: Any) -> Any:  # noqa: ANN401 - ASGI says iterables, and servers pass on what they get
    """Return headers that can be read twice. If they or a pair can be iterated only once, they are copied."""
    listed: Any = [*headers] if type(headers) not in _PAIRS and _gives_once(headers) else headers
    if _PAIRS.issuperset(map(type, listed)) or not any(map(_gives_once, listed)):
        return listed
    return [tuple(pair) if _gives_once(pair) else pair for pair in listed]


def _gives_once(items: object) -> bool:
    """Whether it can be iterated only once: it is an iterator, or always returns the same one."""
    if not isinstance(items, Iterable):
        return False
    listed = cast("Iterable[object]", items)
    return iter(listed) is iter(listed)


def make_rereadable(scope: Scope) -> None:
    """Let a scope's headers and peer be read twice: the app reads them after us."""
    headers = scope["headers"]
    if (listed := rereadable(headers)) is not headers:
        scope["headers"] = listed
    client = scope.get("client")
    if isinstance(client, Iterator):
        scope["client"] = (*cast("Iterator[object]", client),)


def raw_headers(headers: Iterable[Any]) -> RawHeaders:
    """Return a list of headers as pairs of bytes. A middleware may have added text, which some servers accept.

    ASGI requires names in lower case. Names that are text are converted.
    """
    pairs: RawHeaders = [*headers]
    for name, value in pairs:  # a loop takes half the time of `map` and `chain`
        if type(name) is not bytes or type(value) is not bytes:
            return [(raw(name).lower(), raw(value)) for name, value in pairs]
    return pairs


def raw(text: bytes | str) -> bytes:
    """Return text as a header's bytes, and any bytes-like object as bytes."""
    return text.encode("latin-1", "replace") if isinstance(text, str) else bytes(text)


def given_peer(scope: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a server may put anything there
    """Return the peer as the server gives it: None, or a host with its port, or a host alone if it has no port.

    A host alone comes from an adapter without sockets, which took it from its platform, and not from a header.
    """
    client: Any = scope.get("client")
    if client is None:
        # a2wsgi leaves the peer out if the WSGI server does not know its port.
        address = _item(scope.get("wsgi_environ"), "REMOTE_ADDR")
        return (address,) if address and isinstance(address, str) else None
    # First what most servers give, a tuple of text and number: this runs on each checkout.
    kind: Any = client.__class__
    if kind is not tuple or len(client) != 2 or type(client[0]) is not str or type(client[1]) is not int:  # noqa: PLR2004 - host and port
        client = _plain(client)
    if "aws.event" in scope and client and client[0] in _source_ips(scope["aws.event"]):
        return (client[0],)
    return client


def _plain(client: object) -> Any:  # noqa: ANN401 - what JSON can carry
    """Return a peer in a form that JSON can carry. An invalid one becomes text, which never proves an address."""
    if isinstance(client, list | tuple):
        return [part if isinstance(part, str | int | None) else "" for part in cast("Iterable[object]", client)]
    return client if isinstance(client, str) else ""


def _source_ips(event: object) -> Iterator[object]:
    """Yield the TCP peer of the AWS event that Mangum got. The event of a load balancer has none."""
    context = _item(event, "requestContext")
    yield _item(_item(context, "identity"), "sourceIp")  # API Gateway's REST APIs
    yield _item(_item(context, "http"), "sourceIp")  # its HTTP APIs, and function URLs
    records = _item(event, "Records")
    first = cast("list[object]", records)[0] if isinstance(records, list) and records else None
    yield _item(_item(_item(first, "cf"), "request"), "clientIp")  # Lambda@Edge


def _item(mapping: object, name: str) -> object:
    return cast("Mapping[str, object]", mapping).get(name) if isinstance(mapping, Mapping) else None
