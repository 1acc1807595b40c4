"""Servers that tell the app neither that it starts nor that it ends."""

import signal

import pytest
from processes import WITHOUT_LIFESPAN, Shop, numbered

from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server
FIVE = numbered(5)


def arrived(fake: FakeButter) -> list[str]:
    return sorted(record["invoice_id"] for record in fake.records)


@pytest.mark.parametrize("server", WITHOUT_LIFESPAN)
def test_a_missing_lifespan_is_said_at_the_first_request(url: str, server: str) -> None:
    """One line at the first request, once, with what it means for a memory outbox and the remedy."""
    with Shop(server, url) as shop:
        for _request in range(3):
            shop.request("GET", "/health")
        output = shop.stop(signal.SIGTERM).decode()
    assert output.count("the server sent no lifespan event") == 1, output
    assert "outbox=" in output


@pytest.mark.parametrize("server", ["daphne", "gunicorn asgi", "hypercorn", "hypercorn trio"])
def test_a_clean_stop_alarms_nobody(fake: FakeButter, url: str, server: str) -> None:
    """A stop says nothing at CRITICAL, and what is in memory is drained."""
    with Shop(server, url) as shop:
        for invoice in FIVE:
            assert shop.checkout(invoice)[0] == 200
        output = shop.stop(signal.SIGTERM)
    assert b"delivering failed" not in output, output.decode()
    assert b"can't start new thread at interpreter shutdown" not in output
    assert b"Traceback" not in output
    assert arrived(fake) == FIVE
