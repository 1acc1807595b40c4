"""The IPv4 address of a shopper who came over IPv6: a signed token, and its check.

The checkout page calls a host that has A records only. The app at that host sees the shopper's IPv4 address and signs
it, for one checkout and a few minutes. The page sends the token with the checkout.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from hmac import compare_digest, digest
from ipaddress import AddressValueError, IPv4Address
from struct import Struct
from typing import Final, cast

from butter_middleware import config
from butter_middleware._utils.asgi import RawHeaders
from butter_middleware.client_ip import ClientIP, Reason, Strategy
from butter_middleware.client_ip.address import NOT_PUBLIC, parse_host
from butter_middleware.errors import ConfigurationError
from butter_middleware.ipv6.places import Place, Route, cookie_jar, place
from butter_middleware.models.http import Capture

KEY_BYTES: Final = 32
"""RFC 2104, section 3: a key should not be shorter than the hash."""
SKEW: Final = 60
"""Seconds by which the beacon's clock may run ahead of the checkout's."""
DIGEST_CHARACTERS: Final = 22
"""The characters of a token's HMAC that identify it."""

_PURPOSE: Final = b"butter-middleware ipv4 beacon\0"
"""Part of the signed text, so that other signatures with the same key cannot be used as tokens."""
_CLAIM: Final = Struct(">BII16s")
"""Version, address, expiry (seconds since the epoch, up to 2106), digest of the checkout's key."""
_VERSION: Final = 1
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{76}")
"""The 25 bytes of the claim and 32 of the HMAC in base64url: without padding, so a token has only one spelling."""
_HOST: Final = r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])"
_ORIGIN: Final = re.compile(rf"(?:https://{_HOST}(?!:443\b)|http://{_HOST}(?!:80\b))(?::[0-9]{{1,5}})?")
"""RFC 6454, section 6.2: the scheme's own port is left out."""


@dataclass(frozen=True)
class Beacon:
    """How shoppers on IPv6 prove their IPv4 address. `Butter(ipv4_beacon=Beacon(...))` makes `butter.ipv4_beacon`.

    Args:
        origins: The shop's origins, as browsers send them: `["https://shop.example"]`. Only their pages get a token.
        bind: The place of the token's key in the checkout request: `"path:cart_id"` (a parameter of the route's
            template), `"query:..."`, `"header:..."`, `"cookie:..."` or `"field:cart.id"` (of the request's body, JSON
            or urlencoded, on routes with `capture_request_body`). The page calls the beacon with the same key. For a
            cookie, the key is `page_key` of its value.
        token: Where the page puts the token: `"header:..."`, `"cookie:..."` or `"field:..."`.
        keys: Secrets of at least 32 bytes, the newest first. The first key signs, and all keys verify. If left out,
            the keys are read from `BUTTER_BEACON_KEYS`, or from the file that `BUTTER_BEACON_KEYS_FILE` names. White
            space separates them.
        ttl: Seconds, 10 to 3600, for which a token is valid.
        client_ip: The strategy for the beacon's host, if its proxies are not those of the shop.
        allow_private: Accept addresses that are not public. Butter's staging environment sets it.

    Raises:
        ConfigurationError: an option cannot work. The text contains no key.
    """

    origins: Iterable[str]
    bind: str
    token: str = "header:X-Butter-Token"  # noqa: S105 - a place, not a secret
    keys: Sequence[str | bytes] | None = field(default=None, repr=False)
    ttl: int = 600
    client_ip: Strategy | None = None
    allow_private: bool = field(default=False, kw_only=True)
    _secrets: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    _bind: Place = field(init=False, repr=False, compare=False)
    _token: Place = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        config.number("Beacon: ttl", self.ttl, 10, 3600)
        config.flag("Beacon: allow_private", self.allow_private)
        own = cast("object", self.client_ip)
        if isinstance(own, type) or not isinstance(own, Strategy | None):
            msg = "Beacon(client_ip=...) is not a strategy. Say what is in front of the beacon, or leave it out."
            raise ConfigurationError(msg)
        object.__setattr__(self, "origins", _origins(self.origins))
        object.__setattr__(self, "_secrets", _secrets(self.keys))
        object.__setattr__(self, "_bind", place("bind", self.bind, ("path", "query", "header", "cookie", "field")))
        object.__setattr__(self, "_token", place("token", self.token, ("header", "cookie", "field")))
        if self._bind == self._token:
            msg = "Beacon: bind= and token= name the same place. The token and the checkout's key need two places."
            raise ConfigurationError(msg)

    def check(self, route: Route) -> None:
        """Refuse a route whose requests cannot carry the token and its key.

        Raises:
            ConfigurationError: the path has no such parameter, or the request's body is not captured.
        """
        if not route.from_shopper:
            return  # a server calls this route, without a token
        if self._bind.kind == "path" and self._bind.name not in {name for _literal, name in route.template.parts}:
            msg = (
                f"Beacon(bind={self.bind!r}): route {route} has no {{{self._bind.name}}} in its path. "
                "Bind to what every checkout route has, such as a header or the session's cookie."
            )
            raise ConfigurationError(msg)
        if "field" in {self._bind.kind, self._token.kind} and not route.capture_request_body:
            msg = f"Beacon reads a field of the request's body: set capture_request_body=True on route {route}."
            raise ConfigurationError(msg)

    @staticmethod
    def page_key(cookie: str) -> str:
        """Return the key that the page sends to the beacon if `bind` is a cookie: a digest of the cookie's value.

        So scripts need no access to the cookie itself, and it is not stored.
        """
        return sha256(b"page\0" + cookie.encode("utf-8", "surrogatepass")).hexdigest()

    def cookies(self, headers: RawHeaders) -> dict[str, str]:
        """Return the part of the Cookie header that a capture keeps: the token, and the key's digest. Never raises."""
        if "cookie" not in {self._token.kind, self._bind.kind}:
            return {}
        jar = cookie_jar(headers)
        picked: dict[str, str] = {}
        if self._token.kind == "cookie" and self._token.name in jar:
            picked[self._token.name] = jar[self._token.name][:128]
        if self._bind.kind == "cookie" and self._bind.name in jar:
            picked[self._bind.name] = self.page_key(jar[self._bind.name])
        return picked

    def issue(self, ipv4: str, key: str, now: float) -> str:
        """Return a token for this address and the checkout with this key, valid for `ttl` seconds from `now`.

        Raises:
            ValueError: `ipv4` is not a dotted quad.
        """
        try:
            value = int(IPv4Address(ipv4))
        except AddressValueError:
            msg = "not an IPv4 address"
            raise ValueError(msg) from None
        claim = _CLAIM.pack(_VERSION, value, int(now + self.ttl), _digest(key))
        return urlsafe_b64encode(claim + _sign(self._secrets[0], claim)).decode()

    def verify(self, token: str, key: str, at: float) -> str | Reason:
        """Return the token's address, or why a checkout with this key and time cannot have it. Never raises."""
        if not _TOKEN.fullmatch(token):
            return Reason.TOKEN_MALFORMED
        raw = urlsafe_b64decode(token)
        claim, signature = raw[: _CLAIM.size], raw[_CLAIM.size :]
        if not any(compare_digest(_sign(secret, claim), signature) for secret in self._secrets):
            return Reason.TOKEN_FORGED
        version, value, expiry, bound_to = _CLAIM.unpack(claim)
        ipv4 = str(IPv4Address(value))
        if version != _VERSION or (parse_host(ipv4) in NOT_PUBLIC and not self.allow_private):
            return Reason.TOKEN_FORGED
        if not at <= expiry <= at + self.ttl + SKEW:
            return Reason.TOKEN_STALE
        if not key:
            return Reason.TOKEN_UNBOUND
        return ipv4 if compare_digest(_digest(key), bound_to) else Reason.TOKEN_FOREIGN

    def resolve(self, address: ClientIP, capture: Capture, route: Route) -> ClientIP:
        """Add the IPv4 address of a checkout's token to an IPv6 address, or the reason why not. Never raises.

        The checkout's own time counts, so the result is the same if a capture is read days later. The outbox knows
        which tokens were used.
        """
        token = self._token.find(capture, route) if address.reason is Reason.IPV6_CLIENT else ""
        if not token:
            return address
        found = self.verify(token, self._bind.find(capture, route), capture.captured_at)
        if isinstance(found, Reason):
            return replace(address, reason=found)
        return replace(address, ipv4=found, reason=Reason.OK)

    def digest_of(self, capture: Capture, route: Route) -> str:
        """Return an identifier of a checkout's token, which does not contain the address. Empty if there is none."""
        return self._token.find(capture, route)[-DIGEST_CHARACTERS:]


def fitting(beacon: Beacon | None, routes: Iterable[Route], *, staging: bool = False) -> Beacon | None:
    """Return the beacon for an environment, if there is one. Check that its tokens can come on every route.

    In staging, addresses that are not public are accepted.

    Raises:
        ConfigurationError: it is not a `Beacon`, or `Beacon.check` refuses a route.
    """
    if beacon is None:
        return None
    if isinstance(beacon, type) or not hasattr(beacon, "check"):
        msg = "Butter(ipv4_beacon=...) is not a Beacon. Write Beacon(origins=[...], bind=...), or leave it out."
        raise ConfigurationError(msg)
    for route in routes:
        beacon.check(route)
    if not staging:
        return beacon
    own = None if beacon.client_ip is None else beacon.client_ip.admitting_private()
    return replace(beacon, client_ip=own, allow_private=True)


def _sign(secret: bytes, claim: bytes) -> bytes:
    return digest(secret, _PURPOSE + claim, "sha256")


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]


def _secrets(given: Sequence[str | bytes] | None) -> tuple[bytes, ...]:
    keys = cast("object", (config.from_environment("BUTTER_BEACON_KEYS") or "").split() if given is None else given)
    remedy = "Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'."
    several = cast("Sequence[object]", keys) if isinstance(keys, Sequence) and not isinstance(keys, str | bytes) else ()
    if not several or not all(isinstance(key, str | bytes) for key in several):
        msg = (
            "Beacon has no list of keys: set BUTTER_BEACON_KEYS, or BUTTER_BEACON_KEYS_FILE to a mounted secret, or "
            f"pass Beacon(keys=[...]), the newest first. {remedy}"
        )
        raise ConfigurationError(msg)
    secrets = tuple(key.encode() if isinstance(key, str) else key for key in cast("Sequence[str | bytes]", several))
    for number, secret in enumerate(secrets, 1):
        if len(secret) < KEY_BYTES:
            msg = f"Beacon: key {number} has {len(secret)} bytes; at least {KEY_BYTES} are needed. {remedy}"
            raise ConfigurationError(msg)
    return secrets


def _origins(given: object) -> tuple[str, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    origins = tuple(cast("Iterable[object]", given)) if several else ()
    for origin in origins:
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            msg = (
                f"Beacon: {origin!r} is not an origin as browsers send it. Write scheme, host and, unless it is the "
                "usual one, port, in lower case and without a slash at the end: 'https://shop.example'."
            )
            raise ConfigurationError(msg)
    if not origins:
        msg = "Beacon(origins=...) is not a list of origins. Name the pages that may ask: ['https://shop.example']."
        raise ConfigurationError(msg)
    return cast("tuple[str, ...]", origins)
