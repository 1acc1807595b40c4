"""Why a request has an address or not, and what to do about it."""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The outcome of resolving one request's address."""

    OK = "ok"
    """There is a public IPv4 address."""
    IPV6_CLIENT = "ipv6_client"
    """The shopper uses IPv6, which Butter does not accept."""
    PRIVATE_ADDRESS = "private_address"
    """The address found is not public unicast."""
    PSEUDO_IPV4 = "pseudo_ipv4"
    """The address is of class E: a CDN's hash of an IPv6 address, or nothing."""
    UNTRUSTED_PEER = "untrusted_peer"
    """The TCP peer is not a proxy that may set the header."""
    TOO_FEW_HOPS = "too_few_hops"
    """The header has fewer elements than there are proxies."""
    NO_UNTRUSTED_HOP = "no_untrusted_hop"
    """Every element of the header is one of the trusted proxies."""
    MALFORMED = "malformed"
    """The trusted proxy's element is not an address."""
    HEADER_MISSING = "header_missing"
    """The header that the platform sets is not there."""
    DUPLICATE_HEADER = "duplicate_header"
    """The request has a header more than once that the platform sets once."""
    REQUIRED_HEADER = "required_header"
    """The header that proves the platform is absent or wrong."""
    SERVER_REWRITE_CONFLICT = "server_rewrite_conflict"
    """The ASGI server replaced the peer by an address that the trusted proxies do not confirm."""
    NO_PEER = "no_peer"
    """The server gave no peer, or a peer that is not an address."""
    TOKEN_MALFORMED = "token_malformed"
    """The shopper came over IPv6 with an invalid token."""
    TOKEN_FORGED = "token_forged"
    """The token is not signed with one of the beacon's keys."""
    TOKEN_STALE = "token_stale"
    """The token had expired by the time of the checkout, or the beacon's clock is ahead."""
    TOKEN_UNBOUND = "token_unbound"
    """The checkout request has no key to which a token could be bound."""
    TOKEN_FOREIGN = "token_foreign"
    """The token was given for another checkout."""
    TOKEN_REPLAYED = "token_replayed"
    """The token was already used for another record."""
    BODY_MISSING = "body_missing"
    """The body of a server's request has no address, on a route with `address_from_body=True`."""
    BODY_MALFORMED = "body_malformed"
    """The body's value is not an address."""
    BODY_IPV6 = "body_ipv6"
    """The address in the body is IPv6."""
    BODY_PRIVATE = "body_private"
    """The address in the body is not public unicast."""

    @property
    def mendable(self) -> bool:
        """Whether another configuration could still find the address in the same request."""
        return self not in _FINAL

    @property
    def remedy(self) -> str:
        """What a person can do, in a sentence or two. Empty if there is an address."""
        return self.remedy_for("the platform's header")

    def remedy_for(self, header: str, *, loopback: bool = False) -> str:
        """What a person can do. `header` names the header that was read. `loopback`: it had this machine's address."""
        remedy = _REMEDIES.get(self, "")
        if loopback:
            remedy = _ON_LOOPBACK.get(self, remedy)
        return remedy.format(header=header, Header=header[0].upper() + header[1:])


_FINAL: Final = frozenset(
    {
        Reason.OK,
        Reason.IPV6_CLIENT,
        Reason.PSEUDO_IPV4,
        Reason.TOKEN_MALFORMED,
        Reason.TOKEN_STALE,
        Reason.TOKEN_FOREIGN,
        Reason.TOKEN_REPLAYED,
        Reason.BODY_IPV6,
        Reason.BODY_PRIVATE,
    }
)
_ON_LOOPBACK: Final = {
    Reason.PRIVATE_ADDRESS: (
        "127.0.0.1 is this machine. In development set BUTTER_ENVIRONMENT=staging. In production a proxy on this "
        "host is taken for the shopper: name it in client_ip=."
    ),
    Reason.IPV6_CLIENT: (
        "::1 is this machine, over IPv6. In development open 127.0.0.1 instead of localhost, and set "
        "BUTTER_ENVIRONMENT=staging."
    ),
}
_REMEDIES: Final = {
    Reason.IPV6_CLIENT: "Butter takes IPv4 only. Let the checkout page call butter.ipv4_beacon: see docs/ipv6.md.",
    Reason.PRIVATE_ADDRESS: "A proxy of yours is taken for the shopper: add its network to the trusted ones.",
    Reason.PSEUDO_IPV4: "Switch the CDN's Pseudo IPv4 off, or to 'Add header'.",
    Reason.UNTRUSTED_PEER: (
        "The peer is not a proxy that may set {header}: add its network to trusted= or peer_in=. A Unix socket is "
        "'unix:'."
    ),
    Reason.TOO_FEW_HOPS: "{Header} has fewer elements than the configuration counts proxies: lower the number of hops.",
    Reason.NO_UNTRUSTED_HOP: (
        "{Header} names trusted proxies only: a trusted network contains the shoppers too, or the first proxy appends "
        "nothing."
    ),
    Reason.MALFORMED: (
        "What the nearest proxy wrote into {header} is not an address: check how that proxy sets the header."
    ),
    Reason.HEADER_MISSING: "{Header} is missing: check which platform is in front of the app.",
    Reason.DUPLICATE_HEADER: (
        "{Header} came more than once: configure the platform to replace it, not to add another one."
    ),
    Reason.REQUIRED_HEADER: "The request did not come through the platform, or its ID is not the configured one.",
    Reason.SERVER_REWRITE_CONFLICT: (
        "The server took the peer from a header that the shopper may have written. Start uvicorn with "
        "--no-proxy-headers, or leave out the similar option of another server (Daphne's --proxy-headers, Hypercorn's "
        "ProxyFixMiddleware). For Mangum behind a load balancer, set client_ip=client_ip.aws_alb()."
    ),
    Reason.NO_PEER: "The server gives no peer address: use a strategy that reads a header.",
    Reason.TOKEN_MALFORMED: "Send the beacon's token as it came, whole, and only once.",
    Reason.TOKEN_FORGED: (
        "Give the beacon and the shop the same keys; remove an old key only after its last token has expired."
    ),
    Reason.TOKEN_STALE: "Let the page ask for the token when the shopper pays, raise ttl=, and set the hosts' clocks.",
    Reason.TOKEN_UNBOUND: "The checkout's key is not where Beacon(bind=...) expects it in the request.",
    Reason.TOKEN_FOREIGN: "Let the page send the beacon the same key that is in the checkout request.",
    Reason.TOKEN_REPLAYED: "Let the page ask for a new token for each payment.",
    Reason.BODY_MISSING: "The route has address_from_body=True: let its extractor give ipv4_address, or drop it.",
    Reason.BODY_MALFORMED: (
        "What the extractor gave as ipv4_address is not an address: look at the field that it reads."
    ),
    Reason.BODY_IPV6: "Butter takes IPv4 only, and the PSP saw this shopper over IPv6.",
    Reason.BODY_PRIVATE: "The PSP was told the address of a server or a proxy: pass it the shopper's own.",
}
