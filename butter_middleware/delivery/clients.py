"""The clients: each sends one record at a time to Butter, to a queue, or to one of the two."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from inspect import isawaitable
from typing import Final, Protocol

import anyio

from butter_middleware.errors import HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Outbox


class Client(Protocol):
    """Sends one record at a time to its destination. `ButterClient` posts it to Butter."""

    async def post(self, record: Record) -> Answer:
        """Post one record. Never raises."""
        ...

    async def ping(self) -> Answer:
        """Ask whether records would be accepted, without sending one. Never raises."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


class ClientPool:
    """The clients of one delivery. Each sends one record at a time. A new one is made if all are busy."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._all: list[Client] = []
        self._idle: list[Client] = []

    def prepare(self) -> None:
        """Make the first client early. Raises the error that prevents it."""
        self._idle.append(self._take())

    async def ask(self, question: Callable[[Client], Awaitable[Answer]]) -> Answer:
        """Call an idle client, or a new one. Raises only the cancellation of the caller."""
        try:
            client = self._take()
        except HTTPClientError as error:
            return Answer(AnswerKind.UNREACHABLE, detail=f"no client: {error}")
        except Exception as error:  # noqa: BLE001 - the merchant's own client may raise
            return Answer(AnswerKind.UNREACHABLE, detail=f"no client: {type(error).__name__}")
        try:
            return await question(client)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not the caller was cancelled, but something that the client waited for, such as a shared pool.
            return Answer(AnswerKind.INTERRUPTED, detail=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the merchant's own client may raise
            return Answer(AnswerKind.INTERRUPTED, detail=type(error).__name__)
        finally:
            if client in self._all:  # it was not closed meanwhile
                self._idle.append(client)

    async def aclose(self) -> None:
        """Close all clients."""
        clients, self._all, self._idle = self._all, [], []
        async with AsyncExitStack() as stack:  # closes every client, even if one raises
            for client in clients:
                stack.push_async_callback(client.aclose)

    def _take(self) -> Client:
        if self._idle:
            return self._idle.pop()
        client = self._make()
        self._all.append(client)
        return client


class QueueClient:
    """Puts records into the merchant's own queue. Its consumer calls `Delivery.deliver`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def post(self, record: Record) -> Answer:
        """Enqueue one record. If the queue raises, it counts as unreachable."""
        try:
            taken: object = self._outbox.enqueue(record)
            if isawaitable(taken):  # otherwise a plain function has enqueued it by now
                await taken
        except Exception as error:  # noqa: BLE001 - each queue has its own exceptions
            return Answer(AnswerKind.UNREACHABLE, detail=type(error).__name__)
        return Answer(AnswerKind.DELIVERED)

    async def ping(self) -> Answer:
        """Accept: only a record shows whether the queue accepts records."""
        return Answer(AnswerKind.DELIVERED, 200)

    async def aclose(self) -> None:
        """Close the queue's connections in this loop, if it has an `aclose`."""
        close: Callable[[], Awaitable[None]] | None = getattr(self._outbox, "aclose", None)
        if close is not None:
            await close()


class DryRunClient:
    """Replaces Butter in a dry run, which needs no credentials. It gets no records."""

    async def post(self, record: Record) -> Answer:  # noqa: ARG002 - the protocol's name
        """Accept a record."""
        return Answer(AnswerKind.DELIVERED)

    async def ping(self) -> Answer:
        """Accept."""
        return Answer(AnswerKind.DELIVERED, 200)

    async def aclose(self) -> None:
        """Do nothing."""


DIRECT_AGAIN_SECONDS: Final = 30.0
"""After Butter did not accept a record, all records go directly to the queue for this time."""


class InlineClient:
    """Posts a record to Butter while the response waits for it. If Butter does not accept it, the queue gets it.

    Args:
        make_client: Makes the client of Butter.
        outbox: The queue. Its consumer delivers the records.
        seconds: The time for Butter's answer.
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
        """Post a record to Butter, or enqueue it."""
        if self._monotonic() >= self._direct_at:
            answer = Answer(AnswerKind.INTERRUPTED)
            with anyio.move_on_after(self._seconds):
                answer = await self._client.post(record)
            if answer.kind is AnswerKind.DELIVERED:
                return answer
            if answer.kind is not AnswerKind.STALLED:  # a frozen function shows nothing about Butter
                self._direct_at = self._monotonic() + DIRECT_AGAIN_SECONDS
        return await self._queue.post(record)

    async def ping(self) -> Answer:
        """Ask the queue, because it must take what Butter does not."""
        return await self._queue.ping()

    async def aclose(self) -> None:
        """Close both."""
        await self._client.aclose()
        await self._queue.aclose()
