"""What takes records to where they belong, one at a time."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from butter_middleware.answers import Answer, AnswerKind
from butter_middleware.checkout import Record
from butter_middleware.outbox.protocol import Outbox


class Courier(Protocol):
    """Takes one record at a time to where it belongs. `ButterClient` is the one that posts to Butter."""

    async def post(self, record: Record) -> Answer:
        """Post one record. Never raises."""
        ...

    async def ping(self) -> Answer:
        """Ask whether records would be taken, sending none. Never raises."""
        ...

    async def aclose(self) -> None:
        """Let go of the connection."""
        ...


class QueueCourier:
    """Hands records to a queue of the merchant's own; its consumer calls `Delivery.deliver`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def post(self, record: Record) -> Answer:
        """Enqueue one record; a queue that raises is one that is away."""
        try:
            await self._outbox.enqueue(record)
        except Exception as error:  # noqa: BLE001 - each queue has exceptions of its own
            return Answer(AnswerKind.UNREACHABLE, detail=type(error).__name__)
        return Answer(AnswerKind.DELIVERED)

    async def ping(self) -> Answer:
        """Say yes: only a record tells whether the queue takes records."""
        return Answer(AnswerKind.DELIVERED, 200)

    async def aclose(self) -> None:
        """Tell the queue that this loop ends, where it wants to know: it has an `aclose` too."""
        close: Callable[[], Awaitable[None]] | None = getattr(self._outbox, "aclose", None)
        if close is not None:
            await close()
