"""A server that accepts every record as fast as Python can, so that a benchmark measures the client.

    python benchmarks/sink.py [--latency 0.1]

It prints its port, and answers every request with `{"status":"ok"}` after the latency. `GET /arrivals` returns the
times at which records came since the last such request.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import cast

from stand_in import Requests, serve, started


class Protocol(Requests):
    """One connection to the sink."""

    def __init__(self, latency: float, arrivals: list[float]) -> None:
        super().__init__()
        self._latency = latency
        self._arrivals = arrivals

    def request(self, head: bytes, body: bytes) -> None:  # noqa: ARG002 - what is posted does not matter
        if head.startswith(b"GET /arrivals"):
            self.write(json.dumps(self._arrivals).encode())
            self._arrivals.clear()
            return
        self._arrivals.append(time.monotonic())
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self.write, b'{"status":"ok"}')
        else:
            self.write(b'{"status":"ok"}')


@dataclass(frozen=True)
class Sink:
    """A sink in its own process."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arrivals(self) -> list[float]:
        """Return when records came since the last call, in seconds of the machine's monotonic clock."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/arrivals")
            return cast("list[float]", json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextmanager
def sink(latency: float) -> Generator[Sink]:
    """Start a sink and end it."""
    with started(__file__, "--latency", f"{latency}") as port:
        yield Sink(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    latency, arrivals = parser.parse_args().latency, list[float]()
    asyncio.run(serve(lambda: Protocol(latency, arrivals)))


if __name__ == "__main__":
    main()
