"""The shopper's address in a body, for routes with `address_from_body=True`, whose caller is a server."""

from enum import StrEnum
from typing import Final

from butter_middleware.client_ip.address import NOT_PUBLIC, Networks, is_v4, parse_host, text_of


class BodyReason(StrEnum):
    """Why a body gives no address that is evidence."""

    MISSING = "body_missing"
    """There is no address."""
    MALFORMED = "body_malformed"
    """It is not an address."""
    IPV6 = "body_ipv6"
    """It is IPv6, which Butter does not take."""
    PRIVATE = "body_private"
    """It is not public unicast."""

    @property
    def mendable(self) -> bool:
        """Whether another extractor could still find the address in the same body."""
        return self in {BodyReason.MISSING, BodyReason.MALFORMED}

    @property
    def remedy(self) -> str:
        """What a person can do, in a sentence."""
        return _REMEDIES[self]


_REMEDIES: Final = {
    BodyReason.MISSING: "The route has address_from_body=True: let its extractor give ipv4_address, or drop it.",
    BodyReason.MALFORMED: "What the extractor gave as ipv4_address is not an address: look at the field that it reads.",
    BodyReason.IPV6: "Butter takes IPv4 only, and the PSP saw this shopper over IPv6.",
    BodyReason.PRIVATE: "The PSP was told the address of a server or a proxy: pass it the shopper's own.",
}


def in_body(value: object, admitted: Networks) -> str | BodyReason:
    """Return a public or admitted IPv4 address as a dotted quad, or why there is none."""
    if value is None or value == "":
        return BodyReason.MISSING
    address = parse_host(value.strip()) if isinstance(value, str) else None
    if address is None:
        return BodyReason.MALFORMED
    if not is_v4(address):
        return BodyReason.IPV6
    return BodyReason.PRIVATE if address in NOT_PUBLIC and address not in admitted else text_of(address)
