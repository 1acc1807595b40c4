"""An open load: checkouts start when they are due, even if earlier ones are not answered yet.

A latency counts from the due time of the checkout, not from its sending. So checkouts that wait for a stalled server
count too, which a closed loop would leave out (coordinated omission). Threads send, because they sleep with an accuracy
of a tenth of a millisecond. An event loop has only an accuracy of a millisecond.
"""

import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import count

LANES = 16
"""The most checkouts at once."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one checkout."""

    checkout: str
    status: int
    """0 if there was no complete answer."""
    latency: float
    """Seconds from its due time to its last byte."""
    body: bytes


def checkout_id() -> str:
    """Return an ID that recipients can find in any data."""
    return f"chk-{secrets.token_hex(8)}"


def check_out(connection: HTTPConnection, checkout: str) -> tuple[int, bytes]:
    """Check out once, from a unique address. Return the status (0 if the connection broke) and the body."""
    shopper = f"81.2.{random.randrange(256)}.{random.randrange(1, 255)}"
    try:
        connection.request("POST", f"/checkout/{checkout}", b"{}", {"X-Forwarded-For": shopper})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException):
        connection.close()
        return 0, b""


def load(port: int, rate: float, seconds: float, each: Callable[[Answer], object]) -> None:
    """Check out at a fixed rate per second. Pass each answer on, from the thread that got it."""
    begin = time.perf_counter()
    numbers, last = count(), int(rate * seconds)

    def lane() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        while (number := next(numbers)) < last:
            due = begin + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            checkout = checkout_id()
            status, body = check_out(connection, checkout)
            each(Answer(checkout, status, time.perf_counter() - due, body))
        connection.close()

    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(LANES)]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()


def listening(port: int) -> bool:
    """Whether a server accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
