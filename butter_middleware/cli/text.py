"""Formats values for people: numbers, times and durations, and masked personal data."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TextIO, cast


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 record`, `2,000 records`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def moment(seconds: float | None) -> str | None:
    """Return a time, in seconds since the epoch, as `2026-11-24T08:00:00Z`."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # the clock was far off
        return None


def duration(seconds: float) -> str:
    """Return a duration for people: `45 s`, `12 min`, `3 h`, `9 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def deliverer_name(process: int | None) -> str:
    """Name the process that delivers. 0: its number is not known. None: no process delivers."""
    if process is None:
        return "no process"
    return f"process {process}" if process else "another process"


def printable(text: str, stream: TextIO) -> str:
    """Return text without control characters, which a terminal would obey, in the stream's encoding."""
    shown = "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


# Masking: enough of an address is left to recognise it, but not to use it. IPv4 addresses that are not public, and the
# IPv6 loopback address, belong to proxies or this machine and not to a person: they are not masked.

_EMAIL: Final = re.compile(
    r"""(?<![^\s@"'`<>()\[\]{},;:=&?/\\|])  # once a run of such characters, so that a long body takes no long time
    ((?:[^\s@"'`<>()\[\]{},;:=&?/\\|%]|%(?!40)[0-9a-f]{2})+)
    (@|%40)(?=\w)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The local part, in any form that occurs in JSON, URLs and forms. The domain is not masked."""
_IPV4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<!\w)[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]*(?!\w|\.\w)", re.IGNORECASE)


def mask(text: str) -> str:
    """Return the text with e-mail and IP addresses masked: `a***@example.com`, `81.2.x.x`, `2001:db8:x`."""
    text = _EMAIL.sub(lambda found: f"{found[1][0]}***{found[2]}", text)
    text = _IPV4.sub(lambda found: _mask_ipv4(found[0]), text)
    return _IPV6.sub(lambda found: _mask_ipv6(found[0]), text)


def mask_all(data: object) -> object:
    """Return JSON with every e-mail and IP address in it masked."""
    if isinstance(data, str):
        return mask(data)
    if isinstance(data, Mapping):
        return {mask(str(key)): mask_all(value) for key, value in cast("Mapping[object, object]", data).items()}
    if isinstance(data, list | tuple):
        return [mask_all(value) for value in cast("Sequence[object]", data)]
    return data


def _mask_ipv4(text: str) -> str:
    first, second, *_rest = text.split(".")
    try:
        is_private = IPv4Address(text).is_private
    except ValueError:  # a leading zero, or beyond 255: masked to be safe
        is_private = False
    return text if is_private else f"{first}.{second}.x.x"


def _mask_ipv6(text: str) -> str:
    # A colon before or after it may belong to the sentence.
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
