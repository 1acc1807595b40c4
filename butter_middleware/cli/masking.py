"""Personal data in what is shown: enough is left of an address to recognise it, too little to use it.

Addresses of a private network, and of this machine, are proxies' and nobody's in particular: they stay.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

_EMAIL: Final = re.compile(
    r"""(?<![^\s@"'`<>()\[\]{},;:=&?/\\|])  # once a run of such characters, so that a long body takes no long time
    ((?:[^\s@"'`<>()\[\]{},;:=&?/\\|%]|%(?!40)[0-9a-f]{2})+)
    (@|%40)(?=\w)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The local part, as loosely as it occurs in JSON, URLs and forms; the domain stays as it is."""
_IPV4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<!\w)[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]*(?!\w|\.\w)", re.IGNORECASE)
_PRIVATE: Final = [
    IPv4Network(network)
    for network in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
]


def mask(text: str) -> str:
    """Return the text with e-mail and IP addresses masked: `a***@example.com`, `81.2.x.x`, `2001:db8:x`."""
    text = _EMAIL.sub(lambda found: f"{found[1][0]}***{found[2]}", text)
    text = _IPV4.sub(lambda found: _mask_ipv4(found[0]), text)
    return _IPV6.sub(lambda found: _mask_ipv6(found[0]), text)


def _mask_ipv4(text: str) -> str:
    first, second, *_rest = text.split(".")
    try:
        is_private = any(IPv4Address(text) in network for network in _PRIVATE)
    except ValueError:  # a leading zero, or beyond 255: rather hidden than shown
        is_private = False
    return text if is_private else f"{first}.{second}.x.x"


def _mask_ipv6(text: str) -> str:
    # A colon before or after it may be the sentence's.
    for part in (text, text[:-1], text[1:], text[1:-1]):
        try:
            address = IPv6Address(part)
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified:
            return text
        groups = address.exploded.split(":")[:2]
        return text.replace(part, ":".join(group.lstrip("0") or "0" for group in groups) + ":x")
    return text  # a time, or a MAC address
