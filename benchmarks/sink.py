"""A server that takes every record, as fast as Python can: so that the client is what a benchmark measures.

    python benchmarks/sink.py [--latency 0.1]

It prints its port, answers `{"status":"ok"}` to every request after the latency, and gives at `GET /arrivals` the times
at which records came since the last such request.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Protocol(asyncio.Protocol):
    """One connection: whole requests in, answers out, in their order."""

    def __init__(self, latency: float, arrivals: list[float]) -> None:
        self._latency = latency
        self._arrivals = arrivals
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            asks = self._received.startswith(b"GET /arrivals")
            del self._received[:whole]
            if asks:
                self._write(json.dumps(self._arrivals).encode())
                self._arrivals.clear()
                continue
            self._arrivals.append(time.monotonic())
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._write, b'{"status":"ok"}')
            else:
                self._write(b'{"status":"ok"}')

    def _write(self, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)


@dataclass(frozen=True)
class Sink:
    """A sink in a process of its own."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arrivals(self) -> list[float]:
        """Return when records came since this was last asked, in seconds of the machine's monotonic clock."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/arrivals")
            return cast("list[float]", json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextmanager
def sink(latency: float) -> Generator[Sink]:
    """Start one and end it."""
    command = [sys.executable, __file__, "--latency", f"{latency}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Sink(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


async def serve(latency: float) -> None:
    arrivals: list[float] = []
    server = await asyncio.get_running_loop().create_server(lambda: Protocol(latency, arrivals), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    asyncio.run(serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
