"""Addresses in headers and bodies: parsed strictly, once, and kept as numbers."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_ntoa, inet_pton
from typing import Any, Final, NamedTuple, TypeAlias

from butter_middleware.client_ip.reason import Reason
from butter_middleware.errors import ConfigurationError

Address: TypeAlias = int
"""128 bits. An IPv4 address is stored as in ::ffff:0:0/96, so both spellings of an address are one number."""

NODE_BYTES: Final = 128
"""A longer element is not an address."""

_MAPPED: Final = 0xFFFF << 32
_LINK_LOCAL: Final = 0xFE80 >> 6
_ZONED: Final = re.compile(r"([^%]+)(%[\w.-]+)?", re.ASCII)
_PORT: Final = re.compile(r"\d{1,5}", re.ASCII)
_OBFUSCATED_PORT: Final = re.compile(r"_[\w.-]+", re.ASCII)


def is_v4(address: Address) -> bool:
    """Whether it is IPv4, in either spelling."""
    return address >> 32 == 0xFFFF  # noqa: PLR2004 - the prefix of ::ffff:0:0/96


def text_of(address: Address) -> str:
    """Return the canonical text: a dotted quad, or IPv6 as in RFC 5952."""
    return inet_ntoa((address & 0xFFFFFFFF).to_bytes(4)) if is_v4(address) else str(IPv6Address(address))


def parse_node(element: bytes, *, rfc7239: bool = False) -> Address | None:
    """Parse `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`. None for anything else, such as leading zeros or a mask.

    By RFC 7239, section 6, the port may be obfuscated, such as `_web`.
    """
    if len(element) > NODE_BYTES:
        return None
    text = element.decode("latin-1")
    if ":" not in text:
        return parse_host(text)
    head, _colon, port = text.rpartition(":")
    if head.endswith("]") or ":" not in head:
        is_port = _PORT.fullmatch(port) is not None and int(port) <= 65535  # noqa: PLR2004 - the largest port
        if not is_port and not (rfc7239 and _OBFUSCATED_PORT.fullmatch(port)):
            return None
        text = head
    if not text.startswith("["):
        return parse_host(text)
    return parse_host(text[1:-1]) if text.endswith("]") and ":" in text else None


def parse_host(text: str) -> Address | None:
    """Parse an address without brackets or port, as in `scope["client"]`."""
    try:
        if ":" not in text:
            # Anything but four octets is refused. So are leading zeros, because some parsers take them for octal.
            return _MAPPED | int.from_bytes(inet_pton(AF_INET, text))
        zoned = _ZONED.fullmatch(text)
        if zoned is None:
            return None
        address = int.from_bytes(inet_pton(AF_INET6, zoned[1]))
    except (OSError, ValueError):
        return None
    return None if zoned[2] and address >> 118 != _LINK_LOCAL else address


class Networks:
    """A compiled set of networks: membership is a binary search. It may contain `unix:`.

    Raises:
        ConfigurationError: it is not a list, or an entry is not an address or a network, or has host bits.
    """

    def __init__(self, entries: Any, where: str) -> None:  # noqa: ANN401 - the user may write anything
        if isinstance(entries, str) or not isinstance(entries, Iterable):
            msg = f"{where} is {'one string' if isinstance(entries, str) else 'no list'}. Write it as ['10.0.0.0/8']."
            raise ConfigurationError(msg)
        self.entries: tuple[Any, ...] = (*entries,)
        self.unix = False
        ranges: list[tuple[int, int]] = []
        for entry in self.entries:
            if entry == "unix:":
                self.unix = True
                continue
            meant = "Write addresses, networks such as '10.0.0.0/8', or 'unix:'."
            try:
                network = ip_network(entry if isinstance(entry, str) else "")
            except ValueError:
                with suppress(ValueError):
                    meant = f"Did you mean {ip_network(entry, strict=False)}?"
                msg = f"{where}: {entry!r} is not a network. {meant}"
                raise ConfigurationError(msg) from None
            base = 0 if isinstance(network, IPv6Network) else _MAPPED
            ranges.append((base + int(network.network_address), base + int(network.broadcast_address)))
        # Starts and ends alternate.
        self._bounds: list[int] = []
        for first, last in sorted(ranges):
            if self._bounds and first <= self._bounds[-1]:
                self._bounds[-1] = max(self._bounds[-1], last + 1)
            else:
                self._bounds += (first, last + 1)

    def __contains__(self, address: Address | None) -> bool:
        # An odd index means inside.
        return address is not None and bisect_right(self._bounds, address) & 1 == 1


NOT_PUBLIC: Final = Networks(
    # A fixed list: `ipaddress.is_global` is True for multicast, and changes between versions of Python.
    (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    ),
    "not public",
)  # fmt: skip
"""IANA's special-purpose IPv4 registry, multicast and class E."""
NOWHERE: Final = Networks((), "nowhere")
ANYWHERE: Final = Networks(("0.0.0.0/0",), "anywhere")
CLASS_E: Final = Networks(("240.0.0.0/4",), "class E")
LOOPBACK: Final = Networks(("127.0.0.0/8", "::1"), "this machine")
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "fc00::/7", "::1")
"""Addresses of platforms' own proxies."""


def in_body(value: object, admitted: Networks) -> str | Reason:
    """Return the public or admitted IPv4 address in a body, a dotted quad, or the reason why there is none."""
    if value is None or value == "":
        return Reason.BODY_MISSING
    address = parse_host(value.strip()) if isinstance(value, str) else None
    if address is None:
        return Reason.BODY_MALFORMED
    if not is_v4(address):
        return Reason.BODY_IPV6
    return Reason.BODY_PRIVATE if address in NOT_PUBLIC and address not in admitted else text_of(address)


class TcpPeer(NamedTuple):
    """The connection's peer, as the server gives it: an address, a Unix socket, or neither."""

    address: Address | None
    unix: bool = False
    client: Any = None
    """The host and the port, as the server gives them."""

    def within(self, networks: Networks) -> bool:
        """Whether this peer is in the set."""
        return networks.unix if self.unix else self.address in networks
