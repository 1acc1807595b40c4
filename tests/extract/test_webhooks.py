"""Webhooks of Adyen, Worldpay and Recurly, about a payment that the shopper made on a page of the PSP."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from psp_bodies_others import EMAIL, EVENT, ITEM, PSP, REF, notified, told
from shops import SHOPPER

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, extract
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

Case = tuple[Any, str, str, dict[str, Any], dict[str, Any], dict[str, str]]
CASES: list[Case] = [
    (
        "adyen",
        "decoy",
        "notificationItems[0].NotificationRequestItem.merchantReference",
        notified(ITEM),
        notified(ITEM | {"success": "false"}),
        {"customer_id": "shopper-7", "transaction_id": PSP},
    ),
    (
        "worldpay",
        REF,
        "eventDetails.transactionReference",
        EVENT,
        EVENT | {"eventDetails": EVENT["eventDetails"] | {"type": "refused"}},
        {"transaction_id": REF},
    ),
    (
        "recurly",
        "rafhdbbf41mc",
        "id",
        told("charge_invoice", "paid"),
        told("charge_invoice", "past_due"),
        {"invoice_id": "rafhdbbf41mc"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_webhook_completes_the_shoppers_part(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    tmp_path: Path,
    case: Case,
) -> None:
    """The shopper's address and the PSP's confirmation become one record. A refusal gives none."""
    psp, reference, join, paid, refused, ids = case
    preset = getattr(extract, psp)()
    butter = make_butter(
        CheckoutRoute("/sessions", psp, join="reference"),
        CheckoutRoute("/webhook", psp, preset, source="request", join=join, address=False),
        outbox=tmp_path / "butter.db",
    )

    async def begin(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, customer_email=EMAIL)
        await sends(start(), body(json.dumps({"reference": reference}).encode()))(scope, receive, send)

    def confirm(content: dict[str, Any]) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await sends(start(headers=[]), body())(scope, receive, send)

        async def receive() -> Message:
            return {"type": "http.request", "body": json.dumps(content).encode(), "more_body": False}

        anyio.run(drive, ButterMiddleware(app, butter), http_scope("/webhook", headers=[]), receive)
        assert butter.flush()

    anyio.run(drive, ButterMiddleware(begin, butter), http_scope("/sessions"))
    confirm(refused)
    assert (fake.records, butter.status().skipped) == ([], {"not_paid": 1})
    confirm(paid)
    assert fake.records == [{"customer_email": EMAIL, "ipv4_address": SHOPPER, "psp": psp, **ids}]
