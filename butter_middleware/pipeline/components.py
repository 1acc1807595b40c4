"""The parts of a `Butter` that its options name, made."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Final

from butter_middleware import config
from butter_middleware._utils import overrides
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip import Strategy
from butter_middleware.client_ip.address import ANYWHERE, NOWHERE, Networks
from butter_middleware.delivery.circuit_breaker import BUTTER, QUEUE, Target
from butter_middleware.delivery.clients import Client, InlineClient, QueueClient
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.errors import ConfigurationError
from butter_middleware.ipv6.beacon import Beacon
from butter_middleware.outbox import LocalOutbox, MemoryOutbox, Outbox, Settlement, SQLiteOutbox
from butter_middleware.pipeline.pipeline import Pipeline, Read
from butter_middleware.pipeline.waiters import ResponseWait
from butter_middleware.reader.provenance import Sources
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry

if TYPE_CHECKING:
    import httpx  # the core stays free of it until the first record is sent


@dataclass(frozen=True, slots=True, repr=False)
class Options:
    """What a `Butter` was given for its dealings with the world outside, checked as far as it can be by itself."""

    strategy: Strategy
    beacon: Beacon | None
    base_url: str
    username: str | None
    password: str | None
    transport: "httpx.AsyncBaseTransport | None"
    outbox: str | PathLike[str] | LocalOutbox | Outbox | None
    inline: bool
    inline_timeout: float
    staging: bool
    dry_run: bool
    senders: int
    clock: Callable[[], float]
    events: EventDispatcher
    telemetry: Telemetry
    sources: Sources | None
    external: bool = False
    """Whether another process reads and delivers."""

    def delivery(
        self,
        make_delivery_client: Callable[[], Client],
        on_settled: Callable[[Sequence[Settlement]], None] = lambda _: None,
        senders: int | None = None,
        target: Target = BUTTER,
    ) -> Delivery:
        """Return what sends records by these couriers."""
        return Delivery(
            make_delivery_client,
            target=target,
            senders=senders or self.senders,
            clock=self.clock,
            on_settled=on_settled,
            emit=self.events.emit,
            telemetry=self.telemetry,
        )


@dataclass(frozen=True, slots=True, repr=False)
class Components:
    """What a `Butter` meets of the world outside: the shoppers' addresses, the disk, a queue, and Butter itself."""

    strategy: Strategy
    beacon: Beacon | None
    admitted: Networks
    """Addresses in bodies that are not public and count all the same."""
    outbox: LocalOutbox
    queue: Outbox | None
    make_client: Callable[[], Client]
    make_delivery: Callable[[Callable[[Sequence[Settlement]], None]], Delivery]
    """From the outbox; takes what is to be called after settlements."""
    make_consumer: Callable[[int | None], Delivery]
    """From the queue; takes how many records are sent at once."""
    wrap_reader: Callable[[Read], Read] = lambda read: read
    """Stands round the reading of each capture."""
    appends_to: SQLiteOutbox | None = None
    """The outbox, where this process only appends to its file."""
    built: Callable[[Pipeline], object] = lambda _pipeline: None
    """Hears of the pipeline, once."""


def build(options: Options) -> Components:
    """Return the equipment of production; or, while tests run, what they put in its place.

    Raises:
        ConfigurationError: something of the options cannot work.
    """
    _check_outbox(options.outbox)
    rehearsed = overrides.current()
    return production(options) if rehearsed is None else rehearsed.build(options)


def production(options: Options) -> Components:
    """Return the equipment of production.

    Raises:
        ConfigurationError: something of the options cannot work.
    """
    make_client = client(
        options.base_url,
        options.username,
        options.password,
        options.transport,
        needed=not (options.dry_run or options.external),
        sources=options.sources,
    )
    make_delivery_client, outbox, queue = make_client, options.outbox, None
    if isinstance(outbox, Outbox):
        queue, outbox = outbox, None
        direct = partial(InlineClient, make_client, queue, options.inline_timeout)
        make_delivery_client = direct if options.inline else partial(QueueClient, queue)
    target = BUTTER if queue is None else QUEUE
    local = local_outbox(None if options.dry_run else outbox, options.clock)
    return Components(
        strategy=options.strategy,
        beacon=options.beacon,
        admitted=ANYWHERE if options.staging else NOWHERE,
        outbox=local,
        appends_to=shared_file(local, queue) if options.external and not options.dry_run else None,
        queue=queue,
        make_client=make_client,
        make_delivery=lambda settled: options.delivery(make_delivery_client, settled, target=target),
        make_consumer=lambda senders: options.delivery(make_client, senders=senders),
    )


def strategy(given: Strategy | None, environment: config.Environment) -> Strategy:
    """Return the strategy, admitting private addresses in staging.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(given, type) or not isinstance(given, Strategy):
        msg = (
            "Butter(client_ip=...) is not a strategy, and there is no default: a wrong guess is worthless evidence. "
            "Say what is in front of the app: client_ip.aws_alb(), client_ip.nginx([...]), client_ip.direct(), ..."
        )
        raise ConfigurationError(msg)
    return given.admitting_private() if environment == "staging" else given


def client(
    base_url: str,
    username: str | None,
    password: str | None,
    transport: "httpx.AsyncBaseTransport | None",
    *,
    needed: bool,
    sources: Sources | None = None,
) -> Callable[[], Client]:
    """Return what makes a client of Butter. Where the credentials are missing and not `needed` here, making one fails.

    `sources` is what a sandbox is told beside the records.

    Raises:
        ConfigurationError: the credentials are missing.
    """
    user, secret = config.credential("username", username), config.credential("password", password)
    if needed:
        _refuse_missing(user, secret)
    tell = None if sources is None else sources.text

    def make() -> Client:
        from butter_middleware.delivery.http import ButterClient  # noqa: PLC0415 - httpx is loaded by the worker only

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


def response_wait(delivery: str, durability: str, inline_timeout: float, *, queue: bool) -> ResponseWait:
    """Return what the last chunk of a captured response waits for.

    Raises:
        ConfigurationError: there is no such mode, or the time is out of its bounds.
    """
    config.number("inline_timeout", inline_timeout, 0.05, 30)
    waits = config.durability(durability) == "before_response"
    if config.delivery(delivery) == "inline":
        return ResponseWait("butter", inline_timeout + (QUEUE_SECONDS if queue else 0.0))
    if queue:
        return ResponseWait("queue", QUEUE_SECONDS) if waits else ResponseWait()
    return ResponseWait("disk", DISK_SECONDS) if waits else ResponseWait()


def shared_file(outbox: LocalOutbox, queue: Outbox | None) -> SQLiteOutbox:
    """Return the outbox as the file that another process reads and delivers from.

    Raises:
        ConfigurationError: it is none.
    """
    if queue is not None:
        msg = (
            f"delivery='external' and outbox={type(queue).__name__}: a queue of your own has no file, and its consumer "
            "delivers already. Leave delivery out."
        )
        raise ConfigurationError(msg)
    if not isinstance(outbox, SQLiteOutbox):
        msg = (
            "delivery='external' leaves reading and sending to another process, which shares the outbox's file: set "
            "outbox= to the path of an SQLite file, and run butter-middleware deliver --app shop.main:butter --follow."
        )
        raise ConfigurationError(msg)
    return outbox


def warnings(outbox: LocalOutbox, routes: Iterable[CheckoutRoute], *, parts_only: bool = False) -> Iterator[str]:
    """Give what this outbox cannot keep safe, of these routes; `parts_only` where it is a queue's waiting room.

    Raises:
        ConfigurationError: it cannot work.
    """
    if not parts_only:
        yield from outbox.validate()
    if not outbox.durable and any(route.join is not None for route in routes):
        yield (
            "the parts of a checkout (CheckoutRoute(join=...)) meet in memory: within one process only, and not across "
            "restarts. Set outbox= to the path of an SQLite file."
        )


def local_outbox(given: str | PathLike[str] | LocalOutbox | None, clock: Callable[[], float]) -> LocalOutbox:
    """Return the outbox that this process delivers from.

    Raises:
        ConfigurationError: the path names no file.
    """
    if given is None:
        return MemoryOutbox(clock=clock)
    return SQLiteOutbox(given, clock=clock) if isinstance(given, str | PathLike) else given


def _check_outbox(given: object) -> None:
    if isinstance(given, type) or not isinstance(given, str | PathLike | LocalOutbox | Outbox | None):
        got = f"{given.__name__}, a class," if isinstance(given, type) else type(given).__name__
        msg = (
            f"outbox={got} is not an outbox. Give the path of an SQLite file, or an object with the method "
            "async enqueue(record); leave it out to keep records in memory only."
        )
        raise ConfigurationError(msg)
