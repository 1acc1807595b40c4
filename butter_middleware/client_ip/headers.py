"""Header lines and their elements, from the right. Elements left of the answer are never parsed."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from butter_middleware._utils.asgi import given_peer
from butter_middleware.client_ip.address import Address, TcpPeer, parse_host, parse_node

ELEMENTS: Final = 32
"""The most elements that are read."""

_PAIR: Final = re.compile(
    rb'[ \t;]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*+)"|([^ \t";,]*+))[ \t]*(?=;|\Z)', re.DOTALL
)
GRANIAN_UNIX: Final = ("", "0")
"""Granian's peer for a Unix socket. No server that reads a header gives the port as text."""
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)


def peer_of(scope: Mapping[str, Any]) -> TcpPeer:
    """Parse the peer. A string never proves a Unix socket: servers copy into it what an attacker wrote."""
    client = given_peer(scope)
    if client is None:
        return TcpPeer(None, unix=True)
    if not isinstance(client, list | tuple) or not client or not isinstance(client[0], str):
        return TcpPeer(None)
    if tuple(cast("list[Any]", client)) == GRANIAN_UNIX:
        return TcpPeer(None, unix=True)
    return TcpPeer(parse_host(client[0]), False, cast("list[Any]", client))  # noqa: FBT003 - the faster call


def portless(peer: TcpPeer) -> bool:
    """Whether the port is 0. No client connects from it, so the peer was not read from a socket."""
    return _port_of(peer) == 0


def rewritten(scope: Mapping[str, Any], peer: TcpPeer) -> bool:
    """Whether the server may have replaced the peer by an address from a header, as uvicorn does by default.

    The port is then that of the element, or 0. Port 0 alone proves nothing: adapters without sockets give it too. So
    the peer must be in a header. With a port, the header must have the same port. If the host were enough, a shopper
    without a proxy could write their own address into a header, and the peer would look replaced.
    """
    port = _port_of(peer)
    if peer.address is None or port is None:
        return False
    host: str = peer.client[0]
    if port == 0:
        # Matched loosely, because Hypercorn reads Forwarded, and Daphne and middlewares may read any header.
        text = host.encode("latin-1", "replace").lower()
        return any(text in value.lower() for _name, value in scope.get("headers") or ())
    header_lines = lines(scope, b"x-forwarded-for")
    if not header_lines:
        return False
    first = header_lines[0]
    comma = first.find(b",")
    # With --forwarded-allow-ips '*' it is the leftmost element, which may be beyond the elements that are read.
    leftmost = first if comma < 0 else first[:comma]
    for element in (leftmost, *elements(header_lines)):
        # Parsed as the servers do, which are less strict: int() accepts "+80", "8_0" and white space.
        said, _, said_port = element.decode("latin-1").strip().rpartition(":")
        if said in {host, f"[{host}]"} and _number(said_port) == port:
            return True
    return False


def _port_of(peer: TcpPeer) -> int | None:
    return _number(peer.client[1]) if peer.client is not None and len(peer.client) > 1 else None


def _number(port: Any) -> int | None:  # noqa: ANN401 - a server may put anything there
    try:
        return int(port)
    except (TypeError, ValueError, OverflowError):
        return None


def lines(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    """Return every line of a header, in order. `name` is in lower case."""
    headers: Any = scope.get("headers") or ()
    length = len(name)
    return [value for key, value in headers if len(key) == length and key.lower() == name]


def elements(header_lines: list[bytes]) -> Iterator[bytes]:
    """Yield at most `ELEMENTS` elements of a comma-separated header from the right, without white space."""
    left = ELEMENTS
    for line in reversed(header_lines):
        end = len(line)
        while end >= 0 and left:
            comma = line.rfind(b",", 0, end)
            yield line[comma + 1 : end].strip(b" \t")
            left -= 1
            end = comma


def forwarded_elements(header_lines: list[bytes]) -> Iterator[bytes | None]:
    """Yield the elements of a Forwarded header (RFC 7239) from the right. None for one whose quote never opens.

    Lines are independent. A comma within quotes does not count. Quotes are paired from the right, so an unclosed quote,
    which the client may have written, cannot affect what the proxy appended.
    """
    left = ELEMENTS
    for line in reversed(header_lines):
        end = len(line)
        while end >= 0 and left:
            comma = _comma_before(line, end)
            yield None if comma is None else line[comma + 1 : end].strip(b" \t")
            left -= 1
            end = -1 if comma is None else comma


def _comma_before(line: bytes, end: int) -> int | None:
    """Return the index of the last comma outside quotes before `end`. -1: none. None: a quote never opens.

    There is no limit, because a proxy may quote a Host of any length. Each byte is read once.
    """
    comma = line.rfind(b",", 0, end)
    while (quote := line.rfind(b'"', comma + 1, end)) >= 0:
        opening = line.rfind(b'"', 0, quote)
        while opening > 0 and _escaped(line, opening):
            opening = line.rfind(b'"', 0, opening)
        if opening < 0:
            return None
        end = opening
        if comma >= end:
            comma = line.rfind(b",", 0, end)
    return comma


def _escaped(line: bytes, place: int) -> bool:
    """Whether an odd number of backslashes precedes it."""
    start = place
    while start and line[start - 1] == 92:  # noqa: PLR2004 - the backslash
        start -= 1
    return bool((place - start) & 1)


def forwarded_for(element: bytes | None) -> Address | None:
    """Return the address of an element's `for` parameter. None if it is absent, repeated, or not an address."""
    if element is None:
        return None
    parameters: dict[bytes, bytes] = {}
    place = 0
    while found := _PAIR.match(element, place):
        name = found[1].lower()
        if name in parameters:
            return None
        quoted = found[2]
        parameters[name] = found[3] if quoted is None else _QUOTED_PAIR.sub(rb"\1", quoted)
        place = found.end()
    return None if element[place:].strip(b" \t;") else parse_node(parameters.get(b"for", b""), rfc7239=True)
