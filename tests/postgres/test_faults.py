"""Two shops, two workers and one PostgreSQL. Each of them fails in turn, and everything arrives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import pytest
from postgres_server import PostgresServer
from processes import HERE, Shop, numbered, served, until
from queues import rows
from shops import CREDENTIALS

from butter_middleware.postgres.outbox import ENQUEUE_SECONDS
from butter_middleware.testing import FakeButter

pytestmark = [pytest.mark.postgres, pytest.mark.server]
OUTAGE = float(os.environ.get("BUTTER_TEST_OUTAGE", "5"))
"""Seconds for which PostgreSQL is away. Set the variable for a longer outage."""
CONCURRENCY = 4
"""The concurrency of each worker."""
PATIENCE = 90.0


def waiting(dsn: str) -> set[str]:
    """Return the invoices whose records are in the queue."""
    found = rows(dsn, "SELECT record::json->>'payload' FROM butter.seen WHERE record IS NOT NULL")
    return {json.loads(text)["invoice_id"] for (text,) in found}


class QueueWorker:
    """A worker in a separate process."""

    def __init__(self, dsn: str, butter: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "servers" / "queue_worker.py")],
            env=os.environ | {"BUTTER_POSTGRES_DSN": dsn, "SHOP_BUTTER": butter, "CONCURRENCY": f"{CONCURRENCY}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def end(self, number: signal.Signals) -> bytes:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=60)
        return output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)


class Shopping(threading.Thread):
    """Shoppers who buy in both shops, one after the other. `paid` has the invoices that were answered 200."""

    def __init__(self, shops: list[Shop]) -> None:
        super().__init__(daemon=True)
        self.shops = shops
        self.paid: list[str] = []
        self.slowest = 0.0
        self.paused = threading.Lock()
        """While a test holds it, no shopper checks out."""
        self._over = threading.Event()
        self._number = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            with self.paused:
                self._buy(self.shops[self._number % 2])
                self._number += 1

    def _buy(self, shop: Shop) -> None:
        invoice = f"in_{self._number}"
        began = time.monotonic()
        try:
            status, _headers, _body = shop.checkout(invoice)
        except OSError:
            return  # this shop was killed
        assert status == 200
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.paid.append(invoice)

    def end(self) -> None:
        self._over.set()
        self.join(30)


class System:
    """The shops, the workers, PostgreSQL and Butter."""

    def __init__(self, postgres: PostgresServer, dsn: str, fake: FakeButter, stack: ExitStack) -> None:
        self.postgres, self.dsn, self.fake, self._stack = postgres, dsn, fake, stack
        self._url = stack.enter_context(served(fake))
        self.shops = [self._shop() for _ in range(2)]
        self.workers = [self._worker() for _ in range(2)]
        self.shopping = Shopping(self.shops)
        self.shopping.start()
        stack.callback(self.shopping.end)

    def _shop(self) -> Shop:
        return self._stack.enter_context(Shop("uvicorn", self._url, SHOP_OUTBOX=self.dsn))

    def _worker(self) -> QueueWorker:
        return self._stack.enter_context(QueueWorker(self.dsn, self._url))

    def recover(self) -> None:
        """Wait until new purchases arrive."""
        before = len(self.shopping.paid)
        until(lambda: len(self.shopping.paid) >= before + 10, "shoppers buy", PATIENCE)
        wanted = set(self.shopping.paid)
        until(lambda: wanted <= set(self.arrived()), "what they bought arrives", PATIENCE)

    def kill_worker(self, number: int) -> None:
        self.workers[number].end(signal.SIGKILL)
        self.workers[number] = self._worker()

    def kill_shop(self, number: int) -> None:
        """Kill a shop whose records are all in the queue. Records in its memory only would be lost, as documented."""
        with self.shopping.paused:
            until(lambda: set(self.shopping.paid) <= self.known(), "all is in the queue", PATIENCE)
            self.shops[number].kill()
            self.shops[number].stop(signal.SIGKILL)
        self.shops[number] = self._shop()

    def stop_postgres(self) -> None:
        self.postgres.stop("immediate")
        time.sleep(OUTAGE)
        self.postgres.start()

    def cut_connections(self) -> None:
        self.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'butter%'"
        )

    def arrived(self) -> Counter[str]:
        return Counter(record["invoice_id"] for record in list(self.fake.records))

    def known(self) -> set[str]:
        """Return the invoices that are or were in the queue."""
        return waiting(self.dsn) | set(self.arrived())

    def left(self) -> list[tuple[Any, ...]]:
        return rows(self.dsn, "SELECT status::text, count(*) FROM butter.procrastinate_jobs GROUP BY 1")


@pytest.fixture
def system(postgres: PostgresServer, database: str) -> Iterator[System]:
    fake = FakeButter(**CREDENTIALS, delay=0.1)
    with ExitStack() as stack:
        yield System(postgres, database, fake, stack)


FAULTS: dict[str, tuple[Callable[[System], None], int]] = {
    "a worker is killed": (lambda system: system.kill_worker(0), CONCURRENCY),
    "the other worker is killed": (lambda system: system.kill_worker(1), CONCURRENCY),
    "a shop is killed": (lambda system: system.kill_shop(0), 0),
    "the other shop is killed": (lambda system: system.kill_shop(1), 0),
    "the connections are cut": (System.cut_connections, 2 * CONCURRENCY),
    "PostgreSQL is away": (System.stop_postgres, 2 * CONCURRENCY),
    "PostgreSQL fails over": (lambda system: system.postgres.move(), 2 * CONCURRENCY),
}
"""Each fault, and the number of records in flight. Each of these may arrive once more."""


def test_everything_arrives_whatever_fails(system: System) -> None:
    """The faults come one after the other while shoppers buy. No record is lost, and few come twice."""
    system.recover()
    allowed = 0
    for name, (fault, in_flight) in FAULTS.items():
        before = len(system.shopping.paid)
        fault(system)
        system.recover()
        allowed += in_flight
        twice = sum(number - 1 for number in system.arrived().values())
        print(f"{name}: {len(system.shopping.paid) - before} bought, {twice} twice so far")  # noqa: T201
        assert twice <= allowed, name
    system.shopping.end()
    until(lambda: set(system.shopping.paid) == set(system.arrived()), "all of it arrives", PATIENCE)
    until(lambda: system.left() == [], "no job is left", PATIENCE)
    assert rows(system.dsn, "SELECT count(*) FROM butter.seen WHERE record IS NOT NULL") == [(0,)]
    outputs = [worker.end(signal.SIGTERM) for worker in system.workers]
    assert [worker.process.returncode for worker in system.workers] == [0, 0], outputs


def test_a_stop_right_after_five_checkouts_loses_none(database: str) -> None:
    """SIGTERM comes right after the fifth answer. At the lifespan's end, records in memory go into the queue."""
    with Shop("uvicorn", "http://127.0.0.1:9", SHOP_OUTBOX=database) as shop:
        for invoice in numbered(5):
            assert shop.checkout(invoice)[0] == 200
        output = shop.stop(signal.SIGTERM)
    assert waiting(database) == set(numbered(5)), output.decode()


def test_sigkill_after_before_response_loses_none(database: str) -> None:
    """If a response came within 250 ms, its record is in the queue."""
    answered: set[str] = set()
    with Shop("uvicorn", "http://127.0.0.1:9", SHOP_OUTBOX=database, SHOP_BEFORE="0.025") as shop:
        for invoice in numbered(20):
            began = time.monotonic()
            assert shop.checkout(invoice)[0] == 200
            if time.monotonic() - began < ENQUEUE_SECONDS:
                answered.add(invoice)
        shop.kill()
    assert answered
    assert answered - waiting(database) == set()
