"""The IPv6 beacon in a real browser: the example's checkout page at ::1, the beacon at 127.0.0.1."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from browsers import IN_BROWSER
from processes import Late, free_port, served

from butter_middleware.testing import FakeButter

pytestmark = IN_BROWSER

Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, example: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visit]:
    """Serve the example, pay for cart 7 in a browser with the beacon at `beacon_host`. Return the shop's module."""
    with ExitStack() as stack:

        def pay(beacon_host: str = "127.0.0.1", origin: str = "", *, beacon: bool = True) -> Any:
            shop, v4 = Late(), Late()
            shop_url, v4_url = stack.enter_context(served(shop, "::1")), ""
            if beacon:
                v4_url = stack.enter_context(served(v4, beacon_host))
            monkeypatch.setenv("BUTTER_ENVIRONMENT", "staging")
            monkeypatch.setenv("BUTTER_BEACON_KEYS", "a-key-of-the-merchant-of-32-bytes-or-more")
            monkeypatch.setenv("SHOP_ORIGIN", origin or shop_url)
            monkeypatch.setenv("BEACON_URL", v4_url or f"http://127.0.0.1:{free_port()}/")
            module = example("ipv6_beacon")
            shop.app, v4.app = module.app, module.beacon
            page = browser.new_page()
            stack.callback(page.close)
            page.goto(f"{shop_url}/cart/7")
            page.click("button")
            page.wait_for_function("document.querySelector('output').textContent === 'paid'", timeout=20_000)
            module.butter.flush()
            return module

        yield pay


def test_a_shopper_on_ipv6_pays(visit: Visit, fake: FakeButter) -> None:
    """The page runs the snippet against the beacon and posts the checkout over IPv6. The record has the IPv4."""
    shop = visit()
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_7", "127.0.0.1")]
    assert shop.butter.status().skipped == {}


@pytest.mark.parametrize(
    "wrong",
    [{"beacon": False}, {"beacon_host": "::1"}, {"origin": "https://another.example"}],
    ids=["no beacon answers", "the beacon is reached over IPv6", "the page is of another origin"],
)
def test_without_a_token_the_checkout_succeeds(visit: Visit, fake: FakeButter, wrong: dict[str, Any]) -> None:
    """The shopper has paid. There is no record, and the reason is counted."""
    shop = visit(**wrong)
    assert fake.records == []
    assert shop.butter.status().skipped == {"no_address:ipv6_client": 1}
