"""Shared by the tests of the outboxes: captures, records, clocks, and the calls of a pipeline to a store."""

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from butter_middleware import Checkout
from butter_middleware._utils.futures import Waker
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import (
    Parked,
    ParkReason,
    Pending,
    Resolution,
    Resolved,
    Settled,
    Settlement,
    Store,
    StoredCapture,
    steady,
)
from butter_middleware.outbox.base import Outcome
from butter_middleware.outbox.sqlite import database

T = TypeVar("T")

NOW = 1_750_000_000.0
PERSONAL = ["shopper@example.com", "81.2.69.142", "coupon", "caf", "sesame"]
"""Parts of the captures and records below that no log line may contain."""


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class SteadyClock(Clock):
    """A wall clock, with the machine's own clock, which never jumps."""

    monotonic: float = 1000.0

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> "SteadyClock":
        clock = cls()
        monkeypatch.setattr(steady, "monotonic", lambda: clock.monotonic)
        return clock

    def pass_(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.now += seconds
        self.monotonic += seconds


def capture(number: int, **fields: Any) -> Capture:
    """Return a capture as the middleware makes it. Its body contains its number."""
    defaults: dict[str, Any] = {
        "method": "POST",
        "path": f"/checkout/{number}",
        "query_string": b"coupon=1",
        "headers": [(b"x-forwarded-for", b"81.2.69.142"), (b"user-agent", b"caf\xe9")],
        "client": ["10.0.0.1", 4711],
        "status_code": 200,
        "response_headers": [(b"content-type", b"application/json")],
        "body": json.dumps({"customer": {"email": "shopper@example.com"}, "invoice": f"in_{number}"}).encode(),
        "annotations": {"customer_email": "shopper@example.com"},
        "captured_at": NOW + number / 1000,
    }
    return Capture(**(defaults | fields))


def record(number: int, captured_at: float = NOW) -> Record:
    """Return the record of one checkout."""
    checkout = Checkout(
        ipv4_address="81.2.69.142", psp="stripe", customer_email="shopper@example.com", invoice_id=f"in_{number}"
    )
    return Record.of(checkout, captured_at)


def result(future: "Future[T]", seconds: float = 20.0) -> T:
    """Return a future's result, with a timeout."""
    return future.result(seconds)


def invoices(found: Sequence[Pending]) -> list[str]:
    """Return the invoice of each pending record."""
    return [json.loads(pending.record.payload)["invoice_id"] for pending in found]


def bodies(found: Sequence[StoredCapture]) -> list[str]:
    """Return the invoice in the body of each capture."""
    return [json.loads(stored.capture.body)["invoice"] for stored in found]


def append(store: Store, *numbers: int, owned: bool = True) -> Sequence[int]:
    """Append captures. Return their IDs in the store."""
    return store.append([capture(number) for number in numbers], owned=owned)


def unread(store: Store, limit: int = 100_000) -> Sequence[StoredCapture]:
    """Return all unread captures, as a leader sees them after a while."""
    return store.unread(limit, below=store.counts().newest_capture)


def resolve(store: Store, number: int, *records: Record, **fields: Any) -> Resolved:
    """Resolve one capture."""
    (resolved,) = store.resolve([Resolution(number, records, **fields)])
    return resolved


def known(outcomes: Sequence[Outcome]) -> int:
    """Return the number of duplicates."""
    return sum(outcome is Skip.DUPLICATE for outcome in outcomes)


def take(store: Store, given: Part) -> int:
    """Append a capture and resolve it to a part. Return the number of duplicates."""
    (number,) = append(store, 1)
    return known(resolve(store, number, part=given).outcomes)


def park(store: Store, number: int, *records: Record, **fields: Any) -> int:
    """Append a capture and park it. Return its ID in the store."""
    (stored,) = append(store, number)
    parked = Parked(ParkReason.EXTRACTOR_ERROR, f"KeyError in shop.py:{number}", records)
    resolve(store, stored, parked=parked, **fields)
    return stored


def settle_all(store: Store, settled: Settled, limit: int = 100, reason: str = "") -> int:
    """Settle all due records in the same way. Return their number."""
    due = store.due(limit)
    store.settle([Settlement(pending.id, settled, reason=reason) for pending in due])
    return len(due)


def tries(store: Store, configuration: str, before: float, limit: int = 100) -> list[str]:
    """Return the parked captures that a configuration should try."""
    return bodies(store.parked_to_try(limit, configuration=configuration, before=before))


def keys(pending: Iterable[Pending]) -> list[str]:
    """Return the keys of records."""
    return [one.record.key for one in pending]


def open_files() -> int:
    """Return how many stores of this process have a file open."""
    return sum(database._in_use.values())


committers = open_files


HOLDER = """
import sys, time
from butter_middleware.outbox.sqlite.locks import WRITE, Locks

for path in sys.stdin:
    locks = Locks(path.rstrip("\\n"))
    while not locks.take(WRITE):  # the test's own threads may write just now
        time.sleep(0.001)
    print("held", flush=True)
    sys.stdin.readline()
    locks.close()
    print("closed", flush=True)
"""


@cache
def _holder() -> "subprocess.Popen[str]":
    """Start the process that holds locks, once, because its imports are slow. It ends with this process."""
    command = [sys.executable, "-c", HOLDER]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(holder.communicate)
    return holder


@contextmanager
def lock_held(path: Path) -> Generator[int]:
    """Let another process hold the write lock of an outbox's file, as a stopped one does. Return its process ID."""
    holder = _holder()
    assert holder.stdin is not None
    assert holder.stdout is not None

    def say(line: str, expected: str) -> None:
        print(line, file=holder.stdin, flush=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == f"{expected}\n"

    say(str(path), "held")
    try:
        yield holder.pid
    finally:
        say("", "closed")


def note_waits(monkeypatch: pytest.MonkeyPatch, longest: float = float("inf")) -> list[float]:
    """Return a list that collects the waits of the store's threads in seconds. They wait `longest` at most."""
    waits: list[float] = []

    def noting(self: Waker, seconds: float) -> None:
        if threading.current_thread().name == "butter-store":
            waits.append(seconds)
            seconds = min(seconds, longest)
        wait(self, seconds)

    wait = Waker.wait
    monkeypatch.setattr(Waker, "wait", noting)
    return waits
