"""Personal data in what is shown: enough is left of an address to recognise it, too little to use it."""

import re
from ipaddress import IPv6Address
from typing import Final

_EMAIL: Final = re.compile(
    r"""(?<![^\s@"'`<>()\[\]{},;:=&?/\\|])  # once a run of such characters, so that a long body takes no long time
    ((?:[^\s@"'`<>()\[\]{},;:=&?/\\|%]|%(?!40)[0-9a-f]{2})+)
    (@|%40)(?=\w)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The local part, as loosely as it occurs in JSON, URLs and forms; the domain stays as it is."""
_IPV4: Final = re.compile(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.\d{1,3}\.\d{1,3}(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<!\w)[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]*(?!\w|\.\w)", re.IGNORECASE)


def mask(text: str) -> str:
    """Return the text with e-mail and IP addresses masked: `a***@example.com`, `81.2.x.x`, `2001:db8:x`."""
    text = _EMAIL.sub(lambda found: f"{found[1][0]}***{found[2]}", text)
    text = _IPV4.sub(r"\1.\2.x.x", text)
    return _IPV6.sub(lambda found: _mask_ipv6(found[0]), text)


def _mask_ipv6(text: str) -> str:
    # A colon before or after it may be the sentence's.
    for part in (text, text[:-1], text[1:], text[1:-1]):
        try:
            groups = IPv6Address(part).exploded.split(":")[:2]
        except ValueError:
            continue
        return text.replace(part, ":".join(group.lstrip("0") or "0" for group in groups) + ":x")
    return text  # a time, or a MAC address
