"""Each example does what it says; the README and the docs run as they stand."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware.testing import FakeButter

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_fastapi_checkout(example: Any, fake: FakeButter) -> None:
    """IDs from the response, the e-mail from the order."""
    shop = example("fastapi_checkout")
    client = TestClient(shop.app, client=("10.0.0.9", 4711))
    client.post("/checkout/7", json={"email": "ada@example.com"}, headers={"x-forwarded-for": SHOPPER})
    assert shop.butter.flush()
    (record,) = fake.records
    assert record.pop("charge_id").startswith("ch_")
    assert record == {
        "customer_email": "ada@example.com",
        "ipv4_address": SHOPPER,
        "psp": "stripe",
        "customer_id": "cus_7",
        "invoice_id": "in_7",
    }


def test_starlette_checkout(example: Any, fake: FakeButter) -> None:
    """An HTML page, annotated; a reload is no second record."""
    shop = example("starlette_checkout")
    client = TestClient(shop.app)
    for _reload in range(2):
        assert "Thank you" in client.get("/thanks/12", headers={"x-forwarded-for": SHOPPER}).text
    assert shop.butter.flush()
    assert [record["transaction_id"] for record in fake.records] == ["PSP12"]


def test_custom_extractor(example: Any, fake: FakeButter) -> None:
    """Several records from one response."""
    shop = example("custom_extractor")
    client = TestClient(shop.app, client=("173.245.48.9", 4711))
    client.post("/subscriptions", headers={"cf-connecting-ip": SHOPPER})
    assert shop.butter.flush()
    assert sorted(record["subscription_id"] for record in fake.records) == ["sub-a", "sub-b"]
    assert fake.records[0]["customer_id"] == "4711"


def test_ipv6_beacon(example: Any, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page calls the beacon over IPv4, and the checkout of the same cart comes over IPv6 with the token."""
    monkeypatch.setenv("BUTTER_BEACON_KEYS", "a-key-of-the-merchant-of-32-bytes-or-more")
    shop = example("ipv6_beacon")
    page = TestClient(shop.app).get("/cart/7").text
    documented = (EXAMPLES.parent / "docs/ipv6.md").read_text().split("```js\n")[1].split("```")[0]
    assert documented.replace("https://v4.shop.example/", shop.BEACON) in page
    token = TestClient(shop.beacon, client=(SHOPPER, 4711)).post("/", content="7").json()["token"]
    for cart in (7, 8):
        TestClient(shop.app, client=("2001:db8::1", 4711)).post(
            f"/checkout/{cart}", json={"email": "ada@example.com"}, headers={"X-Butter-Token": token}
        )
    assert shop.butter.flush()
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_7", SHOPPER)]


@pytest.mark.server
def test_demo() -> None:
    """`make demo` ends well only if both sides agree."""
    result = subprocess.run([sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "They agree." in result.stdout


@pytest.mark.server
def test_the_demo_needs_no_proxy() -> None:
    """A newcomer behind a company's proxy sees the same."""
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "socks5://127.0.0.1:9")
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    result = subprocess.run(command, env=os.environ | proxies, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def demo(argument: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import demo; {argument}; sys.exit(demo.main())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.server
@pytest.mark.parametrize(
    ("change", "says"),
    [
        # A shopper's address that the shop is not told: the record has another.
        ("demo.SHOPPERS[0] = ('cart-1', 'ada@example.com', '9.9.9.9, 81.2.69.142', '')", "DIFFERENT"),
        ("fake = demo.FakeButter; demo.FakeButter = lambda **_: fake(username='a', password='b')", "They differ."),
        ("demo.SHOPPERS[0] = ('', 'ada@example.com', '81.2.69.142', '')", "404 Not Found"),
    ],
    ids=["another address", "wrong credentials", "a checkout that fails"],
)
def test_the_demo_fails_where_the_sides_differ(change: str, says: str) -> None:
    """A demo that could not fail would show nothing; and one that fails ends, with 1."""
    result = demo(change)
    assert result.returncode == 1, result.stdout + result.stderr
    assert says in result.stdout + result.stderr
