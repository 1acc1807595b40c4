"""Fakes for the outside world, in one process: without files and sockets, and time does not pass by itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from typing import Any, Final

from butter_middleware.client_ip import ClientIP, Forwarded, Peer, Reason, Strategy
from butter_middleware.client_ip.address import LOOPBACK, Networks, parse_host
from butter_middleware.client_ip.headers import lines, peer_of
from butter_middleware.client_ip.strategies import header_of
from butter_middleware.delivery.circuit_breaker import CircuitBreaker
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.events import Event
from butter_middleware.models.answer import Answer
from butter_middleware.models.checkout import Record
from butter_middleware.outbox import MemoryOutbox, MemoryStore, Pending, Settled, Settlement
from butter_middleware.testing.recorder import ACCEPTED, Recorder

DOCUMENTATION: Final = Networks(("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"), "documentation")
"""Addresses for documentation (RFC 5737), which no host has. In tests they are addresses of shoppers."""
HELD_SECONDS: Final = 3600.0
"""For how long a record that was not accepted is held. It is less than `RETRY_SECONDS`, so `retry_now` sends it."""


@dataclass(frozen=True)
class FakeStrategy:
    """A strategy for which a test client is a shopper, and addresses for documentation are public.

    Args:
        strategy: Decides for requests with the header that it reads, and for those of another machine.
        shopper: Returns the address of the other requests. None: they come from 127.0.0.1.
    """

    strategy: Strategy
    shopper: Callable[[], str | None]

    def resolve(self, scope: Mapping[str, Any]) -> ClientIP:
        """Resolve the address with the strategy."""
        peer = peer_of(scope)
        if peer.address is not None and peer.address not in LOOPBACK:
            return _resolve(self.strategy, scope)
        found = _resolve(self.strategy, scope if peer.unix else {**scope, "client": ("127.0.0.1", 50000)})
        decides = b"forwarded" if isinstance(self.strategy, Forwarded) else header_of(self.strategy)
        shopper = self.shopper()
        if shopper is None or found.ipv4 not in {None, "127.0.0.1"} or lines(scope, decides):
            return found
        return _resolve(Peer(), {"headers": (), "client": (shopper, 50000)})

    def admitting_private(self) -> "FakeStrategy":
        """Return the same for staging."""
        return replace(self, strategy=self.strategy.admitting_private())


def _resolve(strategy: Strategy, scope: Mapping[str, Any]) -> ClientIP:
    found = strategy.resolve(scope)
    if found.reason is not Reason.PRIVATE_ADDRESS:
        return found
    admitted = strategy.admitting_private().resolve(scope)
    return admitted if admitted.ipv4 and parse_host(admitted.ipv4) in DOCUMENTATION else found


@dataclass(frozen=True)
class FakeOutbox:
    """Keeps in memory what another outbox keeps on a disk, and has the same properties."""

    durable: bool
    clock: Callable[[], float]

    def validate(self) -> Sequence[str]:
        """Give the warnings of the other outbox."""
        return () if self.durable else MemoryOutbox().validate()

    def store(self, *, reads: bool = True, give_up: Callable[[], bool] = lambda: False) -> "FakeStore":  # noqa: ARG002 - there is no lock
        """Return a store in memory."""
        return FakeStore(clock=self.clock)


class FakeStore(MemoryStore):
    """A store whose records a test may look at."""

    def waiting(self) -> list[Record]:
        """Return the unsent records, the oldest first."""
        return [entry.record for entry in self._pending.values()]


class FakeQueue:
    """Takes records for the merchant's transaction, as if it was committed at once."""

    def __init__(self, add: Callable[[Record], None]) -> None:
        self._add = add

    async def enqueue(self, record: Record) -> None:
        """Take a record."""
        self._add(record)

    def enqueue_in(self, connection: object, records: Sequence[Record]) -> Awaitable[None] | None:
        """Take records. Returns an awaitable if the connection is asynchronous."""
        if iscoroutinefunction(getattr(connection, "execute", None)):
            return self._enqueue_all(records)
        for record in records:
            self._add(record)
        return None

    async def _enqueue_all(self, records: Sequence[Record]) -> None:
        for record in records:
            self._add(record)


class InboxClient:
    """Gives records to the recorder of a test."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def post(self, record: Record) -> Answer:
        """Post one record."""
        return self._recorder.answer(record)

    async def ping(self) -> Answer:
        """Answer that Butter is up."""
        return ACCEPTED

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


class FakeBreaker(CircuitBreaker):
    """Tries each record once. A record that was not accepted is held until the test lets time pass."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float], emit: Callable[[Event], object]) -> None:
        # One record at a time, because each answer of `respond_with` is for the next record.
        super().__init__(1, clock, lambda: recorder.seconds_ahead, emit, uniform=lambda low, _high: low)
        self._recorder = recorder
        self._now = clock

    def record(self, pending: Pending, answer: Answer) -> list[Settlement]:
        """Return the settlements of a record, and of those that waited for this answer."""
        settled = super().record(pending, answer) or self.alone()
        for one in settled:
            if one.settled is Settled.DEAD:
                self._recorder.dead.append(self._recorder.shown(pending.record))
        over = {Settled.DELIVERED, Settled.DEAD}
        return [one if one.settled in over else replace(one, due_at=self._now() + HELD_SECONDS) for one in settled]


class FakeDelivery(Delivery):
    """Continues after the end of the lifespan, because the end of the app is not the end of the test."""

    def pause(self) -> None:
        """Do nothing."""
