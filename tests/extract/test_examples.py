"""Each example of a PSP works as described."""

import hmac
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware.testing import FakeButter

EXAMPLES = Path(__file__).parents[2] / "examples" / "psp"
ORDER = {"number": "order-7", "email": "ada@example.com"}
ADA = {"customer_email": "ada@example.com", "ipv4_address": SHOPPER}
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(example: Load) -> Load:
    return lambda name: example(f"psp/{name}")


RUNS: list[tuple[str, str, list[dict[str, str]]]] = [
    (
        "stripe_session",
        "GET /success?session_id=cs_7",
        [{"psp": "stripe", "customer_id": "cus_7", "invoice_id": "in_7", "subscription_id": "sub_7"}],
    ),
    ("braintree_sale", "POST /pay", [{"psp": "braintree", "transaction_id": "7k3x"}]),
    ("adyen_payment", "POST /payments", [{"psp": "adyen", "customer_id": "shopper-7", "transaction_id": "PSP7"}]),
    ("worldpay_payment", "POST /orders", [{"psp": "worldpay", "transaction_id": "pay7"}]),
    (
        "recurly_purchase",
        "POST /subscribe",
        [
            {
                "psp": "recurly",
                "customer_id": "acc7",
                "invoice_id": "inv7",
                "subscription_id": subscription,
                "transaction_id": "tr7",
            }
            for subscription in ("sub7", "sub8")
        ],
    ),
    (
        "recharge_charge",
        "POST /charge",
        [
            {
                "psp": "recharge",
                "customer_id": "7",
                "charge_id": "4007",
                "subscription_id": "11",
                "transaction_id": "ch_7",
            }
        ],
    ),
]


@pytest.mark.parametrize(("name", "request_line", "records"), RUNS, ids=[name for name, *_ in RUNS])
def test_example(load: Load, fake: FakeButter, name: str, request_line: str, records: list[dict[str, str]]) -> None:
    """One checkout gives the records that the example promises."""
    shop = load(name)
    method, path = request_line.split()
    client = TestClient(shop.app)
    content = {"json": ORDER} if method == "POST" else {}
    answer = client.request(method, path, headers={"x-forwarded-for": SHOPPER}, **content)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert shop.butter.flush()
    assert sorted(fake.records, key=str) == sorted((ADA | record for record in records), key=str)


def test_adyen_refused_and_redirected(load: Load, fake: FakeButter) -> None:
    """The same route also answers if there is no payment. Then nothing is sent."""
    shop = load("adyen_payment")
    for card in ("refused", "3ds"):
        TestClient(shop.app).post("/payments", json=ORDER | {"card": card}, headers={"x-forwarded-for": SHOPPER})
    assert shop.butter.flush()
    assert fake.records == []
    assert shop.butter.status().skipped == {"not_paid": 2}


def test_every_example_is_run() -> None:
    """A new file in the folder needs a test here."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {name for name, *_ in RUNS} | {"stripe_hosted_page"}


def test_stripe_hosted_page(load: Load, fake: FakeButter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shopper's address and Stripe's confirmation are joined. A forged webhook is refused."""
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_of_the_shop")
    monkeypatch.setenv("BUTTER_OUTBOX", str(tmp_path / "butter.db"))
    shop = load("stripe_hosted_page")
    shopper = TestClient(shop.app, client=("10.0.0.9", 4711))
    stripe = TestClient(shop.app, client=("54.187.174.169", 443))

    def confirm(session: str, key: bytes = b"whsec_of_the_shop", state: str = "paid", kind: str = "completed") -> int:
        paid = {
            "id": session,
            "object": "checkout.session",
            "livemode": True,
            "status": "complete",
            "payment_status": state,
            "customer_details": {"email": "ada@example.com"},
            "invoice": f"in_{session}",
        }
        event = json.dumps({"object": "event", "type": f"checkout.session.{kind}", "data": {"object": paid}})
        digest = hmac.new(key, f"1700000000.{event}".encode(), "sha256").hexdigest()
        headers = {"stripe-signature": f"t=1700000000,v1={digest}", "content-type": "application/json"}
        return stripe.post("/stripe/webhook", content=event, headers=headers).status_code

    sessions = [shopper.post("/sessions", headers={"x-forwarded-for": SHOPPER}).json()["id"] for _ in range(4)]
    assert shop.butter.flush()
    assert shop.butter.status().parts == 4
    assert [confirm(session) for session in sessions[:2]] == [200, 200]
    assert confirm(sessions[2], key=b"guessed") == 400
    odd = {b"stripe-signature": b"t=1,v1=\xe9", b"content-type": b"application/json"}
    assert stripe.post("/stripe/webhook", content="{}", headers=odd).status_code == 400
    # A bank debit completes the session first, and is paid, or fails, days later.
    assert confirm(sessions[3], state="unpaid") == 200
    assert confirm(sessions[2], state="unpaid", kind="async_payment_failed") == 200
    assert shop.butter.flush()
    assert len(fake.records) == 2
    assert confirm(sessions[3], kind="async_payment_succeeded") == 200
    assert shop.butter.flush()
    paid = [*sessions[:2], sessions[3]]
    assert sorted(record["invoice_id"] for record in fake.records) == sorted(f"in_{session}" for session in paid)
    assert {(record["customer_email"], record["ipv4_address"]) for record in fake.records} == {
        ("ada@example.com", SHOPPER)
    }
    assert shop.butter.status().parts == 1
    assert shop.butter.status().skipped == {"status": 2, "not_paid": 1, "not_a_checkout": 1}
