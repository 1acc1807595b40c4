"""Addresses as they stand in headers: read strictly, as bytes, once."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError, ip_network
from typing import Any, Final, NamedTuple

from butter_middleware.errors import ConfigurationError

NODE_BYTES: Final = 128
"""A longer element is no address."""

_V4: Final = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?::(\d{1,5}|_[\w.-]+))?")
_V6: Final = re.compile(rb"\[([0-9a-fA-F:.]+)(?:%[\w.-]+)?\](?::(\d{1,5}|_[\w.-]+))?|([0-9a-fA-F:.]+)(?:%[\w.-]+)?")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_LINK_LOCAL: Final = IPv6Network("fe80::/10")


class Address(NamedTuple):
    """An address as a number; IPv4-mapped IPv6 is folded to IPv4."""

    version: int
    value: int

    def __str__(self) -> str:
        if self.version == 4:  # noqa: PLR2004 - the protocol's version
            return ".".join(map(str, self.value.to_bytes(4, "big")))
        return str(IPv6Address(self.value))


def parse_node(text: bytes) -> Address | None:
    """Read `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`; None for anything else, such as leading zeros or a mask."""
    if len(text) > NODE_BYTES:
        return None
    found = _V4.fullmatch(text)
    if found is None:
        return _parse_v6(text)
    a, b, c, d, port = found.groups()
    for octet in (a, b, c, d):
        if octet[0] == 48 and len(octet) > 1:  # noqa: PLR2004 - the digit 0
            return None
    w, x, y, z = int(a), int(b), int(c), int(d)
    if (w | x | y | z) > 255 or not _is_port(port):  # noqa: PLR2004 - an octet
        return None
    return Address(4, w << 24 | x << 16 | y << 8 | z)


def _parse_v6(text: bytes) -> Address | None:
    found = _V6.fullmatch(text)
    if found is None:
        return None
    bracketed, port, bare = found.groups()
    try:
        address = IPv6Address((bracketed or bare).decode("ascii"))
    except (AddressValueError, ValueError):
        return None
    if not _is_port(port) or (b"%" in text and address not in _LINK_LOCAL):
        return None
    mapped = address.ipv4_mapped
    return Address(6, int(address)) if mapped is None else Address(4, int(mapped))


def _is_port(port: bytes | None) -> bool:
    # An obfuscated port (RFC 7239, section 6.3) begins with an underscore.
    return port is None or port[0] == 95 or int(port) <= 65535  # noqa: PLR2004


def parse_host(host: object) -> Address | None:
    """Read the host of `scope["client"]`: an address without port."""
    if not isinstance(host, str) or not host.isascii():
        return None
    text = host.encode()
    return None if b"]" in text or (b"." in text and b":" in text and b"::" not in text) else parse_node(text)


class Networks:
    """A set of networks, compiled: membership is a search among numbers. Holds `unix:` as well.

    Raises:
        ConfigurationError: an entry is no address or network, or has host bits.
    """

    def __init__(self, entries: Iterable[str], where: str) -> None:
        if isinstance(entries, str):
            msg = f"{where} is one string. Write a list, such as ['10.0.0.0/8']."
            raise ConfigurationError(msg)
        self.unix = False
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for entry in entries:
            if entry == "unix:":
                self.unix = True
                continue
            network = _fold(_network(entry, where))
            ranges[network.version].append((int(network[0]), int(network[-1])))
        self._bounds = {version: _merge(found) for version, found in ranges.items()}

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, Address):
            return False
        bounds = self._bounds[address.version]
        # Starts and ends alternate: an odd place lies inside.
        return bool(bisect_right(bounds, address.value) & 1)


def _merge(ranges: list[tuple[int, int]]) -> list[int]:
    bounds: list[int] = []
    for first, last in sorted(ranges):
        if bounds and first <= bounds[-1]:
            bounds[-1] = max(bounds[-1], last + 1)
        else:
            bounds += (first, last + 1)
    return bounds


def _network(entry: Any, where: str) -> IPv4Network | IPv6Network:  # noqa: ANN401 - the user may write anything
    if not isinstance(entry, str):
        msg = f"{where}: an entry is no string. Write addresses, networks such as '10.0.0.0/8', or 'unix:'."
        raise ConfigurationError(msg)
    try:
        return ip_network(entry)
    except (AddressValueError, NetmaskValueError, ValueError):
        pass
    try:
        meant = f" Did you mean {ip_network(entry, strict=False)}?"
    except ValueError:
        meant = " Write addresses, networks such as '10.0.0.0/8', or 'unix:'."
    msg = f"{where}: {entry!r} is no network.{meant}"
    raise ConfigurationError(msg)


def _fold(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


NOT_PUBLIC: Final = Networks(
    # Frozen: `ipaddress.is_global` is True for multicast, and changes between versions of Python.
    (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    ),
    "not public",
)  # fmt: skip
"""IANA's special-purpose IPv4 registry, multicast and class E."""
CLASS_E: Final = Networks(("240.0.0.0/4",), "class E")
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "fc00::/7", "::1")
"""Where a platform's own proxies live."""


@dataclass(frozen=True, slots=True)
class TcpPeer:
    """Who holds the connection, as the server says: an address, a Unix socket, or neither."""

    address: Address | None
    unix: bool
    port_zero: bool
    """The mark of a server that replaced the peer by what a header said."""

    def within(self, networks: Networks) -> bool:
        """Whether this peer is in the set."""
        return networks.unix if self.unix else self.address in networks
