"""Places of values in a checkout request that are not fields of the record, such as `"header:X-Name"`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from starlette.datastructures import QueryParams

from butter_middleware._utils.asgi import RawHeaders
from butter_middleware.errors import ConfigurationError, ExtractionError
from butter_middleware.models.http import Capture, parse_json

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")


class _PathTemplate(Protocol):
    @property
    def parts(self) -> Sequence[tuple[str, str | None]]: ...  # its literals, each with the following parameter
    @property
    def match(self) -> Callable[[str], re.Match[str] | None]: ...


class Route(Protocol):
    """The part of a checkout route that the beacon needs."""

    @property
    def template(self) -> _PathTemplate:
        """Its path."""
        ...

    @property
    def from_shopper(self) -> bool:
        """Whether the shopper sends the requests."""
        ...

    @property
    def capture_request_body(self) -> bool:
        """Whether the request's body is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of place, and the name of the value there."""

    kind: str
    name: str

    def find(self, capture: Capture, route: Route) -> str:
        """Return the value. Empty if there is none. Never raises."""
        match self.kind:
            case "path":
                # Not converted: the page's key is "007", not 7.
                found = route.template.match(capture.path)
                return "" if found is None else found.groupdict().get(self.name, "")
            case "query":
                return QueryParams(capture.query_string).get(self.name, "")
            case "header":
                wanted = self.name.lower().encode()
                values = b", ".join(value for key, value in capture.headers if key.lower() == wanted)
                return values.decode("latin-1").strip(" \t")
            case "cookie":
                return capture.cookies.get(self.name, "")
            case _:
                return _field(self.name, capture)


def place(option: str, text: str, kinds: Sequence[str]) -> Place:
    """Parse a place such as `"cookie:session"`.

    Raises:
        ConfigurationError: the kind is not allowed here, or the name is not possible.
    """
    kind, _colon, name = str(text).partition(":")
    if kind not in kinds or not _NAME.fullmatch(name):
        forms = ", ".join(f"'{kind}:...'" for kind in kinds)
        msg = f"Beacon: {option}={text!r} is not a place in a request. Write one of {forms}, with a name."
        raise ConfigurationError(msg)
    return Place(kind, name)


def cookie_jar(headers: RawHeaders) -> dict[str, str]:
    """Return the cookies of a request. Of two with one name, the last counts, as in Starlette. Never raises.

    It runs inside a request, and Starlette's parser takes 20 s for 64 KiB of backslashes if Python has CVE-2024-7592.
    """
    pairs = [pair for name, value in headers if name.lower() == b"cookie" for pair in value.split(b";")]
    split = (pair.decode("latin-1").partition("=") for pair in pairs)
    return {name.strip(): value.strip(' \t"') for name, _equals, value in split}


def _field(name: str, capture: Capture) -> str:
    body = capture.request_body or b""
    kind = dict(capture.headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/x-www-form-urlencoded":
        return QueryParams(body).get(name, "")
    try:
        value: Any = parse_json(body, "request")
    except ExtractionError:
        return ""
    for step in name.split("."):
        value = cast("dict[str, Any]", value).get(step) if isinstance(value, dict) else None
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
