"""Finds a `client_ip=` that does not fit the requests. Otherwise it might be noticed only a year later."""

from collections.abc import Iterator, Mapping
from threading import RLock
from typing import Any, Final

from butter_middleware.client_ip.address import Networks, parse_host, parse_node, text_of
from butter_middleware.client_ip.cloudflare_ranges import RANGES
from butter_middleware.client_ip.headers import lines
from butter_middleware.client_ip.reason import Reason
from butter_middleware.client_ip.strategies import ClientIP, Strategy, came_around, header_of
from butter_middleware.events import Diagnosed

WATCHED: Final = 1_000
"""How many checkouts are watched."""
ALIKE: Final = 50
"""This many checkouts from one address are not a coincidence."""
FEW: Final = 20

_PLATFORMS: Final = {
    b"cf-connecting-ip": ("Cloudflare", "client_ip.cloudflare()"),
    b"fly-client-ip": ("Fly.io", "client_ip.fly()"),
    b"x-azure-socketip": ("Azure Front Door", "client_ip.azure_front_door(fdid)"),
    b"fastly-client-ip": ("Fastly", "client_ip.fastly(peer_in)"),
    b"true-client-ip": ("Akamai", "client_ip.akamai(peer_in)"),
    b"x-vercel-forwarded-for": ("Vercel", "client_ip.vercel()"),
    b"do-connecting-ip": ("DigitalOcean", "client_ip.digitalocean()"),
}
_CLOUDFLARE: Final = Networks(RANGES, "Cloudflare")


class Diagnosis:
    """Watches the first thousand checkouts, and reports each finding once. It remembers one address only."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._lock = RLock()
        self._said: set[str] = set()
        self._seen = self._alike = self._resolved = self._in_cdn = self._proxied = self._around = 0
        self._last: str | None = None

    def observe(self, scope: Mapping[str, Any], result: ClientIP) -> list[Diagnosed]:
        """Take one request with its result. Raises nothing for a valid ASGI scope."""
        with self._lock:
            if self._seen >= WATCHED:
                return []
            self._seen += 1
            around = came_around(self._strategy, scope)
            self._proxied += around is not None
            self._around += around is True
            if result.ipv4 is not None:
                self._resolved += 1
                self._in_cdn += parse_host(result.ipv4) in _CLOUDFLARE
                self._alike = self._alike + 1 if result.ipv4 == self._last else 1
                self._last = result.ipv4
            found = [*self._unused(scope, result), *self._patterns(result)]
            new = [event for event in found if event.reason not in self._said]
            self._said.update(event.reason for event in new)
            return new

    def _patterns(self, result: ClientIP) -> Iterator[Diagnosed]:
        if self._alike == ALIKE == self._resolved:
            message = (
                f"the first {ALIKE} checkouts all have the same address: a proxy of yours is taken for the shopper. "
                "Name it in client_ip=, with the preset of your platform."
            )
            yield Diagnosed(reason="alike", message=message)
        if self._resolved == FEW == self._in_cdn:
            message = (
                "every address is one of Cloudflare's own: the CDN is taken for the shopper. Set "
                "client_ip=client_ip.cloudflare()."
            )
            yield Diagnosed(reason="cdn", message=message)
        if self._proxied == FEW == self._around:
            message = (
                "no request came from a trusted proxy: trusted= or peer_in= does not hold the proxy's address. Add its "
                "network; a Unix socket is 'unix:'."
            )
            yield Diagnosed(reason="never_trusted", message=message)
        if result.reason is Reason.SERVER_REWRITE_CONFLICT:
            message = (
                "the server replaces the peer by what the shopper wrote (uvicorn's --forwarded-allow-ips '*'). Start "
                "it with --no-proxy-headers, or see server_rewrite_conflict."
            )
            yield Diagnosed(reason="rewrite", message=message)

    def _unused(self, scope: Mapping[str, Any], result: ClientIP) -> Iterator[Diagnosed]:
        """Find platforms' headers with another address than the resolved one.

        The header that the strategy reads is left out: the strategy's reason already explains it.
        """
        names = {name.lower() for name, _value in scope.get("headers") or ()}
        for name, (platform, preset) in _PLATFORMS.items():
            if name not in names or name == header_of(self._strategy):
                continue
            address = parse_node(lines(scope, name)[-1].strip(b" \t"))
            if address is None or text_of(address) not in {result.ipv4, result.ipv6}:
                header = name.decode()
                message = (
                    f"{platform}'s header {header} comes with the requests but is not used for the address: "
                    f"if {platform} is in front of the app, set client_ip={preset}."
                )
                yield Diagnosed(reason=f"header:{header}", message=message)
