"""TCP and TLS for httpx, with asyncio only.

httpcore uses anyio, which needs five more iterations of the event loop for each request. That is a third of the cost of
sending a record.
"""

import asyncio
import ssl
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final, cast

import anyio
import httpcore
from httpcore import SOCKET_OPTION

MOST_AHEAD: Final = 64 * 1024
"""Bytes that were received and not read. With more, the peer must wait."""
NEXT_ADDRESS_SECONDS: Final = 0.25
"""The delay before another address of the host is tried too (RFC 8305)."""


class Backend(httpcore.AsyncNetworkBackend):
    """Opens one connection at a time on asyncio's loop. On uvloop and on trio, httpcore's own backend does it."""

    def __init__(self) -> None:
        self._stream: _Stream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open a connection."""
        self.close()
        loop = _asyncios_own_loop()
        if loop is None:
            others = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
            return await others.connect_tcp(host, port, timeout, local_address, socket_options)
        # Only a name has several addresses to try. If asyncio is cancelled while it tries them, it may leak a socket.
        is_address = ":" in host or host.replace(".", "").isdigit()
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            _transport, self._stream = await loop.create_connection(
                _Stream,
                host,
                port,
                local_addr=None if local_address is None else (local_address, 0),
                happy_eyeballs_delay=None if is_address else NEXT_ADDRESS_SECONDS,
            )
        return self._stream

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    def close(self) -> None:
        """Close the connection if httpcore did not: it leaks one that fails between a SOCKS proxy and Butter."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort()


def _asyncios_own_loop() -> asyncio.BaseEventLoop | None:
    """Return the running loop if it is asyncio's own. uvloop cannot try the addresses of a host in parallel."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop if isinstance(loop, asyncio.BaseEventLoop) else None


class _Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. Written data is sent when the answer is read, so head and body are in one packet."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._unsent: list[bytes] = []
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MOST_AHEAD:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give_up(self) -> None:
        # asyncio runs timers last, so data that came while the loop stood still has been received by now.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(httpcore.ReadTimeout())

    # Called by httpcore.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as above
        """Send the written data, and return received data. Empty: the peer has closed."""
        if self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()
        if not self._received and not self._ended:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, self._give_up)
            try:
                await self._waiter
            finally:
                if timer is not None:
                    timer.cancel()
        if not self._received and self._error is not None:
            raise httpcore.ReadError(self._error) from self._error
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if len(self._received) <= MOST_AHEAD and not self._ended:
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - as above
        """Keep data until the next read."""
        self._unsent.append(buffer)

    async def aclose(self) -> None:
        """Close the connection."""
        self.abort()

    def abort(self) -> None:
        """Close the connection, and drop unsent data."""
        self._transport.abort()

    @property
    def unsent(self) -> bool:
        """Whether written data is not fully sent. An answer that is there belongs to another request."""
        return bool(self._unsent)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore.AsyncNetworkStream:
        """Start TLS."""
        loop = asyncio.get_running_loop()
        inner, stream = self._transport, _Stream()
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError), anyio.fail_after(timeout):
            stream._transport = await loop.start_tls(inner, stream, ssl_context, server_hostname=server_hostname)
        return stream

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        """Tell httpcore whether an idle connection was closed, and give it the TLS object."""
        if info == "is_readable":
            return self._ended or bool(self._received)
        return self._transport.get_extra_info(info)


@contextmanager
def _mapped(late: type[Exception], failed: type[Exception]) -> Generator[None]:
    """Translate errors into those of httpcore."""
    try:
        yield
    except TimeoutError as error:
        raise late(error) from error
    except OSError as error:
        raise failed(error) from error
