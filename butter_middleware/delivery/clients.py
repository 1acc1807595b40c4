"""What takes records to where they belong, one at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final, Protocol

import anyio

from butter_middleware.errors import HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Outbox


class Client(Protocol):
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


class ClientPool:
    """The couriers of one delivery, of which each takes one record at a time."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._all: list[Client] = []
        self._idle: list[Client] = []

    def prepare(self) -> None:
        """Make the first one ahead. Raises what keeps it from being made."""
        self._idle.append(self._take())

    async def ask(self, question: Callable[[Client], Awaitable[Answer]]) -> Answer:
        """Ask one that is idle, or a new one. Raises nothing but the cancellation of who asks."""
        try:
            client = self._take()
        except HTTPClientError as error:
            return Answer(AnswerKind.UNREACHABLE, detail=f"no client: {error}")
        except Exception as error:  # noqa: BLE001 - a courier of the merchant's own may raise
            return Answer(AnswerKind.UNREACHABLE, detail=f"no client: {type(error).__name__}")
        try:
            return await question(client)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # What the courier waited for was cancelled, such as a pool that it shares, and nobody who asks.
            return Answer(AnswerKind.INTERRUPTED, detail=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a courier of the merchant's own may raise
            return Answer(AnswerKind.INTERRUPTED, detail=type(error).__name__)
        finally:
            self._idle.append(client)

    async def aclose(self) -> None:
        """Let go of all of them."""
        clients, self._all, self._idle = self._all, [], []
        for client in clients:
            await client.aclose()

    def _take(self) -> Client:
        if not self._idle:
            self._idle.append(self._make())
            self._all += self._idle
        return self._idle.pop()


class QueueClient:
    """Hands records to a queue of the merchant's own; its consumer calls `Delivery.deliver`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def post(self, record: Record) -> Answer:
        """Enqueue one record; a queue that raises is one that is away."""
        try:
            taken: object = self._outbox.enqueue(record)
            if isawaitable(taken):  # a plain function has taken it by now; to await its None would be to try for ever
                await taken
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


DIRECT_AGAIN_SECONDS: Final = 30.0
"""After Butter did not take a record, for which all go to the queue at once."""


class InlineClient:
    """Hands a record to Butter itself, while the response waits for it, and to the queue where Butter does not take it.

    Args:
        make_client: Makes the client of Butter.
        outbox: The queue; its consumer delivers what went there.
        seconds: For Butter's answer.
        monotonic: Seconds.
    """

    def __init__(
        self,
        make_client: Callable[[], Client],
        outbox: Outbox,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = make_client()
        self._queue = QueueClient(outbox)
        self._seconds = seconds
        self._monotonic = monotonic
        self._direct_at = 0.0

    async def post(self, record: Record) -> Answer:
        """Take a record to one of the two."""
        if self._monotonic() >= self._direct_at:
            with anyio.move_on_after(self._seconds):
                answer = await self._client.post(record)
                if answer.kind is AnswerKind.DELIVERED:
                    return answer
            self._direct_at = self._monotonic() + DIRECT_AGAIN_SECONDS
        return await self._queue.post(record)

    async def ping(self) -> Answer:
        """Ask the queue, which has the last word."""
        return await self._queue.ping()

    async def aclose(self) -> None:
        """Let go of both."""
        await self._client.aclose()
        await self._queue.aclose()
