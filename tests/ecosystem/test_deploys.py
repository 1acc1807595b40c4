"""Workers that start and end on one file: a deploy with another extractor, retiring workers, a stopped leader."""

import os
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from processes import Shop, until

from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import LEAD, Locks
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server


def invoices(first: int, last: int) -> list[str]:
    return [f"in_{number}" for number in range(first, last)]


def buy(shop: Shop, wanted: Iterable[str]) -> None:
    for invoice in wanted:
        assert shop.checkout(invoice)[0] == 200


def buy_of_retiring_workers(shop: Shop, wanted: Iterable[str]) -> None:
    """Check out again if a retiring worker resets the connection before it accepts it."""

    def answered(invoice: str) -> bool:
        with suppress(ConnectionError):
            return shop.checkout(invoice)[0] == 200
        return False

    for invoice in wanted:
        until(partial(answered, invoice), f"{invoice} is answered")


def arrived(fake: FakeButter) -> Counter[str]:
    return Counter(record["invoice_id"] for record in fake.records)


def leader(outbox: Path) -> int | None:
    locks = Locks(str(outbox))
    try:
        return locks.holder(LEAD)
    finally:
        locks.close()


def test_a_deploy_with_a_fixed_extractor_sends_parked_captures(fake: FakeButter, url: str, tmp_path: Path) -> None:
    """SIGHUP: new workers import the app again. They read captures that the old extractor failed on."""
    outbox, release = tmp_path / "butter.db", tmp_path / "release"
    release.write_text("wrong")
    with Shop("gunicorn uvicorn", url, SHOP_OUTBOX=str(outbox), SHOP_RELEASE=str(release)) as shop:
        buy(shop, invoices(0, 10))
        with existing(outbox) as store:
            until(lambda: store.counts().parked == 10, "ten are parked")
        assert not fake.records
        release.write_text("right")
        shop.process.send_signal(signal.SIGHUP)
        until(lambda: set(arrived(fake)) == set(invoices(0, 10)), "what was parked arrives")
        buy(shop, invoices(10, 20))
        until(lambda: set(arrived(fake)) == set(invoices(0, 20)), "what was bought after the deploy arrives")
    assert arrived(fake) == Counter(invoices(0, 20))


def test_retiring_workers_lose_nothing(fake: FakeButter, url: str, tmp_path: Path) -> None:
    """`--max-requests`: each worker, and so the leader too, ends after some requests. Each record arrives once."""
    with Shop("gunicorn, each worker for ten requests", url, SHOP_OUTBOX=str(tmp_path / "butter.db")) as shop:
        buy_of_retiring_workers(shop, invoices(0, 100))
        until(lambda: set(arrived(fake)) == set(invoices(0, 100)), "a hundred records", 60)
        output = shop.stop()
    assert arrived(fake) == Counter(invoices(0, 100))
    assert b"Traceback" not in output, output.decode()


def test_a_stopped_leader_blocks_no_checkout_and_loses_no_record(fake: FakeButter, url: str, tmp_path: Path) -> None:
    """SIGSTOP of the worker that sends: the other one answers and appends. All is sent once the leader continues."""
    outbox = tmp_path / "butter.db"
    with Shop("gunicorn uvicorn", url, SHOP_OUTBOX=str(outbox), SHOP_BEFORE="0.025") as shop:
        buy(shop, ["in_0"])
        until(lambda: set(arrived(fake)) == {"in_0"}, "the first record")
        stopped = leader(outbox)
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:
            until(lambda: b"State:\tT" in Path(f"/proc/{stopped}/status").read_bytes(), "the leader stops")
            buy(shop, invoices(1, 20))
            with existing(outbox) as store:
                until(lambda: store.counts().captured + store.counts().pending >= 19, "all are on the disk")
            assert set(arrived(fake)) == {"in_0"}
        finally:
            os.kill(stopped, signal.SIGCONT)
        until(lambda: set(arrived(fake)) == set(invoices(0, 20)), "all arrive")
    assert arrived(fake) == Counter(invoices(0, 20))
