"""Each example does what it says; the README and the docs run as they stand."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import listening
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware.testing import FakeButter

EXAMPLES = Path(__file__).parents[2] / "examples"


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


def once(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--once"]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.server
def test_demo() -> None:
    """`make demo ONCE=1` ends well only if both sides agree."""
    result = once()
    assert result.returncode == 0, result.stderr
    assert "They agree." in result.stdout


@pytest.mark.server
def test_the_demo_needs_no_proxy() -> None:
    """A newcomer behind a company's proxy sees the same."""
    result = once(**dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "socks5://127.0.0.1:9"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_until_it_is_ended(number: signal.Signals) -> None:
    """It says where to look; Ctrl-C, which goes to the whole group, ends it and what it started, with 0."""
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C ends it." not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        (inbox,) = re.findall(r"The inbox: +http://127.0.0.1:([0-9]+)", said)
        assert listening(int(inbox))
        os.killpg(process.pid, number)
        assert process.wait(30) == 0
        assert "Ended" in process.stdout.read()
    assert not listening(int(inbox))


def demo(argument: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import demo; {argument}; sys.exit(demo.main(once=True))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.server
@pytest.mark.parametrize(
    ("change", "says"),
    [
        # A shopper's address that the shop is not told: the record has another.
        ("demo.SHOPPERS[0] = ('cart-1', 'ada@example.com', '9.9.9.9, 81.2.69.142', '')", "DIFFERENT"),
        ("demo.SANDBOX_OPTIONS += ['--username', 'a', '--password', 'b']; demo.DELIVERY_SECONDS = 1", "They differ."),
        ("demo.SHOPPERS[0] = ('', 'ada@example.com', '81.2.69.142', '')", "404 Not Found"),
    ],
    ids=["another address", "wrong credentials", "a checkout that fails"],
)
def test_the_demo_fails_where_the_sides_differ(change: str, says: str) -> None:
    """A demo that could not fail would show nothing; and one that fails ends, with 1."""
    result = demo(change)
    assert result.returncode == 1, result.stdout + result.stderr
    assert says in result.stdout + result.stderr
