"""The parts of a `Butter` that its options name, made."""

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Final, cast

from butter_middleware import settings
from butter_middleware.awaited import HoldBack
from butter_middleware.client_ip import Strategy
from butter_middleware.courier import Courier
from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox import LocalOutbox, MemoryOutbox, SQLiteOutbox
from butter_middleware.routes import CheckoutRoute
from butter_middleware.sources import Sources

if TYPE_CHECKING:
    import httpx  # the core stays free of it until the first record is sent


def strategy(given: Strategy | None, environment: settings.Environment) -> Strategy:
    """Return the strategy, admitting private addresses in staging.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(given, type) or not isinstance(given, Strategy):
        msg = (
            "Butter(client_ip=...) is no strategy, and there is no default: a wrong guess is worthless evidence. Say "
            "what stands before the app, such as client_ip.aws_alb(), client_ip.nginx([...]) or client_ip.direct()."
        )
        raise ConfigurationError(msg)
    return given.admitting_private() if environment == "staging" else given


def courier(
    base_url: str,
    username: str | None,
    password: str | None,
    transport: "httpx.AsyncBaseTransport | None",
    *,
    needed: bool,
    sources: Sources | None = None,
) -> Callable[[], Courier]:
    """Return what makes a client of Butter. Where the credentials are missing and not `needed` here, making one fails.

    `sources` is what a sandbox is told beside the records.

    Raises:
        ConfigurationError: the credentials are missing.
    """
    user, secret = settings.credential("username", username), settings.credential("password", password)
    if needed:
        _refuse_missing(user, secret)
    tell = None if sources is None else sources.text

    def make() -> Courier:
        from butter_middleware.api import ButterClient  # noqa: PLC0415 - httpx is loaded by the worker only

        _refuse_missing(user, secret)
        return ButterClient(base_url, user or "", secret or "", transport=transport, tell=tell)

    return make


def _refuse_missing(user: str | None, secret: str | None) -> None:
    if user is None or secret is None:
        missing = "username" if user is None else "password"
        msg = (
            f"no {missing}: set BUTTER_{missing.upper()}, or BUTTER_{missing.upper()}_FILE to a mounted secret, "
            f"or pass Butter({missing}=...). dry_run=True needs none."
        )
        raise ConfigurationError(msg)


DISK_SECONDS: Final = 0.025
QUEUE_SECONDS: Final = 0.25
"""For which `durability="before_response"` holds back the last chunk at most: for a disk, for a queue."""


def hold_back(delivery: str, durability: str, inline_timeout: float, *, queue: bool) -> HoldBack:
    """Return what the last chunk of a captured response waits for.

    Raises:
        ConfigurationError: there is no such mode, or the time is out of its bounds.
    """
    settings.number("inline_timeout", inline_timeout, 0.05, 30)
    waits = settings.durability(durability) == "before_response"
    if settings.delivery(delivery) == "inline":
        return HoldBack("butter", inline_timeout + (QUEUE_SECONDS if queue else 0.0))
    if queue:
        return HoldBack("queue", QUEUE_SECONDS) if waits else HoldBack()
    return HoldBack("disk", DISK_SECONDS) if waits else HoldBack()


def warnings(outbox: LocalOutbox, routes: Iterable[CheckoutRoute], *, queue: bool = False) -> Iterator[str]:
    """Give what this outbox cannot keep safe, of these routes; of a `queue` it is the waiting room only.

    Raises:
        ConfigurationError: it cannot work.
    """
    if not queue:
        yield from outbox.validate()
    if not outbox.durable and any(route.join is not None for route in routes):
        yield (
            "the parts of a checkout (CheckoutRoute(join=...)) meet in memory: within one process only, and not across "
            "restarts. Set outbox= to the path of an SQLite file."
        )


def local_outbox(given: object, clock: Callable[[], float]) -> LocalOutbox:
    """Return the outbox that this process delivers from.

    Raises:
        ConfigurationError: it is none.
    """
    if given is None:
        return MemoryOutbox(clock=clock)
    if isinstance(given, str | PathLike):
        return SQLiteOutbox(cast("str | PathLike[str]", given), clock=clock)
    if isinstance(given, LocalOutbox):
        return given
    msg = (
        f"outbox={type(given).__name__} is no outbox. Give the path of an SQLite file, or an object with the method "
        "async enqueue(record); leave it out to keep records in memory only."
    )
    raise ConfigurationError(msg)
