"""The four properties of every strategy, for any bytes that a client may send.

The default profile is small. `--hypothesis-profile deep` tries each a hundred thousand times.
"""

import gc
import ipaddress
import sys
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from butter_middleware import client_ip
from butter_middleware.client_ip.headers import peer_of
from butter_middleware.client_ip.strategies import _Base

PROXIES = ["10.0.0.0/8", "173.245.48.0/20", "2400:cb00::/32", "unix:"]
IN_FRONT = "10.0.0.1"
SHOPPER = "81.2.69.142"
PORT = 54321
BY_TRUST: list[client_ip.Strategy] = [
    client_ip.RightmostUntrusted(PROXIES),
    client_ip.RightmostUntrusted(PROXIES, on_untrusted_peer="none"),
]
XFF: list[client_ip.Strategy] = [
    *BY_TRUST,
    client_ip.TrustedHops(2),
    client_ip.TrustedHops(2, peer_in=PROXIES),
]
FORWARDED: list[client_ip.Strategy] = [
    client_ip.Forwarded(PROXIES),
    client_ip.Forwarded(hops=2),
    client_ip.Forwarded(hops=2, peer_in=PROXIES),
]
SINGLE: list[client_ip.Strategy] = [
    client_ip.SingleHeader("X-Real-IP"),
    client_ip.SingleHeader("X-Real-IP", peer_in=PROXIES),
    client_ip.SingleHeader("X-Real-IP", require=("X-Azure-FDID", "id")),
]
ALL: list[client_ip.Strategy] = [client_ip.Peer(), *XFF, *FORWARDED, *SINGLE]

PIECES = [
    *(b'"', b"\\", b'\\"', b",", b";", b"=", b" ", b"\t", b"\xa0", b"[", b"]", b":", b"%", b"\xff\xfe", b"\xc3\xa9"),
    *(b"for=", b'for="', b"For=", b"host=", b'host="', b"unknown", b"_hidden", b"unix:", b"localhost"),
    *(
        b"1.2.3.4",
        b"10.0.0.1",
        b"10.0.0.1:80",
        b"173.245.48.9",
        b"::ffff:1.2.3.4",
        b"[2001:db8::1]:80",
        b"2400:cb00::1",
    ),
    SHOPPER.encode(),
]


def spell(codes: bytes) -> bytes:
    """Turn bytes into a header: each is a piece or itself. After a first 255, the rest is repeated 500 times."""
    text = b"".join(PIECES[code % len(PIECES)] if code < 192 else bytes([code]) for code in codes)
    return text[1:] * 500 if codes.startswith(b"\xff") else text


junk = st.binary(max_size=14).map(spell)
"""A header that a client may write: an HTTP server accepts no line end and no NUL."""
TRUSTED = [ipaddress.ip_network(network) for network in PROXIES if network != "unix:"]


def is_trusted(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    folded = getattr(address, "ipv4_mapped", None) or address
    return any(folded in network for network in TRUSTED)


seen = st.one_of(
    st.sampled_from([SHOPPER, "9.9.9.9", "2607:f8b0::1", "::ffff:9.9.9.9", "240.0.0.1", "192.168.1.1", "nonsense", ""]),
    st.ip_addresses().filter(lambda address: not is_trusted(address)).map(str),
).map(str.encode)
"""An element that the first trusted proxy may write. Any peer with a trusted address is a proxy by definition."""
proxies = st.sampled_from([b"10.0.0.7", b"10.1.2.3:4567", b"::ffff:10.9.9.9", b"173.245.48.1", b"2400:cb00::7"])


separators = st.sampled_from([b",", b", ", b" ,\t"])
peers = st.sampled_from([(IN_FRONT, PORT), ["::ffff:10.0.0.1", PORT], None])
flags = st.integers(0, 15)


def as_forwarded(node: bytes, host: bytes) -> bytes:
    """Write an element in RFC 7239. The client's Host may have any characters, and is quoted."""
    quoted = host[:2000].replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'for="' + node + b'";host="' + quoted + b'"'


def spoil(
    name: bytes, elements: list[bytes], own: list[bytes], separator: bytes, peer: object, flags: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request of two proxies, without and with a client's junk on its left and in other headers."""
    lines = elements if flags & 1 else [separator.join(elements)]
    clean = [(name, line) for line in lines]
    if flags & 2:
        spoilt = [(name, own[0]), (name, own[1] + separator + lines[0]), *clean[1:]]
    else:
        spoilt = [(name, line) for line in own[: flags >> 2]] + clean
    others = {b"x-forwarded-for", b"forwarded", b"cf-connecting-ip", b"x_forwarded_for"} - {name}
    extra = [(other, own[2]) for other in others]
    return {"headers": clean, "client": peer}, {"headers": [*extra, *spoilt], "client": peer}


OWN = st.tuples(junk, junk, junk).map(list)


@settings(deadline=None)
@given(nodes=st.tuples(seen, proxies), own=OWN, separator=separators, peer=peers, flags=flags)
def test_p1_x_forwarded_for(
    nodes: tuple[bytes, bytes], own: list[bytes], separator: bytes, peer: object, flags: int
) -> None:
    """P1: the elements to the left of the trusted proxies neither choose the address nor remove it."""
    clean, spoilt = spoil(b"x-forwarded-for", list(nodes), own, separator, peer, flags)
    for strategy in XFF:
        assert strategy.resolve(spoilt) == strategy.resolve(clean)
    assert XFF[0].resolve(spoilt).ipv4 == client_ip.SingleHeader("a").resolve({"headers": [(b"a", nodes[0])]}).ipv4


@settings(deadline=None)
@given(nodes=st.tuples(seen, proxies), host=junk, own=OWN, separator=separators, peer=peers, flags=flags)
def test_p1_forwarded(
    nodes: tuple[bytes, bytes], host: bytes, own: list[bytes], separator: bytes, peer: object, flags: int
) -> None:
    """P1 for RFC 7239: the client's elements and its quoted Host make no difference."""
    elements = [as_forwarded(node, host) for node in nodes]
    clean, spoilt = spoil(b"forwarded", elements, own, separator, peer, flags)
    for strategy in FORWARDED:
        assert strategy.resolve(spoilt) == strategy.resolve(clean)
        assert (
            strategy.resolve(spoilt).ipv4 == client_ip.SingleHeader("a").resolve({"headers": [(b"a", nodes[0])]}).ipv4
        )


@settings(deadline=None)
@given(lines=st.lists(junk, max_size=3), name=st.sampled_from([b"x-forwarded-for", b"forwarded"]))
def test_p1_a_peer_without_proxy(lines: list[bytes], name: bytes) -> None:
    """P1 for a shopper without a proxy: all headers are the client's own, even with its own address."""
    assume(not any(b"54321" in line for line in lines))
    scope = {"headers": [(name, line) for line in lines], "client": (SHOPPER, PORT)}
    for strategy in [client_ip.Peer(), BY_TRUST[0], FORWARDED[0]]:
        assert strategy.resolve(scope).ipv4 == SHOPPER


clients = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from([SHOPPER, IN_FRONT, "1.2.3.4", "::ffff:10.0.0.1", "unix:", ""]), st.sampled_from([0, PORT])
    ),
    st.tuples(st.ip_addresses().map(str), st.just(PORT)),
)
names = st.sampled_from([b"x-forwarded-for", b"X-Forwarded-For", b"forwarded", b"x-real-ip", b"x-azure-fdid"])
values = junk | seen | seen.map(lambda node: b"for=" + node) | st.just(b"id")
scopes = st.fixed_dictionaries({"headers": st.lists(st.tuples(names, values), max_size=4), "client": clients})


@settings(deadline=None)
@given(scope=scopes)
def test_p2_none_or_public_and_no_proxy(scope: dict[str, Any]) -> None:
    """P2: the result is None, or a canonical dotted quad, public unicast, outside the trusted networks."""
    for strategy in ALL:
        result = strategy.resolve(scope)
        assert (result.reason is client_ip.Reason.OK) is (result.ipv4 is not None)
        if result.ipv4 is None:
            continue
        address = ipaddress.IPv4Address(result.ipv4)
        assert str(address) == result.ipv4
        assert address.is_global
        assert not address.is_multicast
        if strategy in XFF and strategy != client_ip.TrustedHops(2):
            assert not is_trusted(address)


@settings(deadline=None)
@given(scope=scopes)
def test_p3_never_raises_on_a_scope(scope: dict[str, Any]) -> None:
    """P3 without the last `except`: no strategy needs it on a valid ASGI scope."""
    for strategy in ALL:
        assert isinstance(strategy, _Base)
        strategy._resolve(scope, peer_of(scope))


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(headers=anything, client=anything)
def test_p3_never_raises_on_nonsense(headers: object, client: object) -> None:
    """P3: a scope of any shape has a result, and never an invented address."""
    for strategy in ALL:
        for scope in ({"headers": headers, "client": client}, {"client": client}, {}):
            assert isinstance(strategy.resolve(scope), client_ip.ClientIP)


def calls(strategy: client_ip.Strategy, scope: dict[str, Any]) -> int:
    """Count the function calls of a resolution, in Python and in C."""
    count = 0
    gc.disable()  # its callbacks would be counted

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        strategy.resolve(scope)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.mark.parametrize("strategy", [*XFF, *FORWARDED], ids=repr)
@pytest.mark.parametrize("piece", [b"1.2.3.4", b"for=1.2.3.4", b'"', b'\\"', b"10.0.0.7", b"for=10.0.0.7"])
def test_p4_the_cost_depends_on_the_hops(strategy: client_ip.Strategy, piece: bytes) -> None:
    """P4: ten thousand elements of a client need no more calls than one."""
    name, suffix = (
        (b"forwarded", b", for=9.9.9.9, for=10.0.0.7")
        if isinstance(strategy, client_ip.Forwarded)
        else (b"x-forwarded-for", b", 9.9.9.9, 10.0.0.7")
    )
    counts = {
        calls(strategy, {"headers": [(name, b",".join([piece] * times) + suffix)], "client": (IN_FRONT, PORT)})
        for times in (1, 10_000)
    }
    assert len(counts) == 1


@pytest.mark.parametrize("strategy", BY_TRUST, ids=repr)
def test_p4_a_forged_chain_of_proxies_ends(strategy: client_ip.Strategy) -> None:
    """P4: in a header with only trusted addresses, no more than 32 elements are read."""
    counts = {
        calls(strategy, {"headers": [(b"x-forwarded-for", b",".join([b"10.0.0.7"] * times))], "client": (IN_FRONT, 1)})
        for times in (32, 10_000)
    }
    assert len(counts) == 1
