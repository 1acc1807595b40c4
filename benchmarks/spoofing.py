"""Spoofed requests against each preset of `client_ip`: how many got a wrong address, and how many got none.

    python benchmarks/spoofing.py [--requests 20000] [--seed 1]

A shopper writes anything into each header that a platform uses. Then the platform appends or replaces, as it documents.
The resolved address must be the shopper's in each request. Otherwise the exit code is 1.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from butter_middleware import client_ip
from butter_middleware.client_ip.address import NOT_PUBLIC, Networks, parse_host
from butter_middleware.client_ip.cloudflare_ranges import RANGES
from butter_middleware.models.http import Capture, snapshot

Headers = list[tuple[bytes, bytes]]
XFF = b"x-forwarded-for"
VPC, FASTLY, AKAMAI = "10.0.0.0/8", "151.101.0.0/16", "23.32.0.0/11"
PROXIES = Networks((VPC, FASTLY, AKAMAI, *RANGES), "the proxies of all platforms")
NAMES = (
    *(XFF, b"forwarded", b"x-real-ip", b"true-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"x-client-ip"),
    *(b"fastly-client-ip", b"fly-client-ip", b"x-azure-clientip", b"x-azure-socketip", b"x-azure-fdid", b"via"),
    *(b"x-vercel-forwarded-for", b"do-connecting-ip", b"cloudfront-viewer-address", b"x-cluster-client-ip"),
    *(b"x_forwarded_for", b"x-forwarded", b"x-original-forwarded-for", b"x-edge-secret", b"x-appengine-user-ip"),
)
"""The headers that shoppers write. `PIECES` are the values."""
PIECES = (
    *(b"", b"unknown", b"_hidden", b"unix:", b"localhost", b"-", b"null", b"[::1]:80", b"::1", b"2001:db8::1"),
    *(b"::ffff:9.9.9.9", b"127.0.0.1", b"10.0.0.1", b"192.168.1.1:8080", b"1.2.3.4:99999", b"9.9.9.9/8", b"0x7f.1"),
    *(b"01.02.03.04", b"1.2.3", b"173.245.48.5", b"151.101.1.1", b"23.32.0.9", b"[9.9.9.9]", b"fe80::1%eth0"),
    *(b'"', b"\\", b'for=9.9.9.9;host="a', b'for="[2001:db8::1]:80"', b"for=_x;by=1.2.3.4", b"=", b";", b"\xa0\xff"),
    *("٣.٣.٣.٣".encode(), b"9.9.9.9\t", b" 8.8.8.8 ", b"id", b"secret", b"x" * 200),
)


def spoofed(rng: random.Random, shopper: str) -> Headers:
    """Return a shopper's headers: any header, also repeated, with any length."""

    def value() -> bytes:
        many = rng.choice((1, 1, 2, 3, 5, 40, 300))
        choices = (*PIECES, shopper.encode(), str(IPv4Address(rng.getrandbits(32))).encode())
        return rng.choice((b",", b", ", b" ,", b";")).join(rng.choices(choices, k=many))

    return [(name, value()) for name in rng.choices(NAMES, k=rng.randrange(1, 12))]


def appended(rng: random.Random, headers: Headers, name: bytes, element: str) -> Headers:
    """Return the headers with one more element, like a proxy: with joined lines, in the last line, or in a new line."""
    lines = [value for known, value in headers if known == name]
    others = [(known, value) for known, value in headers if known != name]
    way = rng.randrange(3) if lines else 2
    if way == 0:
        lines = [b", ".join([*lines, element.encode()])]
    elif way == 1:
        lines[-1] += b", " + element.encode()
    else:
        lines.append(element.encode())
    return [*others, *((name, line) for line in lines)]


def replaced(rng: random.Random, headers: Headers, name: bytes, value: str) -> Headers:
    """Return the headers with one line of this name, at a random place."""
    kept = [(known, line) for known, line in headers if known != name]
    kept.insert(rng.randrange(len(kept) + 1), (name, value.encode()))
    return kept


@dataclass(frozen=True)
class Platform:
    """A preset, and its platform's change of a request."""

    name: str
    strategy: client_ip.Strategy
    peers: tuple[str | None, ...]
    pass_on: Callable[[random.Random, Headers, str], Headers]
    event: Callable[[str], dict[str, Any]] | None = None

    def scope(self, rng: random.Random, shopper: str) -> dict[str, Any]:
        """Return the ASGI scope of one spoofed request."""
        headers = self.pass_on(rng, spoofed(rng, shopper), shopper)
        peer = rng.choice(self.peers) if self.peers else shopper
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        scope["client"] = None if peer is None else (peer, 0 if self.event else rng.randrange(1024, 65536))
        return scope | ({"aws.event": self.event(shopper)} if self.event else {})


def appending(*beyond: str, port: bool = False, name: bytes = XFF) -> Callable[[random.Random, Headers, str], Headers]:
    """Return a chain of proxies. The first appends the shopper, and each further one appends the proxy before it."""

    def pass_on(rng: random.Random, headers: Headers, shopper: str) -> Headers:
        first = f"{shopper}:{rng.randrange(1024, 65536)}" if port else shopper
        nodes = [first, *beyond]
        for node in nodes:
            headers = appended(rng, headers, name, f"for={node}" if name == b"forwarded" else node)
        return headers

    return pass_on


def replacing(name: str, **more: str) -> Callable[[random.Random, Headers, str], Headers]:
    """Return an edge that sets its own header, and those of `more`, to its own values."""

    def pass_on(rng: random.Random, headers: Headers, shopper: str) -> Headers:
        for other, value in more.items():
            headers = replaced(rng, headers, other.replace("_", "-").encode(), value)
        return replaced(rng, headers, name.lower().encode(), shopper)

    return pass_on


def untouched(_rng: random.Random, headers: Headers, _shopper: str) -> Headers:
    """Change nothing, because there is no proxy."""
    return headers


def platforms() -> Iterator[Platform]:
    """Yield each preset with the addresses of its platform's proxies, and the strategies of RFC 7239."""
    vpc = ("10.0.0.1", "10.200.3.4")
    edges = ("173.245.48.5", "104.16.9.9", "2400:cb00::7", "::ffff:173.245.48.5")
    yield Platform("direct()", client_ip.direct(), (), untouched)
    for kind, event in (("REST", {"identity": "sourceIp"}), ("HTTP", {"http": "sourceIp"})):
        ((outer, inner),) = event.items()

        def made(shopper: str, outer: str = outer, inner: str = inner) -> dict[str, Any]:
            return {"requestContext": {outer: {inner: shopper}}}

        yield Platform(f"api_gateway(), {kind}", client_ip.api_gateway(), (), untouched, made)
    for name in ("nginx", "haproxy", "traefik", "kubernetes_ingress"):
        preset = getattr(client_ip, name)
        yield Platform(f"{name}([VPC])", preset([VPC]), vpc, appending())
        yield Platform(f"{name}([VPC]), two", preset([VPC]), vpc, appending("10.7.7.7"))
        yield Platform(f"{name}(['unix:'])", preset(["unix:"]), (None,), appending())
    for peer_in in (None, [VPC]):
        at = "" if peer_in is None else "[VPC]"
        yield Platform(f"aws_alb({at})", client_ip.aws_alb(peer_in), vpc, appending())
        yield Platform(f"aws_alb({at}), ports", client_ip.aws_alb(peer_in), vpc, appending(port=True))
        yield Platform(f"cloudfront_alb({at})", client_ip.cloudfront_alb(peer_in), vpc, appending("130.176.1.1"))
        yield Platform(f"gcp_lb({at})", client_ip.gcp_lb(peer_in), vpc, appending("34.96.1.1"))
        yield Platform(f"azure_app_gateway({at})", client_ip.azure_app_gateway(peer_in), vpc, appending(port=True))
    yield Platform("cloud_run()", client_ip.cloud_run(), ("169.254.169.126",), appending())
    yield Platform("heroku()", client_ip.heroku(), vpc, appending())
    yield Platform("render()", client_ip.render(), vpc, appending("104.22.17.40"))
    yield Platform("render(), three", client_ip.render(), vpc, appending("104.22.17.40", "10.21.1.1"))
    yield Platform("cloudflare()", client_ip.cloudflare(), edges, replacing("CF-Connecting-IP"))
    yield Platform("cloudflare([VPC])", client_ip.cloudflare([VPC]), vpc, replacing("CF-Connecting-IP"))
    yield Platform("akamai(peers)", client_ip.akamai([AKAMAI]), ("23.32.0.9",), replacing("True-Client-IP"))
    secret = client_ip.fastly([FASTLY], require=("X-Edge-Secret", "edge"))
    yield Platform("fastly(peers)", client_ip.fastly([FASTLY]), ("151.101.1.1",), replacing("Fastly-Client-IP"))
    yield Platform("fastly(secret)", secret, ("151.101.1.1",), replacing("Fastly-Client-IP", x_edge_secret="edge"))  # noqa: S106 - a dummy
    front_door = replacing("X-Azure-SocketIP", x_azure_fdid="profile")
    yield Platform("azure_front_door(id)", client_ip.azure_front_door("profile"), ("147.243.1.1",), front_door)
    yield Platform("fly()", client_ip.fly(), ("172.16.0.2",), replacing("Fly-Client-IP"))
    yield Platform("railway()", client_ip.railway(), ("100.64.0.2",), replacing("X-Real-IP"))
    yield Platform("vercel()", client_ip.vercel(), ("127.0.0.1",), replacing("X-Vercel-Forwarded-For"))
    yield Platform("digitalocean()", client_ip.digitalocean(), ("10.244.0.1",), replacing("DO-Connecting-IP"))
    yield Platform("Forwarded([VPC])", client_ip.Forwarded([VPC]), vpc, appending("10.7.7.7", name=b"forwarded"))
    yield Platform("Forwarded(hops=2)", client_ip.Forwarded(hops=2), vpc, appending("10.7.7.7", name=b"forwarded"))


def shoppers(rng: random.Random) -> Iterator[str]:
    """Yield public addresses that are not a proxy's."""
    while True:
        text = str(IPv4Address(rng.getrandbits(32)))
        address = parse_host(text)
        if address not in NOT_PUBLIC and address not in PROXIES:
            yield text


def judge(platform: Platform, requests: int, seed: int) -> tuple[int, int]:
    """Return how many requests got a wrong address, and how many got none."""
    rng = random.Random(f"{seed} {platform.name}")
    wrong = missing = 0
    for _number, shopper in zip(range(requests), shoppers(rng), strict=False):
        request = snapshot(platform.scope(rng, shopper), "/checkout", 0.0, None)
        capture = Capture(**request, status_code=200, response_headers=[], body=b"", annotations={})
        found = platform.strategy.resolve(capture.scope).ipv4
        wrong += found not in {None, shopper}
        missing += found is None
    return wrong, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="of each preset")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    print(f"{options.requests} spoofed requests of each preset, seed {options.seed}\n")
    print(f"{'preset':32} {'wrong':>6} {'missing':>8} {'seconds':>8}")
    bad = presets = 0
    for platform in platforms():
        began = time.perf_counter()
        wrong, missing = judge(platform, options.requests, options.seed)
        print(f"{platform.name:32} {wrong:6} {missing:8} {time.perf_counter() - began:8.1f}", flush=True)
        bad += wrong + missing
        presets += 1
    print(f"\n{presets * options.requests} requests: {bad} without the right address")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
