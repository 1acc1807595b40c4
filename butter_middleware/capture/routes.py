"""The checkout routes: which requests are checkouts, and how each is read."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from types import FunctionType
from typing import Any, Final, Literal, get_args

from starlette.routing import compile_path

from butter_middleware import config
from butter_middleware.errors import ConfigurationError, syntax_problem
from butter_middleware.models.checkout import Psp
from butter_middleware.models.http import EXTRACTOR_REMEDY, CheckoutResponse, Extractor

Gate = Callable[[CheckoutResponse], bool]
Join = Callable[[CheckoutResponse], str | int | None]
Source = Literal["response", "request"]

_SLASHES: Final = re.compile("//+")
_POST_REDIRECT_GET: Final = frozenset({302, 303})
_INSTEAD: Final = {
    "extract": EXTRACTOR_REMEDY,
    "when": "Pass a plain function of one CheckoutResponse that gives True or False.",
    "join": "Pass a JMESPath expression, or a plain function of one CheckoutResponse that gives the key.",
}


def _one_slash(path: str) -> str:
    """Return a path with one slash before each segment, and none at the end."""
    return "/" + _SLASHES.sub("/", path).strip("/")


class Template:
    """A compiled path template, such as `/checkout/{cart_id:uuid}`.

    Raises:
        ConfigurationError: the template is not an absolute path, or cannot be compiled.
    """

    def __init__(self, path: str) -> None:
        remedy = "Write a path as Starlette does, such as '/checkout/{cart_id}'."
        is_text = isinstance(path, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_text or not path.startswith("/") or any(c in path for c in "?# \n"):
            msg = f"path template {path!r}: it is not an absolute path without query. {remedy}"
            raise ConfigurationError(msg)
        if "<" in path and ">" in path:
            msg = f"path template {path!r}: it has a parameter in angle brackets. {remedy}"
            raise ConfigurationError(msg)
        try:
            self._regex, path_format, self._convertors = compile_path(path)
            self.parts = [(literal, name) for literal, name, _spec, _conversion in Formatter().parse(path_format)]
        except (AssertionError, ValueError, re.error) as error:
            msg = f"path template {path!r}: {error}. {remedy}"
            raise ConfigurationError(msg) from None
        if any(name is not None and name not in self._convertors for _literal, name in self.parts):
            msg = f"path template {path!r}: a parameter's name is not an identifier. {remedy}"
            raise ConfigurationError(msg)
        # Starlette's own pattern decides, also for a path without parameters: its `$` matches before a final newline.
        self.match = self._regex.match
        self._folded = re.compile(compile_path(_one_slash(path))[0].pattern, re.IGNORECASE)
        self.pattern = re.sub(r"\(\?P<\w+>", "(", self._regex.pattern)
        """The template without the names of its parameters."""

    def written(self, path: str) -> str | None:
        """Return a path from `_one_slash` in this template's spelling, if only the case differs. Otherwise None."""
        found = self._folded.match(path)
        if found is None:
            return None
        return "".join(literal if name is None else literal + found[name] for literal, name in self.parts)

    def params(self, path: str) -> dict[str, Any]:
        """Return the parameters in `path`, converted. Empty if it does not match."""
        found = self.match(path)
        return {} if found is None else {k: self._convertors[k].convert(v) for k, v in found.groupdict().items()}


@dataclass(frozen=True)
class CheckoutRoute:
    """One route of the shop on which a checkout succeeds.

    Args:
        path: A template in Starlette's syntax, converters included, matched against the path without `root_path`.
        psp: The payment service provider of this route's IDs.
        extract: A plain function. It gets the `CheckoutResponse` and returns a mapping, a `Checkout`, several of them,
            or None if this response is not a checkout. If left out, the endpoint annotates all fields, no body is
            buffered, and the response may have any content type.
        when: A function that is called before `extract`. If it returns False, this response is not a checkout.
        methods: The request methods. The default is POST. GET does not imply HEAD.
        capture_request_body: Keep the request's body too, for `response.request.json()`, if the app reads all of it
            before it answers.
        address_from_body: The caller of this route is a server, not the shopper, so its address is never used.
            The shopper's address is the extractor's `ipv4_address`, or the one that the presets of Recharge and
            Recurly find. It must be a public IPv4 address. On every other route, an address from a body is never used.
        join: For a payment that another request confirms, as with a payment page that the PSP hosts. The captures of
            this route are then *parts* of checkouts. `join` gives the key that both parts have in common, such as the
            session's ID. It is a JMESPath expression for the JSON, or a function of `CheckoutResponse`. If it gives
            None or an empty string, this is not a checkout, and `extract` is not called.
        address: For a route with `join`. True: the shopper's browser sends this request, which begins the checkout. It
            gives the address and may lack everything else, even a payment. If `join` is a function, a redirect to the
            PSP's page is captured like a 2xx. False: a server sends this request, which confirms the payment. `extract`
            and `when` work as usual, and no address is read. A record needs one part of each kind, in either order,
            within `join_ttl`.
        source: The body that `extract`, `when` and `join` read. "request": the request's body, as for a webhook. The
            response may then have any content type.

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
        where = f"route {self.path!r}"
        for name in ("capture_request_body", "address_from_body", "address"):
            config.flag(f"{where}: {name}", getattr(self, name))
        config.one_of(f"{where}: psp", self.psp, get_args(Psp))
        config.one_of(f"{where}: source", self.source, get_args(Source))
        given: object = self.methods
        methods = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        for problem in self._problems(methods):
            msg = f"{where}: {problem}"
            raise ConfigurationError(msg)
        join = self._compiled(self.join) if isinstance(self.join, str) else self.join
        for role, function in (("extract", self.extract), ("when", self.when), ("join", join)):
            if function is not None:
                config.function(f"{where}: {role}", function, _INSTEAD[role])
        object.__setattr__(self, "methods", tuple(method.upper() for method in methods))
        object.__setattr__(self, "template", Template(self.path))
        object.__setattr__(self, "key_of", join)
        object.__setattr__(self, "capture_request_body", self.capture_request_body or self.source == "request")

    def _problems(self, methods: Sequence[object]) -> Iterator[str]:
        """Yield the options that cannot work together."""
        if isinstance(self.extract, FunctionType) and _is_factory(self.extract):
            name = f"extract.{self.extract.__name__}"
            options = "" if self.extract.__name__ in get_args(Psp) else "..."
            yield f"{name} is a factory: write {name}({options})"
        if (whose := getattr(self.extract, "psp", self.psp)) != self.psp:
            yield f"psp={self.psp!r}, and extract reads the objects of {whose}. Make them agree."
        if not self.address_from_body and "ipv4_address" in getattr(self.extract, "fields", ()):
            yield (
                "extract gives ipv4_address, so the author of the body would choose the evidence. Leave it out. If a "
                "server calls this route, set address_from_body=True."
            )
        if not methods or not all(map(_is_method, methods)):
            yield f"methods={self.methods!r} is not a sequence of method names. Write methods=('POST',)."
        if not self.address and self.join is None:
            yield (
                "address=False leaves its records without an address. Say by join= which route's request has it, or "
                "use address_from_body=True."
            )
        if self.join is not None and self.address_from_body:
            yield "join= takes the address from the shopper's part. Leave address_from_body out."

    def _compiled(self, join: str) -> Join:
        import jmespath  # noqa: PLC0415 - most routes do not join
        from jmespath.exceptions import JMESPathError  # noqa: PLC0415

        try:
            expression: Any = jmespath.compile(join)
        except JMESPathError as error:
            msg = f"route {self.path!r}: join={join!r} is not a JMESPath expression: {syntax_problem(error)}"
            raise ConfigurationError(msg) from None
        return lambda response: expression.search(response.json())

    @cached_property
    def annotated_only(self) -> bool:
        """Whether the endpoint's annotations are sufficient."""
        return self.extract is None and self.when is None and self.join is None

    @cached_property
    def reads_body(self) -> bool:
        """Whether the response's body is needed."""
        return not self.annotated_only and self.source == "response"

    @property
    def from_shopper(self) -> bool:
        """Whether the shopper sends its requests, so that their address is evidence."""
        return self.address and not self.address_from_body

    @property
    def begins(self) -> bool:
        """Whether it gives the shopper's part of a checkout that another request confirms."""
        return self.join is not None and self.address

    def takes(self, status: int, *, annotated: bool) -> bool:
        """Whether a response with this status may be a checkout: a success (RFC 9110, section 15.3), or a redirect.

        A form is answered with 302 or 303 after a payment. A redirect counts only if the endpoint annotated, because it
        proves nothing by itself.
        """
        if 200 <= status < 300:  # noqa: PLR2004 - as the section says
            return True
        return (annotated and status in _POST_REDIRECT_GET) or self.redirects(status)

    def redirects(self, status: int) -> bool:
        """Whether this status sends a shopper who begins a checkout to the PSP's page, without JSON."""
        is_redirect = 300 <= status < 400  # noqa: PLR2004 - RFC 9110, section 15.4
        return is_redirect and self.begins and not isinstance(self.join, str)

    @cached_property
    def name(self) -> str:
        """The route's name in counts and in the log."""
        return f"{'|'.join(self.methods)} {self.path}"

    def __str__(self) -> str:
        return self.name


def _is_factory(function: FunctionType) -> bool:
    """Whether it is a function of `butter_middleware.extract` that makes extractors."""
    package = __name__.partition(".")[0]
    return str(function.__module__).startswith(f"{package}.extract.") and function.__qualname__ == function.__name__


def _no_route(given: object) -> str:
    """Return the error's text for a `routes=` that cannot be used."""
    problem = "routes= contains something that is not a CheckoutRoute:"
    if isinstance(given, CheckoutRoute):
        problem = "routes= is not a list, but"
    return f"{problem} {type(given).__name__}. Write routes=[CheckoutRoute('/checkout', psp='stripe')]."


def _is_method(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.isalpha()


class _ByMethod(dict[str, list[CheckoutRoute]]):
    """Routes by method. ASGI requires upper case. Some servers pass on other spellings, which count as upper case."""

    def __missing__(self, method: str) -> Sequence[CheckoutRoute]:
        return self.get(method.upper(), ())


class RouteTable:
    """The checkout routes of a shop, found by method and path. The first match wins, as in Starlette.

    Raises:
        ConfigurationError: two routes match the same requests, or something is not a `CheckoutRoute`.
    """

    def __init__(self, routes: Iterable[CheckoutRoute]) -> None:
        self.routes: tuple[CheckoutRoute, ...] = ()
        self._by_method = _ByMethod()
        if not isinstance(routes, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(_no_route(routes))
        for route in routes:
            self.add(route)

    def add(self, route: CheckoutRoute) -> None:
        """Add a route. Earlier routes are tried first.

        Raises:
            ConfigurationError: it is not a `CheckoutRoute`, or an earlier route with the same template and a common
                method would always win.
        """
        if not isinstance(route, CheckoutRoute):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(_no_route(route))
        for other in self.routes:
            if set(route.methods) & set(other.methods) and route.template.pattern == other.template.pattern:
                msg = f"routes {other} and {route} match the same requests. Make their paths or methods differ."
                raise ConfigurationError(msg)
        self.routes += (route,)
        for method in dict.fromkeys(route.methods):
            self._by_method.setdefault(method, []).append(route)

    def find(self, method: str, path: str) -> CheckoutRoute | None:
        """Return the first route that this request matches."""
        for route in self._by_method[method]:
            if route.template.match(path):
                return route
        return None

    def find_folded(self, method: str, paths: Iterable[str]) -> tuple[CheckoutRoute, str] | None:
        """Return the first route that one of the paths matches if case and extra slashes are ignored.

        The second value is that path in the spelling of the route's template.
        """
        if not (routes := self._by_method[method]):
            return None
        found = ((route, route.template.written(path)) for path in map(_one_slash, paths) for route in routes)
        return next(((route, path) for route, path in found if path is not None and route.template.match(path)), None)
