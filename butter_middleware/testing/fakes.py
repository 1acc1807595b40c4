"""What stands in for the world outside, in one process: no file, no socket, and no time that passes by itself."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from threading import Lock
from typing import Any, Final, cast

from butter_middleware.client_ip import ClientIP, Reason, Strategy
from butter_middleware.client_ip.address import Networks, parse_host
from butter_middleware.delivery.delivery import CLAIM_AHEAD, Delivery
from butter_middleware.ipv6.beacon import Beacon
from butter_middleware.models.answer import Answer
from butter_middleware.models.checkout import Record
from butter_middleware.outbox import LocalOutbox, MemoryOutbox, Pending, Settled, Settlement
from butter_middleware.outbox.base import Backlog
from butter_middleware.pipeline.components import Options
from butter_middleware.testing.recorder import ACCEPTED, Recorder

DOCUMENTATION: Final = Networks(("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"), "documentation")
"""RFC 5737: addresses of nobody, so that they stand for shoppers."""


@dataclass(frozen=True)
class FakeStrategy:
    """A strategy that takes TestClient's peer for the loopback address, and addresses of documentation for public."""

    strategy: Strategy

    def resolve(self, scope: Mapping[str, Any]) -> ClientIP:
        """Resolve the address as the strategy does."""
        client = scope.get("client")
        if isinstance(client, list | tuple) and client and client[0] == "testclient":
            scope = {**scope, "client": ("127.0.0.1", *client[1:])}
        found = self.strategy.resolve(scope)
        if found.reason is not Reason.PRIVATE_ADDRESS:
            return found
        admitted = self.strategy.admitting_private().resolve(scope)
        return admitted if admitted.ipv4 and parse_host(admitted.ipv4) in DOCUMENTATION else found

    def admitting_private(self) -> "FakeStrategy":
        """Return the same for staging."""
        return replace(self, strategy=self.strategy.admitting_private())


def fake_beacon(beacon: Beacon | None) -> Beacon | None:
    """Return a beacon that sees and believes the addresses that `FakeStrategy` does."""
    if beacon is None:
        return None
    own = None if beacon.client_ip is None else FakeStrategy(beacon.client_ip)
    return replace(beacon, client_ip=own, allow_private=True)


class FakeOutbox(MemoryOutbox):
    """Keeps in memory what another outbox would keep on a disk, and promises what that one promises."""

    def __init__(self, *, durable: bool, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.durable = durable

    def validate(self) -> list[str]:
        """Warn where the one that it stands for would."""
        return [] if self.durable else [*super().validate()]


class FakeQueue:
    """Takes records that would go into a transaction of the merchant's, as if it had been committed at once."""

    def __init__(self, add: Callable[[Record], None]) -> None:
        self._add = add

    async def enqueue(self, record: Record) -> None:
        """Take a record."""
        self._add(record)

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> Awaitable[None] | None:
        """Take records; gives something to await where the connection is asynchronous."""
        if iscoroutinefunction(getattr(connection, "execute", None)):
            return self._enqueue_all(records)
        for record in records:
            self._add(record)
        return None

    async def _enqueue_all(self, records: Sequence[Record]) -> None:
        for record in records:
            self._add(record)


class InboxClient:
    """Brings records to the ledger of a test."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def post(self, record: Record) -> Answer:
        """Post one record."""
        return self._recorder.answer(record)

    async def ping(self) -> Answer:
        """Say that Butter is there."""
        return ACCEPTED

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


class FakeDelivery(Delivery):
    """Tries each record once. One that is not taken is held until the test lets time pass (`retry`)."""

    def __init__(
        self, recorder: Recorder, options: Options, on_settled: Callable[[Sequence[Settlement]], None]
    ) -> None:
        super().__init__(
            lambda: InboxClient(recorder),
            senders=options.senders,
            clock=lambda: options.clock() + recorder.seconds_ahead,
            monotonic=lambda: recorder.seconds_ahead,
            on_settled=on_settled,
            emit=options.events.emit,
            telemetry=options.telemetry,
        )
        self._recorder = recorder
        self._outbox: LocalOutbox | None = None
        self._lock = Lock()
        self._held: dict[int, Settled] = {}

    @property
    def ill(self) -> bool:
        """Whether everything that is pending is held, so that waiting is of no use."""
        with self._lock:
            held = len(self._held)
        return held > 0 and self._outbox is not None and self._outbox.counts().result().pending == held

    def pause(self) -> None:
        """Go on: the end of a lifespan is not the end of the test, which is to see what was captured."""

    def retry(self) -> None:
        """Try anew what is held."""
        with self._lock:
            held, self._held = self._held, {}
        if held and self._outbox is not None:
            self._outbox.settle([Settlement(number, settled) for number, settled in held.items()])
            self.wake()

    async def run(self, outbox: Backlog) -> None:
        """Try whatever comes, each record once, until cancelled."""
        self._outbox = cast("LocalOutbox", outbox)  # a Butter's
        self.leads = True
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        try:
            while True:
                changed = self._fresh()
                while claimed := outbox.claim(CLAIM_AHEAD).result():
                    for pending in claimed:
                        self._take(outbox, pending, await self.deliver(pending.record, pending.attempts))
                await changed.wait()
        except asyncio.CancelledError:
            with self._lock:
                self._held = {}  # the outbox, when it is closed, gives them to the next one
            raise

    def _take(self, outbox: Backlog, pending: Pending, settlement: Settlement) -> None:
        settlement = replace(settlement, id=pending.id, key=pending.record.key)
        if settlement.settled in {Settled.DELIVERED, Settled.DEAD}:
            if settlement.settled is Settled.DEAD:
                self._recorder.dead_letter(pending.record)
            outbox.settle([settlement])
        else:
            # Due at some time, and not at once: a response that waits for this record waits no longer.
            settlement = replace(settlement, due_at=settlement.due_at or math.inf)
            self._recorder.hold(pending.record)
            with self._lock:
                self._held[pending.id] = settlement.settled
        self._on_settled([settlement])
