"""A fake recipient of records, for Butter or a peer's service: counts which checkouts arrived, and how often.

    python benchmarks/recipient.py [--secret WORD]

It prints its port. It searches all posted data for checkouts' IDs, and notes when each arrived. While it runs, it can
be told to fail. With `--secret`, it accepts only requests with the word in their head, plain or as a password.
"""

import argparse
import asyncio
import json
import re
import socket
import struct
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, cast

from stand_in import Requests, serve, started

from butter_middleware.models.content_encoding import decode

CHECKOUT = re.compile(rb"chk-[0-9a-f]{16}")
"""The form of a checkout's ID anywhere in a peer's data."""
USERNAME = "merchant"
CODED = re.compile(rb"\r\ncontent-encoding: *([^\r]+)", re.IGNORECASE)
MOST_BYTES = 1 << 26
"""The most bytes of one decoded post."""
REASONS = {200: "OK", 401: "Unauthorized", 429: "Too Many Requests", 503: "Service Unavailable"}
FAULTS = ("", "401", "429", "503", "reset", "hang", "cut")
"""No fault, a status, a connection that breaks, no answer, and an accepted record whose answer is lost."""
RETRY_AFTER = 2


@dataclass
class Book:
    """The state of one recipient."""

    secret: bytes = b""
    fault: str = ""
    latency: float = 0.0
    seen: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """When each checkout arrived, by the machine's monotonic clock."""
    cut: Counter[str] = field(default_factory=Counter[str])
    """How often the answer of each checkout was lost."""

    def admits(self, head: bytes) -> bool:
        """Whether a request has the word."""
        basic = b64encode(USERNAME.encode() + b":" + self.secret)
        return self.secret in head or basic in head

    def take(self, head: bytes, body: bytes) -> None:
        """Note the checkouts in posted data."""
        coded = CODED.search(head)
        plain = decode(body, coded[1].decode(), MOST_BYTES) if coded else body
        for checkout in {found.decode() for found in CHECKOUT.findall(plain)}:
            self.seen.setdefault(checkout, []).append(time.monotonic())
            if self.fault == "cut":
                self.cut[checkout] += 1


class Protocol(Requests):
    """One connection to a recipient."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def request(self, head: bytes, body: bytes) -> None:
        if b" /-/" in head.partition(b"\r\n")[0]:
            self._control(head, body)
        else:
            self._answer(head, body)

    def _control(self, head: bytes, body: bytes) -> None:
        book = self._book
        if head.startswith(b"POST"):
            told = json.loads(body)
            book.fault, book.latency = told["fault"], told["latency"]
            self.write(b"{}")
        elif b" /-/count" in head:
            self.write(json.dumps(len(book.seen)).encode())
        else:
            self.write(json.dumps({"seen": book.seen, "cut": book.cut}).encode())

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
            asyncio.get_running_loop().call_later(book.latency, self._say, status)
        else:
            self._say(status)

    def _break(self) -> None:
        if self.transport is not None:
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
            self.transport.abort()

    def _say(self, status: int) -> None:
        said = b'{"status":"ok"}' if status == 200 else b'{"detail":"no"}'
        more = f"retry-after: {RETRY_AFTER}\r\n" if status == 429 else ""
        self.write(said, f"{status} {REASONS[status]}", more)


@dataclass(frozen=True)
class Recipient:
    """A recipient in its own process."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def be(self, fault: str = "", latency: float = 0.0) -> None:
        """Set its answers from now on: one of `FAULTS`, after some seconds."""
        self._ask("POST", "/-/be", json.dumps({"fault": fault, "latency": latency}))

    def count(self) -> int:
        """Return how many checkouts arrived."""
        return cast("int", self._ask("GET", "/-/count"))

    def seen(self) -> dict[str, list[float]]:
        """Return when each checkout arrived, by the machine's monotonic clock."""
        return cast("dict[str, list[float]]", self._ask("GET", "/-/seen")["seen"])

    def cut(self) -> dict[str, int]:
        """Return how often each checkout was accepted and its answer lost."""
        return cast("dict[str, int]", self._ask("GET", "/-/seen")["cut"])

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:  # noqa: ANN401 - whatever JSON says
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def recipient(secret: str = "") -> Generator[Recipient]:
    """Start a recipient and end it."""
    with started(__file__, "--secret", secret) as port:
        yield Recipient(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secret", default="", help="what requests must carry to be accepted")
    book = Book(parser.parse_args().secret.encode())
    asyncio.run(serve(lambda: Protocol(book)))


if __name__ == "__main__":
    main()
