"""Evidence: records are counted by the IDs that they have, and a Stripe route with weak records is logged once."""

import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from shops import SHOPPER

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, extract

EMAIL = {"customer_email": "a@example.com"}
INTENT: dict[str, Any] = {"object": "payment_intent", "id": "pi_1", "status": "succeeded", "livemode": True}
SESSION: dict[str, Any] = {
    "object": "checkout.session",
    "status": "complete",
    "payment_status": "paid",
    "payment_intent": "pi_1",
    "livemode": True,
}
SUBSCRIPTION: dict[str, Any] = {"object": "subscription", "id": "sub_1", "status": "active", "livemode": True}


def read(butter: Butter, content: dict[str, Any], path: str = "/pay") -> None:
    app = ButterMiddleware(sends(start(), body(json.dumps(content).encode())), butter)
    anyio.run(drive, app, http_scope(path))
    assert butter.flush()


def with_email(preset: Any) -> Any:
    """Add an e-mail to each record of a preset, as an endpoint's annotation does."""
    return lambda response: [EMAIL | fields for fields in preset(response)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    return [line for line in said if not line.startswith("butter: outbox:")]


def test_records_are_counted_by_their_ids(make_butter: Callable[..., Butter]) -> None:
    """The combination of IDs is the key, the most frequent first. Captures and calls of `record` count alike."""
    butter = make_butter(CheckoutRoute("/pay", "adyen", lambda r: EMAIL | r.json()))
    read(butter, {"transaction_id": "T0"})
    for number in range(3):
        read(butter, {"charge_id": number, "invoice_id": number, "customer_id": "c"})
    butter.record(Checkout(ipv4_address=SHOPPER, psp="adyen", customer_email="a@example.com", transaction_id="T1"))
    butter.record(http_scope("/pay"), customer_email="a@example.com", subscription_id="s")
    read(butter, {})
    assert butter.flush()
    strength = butter.status().strength
    assert list(strength.items()) == [("invoice_id+charge_id", 3), ("transaction_id", 2), ("subscription_id", 1)]


def test_a_dry_run_counts_them_too(make_butter: Callable[..., Butter]) -> None:
    """Before anything is sent, a dry run shows how strong the records would be."""
    butter = make_butter(CheckoutRoute("/pay", "adyen", lambda r: EMAIL | r.json()), dry_run=True)
    read(butter, {"transaction_id": "T0"})
    butter.record(Checkout(ipv4_address=SHOPPER, psp="adyen", customer_email="a@example.com", invoice_id="i"))
    assert butter.status().strength == {"transaction_id": 1, "invoice_id": 1}


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (INTENT | {"receipt_email": "a@example.com"}, "latest_charge too"),
        (SESSION | {"customer_email": "a@example.com"}, "expand=['payment_intent.latest_charge']"),
        (SUBSCRIPTION | {"customer": {"id": "cus_1", "email": "a@example.com"}}, "latest_invoice too"),
    ],
    ids=lambda value: value["object"] if isinstance(value, dict) else "",
)
def test_a_weak_stripe_route_is_logged_once(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, content: dict[str, Any], remedy: str
) -> None:
    """One warning for each route names the fix for its object. The record is sent all the same."""
    butter = make_butter(CheckoutRoute("/pay", "stripe", extract.stripe()))
    for number in range(3):
        read(butter, content | {"id": f"x_{number}"})
    (line,) = warnings(caplog)
    assert line.startswith("butter: POST /pay: the records carry neither invoice_id nor charge_id")
    assert remedy in line
    assert butter.status().delivered >= 1


@pytest.mark.parametrize(
    ("psp", "extractor", "content"),
    [
        ("stripe", with_email(extract.stripe()), INTENT | {"latest_charge": "ch_1"}),
        ("stripe", with_email(extract.stripe()), SESSION | {"invoice": "in_1"}),
        ("stripe", lambda _r: EMAIL | {"charge_id": "ch_1"}, {}),
        ("adyen", lambda _r: EMAIL | {"transaction_id": "T"}, {}),
        ("stripe", lambda _r: None, {}),
    ],
)
def test_no_warning_without_weak_records(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, psp: Any, extractor: Any, content: Any
) -> None:
    """An invoice or a charge is enough. Other PSPs have neither, and a response without a record is not weak."""
    read(make_butter(CheckoutRoute("/pay", psp, extractor)), content)
    assert warnings(caplog) == []


def test_functions_and_annotations_get_a_general_remedy(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """No preset knows their object. For a recorded request, the remedy names the arguments to pass."""
    butter = make_butter(
        CheckoutRoute("/pay", "stripe", lambda _r: EMAIL | {"transaction_id": "pi_1"}), CheckoutRoute("/late", "stripe")
    )
    read(butter, {})
    butter.record(http_scope("/late"), customer_email="a@example.com", transaction_id="pi_2")
    assert butter.flush()
    first, second = warnings(caplog)
    assert "payment intent's latest_charge as charge_id, or return the Checkout Session" in first
    assert second.startswith("butter: POST /late")
    assert second.endswith("Pass charge_id= or invoice_id= to butter.record().")
