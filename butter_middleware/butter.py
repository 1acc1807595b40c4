"""`Butter`: the configuration, built at import, and a handle on the records."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, Never, Self, Unpack, overload

from butter_middleware import config
from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import ASGIRequest, Scope, request_scope
from butter_middleware.capture import annotations
from butter_middleware.capture.routes import CheckoutRoute, Gate, Join, RouteTable, Source
from butter_middleware.client_ip import Strategy
from butter_middleware.delivery.clients import Client
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.errors import ConfigurationError
from butter_middleware.events import Event
from butter_middleware.ipv6.app import BeaconApp
from butter_middleware.ipv6.beacon import Beacon, fitting
from butter_middleware.models.checkout import Checkout, CheckoutFields, Psp
from butter_middleware.models.http import Extractor
from butter_middleware.outbox import LocalOutbox, Outbox, TransactionalOutbox
from butter_middleware.pipeline import components
from butter_middleware.pipeline.health_app import HealthApp
from butter_middleware.pipeline.pipeline import Pipeline
from butter_middleware.pipeline.status import Status
from butter_middleware.telemetry.dispatcher import EventDispatcher
from butter_middleware.telemetry.otel import Telemetry

if TYPE_CHECKING:
    import httpx  # the core does not load it before the first record is sent
    import psycopg  # an extra

log = logging.getLogger("butter_middleware")
_RECORDS: Final = "butter.record() takes a Checkout alone, or a request (or its scope) with the fields by name"


class Butter:
    """The configuration of the middleware, checked when it is built, and a handle on the records.

    Build it once, at import: a mistake then stops the start of the app, not a checkout. Building it opens no file and
    no socket and starts no thread.

    Args:
        client_ip: The strategy that finds the shopper's address, such as `client_ip.aws_alb()`. There is no default.
        routes: The checkout routes. `checkout_route` adds more.
        username: If left out, `BUTTER_USERNAME`, or the content of the file that `BUTTER_USERNAME_FILE` names.
        password: If left out, `BUTTER_PASSWORD`, or the content of the file that `BUTTER_PASSWORD_FILE` names.
        environment: "production" or "staging". If left out, `BUTTER_ENVIRONMENT`, or production. Staging admits
            addresses that are not public, and payments of a PSP's test mode.
        outbox: The path of an SQLite file, a `LocalOutbox`, or any queue that has the method of `Outbox`. The queue's
            consumer then delivers. Without an outbox, records are in memory only. Those that are not delivered are
            lost when the process ends.
        durability: "after_response": no response waits. A SIGKILL loses the captures of the last milliseconds.
            "before_response": the last chunk waits until the capture is on disk (about a millisecond). After
            `durability_timeout` it leaves anyway, and `not_durable_in_time` counts it. With a queue as outbox, the
            last chunk waits until the record is in the queue.
        durability_timeout: Seconds, 0.001 to 10. "before_response" holds the last chunk back for at most this time.
            With a queue as outbox it is 0.25.
        delivery: "embedded": a thread of this process sends. "inline" is for platforms that freeze the process after
            the response: a thread sends too, and the last chunk waits until Butter has the record, for at most
            `inline_timeout`. "external": this process only appends to the outbox's file, and needs no credentials.
            Another process, `butter-middleware deliver --app shop.main:butter --follow`, reads and sends.
        inline_timeout: Seconds, 0.05 to 30. A record that takes longer stays in the outbox, and is sent as usual.
        ipv4_beacon: How shoppers on IPv6 prove their IPv4 address. The app for it is then at `ipv4_beacon`.
        base_url: Another URL of Butter, such as the sandbox's `http://127.0.0.1:8025`. If left out, `BUTTER_BASE_URL`.
        dry_run: Read everything, but keep and send nothing. This needs no credentials.
        max_body_bytes: Bytes, 1 to 1 GiB. A longer body is not captured, and its response counts as `too_large`.
        drain_timeout: Seconds, 0 to 600. A shutdown waits for deliveries for at most this time.
        join_ttl: Seconds, from 60 up to 366 days. One part of a checkout in two parts waits for the other for at most
            this time (`CheckoutRoute(join=...)`).
        senders: How many records are sent at once, 1 to 8.
        send_user_agent: Send the shopper's User-Agent. Only if the account accepts it.
        send_network_transaction_id: Send `network_transaction_id`. Only if the account accepts it.
        on_event: A plain function that gets each event (`butter_middleware.events`), on a thread of its own.
        telemetry: Give counts and deliveries to OpenTelemetry, if its API is installed.
        coverage_threshold: The share of the checkouts, 0 to 1, below which the log warns that evidence is missing.
        transport: An httpx transport that replaces the network, in tests.
        clock: A function that returns seconds since the epoch.

    Raises:
        ConfigurationError: an option cannot work.
    """

    def __init__(  # noqa: PLR0913 - the options of the product, all by name
        self,
        *,
        client_ip: Strategy | None = None,
        routes: Iterable[CheckoutRoute] = (),
        username: str | None = None,
        password: str | None = None,
        environment: config.Environment | None = None,
        outbox: str | PathLike[str] | LocalOutbox | Outbox | None = None,
        durability: config.Durability = "after_response",
        durability_timeout: float = 0.025,
        delivery: config.DeliveryMode = "embedded",
        inline_timeout: float = 1.0,
        ipv4_beacon: Beacon | None = None,
        base_url: str | None = None,
        dry_run: bool = False,
        max_body_bytes: int = 1024 * 1024,
        drain_timeout: float = 5.0,
        join_ttl: float = 7 * 86400.0,
        senders: int = 4,
        send_user_agent: bool = False,
        send_network_transaction_id: bool = False,
        on_event: Callable[[Event], object] | None = None,
        telemetry: bool = True,
        coverage_threshold: float = 0.9,
        transport: "httpx.AsyncBaseTransport | None" = None,
        clock: Callable[[], float] = time.time,
        **unknown: Never,
    ) -> None:
        config.refuse_unknown(unknown, list(Butter.__init__.__kwdefaults__ or ()))
        if on_event is not None:
            config.function("on_event", on_event, "Pass a plain function of one event.")
        config.clock(clock)
        config.transport(transport)
        settings = config.Config(
            environment=config.environment(environment),
            base_url=config.base_url(base_url),
            durability=durability,
            durability_timeout=durability_timeout,
            delivery=delivery,
            inline_timeout=inline_timeout,
            dry_run=dry_run,
            max_body_bytes=max_body_bytes,
            drain_timeout=drain_timeout,
            join_ttl=join_ttl,
            senders=senders,
            send_user_agent=send_user_agent,
            send_network_transaction_id=send_network_transaction_id,
            telemetry=telemetry,
            coverage_threshold=coverage_threshold,
        )
        self.environment = settings.environment
        self.base_url = settings.base_url
        self.dry_run = dry_run
        self.clock = clock
        self.routes = RouteTable(routes)
        self._telemetry = Telemetry(enabled=telemetry)
        self._events = EventDispatcher(clock, on_event, self._telemetry.observe)
        given = components.Given(
            client_ip=client_ip,
            routes=self.routes,
            beacon=fitting(ipv4_beacon, self.routes.routes, staging=settings.staging),
            outbox=outbox,
            credentials=(username, password),
            transport=transport,
            clock=clock,
        )
        self.pipeline = Pipeline(components.build(settings, given, self._events, self._telemetry))
        del given
        del username, password  # an error tracker adds this frame's variables to the log lines below
        parts = self._components
        if parts.queue is None:  # otherwise the outbox is only the buffer in front of that queue
            self._warn(parts.outbox.validate())
        self._warn(components.part_warnings(parts, self.routes.routes))

    def checkout_route(  # noqa: PLR0913 - as CheckoutRoute, all by name
        self,
        path: str,
        *,
        psp: Psp,
        when: Gate | None = None,
        methods: Sequence[str] = ("POST",),
        capture_request_body: bool = False,
        address_from_body: bool = False,
        join: str | Join | None = None,
        address: bool = True,
        source: Source = "response",
    ) -> Callable[[Extractor], Extractor]:
        """Register the decorated function as the extractor of a route. The arguments are those of `CheckoutRoute`.

        Raises:
            ConfigurationError: as `CheckoutRoute`, or another route matches the same request.
        """

        def register(extract: Extractor) -> Extractor:
            route = CheckoutRoute(
                path, psp, extract, when, methods, capture_request_body, address_from_body, join, address, source
            )
            fitting(self.beacon, [route])
            if all(other.join is None for other in self.routes.routes):  # otherwise an earlier route has warned
                self._warn(components.part_warnings(self._components, [route]))
            self.routes.add(route)
            return extract

        return register

    @property
    def strategy(self) -> Strategy:
        """The strategy that finds the shopper's address."""
        return self._components.strategy

    @property
    def beacon(self) -> Beacon | None:
        """How shoppers on IPv6 prove their IPv4 address."""
        return self._components.beacon

    @property
    def _components(self) -> components.Components:
        return self.pipeline.components

    @property
    def outbox(self) -> LocalOutbox | Outbox:
        """Where records wait: the outbox of this process, or your own queue."""
        return self._components.queue or self._components.outbox

    @property
    def ipv4_beacon(self) -> BeaconApp:
        """The ASGI app for a host with A records only. It gives a shopper's browser its IPv4 address, signed.

        Raises:
            ConfigurationError: `Butter(ipv4_beacon=...)` was left out.
        """
        return BeaconApp(self.beacon, self.strategy, self.clock, self._events.emit)

    @property
    def health_app(self) -> HealthApp:
        """The ASGI app for a health route. It reports whether evidence is being collected, and what to do if not."""
        return HealthApp(self.pipeline.reporter.health)

    @overload
    def record(
        self,
        checkout: Checkout | ASGIRequest | Mapping[str, Any],
        /,
        *,
        connection: "psycopg.AsyncConnection[Any]",
        **fields: Unpack[CheckoutFields],
    ) -> Awaitable[None]: ...

    @overload
    def record(
        self,
        checkout: Checkout | ASGIRequest | Mapping[str, Any],
        /,
        *,
        connection: "psycopg.Connection[Any] | None" = None,
        **fields: Unpack[CheckoutFields],
    ) -> None: ...

    def record(
        self,
        checkout: Checkout | ASGIRequest | Mapping[str, Any],
        /,
        *,
        connection: object = None,
        **fields: Unpack[CheckoutFields],
    ) -> Awaitable[None] | None:
        """Record a checkout that is not in the response of a checkout route.

        Pass a whole `Checkout`. Or pass the shopper's request (as to `annotate`, or the ASGI scope) with the fields,
        for a background task that learns the IDs after the response. The address and the time are then the request's.
        The PSP is that of the route that the request matches, unless `psp` is given. Wrong fields park the record with
        the reason. It does not raise, because it may be called inside a checkout: any other argument is logged as an
        error, and counted in `lost`.

        When this returns, the record is on its way to the outbox. `flush` waits until it is safe.

        With `connection`, a psycopg connection, and `outbox=PostgresOutbox(...)`, the record is written within the
        open transaction of the connection. It commits with the order, or not at all, so it cannot be lost. A database
        error is then raised, and the transaction is as it was before. With an asynchronous connection, await the
        result.

        Raises:
            TypeError: `connection` is not a connection.
            ValueError: no transaction is open on `connection`: the record would be committed alone.
            ConfigurationError: there is a `connection`, but no `PostgresOutbox`.
        """
        scope = None if isinstance(checkout, Checkout) else request_scope(checkout)
        if isinstance(checkout, Checkout) and fields:
            annotations.warn(f"{_RECORDS}. It took the Checkout without {', '.join(fields)}: put them into it.")
        elif not isinstance(checkout, Checkout) and scope is None:
            self.pipeline.nothing_recorded(f"{_RECORDS}. It got {type(checkout).__name__}, so there is no record.")
        if connection is not None:
            return self._record_in(connection, checkout, scope, fields)
        if isinstance(checkout, Checkout):
            self.pipeline.add(checkout)
        elif scope is not None:
            self.pipeline.record(scope, fields)
        return None

    def _record_in(
        self, connection: object, checkout: object, scope: Scope | None, fields: Mapping[str, Any]
    ) -> Awaitable[None] | None:
        queue = self._components.queue
        if not isinstance(queue, TransactionalOutbox):
            msg = "butter.record(connection=...) writes into PostgreSQL: it needs Butter(outbox=PostgresOutbox(...))."
            raise ConfigurationError(msg)
        if isinstance(checkout, Checkout):
            return queue.enqueue_in(connection, self.pipeline.record_of(checkout))
        return queue.enqueue_in(connection, () if scope is None else self.pipeline.records(scope, fields))

    def client(self) -> Client:
        """Return a client of Butter, such as for `await client.ping()`. Close it after use.

        Raises:
            ConfigurationError: the credentials are missing.
        """
        return self._components.make_client()

    def delivery(self, senders: int | None = None) -> Delivery:
        """Return a `Delivery`, which sends records to Butter one by one, for the consumer of your own queue.

        Make one for each consumer, in its event loop, and keep it: it knows the endpoint's health. Then
        `await delivery.deliver(Record.from_json(text))`, for up to `senders` records at once, 1 to 8.

        Raises:
            ConfigurationError: `senders` is not one of these numbers.
        """
        if senders is not None:
            config.whole_number("senders", senders, 1, 8)
        self._telemetry.load(self.pipeline.reporter, self._events.emit)
        return self._components.make_consumer(senders)

    def status(self) -> Status:
        """Return counts and states. Blocks for up to 1 s while the outbox counts: do not call it on the event loop."""
        return self.pipeline.reporter.status()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait up to `timeout` seconds until all captures are delivered. Return whether they are.

        Returns early if waiting cannot help, because Butter does not answer. By then, `on_event` has got every event.
        With `delivery="external"` it waits for the disk only. Blocks: do not call it on the event loop.
        """
        deadline = time.monotonic() + timeout
        delivered = self.pipeline.flush(timeout)
        log_thread.settle(max(0.0, deadline - time.monotonic()))
        return delivered

    def close(self) -> None:
        """Deliver what can be delivered within `drain_timeout`, end the threads and close the outbox."""
        self.pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self  # it stands for threads and a file, and frameworks such as Litestar copy a middleware's options

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def _warn(self, warnings: Iterable[str]) -> None:
        if self.dry_run:
            return
        for warning in warnings:
            log.warning("butter: outbox: %s", warning, extra={"butter_event": "configuration"})

    def __repr__(self) -> str:
        return f"Butter({self.environment}, {len(self.routes.routes)} routes)"
