"""Header lines and their elements, taken from the right: what lies left of the answer is never parsed."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from butter_middleware.client_ip.address import Address, TcpPeer, parse_host, parse_node

ELEMENTS: Final = 32
"""More elements are never looked at."""
FORWARDED_BYTES: Final = 512
"""A longer element of a Forwarded header is never parsed."""

_PAIR: Final = re.compile(
    rb'[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^ \t";,]*))[ \t]*', re.DOTALL
)


def peer_of(scope: Mapping[str, Any]) -> TcpPeer:
    """Read `scope["client"]`. Only None is a Unix socket: into a string, servers copy what an attacker wrote."""
    client: Any = scope.get("client", "")
    if client is None:
        return TcpPeer(None, unix=True, port_zero=False)
    if not isinstance(client, list | tuple):
        return TcpPeer(None, unix=False, port_zero=False)
    parts = cast("list[object] | tuple[object, ...]", client)
    port = parts[1] if len(parts) > 1 else None
    return TcpPeer(parse_host(parts[0] if parts else None), unix=False, port_zero=port in {0, "0"})


def lines(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    """Return every line of a header, in order; `name` is in lower case."""
    headers: Any = scope.get("headers") or ()
    return [value for key, value in headers if key == name or key.lower() == name]


def elements(header_lines: list[bytes]) -> Iterator[bytes]:
    """Give the elements of a comma-separated header from the right, without white space, `ELEMENTS` at most."""
    left = ELEMENTS
    for line in reversed(header_lines):
        end = len(line)
        while end >= 0 and left:
            comma = line.rfind(b",", 0, end)
            yield line[comma + 1 : end].strip(b" \t")
            left -= 1
            end = comma


def forwarded_elements(header_lines: list[bytes]) -> Iterator[bytes | None]:
    """Give the elements of a Forwarded header (RFC 7239) from the right; None for one that never ends.

    Lines are independent. Within one, a comma counts outside quotes only; quotes are paired from the right, so that
    an unclosed quote, which the client may have written, stays left of what the proxy appended.
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
    """Return the place of the last comma outside quotes before `end`, -1 for none; None where a quote never opens."""
    floor = max(0, end - FORWARDED_BYTES)
    comma = line.rfind(b",", floor, end)
    if line.find(b'"', max(comma, floor), end) < 0:
        return comma if comma >= 0 or floor == 0 else None
    quoted = False
    for place in range(end - 1, floor - 1, -1):
        byte = line[place]
        if byte == 34 and not (quoted and _escaped(line, place, floor)):  # noqa: PLR2004 - the quote
            quoted = not quoted
        elif byte == 44 and not quoted:  # noqa: PLR2004 - the comma
            return place
    return -1 if floor == 0 and not quoted else None


def _escaped(line: bytes, place: int, floor: int) -> bool:
    start = place
    while start > floor and line[start - 1] == 92:  # noqa: PLR2004 - the backslash
        start -= 1
    return bool((place - start) & 1)


def forwarded_for(element: bytes | None) -> Address | None:
    """Return the address of an element's `for` parameter; None where it has none, twice one, or none that is one."""
    if element is None:
        return None
    parameters: dict[bytes, bytes] = {}
    place = 0
    while place <= len(element):
        found = _PAIR.match(element, place)
        if found is None:
            if element[place:].strip(b" \t"):
                return None
            break
        name = found[1].lower()
        if name in parameters:
            return None
        quoted = found[2]
        parameters[name] = found[3] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        place = found.end() + 1
        if found.end() < len(element) and element[found.end()] != 59:  # noqa: PLR2004 - the semicolon
            return None
    return parse_node(parameters.get(b"for", b""))
