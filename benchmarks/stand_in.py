"""The base of the fake servers: complete requests, and a separate process."""

import asyncio
import re
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Requests(asyncio.Protocol):
    """One connection: complete requests in, answers out, in order."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            head, body = bytes(self._received[: end + 2]), bytes(self._received[end + 4 : whole])
            del self._received[:whole]
            self.request(head, body)

    @abstractmethod
    def request(self, head: bytes, body: bytes) -> None:
        """Take one request, whose head ends with the last header's line break."""

    def write(self, body: bytes, status: str = "200 OK", more: str = "") -> None:
        """Answer one request with JSON, and additional header lines."""
        if self.transport is not None and not self.transport.is_closing():
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
            self.transport.write(head.encode() + body)


async def serve(protocol: Callable[[], Requests]) -> None:
    """Print the port, and serve on loopback until killed."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def started(script: str, *arguments: str) -> Generator[int]:
    """Start a script that serves in this way, give its port, and end it."""
    process = subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
