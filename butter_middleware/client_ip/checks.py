"""What a strategy is given, checked when it is built. All of it raises `ConfigurationError`."""

import re
from collections.abc import Iterable
from typing import Final

from butter_middleware.client_ip.address import Networks, listed
from butter_middleware.client_ip.headers import ELEMENTS
from butter_middleware.errors import ConfigurationError

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def set_networks(strategy: object, option: str, entries: Iterable[str] | None) -> None:
    """Set a frozen strategy's networks, and the option they come from as a tuple, which can be read again."""
    networks = None
    if entries is not None:
        where = f"{type(strategy).__name__}({option}=...)"
        entries = listed(entries, where)
        networks = Networks(entries, where)
    object.__setattr__(strategy, option, entries)
    object.__setattr__(strategy, "_networks", networks)


def proof(require: tuple[str, str]) -> tuple[bytes, bytes]:
    """Check `require`, and return the header's name in lower case and the value."""
    match require:
        case (str(name), str(value)) if value.strip():
            return header_name(name), value.strip().encode()
        case _:
            msg = "SingleHeader(require=...) is a header's name and the value that proves the platform, as two strings."
            raise ConfigurationError(msg)


def header_name(name: object) -> bytes:
    """Check a header's name, and return it in lower case."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        msg = f"{name!r} is not a header name."
        raise ConfigurationError(msg)
    return name.lower().encode()


def check_hops(n: object) -> None:
    """Check a number of proxies."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= ELEMENTS:
        msg = f"the number of hops is {n!r}: count the proxies that append to the header, from 1 to {ELEMENTS}."
        raise ConfigurationError(msg)
