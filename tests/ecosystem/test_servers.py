"""Under real servers, on ports and Unix sockets, with real signals: a checkout arrives, and a stop loses none."""

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
"""Those whose end runs nothing of the app's: Granian leaves out the exit hooks, and uvicorn raises the signal again."""


def arrived(fake: FakeButter) -> list[str]:
    return sorted(record["invoice_id"] for record in fake.records)


def buy_five(shop: Shop) -> None:
    for invoice in FIVE:
        assert shop.checkout(invoice)[0] == 200


def taken(outbox: str) -> int:
    """Count the checkouts that an outbox's file has taken, in any state."""
    with suppress(ConfigurationError), existing(outbox) as store:
        counts = store.counts()
        return counts.captured + counts.pending + counts.delivered
    return 0  # the file is being made


def assert_quiet(output: bytes) -> None:
    """A clean stop logs no error."""
    for alarm in [b"Traceback", b"delivering failed", b"can't start new thread at interpreter shutdown"]:
        assert alarm not in output, output.decode()


@pytest.mark.parametrize("server", WITH_LIFESPAN)
def test_a_stop_right_after_five_checkouts_loses_none_in_memory(fake: FakeButter, url: str, server: str) -> None:
    """SIGTERM right after the fifth answer: the lifespan's end delivers what is in memory."""
    with Shop(server, url) as shop:
        buy_five(shop)
        output = shop.stop(signal.SIGTERM)
    assert arrived(fake) == FIVE, output.decode()
    assert_quiet(output)


@pytest.mark.parametrize("server", SERVERS)
def test_a_stop_right_after_five_checkouts_loses_none_on_disk(
    fake: FakeButter, url: str, server: str, tmp_path: Path
) -> None:
    """While Butter does not answer, five checkouts and SIGTERM. The next start sends the five, and what is bought then.

    The five are sent without another checkout: at once, or from the first request if there is no lifespan. For two
    servers the stop is a kill: the five are on the disk by then. The first life is at a port, the second at a socket.
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
def test_what_a_memory_outbox_loses_is_said(fake: FakeButter, url: str, server: str) -> None:
    """Without a lifespan nothing tells of the end: the first request has the log say what is lost, and what keeps it.

    Daphne's end runs the exit hooks, which drain.
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
    """With durability="before_response" what was answered is on disk, and arrives after the next start.

    What was on its way when the kill came arrives twice.
    """
    environment = {"SHOP_OUTBOX": str(tmp_path / "butter.db"), "SHOP_BEFORE": "10"}
    with Shop("uvicorn", url, **environment) as shop:
        buy_five(shop)
        shop.kill()
    with Shop("uvicorn", url, **environment):
        until(lambda: set(arrived(fake)) == set(FIVE), "five records")
