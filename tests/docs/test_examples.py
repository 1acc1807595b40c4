"""Each example works as described."""

from pathlib import Path
from typing import Any

import pytest
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware.testing import FakeButter

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_fastapi_checkout(example: Any, fake: FakeButter) -> None:
    """The IDs are from the response, and the e-mail is from the order."""
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
    """The endpoint annotates an HTML page. A reload gives no second record."""
    shop = example("starlette_checkout")
    client = TestClient(shop.app)
    for _reload in range(2):
        assert "Thank you" in client.get("/thanks/12", headers={"x-forwarded-for": SHOPPER}).text
    assert shop.butter.flush()
    assert [record["transaction_id"] for record in fake.records] == ["PSP12"]


def test_custom_extractor(example: Any, fake: FakeButter) -> None:
    """One response gives several records."""
    shop = example("custom_extractor")
    client = TestClient(shop.app, client=("173.245.48.9", 4711))
    client.post("/subscriptions", headers={"cf-connecting-ip": SHOPPER})
    assert shop.butter.flush()
    assert sorted(record["subscription_id"] for record in fake.records) == ["sub-a", "sub-b"]
    assert fake.records[0]["customer_id"] == "4711"


def test_ipv6_beacon(example: Any, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page calls the beacon over IPv4. The checkout of the same cart comes over IPv6 with the token."""
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
