"""Our own connections under httpx: they are used, they notice a close, and they limit a server that floods."""

import asyncio
import gc
import socket
import struct
import sys
import warnings
from typing import Any

import anyio
import httpcore
import pytest
from processes import misbehaving, served
from shops import CREDENTIALS, SHOPPER

from butter_middleware import Checkout, Record
from butter_middleware.delivery.http import ButterClient
from butter_middleware.delivery.streams import MOST_AHEAD, Backend
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.testing import FakeButter

RECORD = Record.of(
    Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"), 1_000.0
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def pool_of(client: ButterClient) -> Any:
    transport: Any = client._transport
    return transport._pool


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_they_are_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Httpx takes them from an attribute of its own. Without it each record would cost a third more."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert isinstance(pool_of(ButterClient("https://butter.test", **CREDENTIALS))._network_backend, Backend)


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """The server answers and closes without a notice. The next record uses another connection."""

    async def post_twice(url: str) -> list[AnswerKind]:
        async with ButterClient(url, **CREDENTIALS) as client, asyncio.timeout(20):
            pool_of(client)._keepalive_expiry = None  # the close ends its use, not its age
            first = await client.post(RECORD)
            while pool_of(client).connections and not pool_of(client).connections[0].has_expired():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
            return [first.kind, (await client.post(RECORD)).kind]

    with misbehaving(lambda connection: connection.sendall(OK)) as url:
        assert asyncio.run(post_twice(url)) == [AnswerKind.DELIVERED] * 2


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_an_answer_before_the_close_is_read(*, reset: bool) -> None:
    """The server answers and closes. Its answer still counts. The close is reported afterwards, with its cause."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))

    async def read(url: str) -> tuple[bytes, bytes | None]:
        stream: Any = await Backend().connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
        await stream.write(b"POST / HTTP/1.1\r\n\r\n")
        data = await stream.read(1, timeout=20)
        async with asyncio.timeout(20):
            while not stream._ended or (reset and stream._error is None):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        data += await stream.read(1000)
        try:
            return data, await stream.read(1000)
        except httpcore.ReadError:
            return data, None

    with misbehaving(answer) as url:
        assert asyncio.run(read(url)) == (OK, None if reset else b"")


def test_an_unexpected_answer_does_not_count_for_the_next_record() -> None:
    """The server answers twice in one packet. The second answer is not about the next record."""
    requests: list[bytes] = []

    def answer_twice(connection: socket.socket) -> None:
        connection.sendall(OK * 2)
        while request := connection.recv(65536):
            requests.append(request)

    async def post(url: str) -> tuple[Answer, Answer]:
        async with ButterClient(url, **CREDENTIALS) as client:
            return await client.post(RECORD), await client.post(RECORD)

    with misbehaving(answer_twice) as url:
        first, second = asyncio.run(post(url))
    assert first.kind is AnswerKind.DELIVERED
    assert (second.kind, second.detail) == (AnswerKind.INTERRUPTED, "UnaskedAnswer")
    assert requests == []


def test_after_a_record_is_cancelled_the_next_one_is_sent() -> None:
    """A queue's consumer may cancel `deliver` at any moment. The client does not wait for the abandoned answer."""
    unclosed: set[asyncio.Protocol] = set()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            unclosed.add(self)

        def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's name
            self.transport.write(OK)

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as above
            unclosed.discard(self)

    async def cancel_after(turns: int) -> tuple[bool, AnswerKind]:
        async with await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with ButterClient(url, **CREDENTIALS) as client:
                await client.post(RECORD)
                task = asyncio.create_task(client.post(RECORD))
                for _turn in range(turns):
                    await asyncio.sleep(0)
                over = task.done()
                task.cancel()
                await asyncio.wait([task])
                kind = (await client.post(RECORD)).kind
            while unclosed:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
            return over, kind

    turns, over = 0, False
    while not over:
        over, kind = asyncio.run(cancel_after(turns))
        assert kind is AnswerKind.DELIVERED, turns
        turns += 1
    assert turns > 3


def test_on_trio() -> None:
    """`Delivery.deliver` also runs on Trio."""

    async def post(url: str) -> list[AnswerKind]:
        async with ButterClient(url, **CREDENTIALS) as client:
            return [(await client.post(RECORD)).kind for _record in range(2)]

    fake = FakeButter(**CREDENTIALS)
    with served(fake) as url:
        assert anyio.run(post, url, backend="trio") == [AnswerKind.DELIVERED] * 2
    assert len(fake.records) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_on_uvloop() -> None:
    """`Delivery.deliver` runs on the loop of the queue's consumer, which may be uvloop's."""
    uvloop = pytest.importorskip("uvloop")

    async def post(url: str) -> list[AnswerKind]:
        async with ButterClient(url, **CREDENTIALS) as client:
            return [(await client.post(RECORD)).kind for _record in range(2)]

    fake = FakeButter(**CREDENTIALS)
    with served(fake) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(post(url)) == [AnswerKind.DELIVERED] * 2
    assert len(fake.records) == 2


def test_a_server_that_floods_is_slowed_down() -> None:
    """Of an endless body, a limited part is held in memory, even if nothing reads it."""
    held: list[int] = []

    def flood(connection: socket.socket) -> None:
        connection.sendall(OK.replace(b"content-length: 2", b"content-length: 1000000000"))
        while True:
            connection.sendall(b"x" * MOST_AHEAD)

    async def read(url: str) -> None:
        port = int(url.rpartition(":")[2])
        stream: Any = await Backend().connect_tcp("127.0.0.1", port)
        await stream.write(b"POST / HTTP/1.1\r\n\r\n")
        await stream.read(1)
        while stream._transport.is_reading():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        held.append(len(stream._received))
        await stream.read(10 * MOST_AHEAD)
        assert stream._transport.is_reading()
        await stream.aclose()

    with misbehaving(flood) as url:
        asyncio.run(read(url))
    assert MOST_AHEAD < held[0] <= 8 * MOST_AHEAD


def test_a_cancelled_connect_leaves_no_socket() -> None:
    """The cancellation may come at any step. A test run with warnings as errors would fail much later."""

    async def connect(port: int, steps: int) -> bool:
        backend = Backend()
        connecting = asyncio.create_task(backend.connect_tcp("127.0.0.1", port))
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        backend.close()
        return connecting.cancelled()

    with socket.create_server(("127.0.0.1", 0)) as listener, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        cancelled = [asyncio.run(connect(listener.getsockname()[1], steps)) for steps in range(20)]
        gc.collect()
    assert (cancelled[0], cancelled[-1]) == (True, False)
    assert [str(one.message) for one in warned] == []
