"""The parts of a `Butter`, built and connected from its configuration. Tests replace parts here."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from butter_middleware import client_ip
from butter_middleware import config as settings
from butter_middleware.capture import annotations
from butter_middleware.capture.routes import CheckoutRoute, RouteTable
from butter_middleware.client_ip import ClientIP, Peer, Strategy
from butter_middleware.client_ip.address import ANYWHERE, NOWHERE, Networks
from butter_middleware.config import Config
from butter_middleware.delivery.circuit_breaker import BUTTER, QUEUE, CircuitBreaker, Target
from butter_middleware.delivery.clients import Client, DryRunClient, InlineClient, QueueClient
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.errors import ConfigurationError
from butter_middleware.events import Event
from butter_middleware.ipv6.beacon import Beacon
from butter_middleware.models.http import Capture
from butter_middleware.outbox import LocalOutbox, MemoryOutbox, Outbox, SQLiteOutbox
from butter_middleware.pipeline import processes
from butter_middleware.pipeline.entries import ResponseWait
from butter_middleware.reader.reader import Reader, ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry
from butter_middleware.telemetry.sandbox_reports import HEARD, SandboxReports

if TYPE_CHECKING:
    import httpx  # the core does not load it before the first record is sent

Read = Callable[[Capture, CheckoutRoute | None], ReadResult]


@dataclass(frozen=True, slots=True, repr=False)
class Given:
    """The objects that the user gave to `Butter`, in addition to the plain values of `Config`."""

    client_ip: Strategy | None
    routes: RouteTable
    beacon: Beacon | None
    outbox: str | PathLike[str] | LocalOutbox | Outbox | None
    credentials: tuple[str | None, str | None]
    transport: "httpx.AsyncBaseTransport | None"
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True, repr=False)
class Components:
    """The parts of one `Butter`."""

    config: Config
    routes: RouteTable
    clock: Callable[[], float]
    events: EventDispatcher
    telemetry: Telemetry
    strategy: Strategy
    beacon: Beacon | None
    admitted: Networks
    """Addresses in bodies that are accepted although they are not public."""
    outbox: LocalOutbox
    queue: Outbox | None
    in_process: bool
    """Whether the records go to the user's own transport, and not to the network."""
    external: bool
    """Whether another process reads and sends."""
    reads: bool
    """Whether this process reads captures: it has extractors, and no other process does it."""
    response_wait: ResponseWait
    make_client: Callable[[], Client]
    make_delivery: Callable[[], Delivery]
    """For the outbox of this process."""
    make_consumer: Callable[[int | None], Delivery]
    """For the consumer of a queue. The argument is how many records are sent at once."""
    wrap_reader: Callable[[Read], Read] = lambda read: read
    """Wraps the reading of each capture."""
    pings: bool = False
    """Whether a ping at the start checks the credentials."""
    built: Callable[[Any], object] = lambda _pipeline: None
    """Called once with the pipeline that uses these parts."""
    listener: Callable[[Event], object] | None = None
    """Gets each event in `listens_to`, in addition to the user's `on_event`."""
    listens_to: tuple[type[object], ...] = (object,)

    def make_reader(self, observe: Callable[[Capture, ClientIP], None]) -> Reader:
        """Return the reader of captures. `observe` gets each resolved address."""
        return Reader(
            self.strategy,
            self.config.max_body_bytes,
            self.config.optional_fields,
            observe,
            self.admitted,
            self.beacon,
            staging=self.config.staging,
            sandbox=self.config.sandbox,
        )


def build(config: Config, given: Given, events: EventDispatcher, telemetry: Telemetry) -> Components:
    """Return the parts for production. In tests, `Pipeline` replaces them.

    Raises:
        ConfigurationError: an option cannot work.
    """
    _check_outbox(given.outbox)
    resolver = strategy(given.client_ip, config.environment)
    external = config.delivery == "external" and not config.dry_run
    make_client = client(
        config.base_url,
        *given.credentials,
        given.transport,
        needed=not (config.dry_run or external),
    )
    make_delivery_client, outbox, queue = make_client, given.outbox, None
    if isinstance(outbox, Outbox):
        queue, outbox = outbox, None
        direct = partial(InlineClient, make_client, queue, config.inline_timeout)
        make_delivery_client = direct if config.delivery == "inline" else partial(QueueClient, queue)

    if config.dry_run:
        make_delivery_client = DryRunClient

    def make_delivery(make: Callable[[], Client], target: Target = BUTTER, wanted: int | None = None) -> Delivery:
        senders = wanted or config.senders
        return Delivery(
            make,
            clock=given.clock,
            emit=events.emit,
            telemetry=telemetry,
            breaker=CircuitBreaker(senders, given.clock, time.monotonic, events.emit, target),
        )

    reports = SandboxReports(config.base_url) if config.sandbox and given.transport is None else None
    if reports is not None:
        annotations.listeners.add(reports)
    local = local_outbox(None if config.dry_run else outbox, given.clock)
    if external:
        _check_shared(local, queue)
    return Components(
        config=config,
        routes=given.routes,
        clock=given.clock,
        events=events,
        telemetry=telemetry,
        strategy=resolver,
        beacon=given.beacon,
        admitted=ANYWHERE if config.staging else NOWHERE,
        outbox=local,
        queue=queue,
        in_process=given.transport is not None,
        listener=None if reports is None else reports.hear,
        listens_to=HEARD,
        external=external,
        reads=not external,
        response_wait=response_wait(config, queue=queue is not None),
        make_client=make_client,
        make_delivery=partial(make_delivery, make_delivery_client, BUTTER if queue is None else QUEUE),
        make_consumer=partial(make_delivery, make_client, BUTTER),
        pings=queue is None and given.transport is None and not config.dry_run,
    )


def records_only(outbox: SQLiteOutbox) -> Components:
    """Return the parts of a process that sends records and has no extractors.

    Raises:
        ConfigurationError: an option cannot work.
    """
    given = Given(
        client_ip=Peer(),
        routes=RouteTable(()),
        beacon=None,
        outbox=outbox,
        credentials=(None, None),
        transport=None,
        clock=time.time,
    )
    config = Config(environment="production", base_url=settings.base_url(None), telemetry=False)
    parts = build(config, given, EventDispatcher(time.time), Telemetry(enabled=False))
    return replace(parts, reads=False, pings=False)


def strategy(given: Strategy | None, environment: settings.Environment) -> Strategy:
    """Return the strategy. In staging, it also admits addresses that are not public.

    Raises:
        ConfigurationError: it is not a strategy.
    """
    if isinstance(given, type) or not isinstance(given, Strategy):
        name = getattr(given, "__name__", "") if callable(given) else ""
        if name and getattr(client_ip, name, None) is given:
            msg = f"Butter(client_ip=...) is not a strategy, but its factory: write client_ip.{name}(...)."
        else:
            what = "is missing" if given is None else f"is not a strategy, but {type(given).__name__}"
            msg = (
                f"Butter(client_ip=...) {what}. It has no default, because a wrong address is not evidence. "
                "Say what is in front of the app: client_ip.aws_alb(), client_ip.nginx([...]), client_ip.direct(), ..."
            )
        raise ConfigurationError(msg)
    return given.admitting_private() if environment == "staging" else given


def client(
    base_url: str,
    username: str | None = None,
    password: str | None = None,
    transport: "httpx.AsyncBaseTransport | None" = None,
    *,
    needed: bool = True,
) -> Callable[[], Client]:
    """Return a function that makes a client of Butter. If it misses credentials that are not `needed` here, it raises.

    Raises:
        ConfigurationError: the credentials are missing.
    """
    user, secret = settings.credential("username", username), settings.credential("password", password)
    if needed:
        _refuse_missing(user, secret)

    def make() -> Client:
        with processes.loading():
            from butter_middleware.delivery.http import ButterClient  # noqa: PLC0415 - httpx is loaded by the sender only

        _refuse_missing(user, secret)
        return ButterClient(base_url, user or "", secret or "", transport=transport)

    return make


def _refuse_missing(user: str | None, secret: str | None) -> None:
    if user is None or secret is None:
        missing = "username" if user is None else "password"
        msg = (
            f"no {missing}: set BUTTER_{missing.upper()}, or BUTTER_{missing.upper()}_FILE to a mounted secret, "
            f"or pass Butter({missing}=...). dry_run=True needs none."
        )
        raise ConfigurationError(msg)


QUEUE_SECONDS: Final = 0.25
"""The longest time that `durability="before_response"` holds back the last chunk until a queue has the record."""


def response_wait(config: Config, *, queue: bool) -> ResponseWait:
    """Return what the last chunk of a captured response must wait for."""
    if config.delivery == "inline":
        return ResponseWait("butter", config.inline_timeout + (QUEUE_SECONDS if queue else 0.0))
    if config.durability == "after_response":
        return ResponseWait()
    return ResponseWait("queue", QUEUE_SECONDS) if queue else ResponseWait("disk", config.durability_timeout)


def _check_shared(outbox: LocalOutbox, queue: Outbox | None) -> None:
    """Refuse an outbox that no other process can read from.

    Raises:
        ConfigurationError: no other process can read from it.
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


def part_warnings(parts: Components, routes: Iterable[CheckoutRoute]) -> Iterator[str]:
    """Warn if the parts of these routes' checkouts meet in memory only."""
    if not parts.outbox.durable and any(route.join is not None for route in routes):
        yield (
            "the parts of a checkout (CheckoutRoute(join=...)) meet in memory: within one process only, and not across "
            "restarts. "
        ) + (
            "Set outbox= to the path of an SQLite file."
            if parts.queue is None
            else "A queue does not keep them. Without join=, keep the shopper's address with the order. Once it is "
            "paid, pass a Checkout to butter.record()."
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
