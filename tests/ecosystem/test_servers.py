"""Real servers, on ports and Unix sockets, with real signals: a checkout arrives, and a stop loses none."""

import signal
from contextlib import suppress
from pathlib import Path

import pytest
from processes import SERVERS, SHOPPER, WITHOUT_LIFESPAN, Shop, numbered, until

from butter_middleware import ConfigurationError
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server
FIVE = numbered(5)
WITH_LIFESPAN = [server for server in SERVERS if server not in WITHOUT_LIFESPAN]
KILLED = {"granian asginl", "uvicorn without lifespan"}
"""Servers that run no code of the app at the end: Granian skips the exit hooks, and uvicorn raises the signal again."""


def arrived(fake: FakeButter) -> list[str]:
    return sorted(record["invoice_id"] for record in fake.records)


def buy_five(shop: Shop) -> None:
    for invoice in FIVE:
        assert shop.checkout(invoice)[0] == 200


def taken(outbox: str) -> int:
    """Count the checkouts in an outbox's file, in any state."""
    with suppress(ConfigurationError), existing(outbox) as store:
        counts = store.counts()
        return counts.captured + counts.pending + counts.delivered
    return 0  # the file is being created


def assert_quiet(output: bytes) -> None:
    """A clean stop logs no error."""
    for alarm in [b"Traceback", b"delivering failed", b"can't start new thread at interpreter shutdown"]:
        assert alarm not in output, output.decode()


@pytest.mark.parametrize("server", WITH_LIFESPAN)
def test_a_stop_right_after_five_checkouts_loses_none_in_memory(fake: FakeButter, url: str, server: str) -> None:
    """SIGTERM right after the fifth answer: the end of the lifespan delivers the records in memory."""
    with Shop(server, url) as shop:
        buy_five(shop)
        output = shop.stop(signal.SIGTERM)
    assert arrived(fake) == FIVE, output.decode()
    assert_quiet(output)


@pytest.mark.parametrize("server", SERVERS)
def test_a_stop_right_after_five_checkouts_loses_none_on_disk(
    fake: FakeButter, url: str, server: str, tmp_path: Path
) -> None:
    """Five checkouts and SIGTERM while Butter does not answer. The next start sends them, and later checkouts.

    They are sent without another checkout: at once, or at the first request if there is no lifespan. For two servers
    the stop is like a kill, so the test waits until the five are on disk. The first start uses a port, the second one
    a socket.
    """
    outbox = str(tmp_path / "butter.db")
    with Shop(server, "http://127.0.0.1:9", SHOP_OUTBOX=outbox) as shop:
        buy_five(shop)
        if server in KILLED:
            until(lambda: taken(outbox) == len(FIVE), "five on the disk")
        shop.stop(signal.SIGTERM)
    with Shop(server, url, tmp_path / "shop.sock", SHOP_OUTBOX=outbox) as shop:
        if server in WITHOUT_LIFESPAN:
            assert shop.request("GET", "/health")[0] == 404
        until(lambda: arrived(fake) == FIVE, "five records")
        assert shop.checkout("in_7")[0] == 200
        until(lambda: arrived(fake) == [*FIVE, "in_7"], "the record of a checkout while the server runs")
        assert {record["ipv4_address"] for record in fake.records} == {SHOPPER}


@pytest.mark.parametrize("server", WITHOUT_LIFESPAN)
def test_losses_of_a_memory_outbox_are_logged(fake: FakeButter, url: str, server: str) -> None:
    """Without a lifespan the app does not see the end. The first request logs what is lost, and the remedy.

    Daphne runs the exit hooks at its end, which drain.
    """
    with Shop(server, url) as shop:
        for _request in range(3):
            shop.request("GET", "/health")
        buy_five(shop)
        output = shop.stop(signal.SIGTERM)
    assert b"records are kept in memory only: what is not yet delivered is lost when this process is killed" in output
    assert b"Set outbox= to the path of an SQLite file to keep them." in output
    assert output.count(b"the server sent no lifespan event") == 1, output.decode()
    if server not in KILLED:
        assert arrived(fake) == FIVE, output.decode()
        assert_quiet(output)


def test_sigkill_after_before_response_loses_none(fake: FakeButter, url: str, tmp_path: Path) -> None:
    """With durability="before_response" an answered checkout is on disk, and arrives after the next start.

    A record in flight at the kill arrives twice.
    """
    environment = {"SHOP_OUTBOX": str(tmp_path / "butter.db"), "SHOP_BEFORE": "10"}
    with Shop("uvicorn", url, **environment) as shop:
        buy_five(shop)
        shop.kill()
    with Shop("uvicorn", url, **environment):
        until(lambda: set(arrived(fake)) == set(FIVE), "five records")
