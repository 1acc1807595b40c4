"""A stand-in for whoever records are for, Butter or a peer's service: which checkouts arrived, and how often.

    python benchmarks/recipient.py [--secret WORD]

It prints its port. Whatever is posted is searched for checkouts' IDs, which tell when each arrived. It can be told,
while it runs, to be ill. With `--secret`, only requests that carry the word in their head are accepted, plain or as a
password.
"""

import argparse
import asyncio
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, cast

CHECKOUT = re.compile(rb"chk-[0-9a-f]{16}")
"""What a checkout's ID looks like, wherever it stands in what a peer sends."""
USERNAME = "merchant"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
GZIPPED = re.compile(rb"\r\ncontent-encoding: *(?:gzip|deflate)", re.IGNORECASE)
REASONS = {200: "OK", 401: "Unauthorized", 429: "Too Many Requests", 503: "Service Unavailable"}
FAULTS = ("", "401", "429", "503", "reset", "hang", "cut")
"""Well, a status, a connection that breaks, no answer, and a record that is taken whose answer is lost."""
RETRY_AFTER = 2


@dataclass
class Book:
    """What one recipient is told and has seen."""

    secret: bytes = b""
    fault: str = ""
    latency: float = 0.0
    seen: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """When each checkout arrived, on the machine's monotonic clock."""
    cut: set[str] = field(default_factory=set[str])
    """Those whose answer was lost on the way."""

    def admits(self, head: bytes) -> bool:
        """Whether a request carries the word."""
        basic = b64encode(USERNAME.encode() + b":" + self.secret)
        return self.secret in head or basic in head

    def take(self, head: bytes, body: bytes) -> None:
        """Note the checkouts in what was posted."""
        plain = zlib.decompress(body, 47) if GZIPPED.search(head) else body
        for checkout in {found.decode() for found in CHECKOUT.findall(plain)}:
            self.seen.setdefault(checkout, []).append(time.monotonic())
            if self.fault == "cut":
                self.cut.add(checkout)


class Protocol(asyncio.Protocol):
    """One connection: whole requests in, answers out."""

    def __init__(self, book: Book) -> None:
        self._book = book
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
            head, body = bytes(self._received[: end + 2]), bytes(self._received[end + 4 : whole])
            del self._received[:whole]
            self._control(head, body) if b" /-/" in head.partition(b"\r\n")[0] else self._answer(head, body)

    def _control(self, head: bytes, body: bytes) -> None:
        book = self._book
        if head.startswith(b"POST"):
            told = json.loads(body)
            book.fault, book.latency = told["fault"], told["latency"]
            self._write(200, b"{}")
        elif b" /-/count" in head:
            self._write(200, json.dumps(len(book.seen)).encode())
        else:
            self._write(200, json.dumps({"seen": book.seen, "cut": sorted(book.cut)}).encode())

    def _answer(self, head: bytes, body: bytes) -> None:
        book = self._book
        status = int(book.fault) if book.fault.isdigit() else 200 if book.admits(head) else 401
        if book.fault == "hang":
            return
        if book.fault != "reset" and status == 200:
            book.take(head, body)
        if book.fault in ("reset", "cut"):
            self._break()
        elif book.latency:
            asyncio.get_running_loop().call_later(book.latency, self._write, status, b'{"status":"ok"}')
        else:
            self._write(status, b'{"status":"ok"}' if status == 200 else b'{"detail":"no"}')

    def _break(self) -> None:
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            self._transport.abort()

    def _write(self, status: int, body: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        if status == 429:
            head += f"retry-after: {RETRY_AFTER}\r\n"
        self._transport.write(head.encode() + b"\r\n" + body)


@dataclass(frozen=True)
class Recipient:
    """A recipient in a process of its own."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def be(self, fault: str = "", latency: float = 0.0) -> None:
        """Have it answer so from now on: one of `FAULTS`, after seconds."""
        self._ask("POST", "/-/be", json.dumps({"fault": fault, "latency": latency}))

    def count(self) -> int:
        """Return how many checkouts arrived."""
        return cast("int", self._ask("GET", "/-/count"))

    def seen(self) -> dict[str, list[float]]:
        """Return when each checkout arrived, on the machine's monotonic clock."""
        return cast("dict[str, list[float]]", self._ask("GET", "/-/seen")["seen"])

    def cut(self) -> set[str]:
        """Return the checkouts that were taken and whose answer was lost."""
        return set(self._ask("GET", "/-/seen")["cut"])

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:  # noqa: ANN401 - whatever JSON says
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def recipient(secret: str = "") -> Generator[Recipient]:
    """Start one and end it."""
    command = [sys.executable, __file__, "--secret", secret]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Recipient(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


async def serve(secret: str) -> None:
    book = Book(secret.encode())
    server = await asyncio.get_running_loop().create_server(lambda: Protocol(book), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secret", default="", help="what requests must carry to be accepted")
    asyncio.run(serve(parser.parse_args().secret))


if __name__ == "__main__":
    main()
