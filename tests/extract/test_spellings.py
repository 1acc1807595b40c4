"""Each spelling in the presets' tables: each alternative of a field, and each word that means paid."""

from typing import Any

import pytest
from psp_objects import (
    ACCOUNT,
    ATTEMPTS,
    CHARGE,
    EMAIL,
    INTENT,
    INVOICE,
    PRESETS,
    PURCHASED,
    RECHARGED,
    SALE,
    SESSION,
    SUBSCRIPTION,
    Fields,
    respond,
)

TRIAL: dict[str, Any] = SUBSCRIPTION | {"customer": None}
PART: dict[str, Any] = {"id": "s1", "status": "Active", "plan_id": "p"}
RENEWED: dict[str, Any] = {"id": 11, "status": "active", "address_id": 5, "order_interval_frequency": 30}
DONE: dict[str, Any] = {
    "id": "CS1",
    "status": "completed",
    "payments": [{"pspReference": "P", "resultCode": "Authorised"}],
}


def worldpay(**fields: object) -> dict[str, object]:
    return {"outcome": "authorized", "paymentId": "p"} | fields


def queried(**fields: object) -> dict[str, object]:
    return {"lastEvent": "authorized", "paymentId": "p"} | fields


def adyen(**additional: str) -> dict[str, object]:
    return {"resultCode": "Authorised", "additionalData": {k.replace("_", "."): v for k, v in additional.items()}}


SPELLINGS: list[tuple[str, dict[str, Any], Fields]] = [
    ("stripe", SESSION | {"customer": {"id": "c"}}, {"customer_id": "c"}),
    ("stripe", SESSION | {"customer": None, "customer_account": "a"}, {"customer_id": "a"}),
    (
        "stripe",
        SESSION | {"invoice": {"id": "i"}, "subscription": {"id": "s"}},
        {"invoice_id": "i", "subscription_id": "s"},
    ),
    ("stripe", SESSION | {"payment_intent": "pi"}, {"transaction_id": "pi"}),
    ("stripe", SESSION | {"payment_intent": {"id": "pi", "latest_charge": "ch"}}, {"charge_id": "ch"}),
    ("stripe", SESSION | {"status": None}, {"invoice_id": "in_1"}),
    ("stripe", INVOICE | {"status": None, "paid": True}, {"invoice_id": "in_1"}),
    ("stripe", INVOICE | {"customer": {"id": "c"}}, {"customer_id": "c"}),
    (
        "stripe",
        INVOICE | {"subscription": {"id": "s"}, "charge": CHARGE},
        {"subscription_id": "s", "charge_id": "ch_1"},
    ),
    ("stripe", INVOICE | {"charge": CHARGE}, {"network_transaction_id": "net1"}),
    ("stripe", INVOICE | {"parent": {"subscription_details": {"subscription": {"id": "s"}}}}, {"subscription_id": "s"}),
    ("stripe", INVOICE | {"payment_intent": "pi"}, {"transaction_id": "pi"}),
    ("stripe", TRIAL | {"customer": "c"}, {"customer_id": "c"}),
    ("stripe", TRIAL | {"latest_invoice": {"id": "i", "status": "paid", "charge": {"id": "ch"}}}, {"charge_id": "ch"}),
    (
        "stripe",
        TRIAL | {"collection_method": "send_invoice", "latest_invoice": {"id": "i", "status": "paid"}},
        {"invoice_id": "i"},
    ),
    ("stripe", TRIAL | {"collection_method": "charge_automatically", "latest_invoice": "i"}, {"invoice_id": "i"}),
    ("stripe", CHARGE | {"receipt_email": "b@example.com"}, {"customer_email": "b@example.com"}),
    ("stripe", CHARGE | {"customer": {"id": "c"}, "invoice": {"id": "i"}}, {"customer_id": "c", "invoice_id": "i"}),
    ("stripe", CHARGE | {"payment_intent": INTENT}, {"transaction_id": "pi_1"}),
    ("braintree", SALE | {"customer_details": {"email": EMAIL}}, {"customer_email": EMAIL}),
    ("braintree", SALE | {"customer": {"id": "Z2xvYmFs", "legacyId": "c"}}, {"customer_id": "c"}),
    *(
        ("braintree", SALE | {"status": word}, {"transaction_id": "t1"})
        for word in ("settling", "settled", "AUTHORIZED")
    ),
    *(
        (
            "braintree",
            {"subscription": {"id": "s1", "transactions": [{"id": "t", "status": word}]}},
            {"transaction_id": "t"},
        )
        for word in ("authorized", "submitted_for_settlement", "settling", "settled")
    ),
    ("braintree", PART | {"transactions": [SALE | {"customer": {"id": "c", "email": EMAIL}}]}, {"customer_id": "c"}),
    ("braintree", PART | {"transactions": [SALE | {"customer": {"email": EMAIL}}]}, {"customer_email": EMAIL}),
    (
        "braintree",
        PART | {"transactions": [{"id": "t", "status": "settled", "networkTransactionId": "n"}]},
        {"network_transaction_id": "n"},
    ),
    ("adyen", adyen() | {"pspReference": "P", "amount": {"currency": "EUR", "value": 1}}, {"transaction_id": "P"}),
    ("adyen", adyen(tokenization_shopperReference="c"), {"customer_id": "c"}),
    (
        "adyen",
        DONE | adyen(recurring_shopperReference="c") | {"resultCode": None},
        {"customer_id": "c", "transaction_id": "P"},
    ),
    ("adyen", DONE | {"additionalData": {"networkTxReference": "n"}}, {"network_transaction_id": "n"}),
    *(("worldpay", worldpay(outcome=word), {"transaction_id": "p"}) for word in ("authorized", "sent_for_settlement")),
    *(
        ("worldpay", queried(lastEvent=word), {"transaction_id": "p"})
        for word in (
            *("Authorized", "Sent for Settlement", "settled", "authorizationSucceeded", "saleSucceeded"),
            *("settlementRequested", "settlementRequestSubmitted"),
        )
    ),
    ("worldpay", queried(schemeReference="n"), {"network_transaction_id": "n"}),
    ("worldpay", queried(scheme={"reference": "n"}), {"network_transaction_id": "n"}),
    *(
        ("worldpay", {"orderCode": "O", "lastEvent": word}, {"transaction_id": "O"})
        for word in ("AUTHORISED", "AUTHORIZED", "CAPTURED", "SETTLED", "SETTLED_BY_MERCHANT", "SENT_FOR_SETTLEMENT")
    ),
    ("worldpay", {"orderCode": "O", "paymentStatus": "SUCCESS"}, {"transaction_id": "O"}),
    ("recurly", PURCHASED | {"account": {"code": "k"}}, {"customer_id": "k"}),
    ("recurly", PURCHASED | {"transactions": None}, {"invoice_id": "inv1"}),
    ("recurly", PURCHASED | {"transactions": [{"id": "t9"}]}, {"transaction_id": "t9"}),
    ("recurly", PURCHASED | {"collection_method": "manual"}, {"invoice_id": "inv1"}),
    ("recurly", PURCHASED | {"transactions": None, "collection_method": "manual"}, {"invoice_id": "inv1"}),
    (
        "recurly",
        PURCHASED | {"state": None, "transactions": [ATTEMPTS[0], {"id": "t9", "status": "success"}]},
        {"transaction_id": "t9"},
    ),
    ("recurly", {"charge_invoice": {"id": "i", "account": ACCOUNT, "state": "paid"}}, {"invoice_id": "i"}),
    ("recurly", {"object": "transaction", "id": "t", "status": "success", "account": ACCOUNT}, {"customer_id": "acc1"}),
    (
        "recurly",
        {"object": "subscription", "id": "s", "state": "active", "account": {"code": "k"}},
        {"customer_id": "k"},
    ),
    ("recurly", {"object": "subscription", "id": "s", "uuid": "u", "state": "active"}, {"subscription_id": "s"}),
    ("recharge", {"checkout": {"completed_at": "2026-01-05", "charge_id": 1, "customer_id": 2}}, {"customer_id": "2"}),
    ("recharge", RECHARGED | {"charge": {"id": 1}}, {"transaction_id": "77"}),
    ("recharge", RENEWED | {"customer": {"id": 2, "email": EMAIL}}, {"customer_id": "2", "customer_email": EMAIL}),
    ("recharge", RENEWED | {"email": EMAIL}, {"customer_email": EMAIL}),
]


@pytest.mark.parametrize(("psp", "body", "expected"), SPELLINGS)
def test_a_spelling_is_known(psp: str, body: dict[str, Any], expected: Fields) -> None:
    """The object is a payment, and the field comes from this place."""
    (record,) = PRESETS[psp](respond(body))
    assert expected.items() <= record.items()
