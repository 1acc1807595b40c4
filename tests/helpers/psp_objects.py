"""Small objects of the six PSPs, written by hand from their documentation: paid ones and unpaid ones."""

import json
from typing import Any, NamedTuple

from butter_middleware import CheckoutResponse, extract
from butter_middleware.models.http import Capture, view

Fields = dict[str, str]
EMAIL = "ada@example.com"
PRESETS = {
    "stripe": extract.stripe(),
    "braintree": extract.braintree(),
    "adyen": extract.adyen(),
    "worldpay": extract.worldpay(),
    "recurly": extract.recurly(),
    "recharge": extract.recharge(),
}


class Case(NamedTuple):
    """An object, and its expected records."""

    name: str
    body: Any
    records: list[Fields]

    @property
    def psp(self) -> str:
        return self.name.partition(" ")[0]


def respond(body: object, annotations: dict[str, Any] | None = None) -> CheckoutResponse:
    """Return a response with this body, as an extractor gets it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    capture = Capture("POST", "/pay", b"", [], None, 200, [], content, annotations or {}, 0.0)
    return view(capture, {}, "81.2.69.142", 1 << 20)


CARD = {"card": {"network_transaction_id": "net1", "three_d_secure": {"transaction_id": "decoy"}}}
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "status": "succeeded",
    "livemode": True,
    "balance_transaction": "txn_decoy",
    "billing_details": {"email": EMAIL, "name": "decoy@example.com"},
    "customer": "cus_1",
    "invoice": "in_1",
    "payment_intent": "pi_1",
    "payment_method_details": CARD,
    "receipt_email": None,
}
INTENT = {"id": "pi_1", "object": "payment_intent", "status": "succeeded", "customer": "cus_1", "receipt_email": ""}
SESSION = {
    "id": "cs_1",
    "object": "checkout.session",
    "mode": "subscription",
    "status": "complete",
    "payment_status": "paid",
    "customer": "cus_1",
    "customer_details": {"email": EMAIL},
    "customer_email": "old@example.com",
    "invoice": "in_1",
    "subscription": "sub_1",
    "payment_intent": None,
}
INVOICE = {"id": "in_1", "object": "invoice", "status": "paid", "customer": "cus_1", "customer_email": EMAIL}
SUBSCRIPTION = {
    "id": "sub_1",
    "object": "subscription",
    "status": "active",
    "customer": {"id": "cus_1", "email": EMAIL},
}
SALE = {
    "id": "t1",
    "global_id": "decoy",
    "graphql_id": "decoy",
    "order_id": "decoy",
    "merchant_account_id": "decoy",
    "status": "submitted_for_settlement",
    "type": "sale",
    "subscription_id": "s1",
    "network_transaction_id": "net1",
}
OF_SALE = {"transaction_id": "t1", "subscription_id": "s1", "network_transaction_id": "net1"}
ACCOUNT = {"id": "acc1", "code": "code1", "email": EMAIL}
OF_ACCOUNT = {"customer_email": EMAIL, "customer_id": "acc1"}
ATTEMPTS = [
    {"id": "t0", "status": "declined", "type": "purchase"},
    {"id": "t1", "status": "success", "type": "purchase", "gateway_reference": "decoy"},
]
PURCHASED = {
    "object": "invoice",
    "id": "inv1",
    "number": "1001",
    "state": "paid",
    "type": "charge",
    "account": ACCOUNT,
    "subscription_ids": ["s1"],
    "transactions": ATTEMPTS,
}
OF_PURCHASE = {**OF_ACCOUNT, "invoice_id": "inv1", "subscription_id": "s1", "transaction_id": "t1"}
ITEMS = [
    {"purchase_item_id": 11, "purchase_item_type": "subscription"},
    {"purchase_item_id": 12, "purchase_item_type": "onetime"},
]
RECHARGED = {
    "id": 1,
    "address_id": 5,
    "status": "success",
    "customer": {"id": 2, "email": EMAIL, "external_customer_id": {"ecommerce": "decoy"}},
    "external_order_id": {"ecommerce": "decoy"},
    "external_transaction_id": {"payment_processor": 77},
    "line_items": ITEMS,
    "client_details": {"browser_ip": "9.9.9.9"},
}
OF_RECHARGE = {"customer_email": EMAIL, "customer_id": "2", "subscription_id": "11", "transaction_id": "77"}

PAID = [
    # Stripe A: charges are listed, refused ones too. B: latest_charge. C: no invoice, payments of an invoice.
    Case(
        "stripe A payment_intent",
        INTENT | {"invoice": "in_1", "charges": {"data": [CHARGE | {"id": "ch_0", "status": "failed"}, CHARGE]}},
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
                "network_transaction_id": "net1",
            }
        ],
    ),
    Case(
        "stripe B payment_intent",
        INTENT | {"invoice": {"id": "in_1"}, "latest_charge": "ch_1", "receipt_email": EMAIL},
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
            }
        ],
    ),
    Case(
        "stripe C payment_intent to be captured",
        INTENT
        | {"status": "requires_capture", "customer": None, "customer_account": "acct_1", "latest_charge": CHARGE},
        [
            {
                "customer_email": EMAIL,
                "customer_id": "acct_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
                "network_transaction_id": "net1",
            }
        ],
    ),
    Case(
        "stripe payment_intent with IDs of another form",
        INTENT | {"id": "whatever", "customer": {"id": 12, "email": EMAIL}, "latest_charge": {}},
        [{"customer_email": EMAIL, "customer_id": "12", "transaction_id": "whatever"}],
    ),
    Case(
        "stripe session",
        SESSION,
        [{"customer_email": EMAIL, "customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1"}],
    ),
    Case(
        "stripe session, expanded",
        SESSION
        | {
            "mode": "payment",
            "invoice": None,
            "subscription": None,
            "customer_details": {"email": " "},
            "payment_intent": INTENT | {"latest_charge": CHARGE},
        },
        [
            {
                "customer_email": "old@example.com",
                "customer_id": "cus_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
                "network_transaction_id": "net1",
            }
        ],
    ),
    Case(
        "stripe trial begun by a session",
        SESSION | {"payment_status": "no_payment_required"},
        [{"customer_email": EMAIL, "customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1"}],
    ),
    Case(
        "stripe A invoice",
        INVOICE | {"subscription": "sub_1", "charge": "ch_1", "payment_intent": {"id": "pi_1"}},
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "subscription_id": "sub_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
            }
        ],
    ),
    Case(
        "stripe C invoice, paid in two parts",
        INVOICE
        | {
            "parent": {"subscription_details": {"subscription": "sub_1"}},
            "payments": {
                "data": [
                    {"status": "canceled", "payment": {"payment_intent": "pi_0"}},
                    {"status": "paid", "payment": {"type": "payment_intent", "payment_intent": "pi_1"}},
                    {"status": "paid", "payment": {"type": "charge", "charge": {"id": "ch_1"}}},
                ]
            },
        },
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "subscription_id": "sub_1",
                "transaction_id": "pi_1",
            },
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "subscription_id": "sub_1",
                "charge_id": "ch_1",
            },
        ],
    ),
    Case(
        "stripe C invoice, not expanded",
        INVOICE,
        [{"customer_email": EMAIL, "customer_id": "cus_1", "invoice_id": "in_1"}],
    ),
    Case(
        "stripe B subscription",
        SUBSCRIPTION | {"latest_invoice": {"id": "in_1", "status": "paid", "charge": "ch_1"}},
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "subscription_id": "sub_1",
                "charge_id": "ch_1",
            }
        ],
    ),
    Case(
        "stripe C subscription on trial",
        SUBSCRIPTION | {"status": "trialing", "latest_invoice": "in_1"},
        [{"customer_email": EMAIL, "customer_id": "cus_1", "invoice_id": "in_1", "subscription_id": "sub_1"}],
    ),
    Case(
        "stripe charge",
        CHARGE,
        [
            {
                "customer_email": EMAIL,
                "customer_id": "cus_1",
                "invoice_id": "in_1",
                "charge_id": "ch_1",
                "transaction_id": "pi_1",
                "network_transaction_id": "net1",
            }
        ],
    ),
    Case(
        "braintree SDK",
        SALE | {"customer_details": {"id": "c1", "email": "", "global_id": "decoy"}},
        [OF_SALE | {"customer_id": "c1"}],
    ),
    Case(
        "braintree raw",
        {"success": True, "transaction": SALE | {"customer": {"id": "c1", "email": EMAIL}}},
        [OF_SALE | {"customer_id": "c1", "customer_email": EMAIL}],
    ),
    Case(
        "braintree of another SDK",
        {
            "result": {
                "transaction": {
                    "id": "t1",
                    "status": "authorized",
                    "subscriptionId": "s1",
                    "networkTransactionId": "net1",
                    "customer": {"id": "c1"},
                }
            }
        },
        [OF_SALE | {"customer_id": "c1"}],
    ),
    Case(
        "braintree GraphQL",
        {
            "data": {
                "chargePaymentMethod": {
                    "transaction": {"id": "Z2xvYmFs", "legacyId": "t1", "status": "SUBMITTED_FOR_SETTLEMENT"}
                }
            },
            "extensions": {"requestId": "r"},
        },
        [{"transaction_id": "t1"}],
    ),
    Case(
        "braintree GraphQL without legacyId",
        {"data": {"authorizeCreditCard": {"transaction": {"id": "dHJhbnNhY3Rpb25fdDE=", "status": "AUTHORIZED"}}}},
        [{"transaction_id": "t1"}],
    ),
    Case(
        "braintree webhook",
        {
            "kind": "subscription_charged_successfully",
            "subject": {
                "subscription": {
                    "id": "s1",
                    "transactions": [{"id": "t1", "status": "settling"}, {"id": "t0", "status": "settled"}],
                }
            },
        },
        [{"subscription_id": "s1", "transaction_id": "t1"}],
    ),
    Case(
        "braintree subscription",
        {
            "id": "s1",
            "status": "Active",
            "plan_id": "p",
            "transactions": [SALE | {"customer_details": {"id": "c1", "email": EMAIL}}],
        },
        [OF_SALE | {"customer_id": "c1", "customer_email": EMAIL}],
    ),
    Case(
        "adyen payment",
        {
            "resultCode": "Authorised",
            "pspReference": "P1",
            "merchantReference": "decoy",
            "additionalData": {"networkTxReference": "net1", "recurring.shopperReference": "c1"},
        },
        [{"transaction_id": "P1", "network_transaction_id": "net1", "customer_id": "c1"}],
    ),
    Case(
        "adyen tokenized payment",
        {"payment": {"resultCode": "Authorised", "pspReference": "P1"} | {"additionalData": {"shopperReference": "c"}}},
        [{"transaction_id": "P1", "customer_id": "c"}],
    ),
    Case(
        "adyen session, completed by two payments",
        {
            "id": "CS1",
            "status": "completed",
            "payments": [
                {"pspReference": "P0", "resultCode": "Refused"},
                {"pspReference": "P1", "resultCode": "Authorised"},
                {"pspReference": "P2", "resultCode": "Authorised"},
            ],
        },
        [{"transaction_id": "P1"}, {"transaction_id": "P2"}],
    ),
    Case(
        "worldpay Access Payments",
        {"outcome": "sentForSettlement", "transactionReference": "R1", "paymentId": "pay1", "schemeReference": "net1"},
        [{"transaction_id": "R1", "network_transaction_id": "net1"}],
    ),
    Case(
        "worldpay Card Payments",
        {"outcome": "Sent for Settlement", "paymentId": "pay1", "scheme": {"reference": "MCC123   "}},
        [{"transaction_id": "pay1", "network_transaction_id": "MCC123"}],
    ),
    Case(
        "worldpay Payment Queries",
        {"lastEvent": "authorizationSucceeded", "transactionReference": "R1", "paymentId": "pay1"},
        [{"transaction_id": "R1"}],
    ),
    Case("worldpay WPG", {"orderCode": "O1", "payment": {"lastEvent": "AUTHORISED"}}, [{"transaction_id": "O1"}]),
    Case("recurly purchase", {"object": "invoice_collection", "charge_invoice": PURCHASED}, [OF_PURCHASE]),
    Case("recurly invoice", PURCHASED, [OF_PURCHASE]),
    Case(
        "recurly invoice of two subscriptions",
        PURCHASED | {"subscription_ids": ["s1", "s2"]},
        [OF_PURCHASE, OF_PURCHASE | {"subscription_id": "s2"}],
    ),
    Case(
        "recurly transaction",
        {
            "object": "transaction",
            "id": "t1",
            "status": "success",
            "type": "purchase",
            "account": {"code": "code1", "email": EMAIL},
            "invoice": {"id": "inv1", "number": "1001"},
            "subscription_ids": ["s1"],
        },
        [OF_PURCHASE | {"customer_id": "code1"}],
    ),
    Case(
        "recurly subscription",
        {"object": "subscription", "uuid": "u1", "state": "active", "account": ACCOUNT, "active_invoice_id": "inv1"},
        [OF_ACCOUNT | {"subscription_id": "u1", "invoice_id": "inv1"}],
    ),
    Case("recharge 2021-11 charge", {"charge": RECHARGED}, [OF_RECHARGE | {"charge_id": "1"}]),
    Case(
        "recharge 2021-11 order",
        {
            "order": RECHARGED
            | {"id": 3, "external_transaction_id": None}
            | {"charge": {"id": 1, "external_transaction_id": {"payment_processor": "77"}}}
        },
        [OF_RECHARGE | {"charge_id": "1"}],
    ),
    Case(
        "recharge checkout",
        {"checkout": {"token": "k", "email": EMAIL, "charge_id": 1, "completed_at": "2026-01-01", "line_items": []}},
        [{"customer_email": EMAIL, "charge_id": "1"}],
    ),
    Case(
        "recharge 2021-01 charge",
        {
            "charge": {
                "id": 1,
                "address_id": 5,
                "status": "SUCCESS",
                "transaction_id": "77",
                "customer_id": 2,
                "email": EMAIL,
                "line_items": [
                    {"subscription_id": 11, "type": "SUBSCRIPTION"},
                    {"subscription_id": 12, "type": "ONETIME"},
                ],
            }
        },
        [OF_RECHARGE | {"charge_id": "1"}],
    ),
    Case(
        "recharge 2021-01 order",
        {
            "order": {
                "id": 3,
                "charge_id": 1,
                "charge_status": "SUCCESS",
                "status": "SUCCESS",
                "transaction_id": "77",
                "customer_id": 2,
                "email": EMAIL,
                "line_items": [{"subscription_id": 11}],
            }
        },
        [OF_RECHARGE | {"charge_id": "1"}],
    ),
    Case(
        "recharge charge of two subscriptions",
        RECHARGED | {"line_items": [*ITEMS, {"purchase_item_id": 13, "purchase_item_type": "subscription"}]},
        [OF_RECHARGE | {"charge_id": "1"}, OF_RECHARGE | {"charge_id": "1", "subscription_id": "13"}],
    ),
    Case(
        "recharge subscription",
        {"subscription": {"id": 11, "status": "active", "customer_id": 2, "order_interval_frequency": 30}},
        [{"customer_id": "2", "subscription_id": "11"}],
    ),
]

UNPAID = [
    *(
        Case(f"stripe payment_intent {status}", INTENT | {"status": status}, [])
        for status in ("requires_payment_method", "requires_action", "processing", "canceled", None)
    ),
    Case("stripe session open", SESSION | {"status": "open", "payment_status": "unpaid"}, []),
    Case(
        "stripe session open, nothing to pay", SESSION | {"status": "open", "payment_status": "no_payment_required"}, []
    ),
    Case("stripe session complete, payment under way", SESSION | {"payment_status": "unpaid"}, []),
    Case(
        "stripe session that kept a card",
        SESSION | {"mode": "setup", "payment_status": "no_payment_required", "invoice": None, "subscription": None},
        [],
    ),
    *(Case(f"stripe invoice {s}", INVOICE | {"status": s}, []) for s in ("draft", "open", "void", "uncollectible")),
    *(
        Case(f"stripe subscription {s}", SUBSCRIPTION | {"status": s}, [])
        for s in ("incomplete", "incomplete_expired", "past_due", "unpaid", "canceled", "paused")
    ),
    Case(
        "stripe subscription to be paid by mail", SUBSCRIPTION | {"latest_invoice": {"id": "i", "status": "open"}}, []
    ),
    *(
        Case(
            f"stripe subscription by mail, {type(invoice).__name__}",
            SUBSCRIPTION | {"collection_method": "send_invoice", "latest_invoice": invoice},
            [],
        )
        for invoice in ("in_1", None, {"id": "in_1"}, ["in_1"])
    ),
    *(Case(f"stripe charge {status}", CHARGE | {"status": status}, []) for status in ("pending", "failed")),
    Case("stripe kept card", {"object": "setup_intent", "id": "seti_1", "status": "succeeded"}, []),
    Case("stripe payment link", {"object": "payment_link", "id": "plink_1", "active": True}, []),
    Case("stripe client secret", {"client_secret": "x", "requires_action": True}, []),
    Case("stripe link", {"url": "https://example.com/pay"}, []),
    Case("stripe error", {"error": {"type": "card_error", "payment_intent": "pi_1"}}, []),
    *(
        Case(f"braintree transaction {status}", {"transaction": SALE | {"status": status}}, [])
        for status in ("processor_declined", "gateway_rejected", "failed", "voided", "authorization_expired")
    ),
    Case("braintree refund", SALE | {"type": "credit"}, []),
    Case("braintree refused", {"success": False, "message": "no", "transaction": SALE}, []),
    Case(
        "braintree GraphQL error",
        {"errors": [{"message": "no"}], "data": {"chargePaymentMethod": None}, "extensions": {}},
        [],
    ),
    Case(
        "braintree webhook of a failure",
        {"subject": {"subscription": {"id": "s1", "transactions": [{"id": "t1", "status": "failed"}]}}},
        [],
    ),
    Case(
        "braintree subscription whose sale was declined",
        {"subscription": {"id": "s1", "status": "Active", "transactions": [SALE | {"status": "processor_declined"}]}},
        [],
    ),
    Case("braintree subscription to come", {"subscription": {"id": "s1", "status": "Pending", "transactions": []}}, []),
    *(
        Case(f"adyen {code}", {"resultCode": code, "pspReference": "P1"}, [])
        for code in (
            "Refused",
            "RedirectShopper",
            "ChallengeShopper",
            "IdentifyShopper",
            "Pending",
            "Received",
            "Error",
        )
    ),
    Case("adyen kept card", {"resultCode": "Authorised", "pspReference": "P1", "amount": {"value": 0}}, []),
    Case(
        "adyen session that kept a card",
        {
            "id": "CS1",
            "status": "completed",
            "payments": [{"pspReference": "P1", "resultCode": "Authorised", "amount": {"value": 0}}],
        },
        [],
    ),
    Case("adyen session", {"id": "CS1", "sessionData": "x", "merchantAccount": "m", "returnUrl": "u"}, []),
    Case("adyen session refused", {"session": {"id": "CS1", "status": "refused"}}, []),
    Case(
        "adyen session under way",
        {"id": "CS1", "status": "paymentPending", "payments": [{"pspReference": "P1", "resultCode": "Authorised"}]},
        [],
    ),
    Case(
        "adyen session completed without authorisation",
        {"id": "CS1", "status": "completed", "payments": [{"pspReference": "P1", "resultCode": "Received"}]},
        [],
    ),
    Case("adyen capture", {"status": "received", "pspReference": "P2", "paymentPspReference": "P1"}, []),
    Case(
        "adyen API error", {"status": 422, "errorCode": "14_006", "errorType": "validation", "pspReference": "P1"}, []
    ),
    Case("adyen payment link", {"id": "PL1", "merchantAccount": "m", "url": "u", "status": "active"}, []),
    *(
        Case(f"worldpay {outcome}", {"outcome": outcome, "transactionReference": "R1"}, [])
        for outcome in ("refused", "3dsDeviceDataRequired", "3dsChallenged", "fraudHighRisk", "sentForRefund")
    ),
    Case("worldpay query of a refusal", {"lastEvent": "authorizationRefused", "paymentId": "pay1"}, []),
    Case("worldpay WPG refused", {"orderCode": "O1", "lastEvent": "REFUSED"}, []),
    Case("recurly declined", {"error": {"type": "transaction"}, "charge_invoice": PURCHASED}, []),
    Case("recurly invoice by mail", PURCHASED | {"state": "pending", "transactions": []}, []),
    Case(
        "recurly by mail, no state",
        {"object": "invoice", "id": "i", "account": ACCOUNT, "collection_method": "manual"},
        [],
    ),
    Case("recurly declined, no state", PURCHASED | {"state": None, "transactions": ATTEMPTS[:1]}, []),
    Case(
        "recurly declined under its key, no state",
        {"charge_invoice": {"id": "i", "account": ACCOUNT, "transactions": ATTEMPTS[:1]}},
        [],
    ),
    Case(
        "recurly subscription by mail",
        {"object": "subscription", "id": "s1", "state": "active", "collection_method": "manual", "account": ACCOUNT},
        [],
    ),
    Case("recurly past due", PURCHASED | {"state": "past_due", "transactions": ATTEMPTS[:1]}, []),
    Case("recurly preview", {"object": "invoice_collection", "charge_invoice": PURCHASED | {"id": None}}, []),
    Case("recurly declined transaction", {"object": "transaction", "id": "t1", "status": "declined"}, []),
    Case("recurly credit", PURCHASED | {"type": "credit"}, []),
    Case("recurly refund", {"object": "transaction", "id": "t1", "status": "success", "type": "refund"}, []),
    Case("recurly subscription to come", {"object": "subscription", "id": "s1", "state": "future"}, []),
    *(Case(f"recharge charge {s}", RECHARGED | {"status": s}, []) for s in ("queued", "error", "skipped", "refunded")),
    Case("recharge checkout open", {"checkout": {"token": "k", "email": EMAIL, "completed_at": None}}, []),
    Case("recharge order queued", RECHARGED | {"status": "queued", "charge": {"id": 1, "status": "success"}}, []),
    Case(
        "recharge subscription ended",
        {"id": 11, "status": "cancelled", "customer_id": 2, "order_interval_frequency": 30},
        [],
    ),
    Case("recharge order unpaid", RECHARGED | {"charge": {"id": 1, "status": "error"}}, []),
]
