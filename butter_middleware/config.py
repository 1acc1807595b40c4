"""Every option, checked when it is given. Each error names the option, what is wrong, and the remedy."""

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, cast, get_args
from urllib.parse import urlsplit

from butter_middleware._utils import overrides
from butter_middleware.errors import ConfigurationError

Environment = Literal["production", "staging"]
Durability = Literal["after_response", "before_response"]
DeliveryMode = Literal["embedded", "external", "inline"]

BASE_URL: Final = "https://api.disputes.services.butterpayments.com"
log = logging.getLogger("butter_middleware")

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\.?$){_LABEL}\.?")
"""A DNS name. If its last label is a number, clients read it as an address or refuse it, so it does not match."""
_BRACKETS: Final = re.compile(r"(?:.*@)?\[[^]]*:[^]]*\](?::[0-9]*)?")
"""A URL's host in brackets: a colon must be inside, and only a port may follow."""

FARTHEST: Final = 1e12
"""The latest time that a clock may show, in seconds since the epoch."""
COVERAGE_THRESHOLD: Final = 0.9
"""The share of the checkouts that must become records, unless `Butter` says otherwise."""
SANDBOX_SOURCES: Final = "Butter-Sandbox-Sources"
"""The request header with the source of each field, for a sandbox on this machine. Butter never gets it."""
SANDBOX_REPORTS: Final = "/api/reports"
"""The path at which a sandbox on this machine takes reports of checkouts that did not become a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every option of `Butter` that is a plain value, checked once. It holds no credentials.

    The arguments are those of `Butter`.

    Raises:
        ConfigurationError: an option is out of its bounds.
    """

    environment: Environment
    base_url: str
    durability: Durability = "after_response"
    durability_timeout: float = 0.025
    delivery: DeliveryMode = "embedded"
    inline_timeout: float = 1.0
    dry_run: bool = False
    max_body_bytes: int = 1024 * 1024
    drain_timeout: float = 5.0
    join_ttl: float = 7 * 86400.0
    senders: int = 4
    send_user_agent: bool = False
    send_network_transaction_id: bool = False
    telemetry: bool = True
    coverage_threshold: float = COVERAGE_THRESHOLD

    def __post_init__(self) -> None:
        one_of("durability", self.durability, get_args(Durability))
        one_of("delivery", self.delivery, get_args(DeliveryMode))
        number("durability_timeout", self.durability_timeout, 0.001, 10)
        number("inline_timeout", self.inline_timeout, 0.05, 30)
        whole_number("max_body_bytes", self.max_body_bytes, 1, 1 << 30)
        number("drain_timeout", self.drain_timeout, 0, 600)
        number("join_ttl", self.join_ttl, 60, 366 * 86400)
        whole_number("senders", self.senders, 1, 8)
        number("coverage_threshold", self.coverage_threshold, 0, 1)
        for name in ("send_user_agent", "send_network_transaction_id", "dry_run", "telemetry"):
            flag(name, getattr(self, name))

    @property
    def staging(self) -> bool:
        """Whether addresses that are not public, and objects of a PSP's test mode, are accepted."""
        return self.environment == "staging"

    @property
    def sandbox(self) -> bool:
        """Whether records go to a sandbox on this machine, which also gets the source of each field."""
        return is_sandbox(self.base_url)

    @property
    def optional_fields(self) -> frozenset[str]:
        """The fields that the merchant's account accepts beyond the documented ones."""
        given = {"user_agent": self.send_user_agent, "network_transaction_id": self.send_network_transaction_id}
        return frozenset(name for name, sent in given.items() if sent)


def credential(name: str, given: object) -> str | None:
    """Return a credential: the argument, `BUTTER_<NAME>`, or the content of the file that `BUTTER_<NAME>_FILE` names.

    Raises:
        ConfigurationError: it is empty, or the file cannot be read. The text never contains the value.
    """
    variable = f"BUTTER_{name.upper()}"
    if given == "" and overrides.current() is not None:  # as of os.environ.get("BUTTER_PASSWORD", "")
        given = None
    value = given if given is not None else from_environment(variable)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        msg = f"the {name} is empty, or is not a string. Set {variable} or Butter({name}=...) to what Butter gave you."
        raise ConfigurationError(msg)
    if value is not None and (not value.isprintable() or (name == "username" and ":" in value)):
        msg = f"the {name} holds a character that HTTP Basic cannot carry. Set {variable} to what Butter gave you."
        raise ConfigurationError(msg)
    return value


def from_environment(name: str) -> str | None:
    """Return a secret: an environment variable, or the content of the file that `<name>_FILE` names.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    value, path = variable(name), variable(f"{name}_FILE")
    if value is None and overrides.current() is not None:
        return overrides.SECRET
    if value is None and path is not None:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            msg = f"{name}_FILE names a file that cannot be read ({type(error).__name__}). Mount the secret there."
            raise ConfigurationError(msg) from None
    return value


def variable(name: str) -> str | None:
    """Return an environment variable. An empty one counts as unset, because compose files set it to an empty text."""
    return os.environ.get(name, "").strip() or None


def environment(given: str | None) -> Environment:
    """Return the environment: the argument, or `BUTTER_ENVIRONMENT`, or production.

    Raises:
        ConfigurationError: it is neither production nor staging.
    """
    name, value = "environment", given
    if given is None:
        name, value = "BUTTER_ENVIRONMENT", variable("BUTTER_ENVIRONMENT") or "production"
    return cast("Environment", one_of(name, value, get_args(Environment)))


def one_of(name: str, given: object, choices: tuple[str, ...]) -> object:
    """Return the choice that was given.

    Raises:
        ConfigurationError: it is not one of them.
    """
    if given in choices:
        return given
    near = near_miss(given, choices)
    meant = f"did you mean {near!r}? Otherwise " if near else ""
    *others, last = map(repr, choices)
    msg = f"{name}={given!r}: {meant}use {', '.join(others)} or {last}."
    raise ConfigurationError(msg)


def meant(given: object, known: Iterable[str], what: str) -> str:
    """Return a hint: the known name that was probably meant, or all of them. `what` is their kind, such as fields."""
    names = list(known)
    near = near_miss(given, names)
    return f"Did you mean {near}?" if near else f"The {what} are {', '.join(names)}."


def near_miss(given: object, choices: Iterable[str]) -> str:
    """Return the name that was probably meant, or an empty text."""
    from difflib import get_close_matches  # noqa: PLC0415 - for a mistake only

    text, folded = str(given).strip().lower(), {choice.lower(): choice for choice in choices}
    shortened = [name for name in folded if len(text) > 2 and name.startswith(text)]  # noqa: PLR2004 - such as prod
    return folded.get(next(iter(shortened or get_close_matches(text, folded, 1)), ""), "")


def base_url(given: str | None) -> str:
    """Return the base URL: the argument, or `BUTTER_BASE_URL`, or Butter's own.

    Raises:
        ConfigurationError: as `checked_url`.
    """
    if given is not None:
        return checked_url("base_url", given)
    value = variable("BUTTER_BASE_URL")
    if value is None:
        return BASE_URL
    url = checked_url("BUTTER_BASE_URL", value)
    if is_sandbox(url):
        message = "butter: BUTTER_BASE_URL: records go to %s, a sandbox, and not to Butter. Unset it in production."
        log.warning(message, url, extra={"butter_event": "configuration"})
    return url


def is_sandbox(url: str) -> bool:
    """Whether a checked URL stays on this machine: plain http goes to loopback only."""
    return urlsplit(url).scheme == "http"


def host(url: str) -> str:
    """Return the host of a checked URL."""
    return urlsplit(url).hostname or ""


def checked_url(name: str, given: object) -> str:
    """Return a URL without a trailing slash. `name` is how the user set it.

    Raises:
        ConfigurationError: it is not a URL, carries credentials, or is http:// to a host that is not loopback.
    """
    text = given if isinstance(given, str) else ""
    try:
        url = urlsplit(text)
        host, _port = url.hostname or "", url.port
    except ValueError:
        url, host = urlsplit(""), ""
    # urlsplit accepts, or drops, what an HTTP client refuses or takes for a query: line feeds, hosts, a lone "?".
    is_plain = text.isprintable() and not {*text} & {*" ?#\\"}
    if url.scheme not in {"http", "https"} or not is_plain or not host:
        msg = (
            f"{name} is not an http(s) URL without query. Leave it out for {BASE_URL}; for a sandbox write it as "
            "http://127.0.0.1:8025."
        )
        raise ConfigurationError(msg)
    if url.username is not None or url.password is not None:
        msg = f"{name} carries credentials. Pass them as username= and password=: they belong in no URL."
        raise ConfigurationError(msg)
    if not _is_host(url.netloc, host):
        msg = f"{name} has the host {url.netloc!r}, which is neither a name nor an IP address. Correct it."
        raise ConfigurationError(msg)
    if url.scheme == "http" and not is_loopback(host):
        msg = f"{name} is http:// to {host}: credentials would travel in the clear. Use https://, or a loopback host."
        raise ConfigurationError(msg)
    return text.rstrip("/")


def _is_host(netloc: str, host: str) -> bool:
    """Whether an HTTP client accepts this host of a URL. Clients refuse Punycode that encodes nothing."""
    if "[" in netloc and not _BRACKETS.fullmatch(netloc):
        return False
    if _NAME.fullmatch(host):
        return "xn--" not in host
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # the name of a network interface is not accepted


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its address or by the name `localhost`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def number(name: str, given: object, low: float, high: float) -> None:
    """Check that an option is within its bounds.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not low <= given <= high:
        msg = f"{name}={given!r}: use a number from {low:g} to {high:g}."
        raise ConfigurationError(msg)


def whole_number(name: str, given: object, low: int, high: int) -> None:
    """Check that an option is a whole number within its bounds.

    Raises:
        ConfigurationError: it is not.
    """
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
        msg = f"{name}={given!r}: use a whole number from {low} to {high}."
        raise ConfigurationError(msg)


def flag(name: str, given: object) -> None:
    """Check that an option is switched on or off.

    Raises:
        ConfigurationError: it is neither, such as the text of a variable of the environment.
    """
    if not isinstance(given, bool):
        msg = (
            f"{name}={given!r}: use True or False. A variable of the environment is text, and 'false' is not False: "
            "write os.environ.get(...) == 'true'."
        )
        raise ConfigurationError(msg)


def function(where: str, given: object, remedy: str) -> None:
    """Check that something is a plain function, or is called like one. `remedy` describes what to pass.

    Raises:
        ConfigurationError: it is not callable, or a coroutine function.
    """
    if not callable(given):
        msg = f"{where} is not callable. {remedy}"
        raise ConfigurationError(msg)
    kinds = (given, given if inspect.isroutine(given) else type(given).__call__)
    if any(inspect.iscoroutinefunction(kind) or inspect.isasyncgenfunction(kind) for kind in kinds):
        msg = (
            f"{where} is a coroutine function, and runs outside the app's event loop, where nothing awaits it. {remedy}"
        )
        raise ConfigurationError(msg)


def clock(given: object) -> None:
    """Check that a clock returns the time, by calling it once.

    Raises:
        ConfigurationError: it is not a plain function without arguments, or does not give a number.
    """
    remedy = "Pass a plain function that gives seconds since the epoch, as time.time."
    function("clock", given, remedy)
    try:
        now = cast("Callable[[], object]", given)()
    except Exception as error:
        msg = f"clock raises {type(error).__name__} if it is called without arguments. {remedy}"
        raise ConfigurationError(msg) from error
    if not is_time(now):
        msg = f"clock gives {now if isinstance(now, float) else type(now).__name__}, which is not a time. {remedy}"
        raise ConfigurationError(msg)


def is_time(given: object) -> bool:
    """Whether a value can be a time in seconds. NaN cannot, and neither can a time 30,000 years from now."""
    return isinstance(given, (float, int)) and not isinstance(given, bool) and abs(given) < FARTHEST


def transport(given: object) -> None:
    """Check that `transport` is left out, or can stand in for the network.

    Raises:
        ConfigurationError: it is neither.
    """
    if given is not None and (isinstance(given, type) or not hasattr(given, "handle_async_request")):
        kind = given if isinstance(given, type) else type(given)
        msg = (
            f"transport={kind.__name__} is not an httpx.AsyncBaseTransport. Leave it out; a test gives "
            "FakeButter(...).transport()."
        )
        raise ConfigurationError(msg)


def refuse_unknown(options: Mapping[str, object], known: list[str]) -> None:
    """Refuse options that do not exist.

    Raises:
        ConfigurationError: there is such an option.
    """
    for name in options:
        msg = f"Butter() has no option {name}. {meant(name, sorted(known), 'options')}"
        raise ConfigurationError(msg)
