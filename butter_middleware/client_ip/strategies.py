"""The strategies that find the shopper's address: five small frozen objects with one method.

Only what the trusted proxies appended is read, so a client can neither choose nor erase the answer. An anomaly there
gives a reason and no address, never a guess.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Any, Final, Literal, Protocol, Self, TypeVar, runtime_checkable

from butter_middleware.client_ip.address import (
    CLASS_E,
    LOOPBACK,
    NOT_PUBLIC,
    NOWHERE,
    Address,
    Networks,
    TcpPeer,
    is_v4,
    parse_node,
    text_of,
)
from butter_middleware.client_ip.headers import (
    ELEMENTS,
    elements,
    forwarded_elements,
    forwarded_for,
    lines,
    peer_of,
    portless,
    rewritten,
)
from butter_middleware.client_ip.reason import Reason
from butter_middleware.errors import ConfigurationError

T = TypeVar("T")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True, repr=False)
class ClientIP:
    """The result for one request. Its repr shows the reason only: the rest is personal data."""

    ipv4: str | None
    """A canonical dotted quad, public unicast, or None."""
    ipv6: str | None
    """The shopper's address, if it is IPv6."""
    reason: Reason
    peer: str | None
    """The TCP peer as the server gave it. None for a Unix socket, or if it is not an address."""
    loopback: bool = False
    """Whether the refused address is this machine's own, as in development."""

    header: str = "the platform's header"
    """The header and the strategy that reads it, for messages."""

    @property
    def remedy(self) -> str:
        """What a person can do, in a sentence or two. Empty if there is an address."""
        return self.reason.remedy_for(self.header, loopback=self.loopback)

    def __repr__(self) -> str:
        return f"ClientIP({self.reason.value})"


@runtime_checkable
class Strategy(Protocol):
    """A way to find the shopper's address."""

    def resolve(self, scope: Mapping[str, Any]) -> ClientIP:
        """Resolve the address from an ASGI scope's `headers` and `client`. Never raises."""
        ...

    def admitting_private(self) -> "Strategy":
        """Return the same strategy that also admits addresses that are not public, for staging and tests."""
        ...


@dataclass(frozen=True)
class _Base:
    """The base of the strategies. No scope makes them raise, and private addresses may be admitted."""

    allow_private: bool = field(default=False, kw_only=True)
    _networks: Networks | None = field(default=None, init=False, repr=False, compare=False)
    """The trusted proxies, if the strategy names any."""
    _name: bytes = field(default=b"", init=False, repr=False, compare=False)

    def resolve(self, scope: Mapping[str, Any]) -> ClientIP:
        """Resolve the address from an ASGI scope's `headers` and `client`. Never raises."""
        try:
            peer = peer_of(scope)
            return self._found(self._resolve(scope, peer), peer)
        except Exception:  # noqa: BLE001 - an invalid scope must not cost the capture
            return ClientIP(None, None, Reason.MALFORMED, None)

    def admitting_private(self) -> Self:
        """Return the same strategy that also admits addresses that are not public."""
        return replace(self, allow_private=True)

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        raise NotImplementedError

    def _found(self, found: Address | Reason, peer: TcpPeer) -> ClientIP:
        source = None if peer.address is None else peer.client[0]
        if not isinstance(found, Reason) and is_v4(found) and (found not in NOT_PUBLIC or self.allow_private):
            return ClientIP(text_of(found), None, Reason.OK, source)
        name = getattr(self, "header", getattr(self, "name", "Forwarded"))
        header = f"the header {name} ({type(self).__name__})"
        if isinstance(found, Reason):
            return ClientIP(None, None, found, source, header=header)
        if not is_v4(found):
            return ClientIP(None, text_of(found), Reason.IPV6_CLIENT, source, found in LOOPBACK)
        reason = Reason.PSEUDO_IPV4 if found in CLASS_E else Reason.PRIVATE_ADDRESS
        return ClientIP(None, None, reason, source, found in LOOPBACK)


@dataclass(frozen=True)
class Peer(_Base):
    """No proxy is in front of the app: the TCP peer is the shopper.

    No header is read for it. If a peer without a port is also in a header, the server took it from there, and the
    shopper may have written that header (`server_rewrite_conflict`): start uvicorn with --no-proxy-headers.
    """

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        if peer.address is None:
            return Reason.NO_PEER
        # With a port this proves nothing: a shopper can write their own address and port into a header.
        return Reason.SERVER_REWRITE_CONFLICT if portless(peer) and rewritten(scope, peer) else peer.address


@dataclass(frozen=True)
class RightmostUntrusted(_Base):
    """The rightmost element that is not a trusted proxy.

    Args:
        trusted: Addresses and networks of the proxies, and `"unix:"` for a Unix socket.
        header: A comma-separated header to which each proxy appends the peer it saw.
        on_untrusted_peer: For a peer that is not a trusted proxy. "peer": it is the shopper. "none": no address.

    Raises:
        ConfigurationError: a network or the header's name is wrong.
    """

    trusted: Iterable[str]
    header: str = "X-Forwarded-For"
    on_untrusted_peer: Literal["peer", "none"] = "peer"

    def __post_init__(self) -> None:
        _set_networks(self, "trusted", self.trusted, needed=True)
        object.__setattr__(self, "_name", _header_name(self.header))
        if self.on_untrusted_peer not in {"peer", "none"}:
            msg = "on_untrusted_peer is neither 'peer' nor 'none'."
            raise ConfigurationError(msg)

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        addresses = map(parse_node, elements(lines(scope, self._name)))
        alone = None if self.on_untrusted_peer == "none" else peer.address
        return _by_trust(addresses, scope, peer, self._networks or NOWHERE, alone)


@dataclass(frozen=True)
class TrustedHops(_Base):
    """The n-th element from the right: n proxies are in front of the app, and each appends one.

    Args:
        n: How many, from 1 to 32.
        header: A comma-separated header to which each proxy appends the peer it saw.
        peer_in: Addresses and networks of the peers that are allowed. None allows every peer.

    Raises:
        ConfigurationError: the number, a network or the header's name is wrong.
    """

    n: int
    header: str = "X-Forwarded-For"
    peer_in: Iterable[str] | None = None

    def __post_init__(self) -> None:
        _check_hops(self.n)
        _set_networks(self, "peer_in", self.peer_in)
        object.__setattr__(self, "_name", _header_name(self.header))

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        found = _nth(elements(lines(scope, self._name)), self.n, parse_node)
        return _guarded(found, scope, peer, self._networks)


@dataclass(frozen=True)
class SingleHeader(_Base):
    """A header that the platform sets to the shopper's address, exactly once.

    Args:
        name: The header's name.
        peer_in: Addresses and networks of the platform. None allows every peer: a client that connects to the app
            directly can then choose the address.
        require: A header's name and the value that proves the platform.

    Raises:
        ConfigurationError: a network or a header's name is wrong.
    """

    name: str
    peer_in: Iterable[str] | None = None
    require: tuple[str, str] | None = field(default=None, repr=False)
    _proof: tuple[bytes, bytes] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _set_networks(self, "peer_in", self.peer_in)
        object.__setattr__(self, "_name", _header_name(self.name))
        object.__setattr__(self, "_proof", None if self.require is None else _proof(self.require))

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        if self._proof is not None:
            proofs = lines(scope, self._proof[0])
            if len(proofs) != 1 or not compare_digest(proofs[0].strip(b" \t"), self._proof[1]):
                return Reason.REQUIRED_HEADER
        header_lines = lines(scope, self._name)
        found: Address | Reason = Reason.DUPLICATE_HEADER if header_lines else Reason.HEADER_MISSING
        if len(header_lines) == 1:
            found = _or_malformed(parse_node(header_lines[0].strip(b" \t")))
        return _guarded(found, scope, peer, self._networks)


@dataclass(frozen=True)
class Forwarded(_Base):
    """The `Forwarded` header of RFC 7239, by either the trusted proxies or their number.

    Args:
        trusted: As `RightmostUntrusted`.
        hops: As `TrustedHops`.
        peer_in: As `TrustedHops`, with `hops`.

    Raises:
        ConfigurationError: neither or both are given, or one is wrong.
    """

    trusted: Iterable[str] | None = None
    hops: int | None = None
    peer_in: Iterable[str] | None = None

    def __post_init__(self) -> None:
        if (self.trusted is None) is (self.hops is None):
            msg = "Forwarded() takes either trusted=[...] or hops=n."
            raise ConfigurationError(msg)
        if self.trusted is not None and self.peer_in is not None:
            msg = "Forwarded(): peer_in= needs hops=n. trusted= already says which peers may forward."
            raise ConfigurationError(msg)
        if self.hops is None:
            _set_networks(self, "trusted", self.trusted)
        else:
            _check_hops(self.hops)
            _set_networks(self, "peer_in", self.peer_in)

    def _resolve(self, scope: Mapping[str, Any], peer: TcpPeer) -> Address | Reason:
        found = forwarded_elements(lines(scope, b"forwarded"))
        if self.hops is not None:
            return _guarded(_nth(found, self.hops, forwarded_for), scope, peer, self._networks)
        return _by_trust(map(forwarded_for, found), scope, peer, self._networks or NOWHERE, peer.address)


def header_of(strategy: Strategy) -> bytes:
    """Return the header that a strategy reads, in lower case. Empty if it reads none, or Forwarded."""
    name: bytes = getattr(strategy, "_name", b"")
    return name


def came_around(strategy: Strategy, scope: Mapping[str, Any]) -> bool | None:
    """Whether a request that a proxy forwarded came from a peer that the strategy does not trust.

    None if no proxy forwarded it, or the strategy names no proxies.
    """
    networks: Networks | None = getattr(strategy, "_networks", None)
    forwarding = (header_of(strategy), b"x-forwarded-for", b"forwarded")
    if networks is None or not any(lines(scope, name) for name in forwarding):
        return None
    peer = peer_of(scope)
    return not (peer.within(networks) or rewritten(scope, peer))


def _by_trust(
    addresses: Iterator[Address | None],
    scope: Mapping[str, Any],
    peer: TcpPeer,
    networks: Networks,
    alone: Address | None,
) -> Address | Reason:
    """Return the rightmost address that is not trusted. `alone` is the answer for a peer that is not a proxy."""
    if peer.within(networks):
        return _rightmost(addresses, networks)
    if rewritten(scope, peer):
        return _vouched(_rightmost(addresses, networks), peer)
    return Reason.UNTRUSTED_PEER if alone is None else alone


def _rightmost(addresses: Iterator[Address | None], networks: Networks) -> Address | Reason:
    outcome = Reason.HEADER_MISSING
    for address in addresses:
        if address is None:
            return Reason.MALFORMED
        if address not in networks:
            return address
        outcome = Reason.NO_UNTRUSTED_HOP
    return outcome


def _nth(found: Iterator[T], n: int, parse: Callable[[T], Address | None]) -> Address | Reason:
    count = 0
    for count, element in enumerate(found, 1):
        if count == n or element is None:  # elements beyond one without an end cannot be counted
            return _or_malformed(parse(element))
    return Reason.TOO_FEW_HOPS if count else Reason.HEADER_MISSING


def _or_malformed(address: Address | None) -> Address | Reason:
    return Reason.MALFORMED if address is None else address


def _vouched(found: Address | Reason, peer: TcpPeer) -> Address | Reason:
    """Accept a peer that the server replaced only if the trusted proxies give the same address.

    uvicorn replaces it by default. With `--forwarded-allow-ips '*'` it takes what the shopper wrote.
    """
    return found if found == peer.address else Reason.SERVER_REWRITE_CONFLICT


def _guarded(
    found: Address | Reason, scope: Mapping[str, Any], peer: TcpPeer, networks: Networks | None
) -> Address | Reason:
    if networks is None:
        return found
    if peer.within(networks):
        return Reason.NO_UNTRUSTED_HOP if not isinstance(found, Reason) and found in networks else found
    # A peer without a port may have been read from the strategy's own header, whatever its name.
    replaced = rewritten(scope, peer) or (portless(peer) and found == peer.address)
    return _vouched(found, peer) if replaced else Reason.UNTRUSTED_PEER


# Checks of the arguments, when a strategy is built.


def _set_networks(strategy: object, option: str, entries: Iterable[str] | None, *, needed: bool = False) -> None:
    """Set a frozen strategy's networks, and their option as a tuple, which can be read again."""
    if needed or entries is not None:
        networks = Networks(entries, f"{type(strategy).__name__}({option}=...)")
        object.__setattr__(strategy, option, networks.entries)
        object.__setattr__(strategy, "_networks", networks)


def _proof(require: tuple[str, str]) -> tuple[bytes, bytes]:
    """Check `require`, and return the header's name in lower case and the value."""
    match require:
        case (str(name), str(value)) if value.strip():
            return _header_name(name), value.strip().encode()
        case _:
            msg = "SingleHeader(require=...) is a header's name and the value that proves the platform, as two strings."
            raise ConfigurationError(msg)


def _header_name(name: object) -> bytes:
    """Check a header's name, and return it in lower case."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        msg = f"{name!r} is not a header name."
        raise ConfigurationError(msg)
    return name.lower().encode()


def _check_hops(n: object) -> None:
    """Check a number of proxies."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= ELEMENTS:
        msg = f"the number of hops is {n!r}: count the proxies that append to the header, from 1 to {ELEMENTS}."
        raise ConfigurationError(msg)
