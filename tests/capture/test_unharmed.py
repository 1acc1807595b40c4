"""With any fault of Butter, the extractor or the client, the shopper gets the same bytes without a delay."""

import socket
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from processes import Shop, accepting, free_port, misbehaving, numbered, served, until
from shops import CREDENTIALS

from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server


@contextmanager
def silent_butter() -> Generator[str]:
    """Accept connections and never answer."""
    held: list[socket.socket] = []
    with accepting(held.append) as port:
        yield f"http://127.0.0.1:{port}"
        for connection in held:
            connection.close()


@contextmanager
def resetting_butter() -> Generator[str]:
    """Accept connections and reset each."""

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    with misbehaving(reset) as url:
        yield url


@contextmanager
def failing_butter() -> Generator[str]:
    """Answer 500 to everything."""
    fake = FakeButter(**CREDENTIALS)
    fake.respond_with(*[500] * 1000)
    with served(fake) as url:
        yield url


@contextmanager
def absent_butter() -> Generator[str]:
    """Return a URL without a server."""
    yield f"http://127.0.0.1:{free_port()}"


def without_date(answer: tuple[int, list[tuple[str, str]], bytes]) -> object:
    status, headers, content = answer
    return status, [(name, value) for name, value in headers if name.lower() != "date"], content


@pytest.fixture(scope="module")
def bare() -> Iterator[Shop]:
    with Shop("uvicorn", "http://127.0.0.1:1", SHOP_EXTRACTOR="absent") as shop:
        yield shop


def unharmed(shop: Shop, bare: Shop) -> None:
    """Check out ten times: each response has the same bytes with and without us, and none is slow."""
    shop.checkout("in_warm")
    for number in range(10):
        before = time.perf_counter()
        answer = shop.checkout(f"in_{number}")
        seconds = time.perf_counter() - before
        assert answer[0] == 200
        assert without_date(answer) == without_date(bare.checkout(f"in_{number}"))
        # Below every timeout and sleep of the fault, and above the delays of a busy machine.
        assert seconds < 2


@pytest.mark.parametrize("trouble", [silent_butter, resetting_butter, failing_butter, absent_butter])
def test_a_failing_butter(bare: Shop, trouble: object) -> None:
    """A Butter that hangs, resets, fails or is absent does not affect the checkout."""
    with trouble() as url, Shop("uvicorn", url) as shop:  # type: ignore[operator]
        unharmed(shop, bare)


@pytest.mark.parametrize("extractor", ["raises", "slow", "loops", "nonsense"])
def test_a_failing_extractor(bare: Shop, extractor: str) -> None:
    """An extractor that raises, is slow, loops or returns nonsense does not affect the checkout."""
    with served(FakeButter(**CREDENTIALS)) as url, Shop("uvicorn", url, SHOP_EXTRACTOR=extractor) as shop:
        unharmed(shop, bare)


def test_a_body_above_the_limit(bare: Shop) -> None:
    """It passes completely."""
    with served(FakeButter(**CREDENTIALS)) as url, Shop("uvicorn", url, SHOP_CAP="20") as shop:
        unharmed(shop, bare)


def test_a_client_that_disconnects() -> None:
    """A shopper who disconnects before the answer has paid all the same. The record arrives."""
    fake = FakeButter(**CREDENTIALS)
    with served(fake) as url, Shop("uvicorn", url, SHOP_PADDING="900000") as shop:
        with socket.create_connection(("127.0.0.1", shop.port)) as client:
            head = b"POST /checkout/in_1 HTTP/1.1\r\nHost: shop\r\n"
            client.sendall(head + b"X-Forwarded-For: 81.2.69.142\r\nContent-Length: 0\r\n\r\n")
        until(lambda: [r["invoice_id"] for r in fake.records] == ["in_1"], "the record")


def test_it_waits_for_nothing() -> None:
    """Concurrent checkouts with a Butter that hangs take no longer than without us."""
    with silent_butter() as url, Shop("uvicorn", url) as shop, ThreadPoolExecutor(50) as shoppers:
        shop.checkout("in_warm")
        started = time.perf_counter()
        answers = list(shoppers.map(shop.checkout, numbered(50)))
        assert time.perf_counter() - started < 5
        assert [status for status, _headers, _body in answers] == [200] * 50
