"""Clients are pooled, a queue can be a client, and an error of a merchant's client becomes an answer."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from butter_middleware import Record
from butter_middleware.delivery.clients import DIRECT_AGAIN_SECONDS, Client, ClientPool, InlineClient, QueueClient
from butter_middleware.errors import HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.outbox.base import Outbox

RECORD = Record("key", "{}", 1_000.0)
DELIVERED = Answer(AnswerKind.DELIVERED, 200)


class Scripted:
    """A client that answers, waits or raises as scripted."""

    def __init__(self, script: Callable[[], Answer] = lambda: DELIVERED) -> None:
        self.script = script
        self.waits: asyncio.Event | None = None
        self.asked = asyncio.Event()
        self.posts = 0
        self.closed = 0

    async def post(self, record: Record) -> Answer:
        """Count the record, and answer."""
        assert record is RECORD
        self.posts += 1
        self.asked.set()
        if self.waits is not None:
            await self.waits.wait()
        return self.script()

    async def ping(self) -> Answer:
        """Answer."""
        return self.script()

    async def aclose(self) -> None:
        """Count the close."""
        self.closed += 1


def pool(clients: list[Scripted]) -> ClientPool:
    """Return a pool that makes these clients in turn."""
    left = iter(clients)
    return ClientPool(lambda: next(left))


async def post(client: Client) -> Answer:
    return await client.post(RECORD)


def test_an_idle_client_is_used_again() -> None:
    """A second client is made only while the first one is busy. All are closed at the end."""
    first, second, third = clients = [Scripted(), Scripted(), Scripted()]

    async def main() -> None:
        made = pool(clients)
        made.prepare()
        for _record in range(3):
            assert await made.ask(post) == DELIVERED
        first.asked.clear()
        first.waits = asyncio.Event()
        busy = asyncio.create_task(made.ask(post))
        await first.asked.wait()
        assert await made.ask(post) == DELIVERED
        first.waits.set()
        await busy
        await made.aclose()
        assert [first.posts, second.posts, third.posts] == [4, 1, 0]
        assert [first.closed, second.closed, third.closed] == [1, 1, 0]

    asyncio.run(main())


def test_a_closed_client_is_not_used_again() -> None:
    """A client that was busy when the pool was closed is not returned to it."""
    first, second = clients = [Scripted(), Scripted()]

    async def main() -> None:
        made = pool(clients)
        first.waits = asyncio.Event()
        busy = asyncio.create_task(made.ask(post))
        await first.asked.wait()
        await made.aclose()
        first.waits.set()
        await busy
        await made.ask(post)
        assert (first.posts, second.posts) == (1, 1)

    asyncio.run(main())


def test_a_client_that_fails_to_close_does_not_keep_others_open() -> None:
    """A merchant's transport may raise when it is closed."""

    class Broken(Scripted):
        async def aclose(self) -> None:
            await super().aclose()
            raise ConnectionResetError

    clients = [Broken(), Broken()]

    async def main() -> None:
        made = pool(list(clients))
        for client in clients:
            client.waits = asyncio.Event()
        busy = [asyncio.create_task(made.ask(post)) for _client in clients]
        await clients[1].asked.wait()
        with pytest.raises(ConnectionResetError):
            await made.aclose()
        for task in busy:
            task.cancel()

    asyncio.run(main())
    assert [client.closed for client in clients] == [1, 1]


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (HTTPClientError("SSL_CERT_FILE"), Answer(AnswerKind.UNREACHABLE, detail="no client: SSL_CERT_FILE")),
        (OSError("a@example.com"), Answer(AnswerKind.UNREACHABLE, detail="no client: OSError")),
    ],
)
def test_a_client_that_cannot_be_made_is_unreachable(error: Exception, answer: Answer) -> None:
    """Our own error names the fix. Of another error only the name is kept. The next call tries again."""
    made: list[Scripted] = []

    def make() -> Client:
        if not made:
            made.append(Scripted())
            raise error
        return made[0]

    async def main() -> None:
        clients = ClientPool(make)
        assert await clients.ask(post) == answer
        assert await clients.ask(post) == DELIVERED

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError("a@example.com"), asyncio.CancelledError("a@example.com")])
def test_an_error_of_a_client_is_an_answer(error: BaseException) -> None:
    """A merchant's connection pool may raise CancelledError although the caller is not cancelled."""

    def fails() -> Answer:
        raise error

    client = Scripted(fails)
    answer = asyncio.run(pool([client]).ask(post))
    assert answer == Answer(AnswerKind.INTERRUPTED, detail=type(error).__name__)


def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    """Its client is idle again."""
    client = Scripted()

    async def main() -> None:
        made = pool([client])
        client.waits = asyncio.Event()
        task = asyncio.create_task(made.ask(post))
        await client.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client.waits = None
        assert await made.ask(post) == DELIVERED
        assert client.posts == 2

    asyncio.run(main())


class Queue:
    """A merchant's own queue."""

    def __init__(self, error: Exception | None = None) -> None:
        self.records: list[Record] = []
        self.closed = 0
        self._error = error

    async def enqueue(self, record: Record) -> None:
        """Keep the record, or raise."""
        if self._error is not None:
            raise self._error
        self.records.append(record)

    async def aclose(self) -> None:
        """Count the close."""
        self.closed += 1


@pytest.mark.parametrize("kind", [kind for kind in AnswerKind if kind is not AnswerKind.DELIVERED])
def test_inline_goes_to_the_queue_for_half_a_minute(kind: AnswerKind) -> None:
    """A record that Butter does not accept is enqueued. So are those of the next 30 s, except after a stall."""
    now = 100.0
    butter, queue = Scripted(lambda: Answer(kind)), Queue()
    client = InlineClient(lambda: butter, queue, 1.0, lambda: now)

    async def main() -> None:
        nonlocal now
        assert (await client.post(RECORD)).kind is AnswerKind.DELIVERED
        assert (butter.posts, len(queue.records)) == (1, 1)
        now += DIRECT_AGAIN_SECONDS - 0.001
        await client.post(RECORD)
        assert (butter.posts, len(queue.records)) == (2 if kind is AnswerKind.STALLED else 1, 2)
        now += DIRECT_AGAIN_SECONDS
        butter.script = lambda: DELIVERED
        await client.post(RECORD)
        assert len(queue.records) == 2
        await client.aclose()

    asyncio.run(main())
    assert (butter.closed, queue.closed) == (1, 1)


def test_inline_keeps_its_timeout() -> None:
    """A late answer counts as no answer."""
    butter, queue = Scripted(), Queue()

    async def main() -> None:
        butter.waits = asyncio.Event()
        client = InlineClient(lambda: butter, queue, 0.01)
        assert (await client.post(RECORD)).kind is AnswerKind.DELIVERED
        await client.post(RECORD)

    asyncio.run(main())
    assert (butter.posts, len(queue.records)) == (1, 2)


def test_a_queue_that_raises_is_unreachable() -> None:
    """Only the error's name is kept. A queue needs no `aclose`."""

    class Plain:
        def enqueue(self, record: Record) -> None:
            self.record = record

    async def main() -> None:
        broken = QueueClient(Queue(ConnectionError("a@example.com")))
        assert await broken.post(RECORD) == Answer(AnswerKind.UNREACHABLE, detail="ConnectionError")
        plain = QueueClient(cast("Outbox", Plain()))  # a plain function works too
        assert await plain.post(RECORD) == Answer(AnswerKind.DELIVERED)
        assert (await plain.ping()).kind is AnswerKind.DELIVERED
        await plain.aclose()

    asyncio.run(main())
