"""Which requests are checkouts, and how each is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType
from typing import Any, Final, Literal, get_args

from butter_middleware import config
from butter_middleware.capture.templates import Template
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import Psp
from butter_middleware.models.http import EXTRACTOR_REMEDY, CheckoutResponse, Extractor

Gate = Callable[[CheckoutResponse], bool]
Join = Callable[[CheckoutResponse], str | int | None]
Source = Literal["response", "request"]

_NO_ROUTES: Final = "routes= holds what is no CheckoutRoute. Write routes=[CheckoutRoute('/checkout', psp='stripe')]."
_INSTEAD: Final = {
    "extract": EXTRACTOR_REMEDY,
    "when": "Pass a plain function of one CheckoutResponse that gives True or False.",
    "join": "Pass a JMESPath expression, or a plain function of one CheckoutResponse that gives the key.",
}


@dataclass(frozen=True)
class CheckoutRoute:
    """One route of the shop on which a checkout succeeds.

    Args:
        path: A template in Starlette's syntax, converters included, matched against the path less `root_path`.
        psp: The payment service provider whose IDs this route gives.
        extract: A plain function from `CheckoutResponse` to the record's fields: a mapping, a `Checkout`, several of
            them, or None where this response is no checkout. Left out, the endpoint annotates what is needed, no body
            is buffered and the response may be of any content type.
        when: A further gate, asked before `extract`: False means that this response is no checkout.
        methods: The request methods, POST unless said otherwise. GET does not imply HEAD.
        capture_request_body: Keep the request's body too, for `response.request.json()`, where the app reads all of it
            before it has answered.
        address_from_body: The caller of this route is a server, not the shopper, so that the request's address is never
            used: the shopper's is what the extractor gives as `ipv4_address`, or what Recharge and Recurly, read by
            their presets, say that they saw. Only a public IPv4 address counts. On every other route no address of a
            body is used, whatever an extractor gives.
        join: Makes this route's captures *parts* of checkouts whose payment is confirmed apart from the shopper's
            request, as with a payment page that the PSP hosts: what both have in common, such as the session's ID, as a
            JMESPath expression over the JSON, or a function of `CheckoutResponse`. Where it gives None or an empty
            string, this is no checkout, and `extract` is not asked.
        address: Of a route with `join`, whose request it is. True: the shopper's, who begins the checkout. It gives the
            address and may lack everything else; a preset's "not paid" is no obstacle, and where `join` is a function a
            redirect to the PSP's page is captured like a 2xx. False: a server's, which tells of the payment; extractor
            and gate decide as ever, and no address is looked for. A record needs one of each, in either order, within
            `join_ttl`.
        source: Whose body `extract`, `when` and `join` read: with "request" it is the request's, as a webhook brings
            it, and the response may be of any content type.

    Raises:
        ConfigurationError: the template, the PSP, a method or a function cannot work.
    """

    path: str
    psp: Psp
    extract: Extractor | None = None
    when: Gate | None = None
    methods: Sequence[str] = ("POST",)
    capture_request_body: bool = False
    address_from_body: bool = False
    join: str | Join | None = None
    address: bool = True
    source: Source = "response"
    template: Template = field(init=False, repr=False, compare=False)
    key_of: Join | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("capture_request_body", "address_from_body", "address"):
            config.flag(f"route {self.path!r}: {name}", getattr(self, name))
        if self.psp not in get_args(Psp):
            near = config.did_you_mean(self.psp, get_args(Psp))
            msg = f"route {self.path!r}: psp={self.psp!r}: {near}use one of {', '.join(map(repr, get_args(Psp)))}."
            raise ConfigurationError(msg)
        if isinstance(self.extract, FunctionType) and _is_factory(self.extract):
            name = f"extract.{self.extract.__name__}"
            options = "" if self.extract.__name__ in get_args(Psp) else "..."
            msg = f"route {self.path!r}: {name} is a factory: write {name}({options})"
            raise ConfigurationError(msg)
        if (whose := getattr(self.extract, "psp", self.psp)) != self.psp:
            msg = f"route {self.path!r}: psp={self.psp!r}, and extract reads the objects of {whose}. Make them agree."
            raise ConfigurationError(msg)
        if not self.address_from_body and "ipv4_address" in getattr(self.extract, "fields", ()):
            msg = (
                f"route {self.path!r}: extract gives ipv4_address; whoever writes the body would choose the evidence. "
                "Leave it out, or, where the caller of this route is a server, say address_from_body=True."
            )
            raise ConfigurationError(msg)
        given: object = self.methods
        methods = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        if not methods or not all(map(_is_method, methods)):
            msg = f"route {self.path!r}: methods is no sequence of method names. Write methods=('POST',)."
            raise ConfigurationError(msg)
        self._check_parts()
        join = _compiled(f"route {self.path!r}", self.join) if isinstance(self.join, str) else self.join
        for role, function in (("extract", self.extract), ("when", self.when), ("join", join)):
            if function is not None:
                config.function(f"route {self.path!r}: {role}", function, _INSTEAD[role])
        object.__setattr__(self, "methods", tuple(method.upper() for method in methods))
        object.__setattr__(self, "template", Template(self.path))
        object.__setattr__(self, "key_of", join)
        object.__setattr__(self, "capture_request_body", self.capture_request_body or self.source == "request")

    def _check_parts(self) -> None:
        if self.source not in get_args(Source):
            msg = f"route {self.path!r}: source={self.source!r}. Use 'response', or 'request' for a webhook."
            raise ConfigurationError(msg)
        if not self.address and self.join is None:
            msg = (
                f"route {self.path!r}: address=False leaves its records without an address. Say by join= which route's "
                "request has it, or use address_from_body=True."
            )
            raise ConfigurationError(msg)
        if self.join is not None and self.address_from_body:
            msg = f"route {self.path!r}: join= takes the address from the shopper's part. Leave address_from_body out."
            raise ConfigurationError(msg)

    @property
    def reads_body(self) -> bool:
        """Whether the response's body is needed at all."""
        reads = self.extract is not None or self.when is not None or self.join is not None
        return reads and self.source == "response"

    @property
    def from_shopper(self) -> bool:
        """Whether its requests are the shopper's, whose address is evidence."""
        return self.address and not self.address_from_body

    @property
    def begins(self) -> bool:
        """Whether it takes the shopper's part of a checkout that is paid apart."""
        return self.join is not None and self.address

    def takes(self, status: int) -> bool:
        """Whether a response with this status may be a checkout (RFC 9110, section 15.3)."""
        return 200 <= status < 300 or self.redirects(status)  # noqa: PLR2004 - as the section says

    def redirects(self, status: int) -> bool:
        """Whether it sends a shopper who begins a checkout on to the PSP's page, with no JSON."""
        no_json = self.begins and not isinstance(self.join, str)
        return no_json and 300 <= status < 400  # noqa: PLR2004 - RFC 9110, section 15.4

    @cached_property
    def name(self) -> str:
        """As it is counted and logged."""
        return f"{'|'.join(self.methods)} {self.path}"

    def __str__(self) -> str:
        return self.name


def _is_factory(function: FunctionType) -> bool:
    """Say whether it is one of `butter_middleware.extract`, which makes extractors and is none."""
    package = __name__.partition(".")[0]
    return str(function.__module__).startswith(f"{package}.extract.") and function.__qualname__ == function.__name__


def _is_method(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isalpha()


def _compiled(where: str, join: str) -> Join:
    import jmespath  # noqa: PLC0415 - most routes do not join
    from jmespath.exceptions import JMESPathError  # noqa: PLC0415

    try:
        expression: Any = jmespath.compile(join)
    except JMESPathError as error:
        msg = f"{where}: join={join!r} is no JMESPath expression: {str(error).splitlines()[0]}"
        raise ConfigurationError(msg) from None

    def key_of(response: CheckoutResponse) -> Any:  # noqa: ANN401 - JSON is any type
        return expression.search(response.json())

    return key_of


class RouteTable:
    """The checkout routes of a shop, found by method and path.

    Raises:
        ConfigurationError: two routes could match the same request.
    """

    def __init__(self, routes: Iterable[CheckoutRoute]) -> None:
        self.routes: tuple[CheckoutRoute, ...] = ()
        self._literal: dict[tuple[str, str], CheckoutRoute] = {}
        self._templates: dict[str, list[CheckoutRoute]] = {}
        if not isinstance(routes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(_NO_ROUTES)
        for route in routes:
            self.add(route)

    def add(self, route: CheckoutRoute) -> None:
        """Add a route.

        Raises:
            ConfigurationError: it could match a request that another route matches.
        """
        if not isinstance(route, CheckoutRoute):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(_NO_ROUTES)
        for other in self.routes:
            if set(route.methods) & set(other.methods) and route.template.overlaps(other.template):
                msg = f"routes {other} and {route} could match the same request. Make their paths or methods differ."
                raise ConfigurationError(msg)
        self.routes += (route,)
        for method in route.methods:
            if route.template.literal:
                self._literal[method, route.path] = route
            else:
                self._templates.setdefault(method, []).append(route)

    def find(self, method: str, path: str) -> CheckoutRoute | None:
        """Return the route that this request matches."""
        route = self._literal.get((method, path))
        if route is None:
            for candidate in self._templates.get(method, ()):
                if candidate.template.match(path):
                    return candidate
        return route
