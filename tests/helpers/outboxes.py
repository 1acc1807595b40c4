"""What the tests of the outboxes have in common: captures, records, a clock, and short waits."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from butter_middleware import Checkout
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox import LocalOutbox, Pending, Settled, Settlement, StoredCapture

T = TypeVar("T")

NOW = 1_750_000_000.0
PERSONAL = ["shopper@example.com", "81.2.69.142", "coupon", "caf", "sesame"]
"""What no log line may hold, of the captures and records below."""


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def capture(number: int, **fields: Any) -> Capture:
    """Return a capture as the tee makes it; its body names its number."""
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
    """Return a future's result; it hangs no test."""
    return future.result(seconds)


def invoices(found: Sequence[Pending]) -> list[str]:
    """Return the invoice of each record claimed."""
    return [json.loads(pending.record.payload)["invoice_id"] for pending in found]


def bodies(found: Sequence[StoredCapture]) -> list[str]:
    """Return the invoice in the body of each capture given."""
    return [json.loads(stored.capture.body)["invoice"] for stored in found]


def settle_all(outbox: LocalOutbox, settled: Settled, limit: int = 100) -> int:
    """Claim what is due and end each claim the same way; give how many there were."""
    claimed = result(outbox.claim(limit))
    result(outbox.settle([Settlement(pending.id, settled) for pending in claimed]))
    return len(claimed)


@contextmanager
def lock_held(path: Path) -> Generator[int]:
    """Have another process hold the write lock of an outbox's file, as one that is stopped does; give its number."""
    script = (
        "import sys; from butter_middleware.outbox.sqlite.locks import *; lock = LockFile(sys.argv[1]);"
        "print(lock.take(WRITE, lock), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, f"{path}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        yield holder.pid
        assert holder.stdin is not None
        holder.stdin.close()


def committers() -> int:
    """Return how many files this process has open."""
    return sum(thread.name == "butter-commit" for thread in threading.enumerate())
