"""How a shopper's address is found: each strategy, each form of a node, each anomaly, in groups."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from butter_middleware import client_ip
from butter_middleware.client_ip import Reason, cloudflare_ranges
from butter_middleware.errors import ConfigurationError

SHOPPER = "81.2.69.142"
PROXIES = ["10.0.0.0/8", "2001:db8:aaaa::/48", "unix:"]
PROXY = ("10.0.0.1", 40000)
XFF = "X-Forwarded-For"


def scope(*headers: tuple[str, str | bytes], client: Any = PROXY) -> dict[str, Any]:
    raw = [(name.lower().encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
    return {"type": "http", "headers": raw, "client": client}


def outcome(strategy: client_ip.Strategy, *headers: tuple[str, str | bytes], client: Any = PROXY) -> str:
    """Return the address, or the reason for its absence."""
    result = strategy.resolve(scope(*headers, client=client))
    return result.ipv4 or result.reason.value


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        # An address, with a port as AWS and Azure may append it.
        ("81.2.69.142", SHOPPER),
        ("\t 81.2.69.142 \t", SHOPPER),
        ("81.2.69.142:443", SHOPPER),
        ("81.2.69.142:0", SHOPPER),
        ("81.2.69.142:65535", SHOPPER),
        ("255.1.1.1", "pseudo_ipv4"),
        # IPv4 of a dual-stack listener: converted, in each spelling (RFC 4291, section 2.5.5.2).
        ("::ffff:81.2.69.142", SHOPPER),
        ("::FFFF:5102:458e", SHOPPER),
        ("[0:0:0:0:0:ffff:81.2.69.142]:443", SHOPPER),
        # Any other IPv6 is a shopper over IPv6. Embedded addresses are never used.
        ("2a00:1450:4001::1", "ipv6_client"),
        ("[2a00:1450:4001::1]", "ipv6_client"),
        ("[2a00:1450:4001::1]:443", "ipv6_client"),
        ("64:ff9b::5102:458e", "ipv6_client"),
        ("2002:5102:458e::1", "ipv6_client"),
        ("2001:0:5102:458e::1", "ipv6_client"),
        ("::81.2.69.142", "ipv6_client"),
        ("fe80::1%eth0", "ipv6_client"),
        ("[fe80::1%25]", "ipv6_client"),
        # A zone exists on link-local addresses only.
        ("2a00:1450:4001::1%eth0", "malformed"),
        ("81.2.69.142%eth0", "malformed"),
        ("fe80::1%", "malformed"),
        ("fe80::1%a%b", "malformed"),
        # Octets: four, decimal, without leading zeros (which some readers take for octal), up to 255.
        ("81.2.69", "malformed"),
        ("81.2.69.142.1", "malformed"),
        ("81.2.69.142.", "malformed"),
        (".81.2.69.142", "malformed"),
        ("81.2..142", "malformed"),
        ("081.2.69.142", "malformed"),
        ("81.2.69.00", "malformed"),
        ("81.2.69.256", "malformed"),
        ("0x51.2.69.142", "malformed"),
        ("81.2.69.+1", "malformed"),
        ("1359103374", "malformed"),
        ("81.2.69.1٤2", "malformed"),
        # Ports: decimal, up to 65535; an obfuscated one belongs to RFC 7239 alone.
        ("81.2.69.142:", "malformed"),
        ("81.2.69.142:65536", "malformed"),
        ("81.2.69.142:x", "malformed"),
        ("81.2.69.142:+1", "malformed"),
        ("81.2.69.142:_web", "malformed"),
        ("81.2.69.142:1:2", "malformed"),
        ("[2a00:1450:4001::1]:", "malformed"),
        # Brackets: only around IPv6, both of them, once.
        ("[81.2.69.142]", "malformed"),
        ("[81.2.69.142]:443", "malformed"),
        ("[2a00:1450:4001::1", "malformed"),
        ("2a00:1450:4001::1]", "malformed"),
        ("[[2a00:1450:4001::1]]", "malformed"),
        ("[]", "malformed"),
        # Not an address: RFC 7239's words, names, masks, quotes, other separators, other white space.
        ("", "malformed"),
        ("unknown", "malformed"),
        ("_hidden", "malformed"),
        ("unix:", "malformed"),
        ("localhost", "malformed"),
        ("81.2.69.142/32", "malformed"),
        ('"81.2.69.142"', "malformed"),
        ("for=81.2.69.142", "malformed"),
        ("81.2.69.142 10.0.0.1", "malformed"),
        ("81.2.69.142;10.0.0.1", "malformed"),
        (b"81.2.69.142\xa0", "malformed"),
        (b"\x0b81.2.69.142", "malformed"),
        # Bytes that `ipaddress` would read as a packed address.
        (b"1234", "malformed"),
        (b"\x51\x02\x45\x8e", "malformed"),
        (b"0123456789abcdef", "malformed"),
        # Longer than any address.
        ("0" * 129, "malformed"),
        ("fe80::1%" + "a" * 120, "ipv6_client"),
        ("fe80::1%" + "a" * 121, "malformed"),
        ("81.2.69.142" + " " * 400, SHOPPER),
        # Not public unicast: IANA's registry, multicast, class E. First and last of each, and the neighbours.
        ("0.0.0.0", "private_address"),
        ("1.0.0.0", "1.0.0.0"),
        ("9.255.255.255", "9.255.255.255"),
        ("10.0.0.0", "private_address"),
        ("10.255.255.255", "private_address"),
        ("100.63.255.255", "100.63.255.255"),
        ("100.64.0.0", "private_address"),
        ("100.127.255.255", "private_address"),
        ("127.0.0.1", "private_address"),
        ("169.254.169.254", "private_address"),
        ("172.15.255.255", "172.15.255.255"),
        ("172.16.0.0", "private_address"),
        ("172.31.255.255", "private_address"),
        ("172.32.0.0", "172.32.0.0"),
        ("192.0.0.8", "private_address"),
        ("192.0.1.1", "192.0.1.1"),
        ("192.0.2.1", "private_address"),
        ("192.88.99.1", "private_address"),
        ("192.168.0.1", "private_address"),
        ("198.17.255.255", "198.17.255.255"),
        ("198.18.0.0", "private_address"),
        ("198.19.255.255", "private_address"),
        ("198.51.100.1", "private_address"),
        ("203.0.113.1", "private_address"),
        ("223.255.255.255", "223.255.255.255"),
        ("224.0.0.1", "private_address"),
        ("239.255.255.255", "private_address"),
        ("240.0.0.1", "pseudo_ipv4"),
        ("::ffff:240.16.0.1", "pseudo_ipv4"),
        ("255.255.255.255", "pseudo_ipv4"),
    ],
)
def test_a_node(node: str | bytes, expected: str) -> None:
    """A node is read the same in a single header, as the last hop, and as the first that is not trusted."""
    assert outcome(client_ip.SingleHeader("X-Real-IP"), ("X-Real-IP", node)) == expected
    assert outcome(client_ip.TrustedHops(1), (XFF, node)) == expected
    assert outcome(client_ip.RightmostUntrusted(["10.9.9.9"]), (XFF, node), client=("10.9.9.9", 1)) == expected


def test_an_ipv6_shopper_is_kept() -> None:
    """The address of a shopper over IPv6 is in `.ipv6`, written as in RFC 5952."""
    result = client_ip.TrustedHops(1).resolve(scope((XFF, "[2A00:1450:4001:0:0:0:0:1]:443")))
    assert (result.ipv4, result.ipv6, result.peer) == (None, "2a00:1450:4001::1", "10.0.0.1")


BY_TRUST = client_ip.RightmostUntrusted(PROXIES)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # The rightmost that is not a proxy. The elements to its left are the shopper's own.
        ([SHOPPER], SHOPPER),
        (["1.2.3.4, 81.2.69.142"], SHOPPER),
        (["1.2.3.4,81.2.69.142,10.0.0.2"], SHOPPER),
        (["10.0.0.3, 81.2.69.142, 10.0.0.2"], SHOPPER),
        (["nonsense,, \x01, 81.2.69.142"], SHOPPER),
        # A proxy in another spelling, with a port, over IPv6.
        (["81.2.69.142, ::ffff:10.0.0.2"], SHOPPER),
        (["81.2.69.142, 10.0.0.2:8080"], SHOPPER),
        (["81.2.69.142, [2001:0DB8:AAAA:0::1]:80"], SHOPPER),
        # Several header lines are one list, in order: HAProxy adds its own line.
        (["1.2.3.4", "81.2.69.142"], SHOPPER),
        (["1.2.3.4, 81.2.69.142", "10.0.0.2"], SHOPPER),
        (["81.2.69.142, 10.0.0.3", "10.0.0.2"], SHOPPER),
        # An anomaly on the trusted side means no address: nothing is skipped, and no other header is tried.
        ([], "header_missing"),
        ([""], "malformed"),
        (["81.2.69.142, unknown"], "malformed"),
        (["81.2.69.142, , 10.0.0.2"], "malformed"),
        (["81.2.69.142,"], "malformed"),
        (["81.2.69.142", ""], "malformed"),
        (["10.0.0.3, 10.0.0.2"], "no_untrusted_hop"),
        (["81.2.69.142" + ", 10.0.0.2" * 31], SHOPPER),
        (["81.2.69.142" + ", 10.0.0.2" * 32], "no_untrusted_hop"),
        # A shopper over IPv6: the elements to the left are never used.
        (["81.2.69.142, 2a00:1450:4001::1, 10.0.0.2"], "ipv6_client"),
    ],
)
def test_rightmost_untrusted(lines: list[str], expected: str) -> None:
    """The search goes from the right, over all lines, and ends at the first address that is not a proxy."""
    headers = [(XFF, line) for line in lines]
    assert outcome(BY_TRUST, *headers, ("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4")) == expected


@pytest.mark.parametrize(
    ("client", "on_peer", "on_none"),
    [
        # Our own proxy.
        (("10.0.0.1", 40000), "9.9.9.9", "9.9.9.9"),
        (["::ffff:10.0.0.1", "40000"], "9.9.9.9", "9.9.9.9"),
        (("2001:db8:aaaa::7", 40000), "9.9.9.9", "9.9.9.9"),
        (None, "9.9.9.9", "9.9.9.9"),
        # A shopper without a proxy: the header is the shopper's own.
        ((SHOPPER, 40000), SHOPPER, "untrusted_peer"),
        ((f"::ffff:{SHOPPER}", 40000), SHOPPER, "untrusted_peer"),
        (("2a00:1450:4001::1", 40000), "ipv6_client", "untrusted_peer"),
        (("192.168.1.1", 40000), "private_address", "untrusted_peer"),
        # A string is never a Unix socket: servers copy an attacker's text into it.
        (("unix:", 0), "untrusted_peer", "untrusted_peer"),
        (("/run/app.sock", None), "untrusted_peer", "untrusted_peer"),
        (("testclient", 50000), "untrusted_peer", "untrusted_peer"),
        (("", 0), "untrusted_peer", "untrusted_peer"),
        ("10.0.0.1", "untrusted_peer", "untrusted_peer"),
        (("10.0.0.1, 81.2.69.142", 40000), "untrusted_peer", "untrusted_peer"),
        (("10.0.0.1:80", 40000), "untrusted_peer", "untrusted_peer"),
        (("[2001:db8:aaaa::7]", 40000), "untrusted_peer", "untrusted_peer"),
        ((None, None), "untrusted_peer", "untrusted_peer"),
        ([], "untrusted_peer", "untrusted_peer"),
    ],
)
def test_who_may_set_the_header(client: Any, on_peer: str, on_none: str) -> None:
    """The header of a trusted peer counts. Any other peer is the shopper, or there is no address, as configured."""
    headers = [(XFF, "9.9.9.9")]
    refusing = client_ip.RightmostUntrusted(PROXIES, on_untrusted_peer="none")
    assert outcome(BY_TRUST, *headers, client=client) == on_peer
    assert outcome(refusing, *headers, client=client) == on_none
    assert outcome(client_ip.TrustedHops(1, peer_in=PROXIES), *headers, client=client) == on_none
    assert outcome(client_ip.SingleHeader("X-Real-IP", PROXIES), ("X-Real-IP", "9.9.9.9"), client=client) == on_none


@pytest.mark.parametrize(
    ("n", "lines", "expected"),
    [
        (1, ["1.2.3.4, 81.2.69.142"], SHOPPER),
        (2, ["1.2.3.4, 81.2.69.142, 10.0.0.2"], SHOPPER),
        (3, ["81.2.69.142", "10.0.0.3, 10.0.0.2"], SHOPPER),
        # Each element to the right of the n-th counts as one.
        (2, ["81.2.69.142, unknown"], SHOPPER),
        (2, ["81.2.69.142, "], SHOPPER),
        (2, ["81.2.69.142", ""], SHOPPER),
        (2, [b"81.2.69.142, \xff\xfe"], SHOPPER),
        # The n-th itself must be an address: its neighbours are not used.
        (2, ["1.2.3.4, unknown, 10.0.0.2"], "malformed"),
        (2, ["1.2.3.4, , 10.0.0.2"], "malformed"),
        (2, ["81.2.69.142"], "too_few_hops"),
        (1, [], "header_missing"),
        (32, ["81.2.69.142" + ", 10.0.0.2" * 31], SHOPPER),
    ],
)
def test_trusted_hops(n: int, lines: list[str | bytes], expected: str) -> None:
    """Elements are counted from the right, over all lines."""
    assert outcome(client_ip.TrustedHops(n), *[(XFF, line) for line in lines]) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("X-Real-IP", SHOPPER), ("X-Azure-FDID", "id")], SHOPPER),
        # Exactly one line, with one node.
        ([("X-Azure-FDID", "id")], "header_missing"),
        ([("X-Real-IP", SHOPPER), ("X-Real-IP", SHOPPER), ("X-Azure-FDID", "id")], "duplicate_header"),
        ([("X-Real-IP", f"{SHOPPER}, 9.9.9.9"), ("X-Azure-FDID", "id")], "malformed"),
        ([("X_Real_IP", SHOPPER), ("X-Azure-FDID", "id")], "header_missing"),
        # The required header: present, once, and correct.
        ([("X-Real-IP", SHOPPER)], "required_header"),
        ([("X-Real-IP", SHOPPER), ("X-Azure-FDID", "other")], "required_header"),
        ([("X-Real-IP", SHOPPER), ("X-Azure-FDID", "")], "required_header"),
        ([("X-Real-IP", SHOPPER), ("X-Azure-FDID", "id"), ("X-Azure-FDID", "other")], "required_header"),
        ([("X-Real-IP", SHOPPER), ("X-Azure-FDID", "ID")], "required_header"),
    ],
)
def test_single_header(headers: list[tuple[str, str]], expected: str) -> None:
    """A header that the platform sets must be present once, and so must a required header."""
    assert outcome(client_ip.SingleHeader("X-Real-IP", require=("X-Azure-FDID", "id")), *headers) == expected


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda strategy: pickle.loads(pickle.dumps(strategy))])  # noqa: S301 - our own
def test_a_copy_finds_the_same_address(again: Callable[[client_ip.Strategy], client_ip.Strategy]) -> None:
    """A framework may copy its settings, and with them the strategy."""
    for strategy in (
        client_ip.TrustedHops(1),
        client_ip.TrustedHops(1, peer_in=PROXIES),
        client_ip.SingleHeader(XFF),
        client_ip.RightmostUntrusted(PROXIES),
    ):
        assert again(strategy) == strategy
        assert outcome(again(strategy), (XFF, SHOPPER)) == SHOPPER
        assert outcome(again(strategy), (XFF, SHOPPER), client=("9.9.9.9", 1)) == outcome(
            strategy, (XFF, SHOPPER), client=("9.9.9.9", 1)
        )


def test_a_guarded_header_never_has_a_proxys_address() -> None:
    """If it has one of the platform's own addresses, a hop is not configured."""
    guarded = client_ip.SingleHeader("X-Real-IP", peer_in=["173.245.48.0/20"])
    assert outcome(guarded, ("X-Real-IP", "173.245.48.9"), client=("173.245.48.5", 1)) == "no_untrusted_hop"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # RFC 7239, section 4: names in any case, values quoted or not, empty pairs, other parameters around.
        (["for=81.2.69.142"], SHOPPER),
        (['FOR="81.2.69.142:443";proto=https;by=10.0.0.5'], SHOPPER),
        (["proto=https ; for=81.2.69.142 ;; by=_me;"], SHOPPER),
        (["for=81.2.69.142, for=10.0.0.2"], SHOPPER),
        (['for="[2001:db8:aaaa::1]:80"', "for=10.0.0.2"], "no_untrusted_hop"),
        (['for="8\\1.2.69.142"'], SHOPPER),
        # Section 6: obfuscated ports. Some proxies leave out the quotes.
        (['for="81.2.69.142:_web"'], SHOPPER),
        (["for=81.2.69.142:443"], SHOPPER),
        (["for=[2a00:1450:4001::1]:443"], "ipv6_client"),
        (["for=_hidden"], "malformed"),
        (["for=unknown"], "malformed"),
        (["for="], "malformed"),
        (['for=":443"'], "malformed"),
        # Grammar errors, at the trusted position.
        (["for =81.2.69.142"], "malformed"),
        (["for= 81.2.69.142"], "malformed"),
        (["for=81.2.69.142;for=9.9.9.9"], "malformed"),
        (["for=81.2.69.142;host=a;HOST=b"], "malformed"),
        (["for=81.2.69.142 host=a"], "malformed"),
        (['for=81.2.69.142;host="a"b'], "malformed"),
        (["for=8\\1.2.69.142"], "malformed"),
        (["81.2.69.142"], "malformed"),
        (["by=10.0.0.5;proto=https"], "malformed"),
        (["for=81.2.69.142, by=10.0.0.5"], "malformed"),
        ([""], "malformed"),
        ([], "header_missing"),
        (["for=10.0.0.3, for=10.0.0.2"], "no_untrusted_hop"),
        # A comma inside quotes does not separate. A naive split would return 1.2.3.4.
        (['for=81.2.69.142;host="a, for=1.2.3.4;x="'], SHOPPER),
        (['for=81.2.69.142;host="a\\", for=1.2.3.4;x=\\""'], SHOPPER),
        (['for=81.2.69.142;host="a\\\\"'], SHOPPER),
        (['host=",,\\\\\\",";for=81.2.69.142, for=10.0.0.2;host=","'], SHOPPER),
        # An unclosed quote or an odd backslash of the client, to the left of the proxy's element.
        (['for="1.2.3.4, for=81.2.69.142'], SHOPPER),
        (['for="1.2.3.4', "for=81.2.69.142"], SHOPPER),
        (['for="1.2.3.4\\, for="81.2.69.142"'], SHOPPER),
        (['", for="81.2.69.142";host="a,b"'], SHOPPER),
        # Quotes that never open, on the trusted side.
        (['for=81.2.69.142"'], "malformed"),
        (['for=81.2.69.142;host=\\"'], "malformed"),
        (["for=81.2.69.142" + ", for=10.0.0.2" * 32], "no_untrusted_hop"),
        # A Host of the maximum length does not hide the shopper.
        (['for=81.2.69.142;host="' + ",\\\\" * 10_000 + '"'], SHOPPER),
    ],
)
def test_forwarded(lines: list[str], expected: str) -> None:
    """RFC 7239 is read from the right, with paired quotes and backslashes, each line on its own."""
    headers = [("Forwarded", line) for line in lines]
    assert outcome(client_ip.Forwarded(PROXIES), *headers, (XFF, "1.2.3.4")) == expected


@pytest.mark.parametrize(
    ("hops", "line", "expected"),
    [
        (1, "for=1.2.3.4, for=81.2.69.142", SHOPPER),
        (2, "for=81.2.69.142, by=_secret", SHOPPER),
        (2, "for=81.2.69.142", "too_few_hops"),
        (1, "for=unknown", "malformed"),
        (2, 'for=81.2.69.142"', "malformed"),
    ],
)
def test_forwarded_by_hops(hops: int, line: str, expected: str) -> None:
    """Forwarded counts as X-Forwarded-For does."""
    assert outcome(client_ip.Forwarded(hops=hops), ("Forwarded", line)) == expected


@pytest.mark.parametrize(
    ("line", "client", "expected"),
    [
        ("for=1.2.3.4, for=81.2.69.142", ("10.0.0.1", 40000), SHOPPER),
        ("for=1.2.3.4, for=10.0.0.7", ("10.0.0.1", 40000), "no_untrusted_hop"),
        ("for=81.2.69.142", ("9.9.9.9", 40000), "untrusted_peer"),
        ("for=81.2.69.142", None, "untrusted_peer"),
    ],
)
def test_forwarded_by_hops_from_certain_peers(line: str, client: Any, expected: str) -> None:
    """As with X-Forwarded-For, a request around the proxies chooses no address."""
    strategy = client_ip.Forwarded(hops=1, peer_in=["10.0.0.0/8"])
    assert outcome(strategy, ("Forwarded", line), client=client) == expected


def test_forwarded_from_another_peer() -> None:
    """A peer that is not a proxy is the shopper. A Unix socket that is not trusted has no address."""
    strategy = client_ip.Forwarded(["10.0.0.0/8"])
    assert outcome(strategy, ("Forwarded", "for=9.9.9.9"), client=(SHOPPER, 40000)) == SHOPPER
    assert outcome(strategy, ("Forwarded", "for=9.9.9.9"), client=None) == "untrusted_peer"


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ((SHOPPER, 40000), SHOPPER),
        ([SHOPPER, "40000"], SHOPPER),
        ((SHOPPER,), SHOPPER),
        ((f"::ffff:{SHOPPER}", 40000), SHOPPER),
        ((f"0:0:0:0:0:ffff:{SHOPPER}", 40000), SHOPPER),
        ((SHOPPER, 0), SHOPPER),
        (("1.2.3.4", 0), "server_rewrite_conflict"),
        (("2a00:1450:4001::1", 40000), "ipv6_client"),
        (("fe80::1%eth0", 40000), "ipv6_client"),
        (("::", 40000), "ipv6_client"),
        (None, "no_peer"),
        (("testclient", 50000), "no_peer"),
        ((b"\x51\x02\x45\x8e", 1), "no_peer"),
    ],
)
def test_peer(client: Any, expected: str) -> None:
    """Without a proxy, the shopper is the peer, with any headers."""
    assert outcome(client_ip.Peer(), (XFF, "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), client=client) == expected


@pytest.mark.parametrize(
    ("client", "header", "expected"),
    [
        # uvicorn, which trusts 127.0.0.1, replaced the peer by the proxy's element: the same address as ours.
        ((SHOPPER, 0), "81.2.69.142", SHOPPER),
        ((SHOPPER, 0), "1.2.3.4, 81.2.69.142, 10.0.0.2", SHOPPER),
        ((SHOPPER, 443), "1.2.3.4, 81.2.69.142:443", SHOPPER),
        # With --forwarded-allow-ips '*' it uses the leftmost, which is the shopper's own.
        (("1.2.3.4", 0), "1.2.3.4, 81.2.69.142", "server_rewrite_conflict"),
        (("1.2.3.4", "0"), "1.2.3.4, 81.2.69.142", "server_rewrite_conflict"),
        # Port 0 alone proves nothing: adapters without sockets have no port.
        ((SHOPPER, 0), "1.2.3.4, 10.0.0.2", SHOPPER),
        ((SHOPPER, 0), "", SHOPPER),
        # It keeps a port, and reads numbers as Python does.
        (("1.2.3.4", 5678), "1.2.3.4:5678, 81.2.69.142", "server_rewrite_conflict"),
        (("1.2.3.4", 5678), "1.2.3.4:5_678, 81.2.69.142", "server_rewrite_conflict"),
        (("1.2.3.4", 5678), f"1.2.3.4:{'0' * 200}5678, 81.2.69.142", "server_rewrite_conflict"),
        (("1.2.3.4", 5678), b"\xa01.2.3.4: 5678\xa0, 81.2.69.142", "server_rewrite_conflict"),
        (("::ffff:1.2.3.4", 5678), "[::ffff:1.2.3.4]:5678, 81.2.69.142", "server_rewrite_conflict"),
        (("1.2.3.4", 5678), "1.2.3.4:5678" + ", 10.0.0.2" * 40, "server_rewrite_conflict"),
        # A shopper without a proxy may write any header. The address is still that of the peer.
        ((SHOPPER, 40000), "81.2.69.142, 1.2.3.4", SHOPPER),
        ((SHOPPER, 40000), "81.2.69.142:40001, 1.2.3.4", SHOPPER),
        ((SHOPPER, 40000), "81.2.69.142:x", SHOPPER),
        # A trusted peer is an ordinary chain of proxies, even if the server replaced it.
        (("10.0.0.2", 0), "81.2.69.142, 10.0.0.2", SHOPPER),
        (("10.0.0.2", 80), "81.2.69.142, 10.0.0.2:80", SHOPPER),
    ],
)
def test_a_server_that_replaces_the_peer(client: Any, header: str | bytes, expected: str) -> None:
    """A peer that the server may have replaced counts only if the trusted proxies report the same address."""
    assert outcome(BY_TRUST, (XFF, header), client=client) == expected


def test_a_replaced_peer_does_not_open_a_guard() -> None:
    """Behind a guard, too, a replaced peer counts only if it is the address that was found."""
    written = f"{SHOPPER}, "  # the server's choice
    for found, expected in ((SHOPPER, SHOPPER), ("9.9.9.9", "server_rewrite_conflict")):
        for name in ("X-Real-IP", "X-Shop-IP"):
            single = client_ip.SingleHeader(name, peer_in=PROXIES)
            assert outcome(single, (name, found), (XFF, SHOPPER), client=(SHOPPER, 0)) == expected
        hops = client_ip.TrustedHops(1, peer_in=PROXIES)
        assert outcome(hops, (XFF, written + found), client=(SHOPPER, 0)) == expected
        forwarded = client_ip.Forwarded(PROXIES)
        assert outcome(forwarded, ("Forwarded", f"for={written}for={found}"), client=(SHOPPER, 0)) == expected
    assert (
        outcome(client_ip.SingleHeader("X-Shop-IP", peer_in=PROXIES), ("X-Shop-IP", SHOPPER), client=(SHOPPER, 0))
        == SHOPPER
    )
    assert (
        outcome(client_ip.SingleHeader("X-Shop-IP", peer_in=PROXIES), ("X-Shop-IP", SHOPPER), client=(SHOPPER, 1))
        == "untrusted_peer"
    )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: client_ip.RightmostUntrusted("10.0.0.0/8"), r"one string.*\['10.0.0.0/8'\]"),
        (lambda: client_ip.RightmostUntrusted(None), "no list"),  # type: ignore[arg-type]
        (lambda: client_ip.RightmostUntrusted([10]), "10 is not a network"),  # type: ignore[list-item]
        (lambda: client_ip.RightmostUntrusted(["10.0.0.1/8"]), "Did you mean 10.0.0.0/8"),
        (lambda: client_ip.RightmostUntrusted(["10.0.0.0/33"]), "is not a network"),
        (lambda: client_ip.RightmostUntrusted(["proxy.internal"]), "is not a network.*'unix:'"),
        (lambda: client_ip.RightmostUntrusted([], on_untrusted_peer="skip"), "neither"),  # type: ignore[arg-type]
        (lambda: client_ip.RightmostUntrusted([], header="X Forwarded"), "not a header name"),
        (lambda: client_ip.RightmostUntrusted([], header=None), "not a header name"),  # type: ignore[arg-type]
        (lambda: client_ip.TrustedHops(0), "from 1 to 32"),
        (lambda: client_ip.TrustedHops(33), "from 1 to 32"),
        (lambda: client_ip.TrustedHops(True), "from 1 to 32"),  # noqa: FBT003
        (lambda: client_ip.TrustedHops("1"), "from 1 to 32"),  # type: ignore[arg-type]
        (lambda: client_ip.TrustedHops(1, peer_in="10.0.0.0/8"), r"TrustedHops\(peer_in=...\) is one string"),
        (lambda: client_ip.SingleHeader(""), "not a header name"),
        (lambda: client_ip.SingleHeader("X-Real-IP:"), "not a header name"),
        (lambda: client_ip.SingleHeader("X-Real-IP", require=("X-Azure-FDID", " ")), "two strings"),
        (lambda: client_ip.SingleHeader("X-Real-IP", require="id"), "two strings"),  # type: ignore[arg-type]
        (lambda: client_ip.SingleHeader("X-Real-IP", require=("a b", "id")), "not a header name"),
        (client_ip.Forwarded, "either"),
        (lambda: client_ip.Forwarded(["10.0.0.1"], hops=1), "either"),
        (lambda: client_ip.Forwarded(hops=0), "from 1 to 32"),
        (lambda: client_ip.Forwarded(["10.0.0.1"], peer_in=["10.0.0.1"]), "needs hops=n"),
        (lambda: client_ip.Forwarded(hops=1, peer_in=["10.0.0.1/33"]), "is not a network"),
        (lambda: client_ip.azure_front_door(""), "two strings"),
    ],
)
def test_a_wrong_configuration(build: Callable[[], object], says: str) -> None:
    """It raises an error when it is built, and the error names the fix."""
    with pytest.raises(ConfigurationError, match=says):
        build()


def test_an_iterator_of_networks_is_kept() -> None:
    """The networks still apply after the strategy was copied for staging."""
    strategy = client_ip.RightmostUntrusted(network for network in PROXIES)
    assert outcome(strategy.admitting_private(), (XFF, "192.168.1.1, 10.0.0.2")) == "192.168.1.1"
    assert strategy == BY_TRUST
    assert hash(strategy) == hash(BY_TRUST)


@pytest.mark.parametrize(
    "networks", [["10.0.0.0/9", "10.128.0.0/9"], ["10.0.0.0/8", "10.2.0.0/16"], ["::ffff:a00:0/104"]]
)
def test_networks_that_touch_or_overlap(networks: list[str]) -> None:
    """Networks may touch, overlap, or be written as IPv6 maps IPv4."""
    strategy = client_ip.RightmostUntrusted(networks)
    assert outcome(strategy, (XFF, "11.0.0.0, 10.255.255.255, 10.127.255.255, 10.128.0.0, 10.0.0.0")) == "11.0.0.0"


def test_only_staging_accepts_private_addresses() -> None:
    """A copy for staging returns addresses that are not public. The original strategy still returns none."""
    for node in ("192.168.1.1", "127.0.0.1", "240.0.0.1"):
        assert outcome(client_ip.TrustedHops(1).admitting_private(), (XFF, node)) == node
        assert outcome(client_ip.TrustedHops(1, allow_private=True), (XFF, node)) == node
        assert outcome(client_ip.TrustedHops(1), (XFF, node)) in {"private_address", "pseudo_ipv4"}


def test_reprs_show_no_address_and_no_secret() -> None:
    """A repr may be logged. A result's has only the reason, a strategy's no secret."""
    result = client_ip.TrustedHops(1).resolve(scope((XFF, SHOPPER)))
    assert repr(result) == "ClientIP(ok)"
    assert "secret-id" not in repr(client_ip.azure_front_door("secret-id"))


def test_a_scope_is_never_changed() -> None:
    """Resolving leaves the scope unchanged."""
    given = scope((XFF, SHOPPER), client=["10.0.0.1", 40000])
    BY_TRUST.resolve(given)
    assert given == scope((XFF, SHOPPER), client=["10.0.0.1", 40000])


def test_every_reason_has_a_remedy() -> None:
    """Each reason for a missing address names a fix."""
    for reason in Reason:
        assert bool(reason.remedy) is (reason is not Reason.OK)


VPC = ["10.0.0.0/8"]
EDGE = "173.245.48.5"
FASTLY = client_ip.fastly(["151.101.0.0/16"], require=("X-Edge-Secret", "s"))
PLATFORMS: list[tuple[client_ip.Strategy, str | None, list[tuple[str, str]], str]] = [
    # Strategy, peer, headers as the platform sends them after a shopper's spoofing, outcome.
    (client_ip.direct(), SHOPPER, [(XFF, "1.2.3.4")], SHOPPER),
    (client_ip.nginx(["unix:"]), None, [(XFF, "1.2.3.4, 81.2.69.142")], SHOPPER),
    (client_ip.haproxy(["10.0.0.1"]), "10.0.0.1", [(XFF, "1.2.3.4"), (XFF, SHOPPER)], SHOPPER),
    (client_ip.traefik(VPC), "10.0.0.1", [(XFF, SHOPPER)], SHOPPER),
    (client_ip.kubernetes_ingress(VPC), "10.244.0.7", [(XFF, "1.2.3.4, 81.2.69.142, 10.0.0.9")], SHOPPER),
    (client_ip.kubernetes_ingress(["10.244.0.0/16"]), "10.244.0.7", [(XFF, "10.0.0.9")], "private_address"),
    (client_ip.aws_alb(), "10.0.0.1", [(XFF, "1.2.3.4, 81.2.69.142")], SHOPPER),
    (client_ip.aws_alb(VPC), "10.0.0.1", [(XFF, "1.2.3.4, 81.2.69.142:46532")], SHOPPER),
    (client_ip.aws_alb(VPC), "6.6.6.6", [(XFF, "1.2.3.4")], "untrusted_peer"),
    (client_ip.cloudfront_alb(VPC), "10.0.0.1", [(XFF, "1.2.3.4, 81.2.69.142, 130.176.1.1")], SHOPPER),
    (client_ip.cloudflare(), EDGE, [("CF-Connecting-IP", SHOPPER), (XFF, "1.2.3.4, 81.2.69.142")], SHOPPER),
    (client_ip.cloudflare(), "2400:cb00::7", [("CF-Connecting-IP", SHOPPER)], SHOPPER),
    (client_ip.cloudflare(), "6.6.6.6", [("CF-Connecting-IP", "1.2.3.4")], "untrusted_peer"),
    (client_ip.cloudflare(), EDGE, [("CF-Connecting-IP", "240.16.0.1")], "pseudo_ipv4"),
    (client_ip.cloudflare(["10.0.0.1"]), "10.0.0.1", [("CF-Connecting-IP", SHOPPER)], SHOPPER),
    (client_ip.cloudflare(["10.0.0.1"]), EDGE, [("CF-Connecting-IP", SHOPPER)], "untrusted_peer"),
    (client_ip.akamai(["23.32.0.0/11"]), "23.32.0.9", [("True-Client-IP", SHOPPER)], SHOPPER),
    (client_ip.akamai(["23.32.0.0/11"]), "6.6.6.6", [("True-Client-IP", "1.2.3.4")], "untrusted_peer"),
    (client_ip.fastly(["151.101.0.0/16"]), "151.101.1.1", [("Fastly-Client-IP", SHOPPER)], SHOPPER),
    (client_ip.fastly(["151.101.0.0/16"]), "6.6.6.6", [("Fastly-Client-IP", "1.2.3.4")], "untrusted_peer"),
    (FASTLY, "151.101.1.1", [("Fastly-Client-IP", "1.2.3.4"), ("X-Edge-Secret", "guessed")], "required_header"),
    (FASTLY, "151.101.1.1", [("Fastly-Client-IP", SHOPPER), ("X-Edge-Secret", "s")], SHOPPER),
    (client_ip.gcp_lb(), "35.191.0.9", [(XFF, "1.2.3.4,81.2.69.142,34.96.1.1")], SHOPPER),
    (client_ip.gcp_lb(["35.191.0.0/16"]), "6.6.6.6", [(XFF, "1.2.3.4,34.96.1.1")], "untrusted_peer"),
    (client_ip.cloud_run(), "169.254.169.126", [(XFF, "1.2.3.4,81.2.69.142")], SHOPPER),
    (client_ip.azure_front_door("id"), "147.243.1.1", [("X-Azure-SocketIP", SHOPPER), ("X-Azure-FDID", "id")], SHOPPER),
    (client_ip.azure_front_door("id"), "147.243.1.1", [("X-Azure-SocketIP", "1.2.3.4")], "required_header"),
    (
        client_ip.azure_front_door("id"),
        "147.243.1.1",
        [("X-Azure-ClientIP", "1.2.3.4"), ("X-Azure-FDID", "id")],
        "header_missing",
    ),
    (client_ip.azure_app_gateway(VPC), "10.0.0.1", [(XFF, "1.2.3.4, 81.2.69.142:50123")], SHOPPER),
    (client_ip.fly(), "172.16.0.2", [("Fly-Client-IP", SHOPPER), (XFF, "1.2.3.4, 81.2.69.142, 66.241.1.1")], SHOPPER),
    (client_ip.heroku(), "10.1.0.1", [(XFF, "1.2.3.4,81.2.69.142")], SHOPPER),
    (client_ip.render(), "10.21.157.68", [(XFF, "1.2.3.4, 81.2.69.142, 104.22.17.40, 10.21.1.1")], SHOPPER),
    (client_ip.render(), "6.6.6.6", [(XFF, "1.2.3.4")], "untrusted_peer"),
    (client_ip.railway(), "100.64.0.2", [("X-Real-IP", SHOPPER), (XFF, "1.2.3.4")], SHOPPER),
    (client_ip.vercel(), "127.0.0.1", [("X-Vercel-Forwarded-For", SHOPPER), (XFF, "1.2.3.4")], SHOPPER),
    (client_ip.digitalocean(), "10.244.0.1", [("DO-Connecting-IP", SHOPPER), (XFF, "1.2.3.4")], SHOPPER),
]


@pytest.mark.parametrize(("strategy", "peer", "headers", "expected"), PLATFORMS)
def test_a_platform(
    strategy: client_ip.Strategy, peer: str | None, headers: list[tuple[str, str]], expected: str
) -> None:
    """Each preset finds the shopper in its platform's headers, and no address if a request bypasses the platform."""
    assert outcome(strategy, *headers, client=None if peer is None else (peer, 40000)) == expected


PRESETS = [
    *("direct", "nginx", "haproxy", "traefik", "kubernetes_ingress", "aws_alb", "cloudfront_alb", "cloudflare"),
    *("akamai", "fastly", "gcp_lb", "cloud_run", "azure_front_door", "azure_app_gateway", "fly", "heroku", "render"),
    *("railway", "vercel", "digitalocean", "api_gateway"),
]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source(name: str) -> None:
    """Each preset is public and has a docstring. Its section of the docs links the source that was checked."""
    assert name in client_ip.__all__
    assert getattr(client_ip, name).__doc__
    page = (Path(__file__).parents[2] / "docs" / "client-ip.md").read_text()
    sections = [section for section in page.split("\n### ")[1:] if f"client_ip.{name}(" in section]
    assert any(re.search(r"Sources?:[^.]*\]\(https://", section) for section in sections)


def test_cloudflares_ranges_are_data_with_a_date() -> None:
    """They are in one file, with their source and date, and an argument replaces them."""
    assert cloudflare_ranges.SOURCE.startswith("https://www.cloudflare.com/")
    assert cloudflare_ranges.LAST_CHANGED == "2023-09-28"
    assert client_ip.cloudflare().peer_in == cloudflare_ranges.RANGES
    assert client_ip.cloudflare(["192.0.2.0/24"]).peer_in == ("192.0.2.0/24",)


def test_explain_shows_each_preset() -> None:
    """For one request, `explain` returns the result of each preset, the configured strategy first."""
    seen = scope((XFF, f"1.2.3.4, {SHOPPER}, 104.22.17.40"), ("CF-Connecting-IP", SHOPPER))
    explanations = client_ip.explain(seen, client_ip.nginx(["192.168.0.1"]))
    answers = {each.name: each.result.ipv4 or each.result.reason.value for each in explanations}
    assert explanations[0].name == "configured"
    assert answers["configured"] == "private_address"
    assert answers["client_ip.direct()"] == "private_address"
    assert answers["client_ip.aws_alb()"] == "104.22.17.40"
    assert answers["client_ip.cloudfront_alb()"] == SHOPPER
    assert answers["client_ip.cloudflare()"] == "untrusted_peer"
    assert answers["client_ip.fly()"] == "header_missing"
    assert {each.name: each.remedy for each in explanations}["client_ip.fly()"].startswith(
        "The header Fly-Client-IP (SingleHeader) is missing"
    )
    assert all(bool(each.remedy) is (each.result.ipv4 is None) for each in explanations)
    assert SHOPPER not in repr(explanations)


def test_explain_names_each_preset_by_its_code() -> None:
    """The code can be copied as it is. Every preset that needs no arguments is there."""
    seen = scope((XFF, f"1.2.3.4, {SHOPPER}, 104.22.17.40"), ("X-Real-IP", "9.9.9.9"), ("CF-Connecting-IP", SHOPPER))
    explanations = client_ip.explain(seen)
    for each in explanations:
        written = eval(each.name, {"client_ip": client_ip})  # noqa: S307 - the very thing that is to be shown
        assert written.resolve(seen) == each.result
    presets = {"aws_alb", "azure_app_gateway", "cloud_run", "cloudflare", "cloudfront_alb", "digitalocean", "direct"}
    presets |= {"fly", "gcp_lb", "heroku", "railway", "render", "vercel"}
    assert {f"client_ip.{preset}()" for preset in presets} <= {each.name for each in explanations}


def test_explain_accepts_any_scope() -> None:
    """`explain` never raises."""
    assert all(each.result.ipv4 is None for each in client_ip.explain({}))


@pytest.mark.parametrize(
    ("peer", "remedy"),
    [
        ("127.0.0.1", "127.0.0.1 is this machine. In development set BUTTER_ENVIRONMENT=staging."),
        ("::ffff:127.0.0.1", "127.0.0.1 is this machine. In development set BUTTER_ENVIRONMENT=staging."),
        ("::1", "In development open 127.0.0.1 instead of localhost, and set BUTTER_ENVIRONMENT=staging."),
        ("10.0.0.7", "A proxy of yours is taken for the shopper"),
        ("2001:db8::1", "Butter takes IPv4 only."),
    ],
)
def test_loopback_has_a_remedy_for_development(peer: str, remedy: str) -> None:
    """A loopback address means development, or a proxy on this host. Another private address is a proxy."""
    found = client_ip.direct().resolve({"type": "http", "headers": [], "client": (peer, 4711)})
    assert (found.ipv4, remedy in found.remedy) == (None, True), found.remedy


@pytest.mark.parametrize("client", [(SHOPPER,), (SHOPPER, None)])
def test_a_peer_without_a_port_was_not_replaced(client: Any) -> None:
    """A server that replaces the peer sets a port. This request came without the proxy."""
    strategy = client_ip.RightmostUntrusted(PROXIES, on_untrusted_peer="none")
    assert outcome(strategy, (XFF, SHOPPER), client=client) == "untrusted_peer"
