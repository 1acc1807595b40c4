"""Bodies with Stripe's objects, of all API versions, and the expected records. Written by hand."""

from typing import Any

from psp_bodies import Body, group

EMAIL = "ada@example.com"
CUS, SUB, INV, CH, PI = "cus_Pq1", "sub_1Pq", "in_1Pq", "ch_3Pq", "pi_3Pq"
CARD = {"card": {"brand": "visa", "network_transaction_id": "104557651805572", "three_d_secure": None}, "type": "card"}
NET = {"network_transaction_id": "104557651805572"}

CHARGE: dict[str, Any] = {
    "id": CH,
    "object": "charge",
    "amount": 2000,
    "amount_captured": 2000,
    "amount_refunded": 0,
    "balance_transaction": "txn_3Pq",
    "billing_details": {"email": EMAIL, "name": "decoy@example.com"},
    "captured": True,
    "customer": CUS,
    "livemode": True,
    "paid": True,
    "payment_intent": PI,
    "payment_method_details": CARD,
    "receipt_email": None,
    "refunded": False,
    "status": "succeeded",
}
INTENT: dict[str, Any] = {
    "id": PI,
    "object": "payment_intent",
    "amount": 2000,
    "amount_received": 2000,
    "client_secret": f"{PI}_secret_x",
    "customer": CUS,
    "latest_charge": CH,
    "livemode": True,
    "next_action": None,
    "receipt_email": EMAIL,
    "status": "succeeded",
}
SESSION: dict[str, Any] = {
    "id": "cs_live_a1",
    "object": "checkout.session",
    "amount_total": 2000,
    "client_reference_id": "order-7",
    "customer": CUS,
    "customer_details": {"email": EMAIL, "name": "Ada"},
    "customer_email": None,
    "invoice": None,
    "livemode": True,
    "mode": "payment",
    "payment_intent": PI,
    "payment_method_collection": "always",
    "payment_status": "paid",
    "status": "complete",
    "subscription": None,
    "url": None,
}
INVOICE: dict[str, Any] = {
    "id": INV,
    "object": "invoice",
    "amount_due": 2000,
    "amount_paid": 2000,
    "amount_paid_off_stripe": 0,
    "billing_reason": "subscription_create",
    "collection_method": "charge_automatically",
    "customer": CUS,
    "customer_email": EMAIL,
    "livemode": True,
    "number": "DECOY-0001",
    "post_payment_credit_notes_amount": 0,
    "status": "paid",
    "total": 2000,
}
REFUNDED = CHARGE | {"refunded": True, "amount_refunded": 2000}
OF_A = {"charge": CH, "paid": True, "payment_intent": PI, "subscription": SUB}
OF_C = {
    "parent": {"type": "subscription_details", "subscription_details": {"metadata": {}, "subscription": SUB}},
    "payments": {
        "object": "list",
        "data": [
            {
                "id": "inpay_1",
                "object": "invoice_payment",
                "amount_paid": 2000,
                "payment": {"type": "payment_intent", "payment_intent": PI},
                "status": "paid",
            }
        ],
    },
}
SUBSCRIPTION: dict[str, Any] = {
    "id": SUB,
    "object": "subscription",
    "collection_method": "charge_automatically",
    "customer": CUS,
    "default_payment_method": None,
    "items": {"object": "list", "data": [{"id": "si_1", "price": {"id": "price_1", "unit_amount": 2000}}]},
    "latest_invoice": INV,
    "livemode": True,
    "pending_setup_intent": None,
    "status": "active",
    "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
}
TRIAL = SUBSCRIPTION | {"status": "trialing", "trial_end": 1900000000}
CUSTOMER = {"id": CUS, "object": "customer", "email": EMAIL}

OF_INTENT = {"customer_email": EMAIL, "customer_id": CUS, "charge_id": CH, "transaction_id": PI}
OF_SESSION = {"customer_email": EMAIL, "customer_id": CUS, "transaction_id": PI}
OF_INVOICE = {"customer_email": EMAIL, "customer_id": CUS, "invoice_id": INV}
OF_SUBSCRIPTION = {"customer_id": CUS, "invoice_id": INV, "subscription_id": SUB}


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"id": "evt_1", "object": "event", "livemode": True, "type": kind, "data": {"object": thing}}


def parts(*payments: dict[str, Any]) -> dict[str, Any]:
    listed = [{"object": "invoice_payment", "status": "paid", "payment": payment} for payment in payments]
    return {"payments": {"object": "list", "data": listed}}


def without(thing: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in thing.items() if name not in names}


PAID: list[Body] = group(
    "stripe",
    [
        ("session in payment mode", SESSION, [OF_SESSION]),
        ("old session without status", without(SESSION, "status"), [OF_SESSION]),
        (
            "session, intent and charge expanded",
            SESSION | {"payment_intent": INTENT | {"latest_charge": CHARGE}},
            [OF_SESSION | {"charge_id": CH} | NET],
        ),
        (
            "session of shape A, intent expanded",
            SESSION | {"payment_intent": without(INTENT, "latest_charge") | {"charges": {"data": [CHARGE]}}},
            [OF_SESSION | {"charge_id": CH} | NET],
        ),
        (
            "session in subscription mode",
            SESSION | {"mode": "subscription", "payment_intent": None, "invoice": INV, "subscription": SUB},
            [OF_INVOICE | {"subscription_id": SUB}],
        ),
        (
            "session, invoice of shape B expanded",
            SESSION | {"payment_intent": None, "invoice": INVOICE | OF_A, "subscription": SUB},
            [OF_INVOICE | {"subscription_id": SUB, "charge_id": CH, "transaction_id": PI}],
        ),
        (
            "session, invoice of shape C expanded",
            SESSION | {"payment_intent": None, "invoice": INVOICE | OF_C, "subscription": {"id": SUB}},
            [OF_INVOICE | {"subscription_id": SUB, "transaction_id": PI}],
        ),
        (
            "session, invoice of shape C expanded to the charge",
            SESSION | {"payment_intent": None, "invoice": INVOICE | parts({"payment_intent": INTENT})},
            [OF_INVOICE | {"charge_id": CH, "transaction_id": PI}],
        ),
        (
            "session, e-mail in the expanded customer",
            SESSION | {"customer": CUSTOMER, "customer_details": None},
            [OF_SESSION],
        ),
        (
            "session of a customer account",
            SESSION | {"customer": None, "customer_account": "acct_9"},
            [OF_SESSION | {"customer_id": "acct_9"}],
        ),
        (
            "session of a trial with a card",
            SESSION
            | {"mode": "subscription", "payment_status": "no_payment_required", "amount_total": 0}
            | {"payment_intent": None, "invoice": INV, "subscription": SUB},
            [OF_INVOICE | {"subscription_id": SUB}],
        ),
        (
            "session of a trial with a card, its invoice expanded",
            SESSION
            | {"mode": "subscription", "payment_status": "no_payment_required", "amount_total": 0}
            | {"payment_intent": None, "invoice": INVOICE | {"total": 0, "amount_paid": 0}, "subscription": SUB},
            [OF_INVOICE | {"subscription_id": SUB}],
        ),
        ("session, completed event", event("checkout.session.completed", SESSION), [OF_SESSION]),
        (
            "session without its discriminator",
            without(SESSION, "object"),
            [OF_SESSION],
        ),
        ("intent", INTENT, [OF_INTENT]),
        ("intent to be captured", INTENT | {"status": "requires_capture", "amount_received": 0}, [OF_INTENT]),
        ("intent, charge expanded", INTENT | {"latest_charge": CHARGE}, [OF_INTENT | NET]),
        (
            "intent of shape A, the first charge refused",
            without(INTENT, "latest_charge")
            | {"receipt_email": None, "invoice": INV}
            | {"charges": {"object": "list", "data": [CHARGE | {"id": "ch_0", "status": "failed"}, CHARGE]}},
            [OF_INTENT | {"invoice_id": INV} | NET],
        ),
        (
            "intent, customer and invoice expanded",
            INTENT | {"receipt_email": "", "customer": CUSTOMER, "invoice": INVOICE | OF_A},
            [OF_INTENT | {"invoice_id": INV, "subscription_id": SUB}],
        ),
        ("intent of a guest", INTENT | {"customer": None}, [without(OF_INTENT, "customer_id")]),
        ("intent, its discriminator in capitals", INTENT | {"object": "PAYMENT_INTENT"}, [OF_INTENT]),
        ("charge, its discriminator in capitals", CHARGE | {"object": "Charge"}, [OF_INTENT | NET]),
        ("intent without its discriminator", without(INTENT, "object"), [OF_INTENT]),
        (
            "intent, three fields of it, under its key",
            {"paymentIntent": {"id": PI, "status": "succeeded"}},
            [{"transaction_id": PI}],
        ),
        ("intent with a client secret", {"clientSecret": "x", "intent": INTENT}, [OF_INTENT]),
        (
            "intent in JSON:API",
            {"data": {"type": "payment_intents", "id": PI, "attributes": without(INTENT, "id")}},
            [OF_INTENT],
        ),
        ("intent in JSON:API, of an order", {"data": {"type": "orders", "id": "7", "attributes": INTENT}}, [OF_INTENT]),
        ("intent with a Mongo ID and its own", INTENT | {"_id": "65f0c0ffee"}, [OF_INTENT]),
        (
            "intent with the shop's e-mail in another spelling",
            INTENT | {"receiptEmail": "shop@example.com"},
            [OF_INTENT],
        ),
        (
            "intent, partly refunded later",
            INTENT | {"latest_charge": CHARGE | {"amount_refunded": 500}},
            [OF_INTENT | NET],
        ),
        (
            "invoice of shape A",
            INVOICE | OF_A,
            [OF_INVOICE | {"subscription_id": SUB, "charge_id": CH, "transaction_id": PI}],
        ),
        (
            "old invoice without status",
            without(INVOICE, "status", "amount_paid") | {"paid": True, "charge": CH},
            [OF_INVOICE | {"charge_id": CH}],
        ),
        (
            "invoice of shape B, all expanded",
            INVOICE | {"charge": CHARGE, "payment_intent": INTENT, "subscription": SUBSCRIPTION, "customer": CUSTOMER},
            [OF_INVOICE | {"subscription_id": SUB, "charge_id": CH, "transaction_id": PI} | NET],
        ),
        ("invoice of shape C", INVOICE | OF_C, [OF_INVOICE | {"subscription_id": SUB, "transaction_id": PI}]),
        (
            "invoice of shape C, payments not expanded",
            INVOICE | {"parent": OF_C["parent"]},
            [OF_INVOICE | {"subscription_id": SUB}],
        ),
        (
            "invoice of shape C, expanded to the charge",
            INVOICE | parts({"payment_intent": INTENT | {"latest_charge": CHARGE}}),
            [OF_INVOICE | {"charge_id": CH, "transaction_id": PI} | NET],
        ),
        (
            "invoice of shape C, charged without intent",
            INVOICE | parts({"type": "charge", "charge": CH}),
            [OF_INVOICE | {"charge_id": CH}],
        ),
        (
            "invoice of shape C in two parts, one canceled",
            INVOICE
            | {
                "payments": {
                    "data": [
                        {"status": "canceled", "payment": {"payment_intent": "pi_0"}},
                        {"status": "paid", "payment": {"payment_intent": PI}},
                        {"status": "paid", "payment": {"charge": CH}},
                    ]
                }
            },
            [OF_INVOICE | {"transaction_id": PI}, OF_INVOICE | {"charge_id": CH}],
        ),
        (
            "invoice, paid event",
            event("invoice.paid", INVOICE | OF_C),
            [OF_INVOICE | {"subscription_id": SUB, "transaction_id": PI}],
        ),
        (
            "invoice, e-mail in the expanded customer",
            INVOICE | {"customer": CUSTOMER, "customer_email": None},
            [OF_INVOICE],
        ),
        (
            "invoice payment",
            {
                "id": "inpay_1",
                "object": "invoice_payment",
                "amount_paid": 2000,
                "invoice": INV,
                "payment": {"type": "payment_intent", "payment_intent": PI},
                "status": "paid",
            },
            [{"invoice_id": INV, "transaction_id": PI}],
        ),
        (
            "invoice, one of two parts refunded",
            INVOICE | parts({"charge": REFUNDED | {"id": "ch_0"}}, {"charge": CHARGE}),
            [OF_INVOICE | {"charge_id": CH} | NET],
        ),
        ("charge, partly refunded", CHARGE | {"amount": 2000, "amount_refunded": 500}, [OF_INTENT | NET]),
        ("subscription", SUBSCRIPTION, [OF_SUBSCRIPTION]),
        (
            "subscription, customer expanded",
            SUBSCRIPTION | {"customer": CUSTOMER},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL}],
        ),
        (
            "subscription, invoice of shape B expanded",
            SUBSCRIPTION | {"latest_invoice": INVOICE | {"charge": CH, "payment_intent": PI}},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL, "charge_id": CH, "transaction_id": PI}],
        ),
        (
            "subscription, intent expanded in its invoice",
            SUBSCRIPTION | {"latest_invoice": INVOICE | {"charge": None, "payment_intent": INTENT}},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL, "charge_id": CH, "transaction_id": PI}],
        ),
        (
            "subscription, invoice of shape C expanded",
            SUBSCRIPTION | {"latest_invoice": INVOICE | OF_C},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL, "transaction_id": PI}],
        ),
        (
            "subscription of a customer account",
            SUBSCRIPTION | {"customer": None, "customer_account": {"id": "acct_9"}},
            [OF_SUBSCRIPTION | {"customer_id": "acct_9"}],
        ),
        (
            "subscription by mail, its invoice paid",
            SUBSCRIPTION | {"collection_method": "send_invoice", "latest_invoice": INVOICE},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL}],
        ),
        ("trial", TRIAL, [OF_SUBSCRIPTION]),
        (
            "trial, its card kept",
            TRIAL | {"pending_setup_intent": {"id": "seti_1", "status": "succeeded"}},
            [OF_SUBSCRIPTION],
        ),
        (
            "trial that may end without a card, and has one",
            TRIAL
            | {"default_payment_method": "pm_1"}
            | {"trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}},
            [OF_SUBSCRIPTION],
        ),
        (
            "trial, its invoice of zero amount paid",
            TRIAL | {"latest_invoice": INVOICE | {"total": 0, "amount_paid": 0}},
            [OF_SUBSCRIPTION | {"customer_email": EMAIL}],
        ),
        (
            "trial with a setup intent that succeeded",
            {"subscription": TRIAL, "data": {"object": "setup_intent", "status": "succeeded"}},
            [OF_SUBSCRIPTION],
        ),
        ("charge", CHARGE, [OF_INTENT | NET]),
        (
            "old charge without status",
            without(CHARGE, "status", "payment_intent"),
            [without(OF_INTENT, "transaction_id") | NET],
        ),
        (
            "charge, its intent and invoice expanded",
            CHARGE | {"payment_intent": INTENT, "invoice": INVOICE | OF_A},
            [OF_INTENT | {"invoice_id": INV, "subscription_id": SUB} | NET],
        ),
        ("charge, alone in Stripe's list", {"object": "list", "data": [CHARGE], "has_more": False}, [OF_INTENT | NET]),
        (
            "charge and an older one",
            {"charge": CHARGE, "payments": [CHARGE | {"id": "ch_0", "payment_intent": "pi_0"}]},
            [OF_INTENT | NET],
        ),
        (
            "charge that its order names",
            {"order": {"charge_id": CH, "charges": [CHARGE | {"id": "ch_0", "payment_intent": "pi_0"}, CHARGE]}},
            [OF_INTENT | NET],
        ),
        ("charge and its intent in one list", {"payments": [INTENT, CHARGE]}, [OF_INTENT | NET]),
        ("charge at a place", {"kept": {"x": [CHARGE]}}, [OF_INTENT | NET], {"at": "kept.x"}),
        (
            "two charges at a place",
            {"kept": [CHARGE, CHARGE | {"id": "ch_4", "payment_intent": "pi_4"}]},
            [OF_INTENT | NET, OF_INTENT | {"charge_id": "ch_4", "transaction_id": "pi_4"} | NET],
            {"at": "kept"},
        ),
    ],
)

UNPAID: list[Body] = group(
    "stripe",
    [
        ("session open", SESSION | {"status": "open", "payment_status": "unpaid"}),
        ("session expired", SESSION | {"status": "expired", "payment_status": "unpaid"}),
        ("session complete, a bank debit in progress", SESSION | {"payment_status": "unpaid"}),
        ("session without payment_status", without(SESSION, "payment_status")),
        ("old session, nothing to pay", without(SESSION, "status") | {"payment_status": "no_payment_required"}),
        (
            "session that kept a card",
            SESSION | {"mode": "setup", "payment_status": "no_payment_required", "payment_intent": None},
        ),
        (
            "session of zero amount, with an invoice",
            SESSION | {"payment_status": "no_payment_required", "amount_total": 0, "invoice": INV},
        ),
        (
            "session of a trial without a card",
            SESSION
            | {"mode": "subscription", "payment_status": "no_payment_required", "subscription": SUB}
            | {"payment_method_collection": "if_required"},
        ),
        (
            "session of zero amount that asked for no card",
            SESSION
            | {"mode": "subscription", "amount_total": 0, "payment_intent": None, "subscription": SUB}
            | {"payment_method_collection": "if_required"},
        ),
        ("session, expired event", event("checkout.session.expired", SESSION)),
        *(
            (f"intent {status}", INTENT | {"status": status})
            for status in (
                "requires_payment_method",
                "requires_confirmation",
                "requires_action",
                "processing",
                "canceled",
            )
        ),
        ("intent without status", without(INTENT, "status")),
        ("intent of shape A that was refunded", INTENT | {"latest_charge": None, "charges": {"data": [REFUNDED]}}),
        ("refund in capitals", {"id": "re_1", "object": "REFUND", "status": "succeeded", "charge": CHARGE}),
        (
            "charge, disputed event without its discriminator",
            {"type": "charge.dispute.closed", "data": {"object": CHARGE}},
        ),
        ("intent that was refunded", INTENT | {"latest_charge": CHARGE | {"refunded": True, "amount_refunded": 2000}}),
        (
            "intent, failed event",
            event("payment_intent.payment_failed", INTENT | {"status": "requires_payment_method"}),
        ),
        ("intent in an error", {"error": {"type": "card_error", "payment_intent": INTENT}}),
        *((f"invoice {status}", INVOICE | {"status": status}) for status in ("draft", "open", "void", "uncollectible")),
        ("invoice without status", without(INVOICE, "status")),
        ("invoice of zero amount", INVOICE | {"amount_due": 0, "amount_paid": 0, "total": 0}),
        ("invoice paid out of band", INVOICE | {"paid_out_of_band": True}),
        (
            "subscription, invoice paid out of band",
            SUBSCRIPTION | {"latest_invoice": INVOICE | {"paid_out_of_band": True}},
        ),
        ("invoice paid outside Stripe", INVOICE | {"amount_paid_off_stripe": INVOICE["amount_paid"]}),
        (
            "subscription, invoice paid outside Stripe",
            SUBSCRIPTION | {"latest_invoice": INVOICE | {"amount_paid_off_stripe": INVOICE["amount_paid"]}},
        ),
        ("invoice, credited after it was paid", INVOICE | {"post_payment_credit_notes_amount": INVOICE["total"]}),
        ("invoice, its charge refunded", INVOICE | {"charge": REFUNDED}),
        ("invoice, its intent's charge refunded", INVOICE | {"payment_intent": INTENT | {"latest_charge": REFUNDED}}),
        (
            "invoice, all of its parts refunded",
            INVOICE | parts({"charge": REFUNDED}, {"payment_intent": INTENT | {"latest_charge": REFUNDED}}),
        ),
        ("session, its charge refunded", SESSION | {"payment_intent": INTENT | {"latest_charge": REFUNDED}}),
        (
            "session, its invoice refunded",
            SESSION | {"payment_intent": None, "invoice": INVOICE | parts({"charge": REFUNDED})},
        ),
        ("subscription, its charge refunded", SUBSCRIPTION | {"latest_invoice": INVOICE | {"charge": REFUNDED}}),
        ("invoice payment open", {"id": "inpay_1", "object": "invoice_payment", "status": "open", "invoice": INV}),
        *(
            (f"subscription {status}", SUBSCRIPTION | {"status": status})
            for status in ("incomplete", "incomplete_expired", "past_due", "unpaid", "canceled", "paused")
        ),
        ("subscription, invoice open", SUBSCRIPTION | {"latest_invoice": INVOICE | {"status": "open"}}),
        ("subscription, invoice without status", SUBSCRIPTION | {"latest_invoice": {"id": INV}}),
        (
            "subscription, the payment of its change failed",
            SUBSCRIPTION | {"pending_update": {"expires_at": 1900000000}},
        ),
        ("subscription by mail", SUBSCRIPTION | {"collection_method": "send_invoice"}),
        ("subscription of zero amount", SUBSCRIPTION | {"latest_invoice": INVOICE | {"amount_paid": 0, "total": 0}}),
        ("subscription to a free plan", SUBSCRIPTION | {"latest_invoice": None, "plan": {"amount": 0}}),
        (
            "subscription with an intent in progress",
            {"subscription": SUBSCRIPTION, "payment_intent": INTENT | {"status": "requires_action"}},
        ),
        ("subscription with a client secret", {"subscription": SUBSCRIPTION, "clientSecret": "x"}),
        ("subscription, deleted event", event("customer.subscription.deleted", SUBSCRIPTION | {"status": "canceled"})),
        (
            "trial before its card",
            TRIAL | {"pending_setup_intent": {"id": "seti_1", "status": "requires_payment_method"}},
        ),
        ("trial before its card, not expanded", TRIAL | {"pending_setup_intent": "seti_1"}),
        ("trial with a client secret", TRIAL | {"client_secret": "x"}),
        (
            "trial with a setup intent",
            {"data": {"object": "setup_intent", "status": "requires_action"}, "subscription": TRIAL},
        ),
        ("trial without a card", TRIAL | {"trial_settings": {"end_behavior": {"missing_payment_method": "pause"}}}),
        ("trial, event of its end", event("customer.subscription.trial_will_end", TRIAL)),
        *((f"charge {status}", CHARGE | {"status": status}) for status in ("pending", "failed")),
        ("charge without status, failed", without(CHARGE, "status") | {"paid": False}),
        ("charge that was refunded", CHARGE | {"refunded": True, "amount_refunded": 2000}),
        ("charge, all of it refunded", without(CHARGE, "refunded") | {"amount": 2000, "amount_refunded": 2000}),
        ("charge, refunded event", event("charge.refunded", CHARGE | {"amount_refunded": 500})),
        (
            "charge, disputed event",
            event("charge.dispute.created", {"id": "dp_1", "object": "dispute", "charge": CHARGE}),
        ),
        ("refund", {"id": "re_1", "object": "refund", "status": "succeeded", "charge": CHARGE, "payment_intent": PI}),
        ("refund without its discriminator", {"id": "re_1", "status": "succeeded", "charge": CHARGE}),
        ("credit note", {"id": "cn_1", "object": "credit_note", "invoice": INVOICE, "status": "issued"}),
        *(
            (f"{kind} with what it is about", {"id": "x_1", "object": kind, "charge": CHARGE, "invoice": INVOICE})
            for kind in ("application_fee", "balance_transaction", "discount", "fee_refund", "invoiceitem", "line_item")
        ),
        ("fraud warning", {"object": "radar.early_fraud_warning", "charge": CHARGE, "payment_intent": INTENT}),
        ("fee of a refund", {"transaction": {"object": "balance_transaction", "type": "refund", "charge": CHARGE}}),
        (
            "subscription with the secret of its invoice",
            {"subscription": SUBSCRIPTION, "confirmation_secret": {"type": "payment_intent", "client_secret": "x"}},
        ),
        ("kept card", {"id": "seti_1", "object": "setup_intent", "status": "succeeded", "customer": CUS}),
        (
            "payment link",
            {"id": "plink_1", "object": "payment_link", "active": True, "url": "https://buy.stripe.com/x"},
        ),
        ("customer with subscriptions", CUSTOMER | {"subscriptions": {"data": [SUBSCRIPTION]}}),
        (
            "quote",
            {"id": "qt_1", "object": "quote", "status": "accepted", "subscription": SUBSCRIPTION, "invoice": INVOICE},
        ),
        (
            "schedule",
            {"id": "sub_sched_1", "object": "subscription_schedule", "status": "active", "subscription": SUBSCRIPTION},
        ),
    ],
)

UNKNOWN: list[Body] = group(
    "stripe",
    [
        ("shop's order", {"order": {"id": 77, "status": "paid", "customer": "cus_like", "total": 2000}}),
        ("shop's intent, a number", {"payment_intent": {"id": 12, "status": "succeeded"}}),
        ("shop's intent with a counter", {"payment": {"id": "pi_7", "status": "succeeded", "amount": 5}}),
        ("shop's invoice of a word", {"invoice": {"id": "in_stock", "status": "paid"}}),
        ("shop's subscription of a word", {"subscription": {"id": "sub_monthly", "status": "active"}}),
        ("shop's charge with a counter", {"charge": {"id": "ch_7", "status": "succeeded"}}),
        ("one page of several", {"object": "list", "data": [INTENT], "has_more": True}),
        ("shop's payment", {"payment": {"id": "pay-7", "status": "succeeded", "amount": 2000}}),
        ("shop's subscription", {"subscription": {"id": "s-7", "status": "active", "plan": "gold"}}),
        ("shop's session", {"session": {"id": "abc", "status": "complete", "payment_status": "paid"}}),
        ("shop's invoice", {"invoice": {"id": "INV-7", "status": "paid", "customer_email": EMAIL}}),
        ("payment with a row of the shop's in one list", {"payments": [INTENT, {"id": 7, "note": "the first"}]}),
        ("words for paid alone", {"status": "succeeded", "paid": True, "id": "7"}),
        (
            "two payments of which none is named",
            {"order": {"payments": [INTENT, INTENT | {"id": "pi_4", "latest_charge": "ch_4"}]}},
        ),
        (
            "a paid and a newer refused one",
            {"payments": [INTENT, INTENT | {"id": "pi_4", "status": "canceled", "latest_charge": None}]},
        ),
        ("history of a customer", {"customer": CUSTOMER | {"charges": [CHARGE]}}),
        (
            "two spellings that differ",
            {"charge": {"Object": "charge", "OBJECT": "invoice", "id": "x", "status": "paid"}},
        ),
    ],
)
