"""Bodies with the objects of Adyen, Worldpay, Recurly and Recharge, and the expected records. Written by hand."""

from typing import Any

from psp_bodies import Body, group

EMAIL = "ada@example.com"


def without(thing: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in thing.items() if name not in names}


# Adyen

PSP, ADYEN_NET = "NC6HT9CRT65ZGN82", "777718270854480"
PAYMENT: dict[str, Any] = {
    "additionalData": {
        "networkTxReference": ADYEN_NET,
        "recurring.shopperReference": "shopper-7",
        "cardSummary": "1111",
    },
    "amount": {"currency": "EUR", "value": 1000},
    "donationToken": "decoy",
    "fraudResult": {"accountScore": 0},
    "merchantReference": "decoy",
    "pspReference": PSP,
    "resultCode": "Authorised",
}
OF_PAYMENT = {"customer_id": "shopper-7", "network_transaction_id": ADYEN_NET, "transaction_id": PSP}
ITEM: dict[str, Any] = {
    "additionalData": {"shopperReference": "shopper-7", "shopperEmail": EMAIL, "networkTxReference": ADYEN_NET},
    "amount": {"currency": "EUR", "value": 1000},
    "eventCode": "AUTHORISATION",
    "eventDate": "2026-01-05T10:00:00+01:00",
    "merchantAccountCode": "ShopECOM",
    "merchantReference": "decoy",
    "operations": ["CANCEL", "CAPTURE", "REFUND"],
    "paymentMethod": "visa",
    "pspReference": PSP,
    "reason": "033899:1111:03/2030",
    "success": "true",
}
RESULT: dict[str, Any] = {
    "id": "CS12345678",
    "status": "completed",
    "payments": [{"amount": {"currency": "EUR", "value": 1000}, "pspReference": PSP, "resultCode": "Authorised"}],
}


def notified(*items: dict[str, Any], live: str = "true") -> dict[str, Any]:
    return {"live": live, "notificationItems": [{"NotificationRequestItem": item} for item in items]}


ADYEN_PAID: list[Body] = group(
    "adyen",
    [
        ("payment", PAYMENT, [OF_PAYMENT]),
        (
            "payment, old version",
            {"pspReference": "8515131751004933", "resultCode": "Authorised", "authCode": "1"},
            [{"transaction_id": "8515131751004933"}],
        ),
        (
            "payment, reference as a number",
            {"pspReference": 8515131751004933, "resultCode": "Authorised"},
            [{"transaction_id": "8515131751004933"}],
        ),
        (
            "payment, tokenization",
            PAYMENT | {"additionalData": {"tokenization.shopperReference": "shopper-7"}},
            [without(OF_PAYMENT, "network_transaction_id")],
        ),
        (
            "payment, keys opened",
            PAYMENT | {"additionalData": {"recurring": {"shopperReference": "shopper-7"}}},
            [without(OF_PAYMENT, "network_transaction_id")],
        ),
        ("payment, partly authorised", PAYMENT | {"resultCode": "PartiallyAuthorised"}, [OF_PAYMENT]),
        ("payment, amount as text", PAYMENT | {"amount": {"currency": "EUR", "value": "1000"}}, [OF_PAYMENT]),
        ("payment in capitals", PAYMENT | {"resultCode": "AUTHORISED"}, [OF_PAYMENT]),
        ("payment in an answer", {"orderNumber": 7, "payment": PAYMENT}, [OF_PAYMENT]),
        (
            "payment with a part of an order open",
            PAYMENT | {"order": {"remainingAmount": {"value": 500}, "pspReference": "decoy"}},
            [OF_PAYMENT],
        ),
        ("result of a session", RESULT, [{"transaction_id": PSP}]),
        (
            "result of a session in two payments",
            RESULT
            | {
                "payments": [
                    *RESULT["payments"],
                    RESULT["payments"][0] | {"pspReference": "P2"},
                    {"pspReference": "P3", "resultCode": "Refused"},
                ]
            },
            [{"transaction_id": PSP}, {"transaction_id": "P2"}],
        ),
        ("webhook", notified(ITEM), [OF_PAYMENT | {"customer_email": EMAIL}]),
        ("webhook, success is a boolean", notified(ITEM | {"success": True}), [OF_PAYMENT | {"customer_email": EMAIL}]),
        (
            "webhook's item at a place",
            notified(ITEM),
            [OF_PAYMENT | {"customer_email": EMAIL}],
            {"at": "notificationItems[0].NotificationRequestItem"},
        ),
        ("webhook's item", ITEM, [OF_PAYMENT | {"customer_email": EMAIL}]),
    ],
)
ADYEN_UNPAID: list[Body] = group(
    "adyen",
    [
        *(
            (f"payment {code}", PAYMENT | {"resultCode": code})
            for code in (
                *("Refused", "Error", "Cancelled", "Received", "Pending", "RedirectShopper", "ChallengeShopper"),
                *("IdentifyShopper", "PresentToShopper", "AuthenticationFinished", "Success"),
            )
        ),
        ("payment of zero amount", PAYMENT | {"amount": {"currency": "EUR", "value": 0}}),
        ("payment of zero amount, the amount alone", PAYMENT | {"amount": 0}),
        ("payment of zero amount, as text", PAYMENT | {"amount": {"currency": "EUR", "value": "0"}}),
        (
            "payment of zero amount, in additionalData",
            without(PAYMENT, "amount") | {"additionalData": {"authorisedAmountValue": "0"}},
        ),
        (
            "donation",
            {
                "id": "D1",
                "status": "completed",
                "donationAccount": "CHARITY",
                "merchantAccount": "m",
                "payment": PAYMENT,
            },
        ),
        ("old donation", PAYMENT | {"donationAccount": "CHARITY"}),
        (
            "session",
            {"id": "CS1", "sessionData": "x", "merchantAccount": "m", "returnUrl": "u", "amount": {"value": 1000}},
        ),
        ("result of a session refused", RESULT | {"status": "refused"}),
        ("result of a session pending", RESULT | {"status": "paymentPending"}),
        (
            "result of a session of zero amount",
            RESULT | {"payments": [RESULT["payments"][0] | {"amount": {"value": "0"}}]},
        ),
        (
            "payment link",
            {"id": "PL1", "merchantAccount": "m", "status": "completed", "url": "https://eu.adyen.link/PL1"},
        ),
        ("capture", {"merchantAccount": "m", "paymentPspReference": PSP, "pspReference": "P2", "status": "received"}),
        (
            "refund",
            {
                "merchantAccount": "m",
                "paymentPspReference": PSP,
                "pspReference": "P2",
                "status": "received",
                "amount": {"value": 1},
            },
        ),
        ("old capture", {"pspReference": "P2", "response": "[capture-received]"}),
        ("error", {"status": 422, "errorCode": "130", "message": "m", "errorType": "validation", "pspReference": "P2"}),
        (
            "order made",
            {"pspReference": "P2", "resultCode": "Success", "orderData": "x", "remainingAmount": {"value": 1}},
        ),
        *(
            (f"webhook {code}", notified(ITEM | {"eventCode": code, "originalReference": PSP, "pspReference": "P2"}))
            for code in ("CAPTURE", "REFUND", "CANCELLATION", "CHARGEBACK", "DONATION", "RECURRING_CONTRACT")
        ),
        ("webhook of a refusal", notified(ITEM | {"success": "false"})),
        ("webhook without success", notified(without(ITEM, "success"))),
        ("webhook of zero amount", notified(ITEM | {"amount": {"value": 0}})),
    ],
)
ADYEN_UNKNOWN: list[Body] = group(
    "adyen",
    [
        ("shop's result code", {"resultCode": "0000", "pspReference": "mine"}),
        ("shop's result", {"result": {"resultCode": "OK", "id": 7}}),
        ("reference alone", {"pspReference": PSP, "status": "paid"}),
        ("shop's payment", {"payment": {"id": 7, "status": "Authorised", "reference": "x"}}),
        ("two payments", {"payments": [PAYMENT, PAYMENT | {"pspReference": "P2"}]}),
        ("stored methods", {"storedPaymentMethods": [{"id": "7219", "brand": "visa"}]}),
    ],
)

# Worldpay

REF, PAY, SCHEME = "Memory265-13/08/1876", "payDzrQiqqUMtTPPKMFjzh6kI1", "060720116005060"
LIVE = {"self": {"href": "https://access.worldpay.com/api/payments/x"}}
ACCESS: dict[str, Any] = {
    "outcome": "authorized",
    "transactionReference": REF,
    "schemeReference": SCHEME,
    "issuer": {"authorizationCode": "675725"},
    "riskFactors": [{"type": "cvc", "risk": "not_checked"}],
    "paymentInstrument": {"type": "card/masked"},
    "_links": LIVE,
}
CARD: dict[str, Any] = {
    "outcome": "authorized",
    "paymentId": PAY,
    "scheme": {"reference": "MCC123456      "},
    "issuer": {"authorizationCode": "12345A"},
    "_links": LIVE,
}
EVENT: dict[str, Any] = {
    "eventId": "3a1d6b1e",
    "eventTimestamp": "2026-01-05T10:00:00.000Z",
    "eventDetails": {
        "classification": "payment",
        "downstreamReference": "decoy",
        "transactionReference": REF,
        "type": "sentForSettlement",
        "date": "2026-01-05",
        "amount": {"value": 1000, "currencyCode": "GBP"},
        "_links": {"payment": {"href": "https://access.worldpay.com/payments/events/x"}},
    },
}
ORDER: dict[str, Any] = {
    "orderCode": "order-7",
    "payment": {"paymentMethod": "VISA-SSL", "amount": {"value": "1000"}, "lastEvent": "AUTHORISED"},
}
OF_ACCESS = {"transaction_id": REF, "network_transaction_id": SCHEME}

WORLDPAY_PAID: list[Body] = group(
    "worldpay",
    [
        ("Access", ACCESS, [OF_ACCESS]),
        ("Access, sent for settlement", ACCESS | {"outcome": "sentForSettlement"}, [OF_ACCESS]),
        ("Access in words", ACCESS | {"outcome": "Sent for Settlement"}, [OF_ACCESS]),
        ("Access with a payment ID", ACCESS | {"paymentId": PAY}, [OF_ACCESS]),
        (
            "Access, payment ID preferred",
            ACCESS | {"paymentId": PAY},
            [OF_ACCESS | {"transaction_id": PAY}],
            {"prefer": "paymentId"},
        ),
        ("card payment", CARD, [{"transaction_id": PAY, "network_transaction_id": "MCC123456"}]),
        (
            "few fields",
            {"outcome": "authorized", "transactionReference": REF, "paymentId": PAY},
            [{"transaction_id": REF}],
        ),
        ("in an answer", {"number": 7, "payment": ACCESS}, [OF_ACCESS]),
        (
            "few fields at a place",
            {"paid_by": {"outcome": "authorized", "paymentId": PAY, "cart": 7}},
            [{"transaction_id": PAY}],
            {"at": "paid_by"},
        ),
        *(
            (
                f"queried, {last}",
                {
                    "lastEvent": last,
                    "transactionReference": REF,
                    "paymentId": PAY,
                    "_links": LIVE,
                    "value": {"amount": 1000},
                },
                [{"transaction_id": REF}],
            )
            for last in ("authorizationSucceeded", "saleSucceeded", "Authorized", "Sent for Settlement", "settled")
        ),
        (
            "queried, alone in a list",
            {
                "_embedded": {
                    "payments": [{"lastEvent": "saleSucceeded", "transactionReference": REF, "_links": LIVE}]
                },
                "_links": LIVE,
            },
            [{"transaction_id": REF}],
        ),
        ("event", EVENT, [{"transaction_id": REF}]),
        (
            "event, authorized",
            EVENT | {"eventDetails": EVENT["eventDetails"] | {"type": "authorized"}},
            [{"transaction_id": REF}],
        ),
        ("event at a place", EVENT, [{"transaction_id": REF}], {"at": "eventDetails"}),
        ("WPG", ORDER, [{"transaction_id": "order-7"}]),
        (
            "WPG, from XML",
            {
                "paymentService": {
                    "@version": "1.4",
                    "reply": {"orderStatus": {"@orderCode": "order-7", "payment": {"lastEvent": "CAPTURED"}}},
                }
            },
            [{"transaction_id": "order-7"}],
        ),
        ("WPG, few fields", {"orderCode": "order-7", "lastEvent": "AUTHORISED"}, [{"transaction_id": "order-7"}]),
        (
            "old order API",
            {
                "orderCode": "54ac-77",
                "token": "t",
                "orderDescription": "d",
                "amount": 500,
                "currencyCode": "GBP",
                "authorizeOnly": False,
                "paymentStatus": "SUCCESS",
                "paymentResponse": {"type": "ObfuscatedCard"},
                "environment": "LIVE",
            },
            [{"transaction_id": "54ac-77"}],
        ),
    ],
)
WORLDPAY_UNPAID: list[Body] = group(
    "worldpay",
    [
        *(
            (f"Access {outcome}", ACCESS | {"outcome": outcome})
            for outcome in (
                *("refused", "3dsDeviceDataRequired", "3dsChallenged", "3dsAuthenticationFailed", "3dsUnavailable"),
                *("fraudHighRisk", "sentForCancellation", "sentForRefund", "verified", "notVerified", "authenticated"),
            )
        ),
        ("Access of zero amount", ACCESS | {"value": {"amount": 0, "currency": "GBP"}}),
        *(
            (f"queried, {last}", {"lastEvent": last, "transactionReference": REF, "_links": LIVE})
            for last in (
                "authorizationRequested",
                "authorizationRefused",
                "Refused",
                "Cancelled",
                "refundRequested",
                "Refunded",
                "sentForRefund",
                "authorizationTimedOut",
            )
        ),
        *(
            (f"event {kind}", EVENT | {"eventDetails": EVENT["eventDetails"] | {"type": kind}})
            for kind in (
                "sentForAuthorization",
                "refused",
                "cancelled",
                "expired",
                "error",
                "sentForRefund",
                "refunded",
                "refundFailed",
            )
        ),
        ("event of another class", EVENT | {"eventDetails": EVENT["eventDetails"] | {"classification": "payout"}}),
        ("WPG refused", {"orderCode": "order-7", "payment": {"lastEvent": "REFUSED"}}),
        ("WPG refunded", ORDER | {"payment": {"lastEvent": "REFUNDED"}}),
        ("WPG to be authorised", ORDER | {"payment": {"lastEvent": "SENT_FOR_AUTHORISATION"}}),
        ("old order API, failed", {"orderCode": "54ac-77", "paymentStatus": "FAILED", "amount": 500}),
        ("hosted page", {"url": "https://payments.worldpay.com/app/hpp/x"}),
        ("error", {"errorName": "bodyDoesNotMatchSchema", "message": "m", "validationErrors": []}),
    ],
)
WORLDPAY_UNKNOWN: list[Body] = group(
    "worldpay",
    [
        ("shop's payment ID, a number", {"outcome": "authorized", "paymentId": 77}),
        ("shop's order", {"order": {"outcome": "authorized", "transactionReference": "TX-7", "items": [], "total": 5}}),
        ("shop's order code", {"order": {"orderCode": "A-7", "paymentStatus": "SUCCESS", "items": []}}),
        ("shop's scheme", {"result": {"outcome": "authorized", "scheme": "loyalty"}}),
        ("shop's outcome", {"outcome": "success", "transactionReference": "TX-7"}),
        ("shop's event", {"eventDetails": {"type": "settled", "id": 7}}),
        ("two payments", {"payments": [ACCESS, ACCESS | {"transactionReference": "other"}]}),
    ],
)

# Recurly

ACCOUNT = {"id": "kmvdu4j5z0x5", "object": "account", "code": "shopper-7", "email": EMAIL}
TRANSACTION: dict[str, Any] = {
    "id": "lr9t1d6nq4ei",
    "object": "transaction",
    "uuid": "63b068f7d409d4b4478dea4e6aba58ae",
    "account": ACCOUNT,
    "amount": 10.0,
    "gateway_reference": "decoy",
    "invoice": {"id": "mf9t1d6nq4ab", "object": "invoice", "number": "1001"},
    "refunded": False,
    "status": "success",
    "subscription_ids": ["nb9t1d6nq4cd"],
    "type": "purchase",
    "voided_at": None,
}
INVOICE: dict[str, Any] = {
    "id": "mf9t1d6nq4ab",
    "object": "invoice",
    "uuid": "63b068f7d409d4b4478dea4e6aba0001",
    "account": ACCOUNT,
    "collection_method": "automatic",
    "line_items": {"object": "list", "data": []},
    "number": "1001",
    "origin": "purchase",
    "state": "paid",
    "subscription_ids": ["nb9t1d6nq4cd"],
    "total": 10.0,
    "transactions": [without(TRANSACTION, "account", "invoice")],
    "type": "charge",
}
PLAN = {"id": "ob9t1d6nq4ef", "object": "plan", "code": "gold"}
SUBSCRIPTION: dict[str, Any] = {
    "id": "nb9t1d6nq4cd",
    "object": "subscription",
    "uuid": "63b068f7d409d4b4478dea4e6aba0002",
    "account": ACCOUNT,
    "active_invoice_id": "mf9t1d6nq4ab",
    "collection_method": "automatic",
    "current_period_ends_at": "2026-02-05T10:00:00Z",
    "plan": PLAN,
    "state": "active",
    "trial_ends_at": None,
    "unit_amount": 10.0,
}
OF_RECURLY = {
    "customer_email": EMAIL,
    "customer_id": "kmvdu4j5z0x5",
    "invoice_id": "mf9t1d6nq4ab",
    "subscription_id": "nb9t1d6nq4cd",
    "transaction_id": "lr9t1d6nq4ei",
}
OF_SUBSCRIPTION = without(OF_RECURLY, "transaction_id")


def collection(invoice: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"object": "invoice_collection", "charge_invoice": invoice, "credit_invoices": [], **more}


def told(kind: str, event: str) -> dict[str, Any]:
    return {"id": "rafhdbbf41mc", "object_type": kind, "site_id": "qc326l1hl8k9", "event_type": event, "uuid": "63b0"}


NOTIFIED: dict[str, dict[str, Any]] = {
    "account": {"account_code": "shopper-7", "email": EMAIL},
    "transaction": {
        "id": "a5143c1d3a6f4a8287d0e2cc1d4c0427",
        "invoice_id": "1974a098jhlk",
        "subscription_id": "1974a09k",
        "action": "purchase",
        "amount_in_cents": 1000,
        "status": "success",
    },
}
RECURLY_PAID: list[Body] = group(
    "recurly",
    [
        ("purchase", collection(INVOICE), [OF_RECURLY]),
        (
            "purchase with a credit",
            collection(INVOICE) | {"credit_invoices": [INVOICE | {"id": "cr9t1d6nq4ab", "type": "credit"}]},
            [OF_RECURLY],
        ),
        ("invoice", INVOICE, [OF_RECURLY]),
        (
            "invoice by uuid",
            INVOICE,
            [OF_RECURLY | {"invoice_id": INVOICE["uuid"], "transaction_id": TRANSACTION["uuid"]}],
            {"prefer": "uuid"},
        ),
        (
            "invoice, paid at the second attempt",
            INVOICE | {"transactions": [TRANSACTION | {"id": "declined0001", "status": "declined"}, TRANSACTION]},
            [OF_RECURLY],
        ),
        (
            "invoice of two subscriptions",
            INVOICE | {"subscription_ids": ["nb9t1d6nq4cd", "nb9t1d6nq4xx"]},
            [OF_RECURLY, OF_RECURLY | {"subscription_id": "nb9t1d6nq4xx"}],
        ),
        ("invoice without transactions", without(INVOICE, "transactions"), [OF_SUBSCRIPTION]),
        ("invoice without state, its transaction paid", without(INVOICE, "state"), [OF_RECURLY]),
        ("invoice without its discriminator", without(INVOICE, "object"), [OF_RECURLY]),
        ("invoice, its discriminator in capitals", INVOICE | {"object": "Invoice"}, [OF_RECURLY]),
        ("invoice at a list", {"bought": [INVOICE]}, [OF_RECURLY], {"at": "bought"}),
        (
            "invoice of an account without ID",
            INVOICE | {"account": {"code": "shopper-7", "email": EMAIL}},
            [OF_RECURLY | {"customer_id": "shopper-7"}],
        ),
        ("transaction", TRANSACTION, [OF_RECURLY]),
        ("transaction, authorized", TRANSACTION | {"type": "authorization"}, [OF_RECURLY]),
        ("transaction at a place", {"payment": TRANSACTION}, [OF_RECURLY], {"at": "payment"}),
        ("subscription", SUBSCRIPTION, [OF_SUBSCRIPTION]),
        (
            "subscription by uuid",
            SUBSCRIPTION,
            [OF_SUBSCRIPTION | {"subscription_id": SUBSCRIPTION["uuid"]}],
            {"prefer": "uuid"},
        ),
        ("subscription at a place", {"bought": without(SUBSCRIPTION, "object")}, [OF_SUBSCRIPTION], {"at": "bought"}),
        (
            "subscription on trial with a card",
            SUBSCRIPTION
            | {"trial_ends_at": "2026-02-05T10:00:00Z", "active_invoice_id": None, "billing_info_id": "bi9t1d6nq4ab"},
            [without(OF_SUBSCRIPTION, "invoice_id")],
        ),
        ("subscription after its trial", SUBSCRIPTION | {"trial_ends_at": "2026-01-01T10:00:00Z"}, [OF_SUBSCRIPTION]),
        ("webhook, invoice paid", told("charge_invoice", "paid"), [{"invoice_id": "rafhdbbf41mc"}]),
        ("webhook, by uuid", told("charge_invoice", "paid"), [{"invoice_id": "63b0"}], {"prefer": "uuid"}),
        ("webhook, payment succeeded", told("payment", "succeeded"), [{"transaction_id": "rafhdbbf41mc"}]),
        (
            "notification",
            {"successful_payment_notification": NOTIFIED},
            [
                {
                    "customer_email": EMAIL,
                    "customer_id": "shopper-7",
                    "invoice_id": "1974a098jhlk",
                    "subscription_id": "1974a09k",
                    "transaction_id": "a5143c1d3a6f4a8287d0e2cc1d4c0427",
                }
            ],
        ),
    ],
)
RECURLY_UNPAID: list[Body] = group(
    "recurly",
    [
        ("purchase declined", collection(INVOICE, error={"type": "transaction"})),
        ("purchase in preview", collection(INVOICE | {"id": None, "uuid": None})),
        *(
            (f"invoice {state}", INVOICE | {"state": state})
            for state in ("open", "pending", "processing", "past_due", "failed", "voided")
        ),
        ("invoice without state or transactions", without(INVOICE, "state", "transactions")),
        ("invoice, declined", without(INVOICE, "state") | {"transactions": [TRANSACTION | {"status": "declined"}]}),
        ("invoice of zero amount", INVOICE | {"total": 0, "transactions": []}),
        ("credit invoice", INVOICE | {"type": "credit"}),
        ("credit payment in capitals", {"object": "CreditPayment", "invoice": INVOICE}),
        ("invoice, refunded", INVOICE | {"transactions": [TRANSACTION | {"refunded": True}]}),
        *(
            (f"transaction {status}", TRANSACTION | {"status": status})
            for status in ("declined", "pending", "scheduled", "processing", "void", "error")
        ),
        ("transaction without status", without(TRANSACTION, "status")),
        ("refund", TRANSACTION | {"type": "refund"}),
        ("verification", TRANSACTION | {"type": "verify", "amount": 0}),
        ("transaction of zero amount", TRANSACTION | {"amount": 0}),
        ("transaction, voided", TRANSACTION | {"voided_at": "2026-01-06T10:00:00Z"}),
        *(
            (f"subscription {state}", SUBSCRIPTION | {"state": state})
            for state in ("future", "expired", "paused", "failed", "canceled")
        ),
        ("subscription by mail", SUBSCRIPTION | {"collection_method": "manual"}),
        ("subscription of zero amount", SUBSCRIPTION | {"unit_amount": 0}),
        (
            "subscription on trial without a card",
            SUBSCRIPTION | {"trial_ends_at": "2026-02-05T10:00:00Z", "active_invoice_id": None},
        ),
        (
            "subscription with its past due invoice",
            {"subscription": SUBSCRIPTION, "invoice": INVOICE | {"state": "past_due", "transactions": []}},
        ),
        (
            "declined transaction at a place",
            {"payment": {"id": "trx1", "object": "transaction", "status": "declined", "account": {"id": "acc1"}}},
            [],
            {"at": "payment"},
        ),
        *(
            (f"webhook {kind}.{event}", told(kind, event))
            for kind, event in (
                ("charge_invoice", "created"),
                ("charge_invoice", "past_due"),
                ("charge_invoice", "failed"),
                ("invoice", "closed"),
                ("payment", "failed"),
                ("payment", "scheduled"),
                ("payment", "refunded"),
                ("subscription", "created"),
                ("credit_invoice", "created"),
            )
        ),
        (
            "notification of an invoice that was closed without a payment",
            {
                "closed_invoice_notification": {
                    "account": NOTIFIED["account"],
                    "invoice": {"uuid": "ffc64d71", "state": "failed", "total_in_cents": 1000},
                }
            },
        ),
        (
            "notification of a refund",
            {
                "successful_payment_notification": NOTIFIED
                | {"transaction": NOTIFIED["transaction"] | {"action": "refund"}}
            },
        ),
        ("account", ACCOUNT | {"subscriptions": [SUBSCRIPTION]}),
    ],
)
RECURLY_UNKNOWN: list[Body] = group(
    "recurly",
    [
        ("shop's subscription", {"subscription": {"id": 5, "account": {"id": 1}, "plan": {}, "state": "active"}}),
        (
            "shop's subscription in text",
            {"subscription": {"id": "5", "account": {"id": "1"}, "plan": {"code": "gold"}, "state": "active"}},
        ),
        (
            "shop's invoice",
            {"invoice": {"id": "INV-7", "number": "7", "state": "paid", "account": {"id": "1"}, "line_items": []}},
        ),
        ("shop's transaction", {"transaction": {"id": "t7", "status": "success", "type": "purchase"}}),
        ("shop's account", {"account": {"id": "1", "email": EMAIL}, "state": "active"}),
        ("two transactions", {"transactions": [TRANSACTION, TRANSACTION | {"id": "lr9t1d6nq4xx"}]}),
    ],
)

# Recharge

CUSTOMER = {"id": 2, "email": EMAIL, "external_customer_id": {"ecommerce": "decoy"}, "hash": "decoy"}
ITEMS = [
    {"purchase_item_id": 11, "purchase_item_type": "subscription", "external_product_id": {"ecommerce": "decoy"}},
    {"purchase_item_id": 12, "purchase_item_type": "onetime", "external_product_id": {"ecommerce": "decoy"}},
]
CHARGE: dict[str, Any] = {
    "id": 4007,
    "address_id": 5,
    "client_details": {"browser_ip": "192.0.2.1"},
    "currency": "USD",
    "customer": CUSTOMER,
    "external_order_id": {"ecommerce": "decoy"},
    "external_transaction_id": {"payment_processor": "pi_3Pq"},
    "line_items": ITEMS,
    "processor_name": "stripe",
    "scheduled_at": "2026-01-05",
    "status": "success",
    "total_price": "10.00",
    "type": "checkout",
}
CHARGE_01: dict[str, Any] = {
    "id": 4007,
    "address_id": 5,
    "customer_id": 2,
    "email": EMAIL,
    "line_items": [{"subscription_id": 11, "type": "SUBSCRIPTION"}, {"subscription_id": 12, "type": "ONETIME"}],
    "processor_name": "stripe",
    "shopify_order_id": "decoy",
    "status": "SUCCESS",
    "total_price": "10.00",
    "transaction_id": "pi_3Pq",
}
ORDER_11: dict[str, Any] = {
    "id": 9001,
    "address_id": 5,
    "charge": {"id": 4007, "external_transaction_id": {"payment_processor": "pi_3Pq"}},
    "customer": CUSTOMER,
    "external_order_id": {"ecommerce": "decoy"},
    "is_prepaid": False,
    "line_items": ITEMS,
    "scheduled_at": "2026-01-05",
    "status": "success",
    "total_price": "10.00",
    "type": "checkout",
}
CHECKOUT: dict[str, Any] = {
    "charge_id": 4007,
    "completed_at": "2026-01-05T10:00:00",
    "email": EMAIL,
    "line_items": [{"order_interval_frequency": "30"}],
    "payment_processor": "stripe",
    "payment_processor_customer_id": "cus_decoy",
    "payment_processor_transaction_id": "pi_3Pq",
    "token": "6d1a8c",
    "total_price": "10.00",
}
PROCESSED: dict[str, Any] = {
    "authorization_token": "x",
    "charge_id": 4007,
    "free": False,
    "payment_processor": "stripe",
    "payment_processor_customer_id": "cus_decoy",
    "payment_processor_transaction_id": "pi_3Pq",
    "payment_type": "CREDIT_CARD",
    "status": "success",
}
RENEWED: dict[str, Any] = {
    "id": 11,
    "address_id": 5,
    "charge_interval_frequency": 30,
    "customer_id": 2,
    "order_interval_frequency": 30,
    "price": "10.00",
    "status": "active",
}
OF_CHARGE = {
    "charge_id": "4007",
    "customer_email": EMAIL,
    "customer_id": "2",
    "subscription_id": "11",
    "transaction_id": "pi_3Pq",
}
RECHARGE_PAID: list[Body] = group(
    "recharge",
    [
        ("charge", {"charge": CHARGE}, [OF_CHARGE]),
        ("charge, bare", CHARGE, [OF_CHARGE]),
        ("charge, the processor's ID", CHARGE, [OF_CHARGE | {"charge_id": "pi_3Pq"}], {"charge_id": "processor"}),
        (
            "charge, the processor's ID a number",
            CHARGE | {"external_transaction_id": {"payment_processor": 77}},
            [OF_CHARGE | {"transaction_id": "77"}],
        ),
        (
            "charge of two subscriptions",
            CHARGE | {"line_items": [*ITEMS, ITEMS[0] | {"purchase_item_id": 13}]},
            [OF_CHARGE, OF_CHARGE | {"subscription_id": "13"}],
        ),
        ("charge of a one-time item", CHARGE | {"line_items": ITEMS[1:]}, [without(OF_CHARGE, "subscription_id")]),
        ("charge of 2021-01", {"charge": CHARGE_01}, [OF_CHARGE]),
        (
            "charge, few fields",
            {"charge": {"id": 4007, "address_id": 5, "status": "success", "transaction_id": "pi_3Pq"}},
            [{"charge_id": "4007", "transaction_id": "pi_3Pq"}],
        ),
        ("charge, alone in a list", {"charges": [CHARGE]}, [OF_CHARGE]),
        (
            "charge in JSON:API",
            {"data": {"type": "charge", "id": "4007", "attributes": without(CHARGE, "id")}},
            [OF_CHARGE],
        ),
        ("order", {"order": ORDER_11}, [OF_CHARGE]),
        ("order, prepaid", {"order": ORDER_11 | {"is_prepaid": True}}, [OF_CHARGE]),
        (
            "order of 2021-01",
            {"order": CHARGE_01 | {"id": 9001, "charge_id": 4007, "charge_status": "SUCCESS"}},
            [OF_CHARGE],
        ),
        (
            "order, the processor's ID",
            {"order": ORDER_11},
            [OF_CHARGE | {"charge_id": "pi_3Pq"}],
            {"charge_id": "processor"},
        ),
        (
            "checkout",
            {"checkout": CHECKOUT},
            [{"charge_id": "4007", "customer_email": EMAIL, "transaction_id": "pi_3Pq"}],
        ),
        (
            "checkout without processor",
            {"checkout": without(CHECKOUT, "payment_processor_transaction_id")},
            [{"charge_id": "4007", "customer_email": EMAIL}],
        ),
        ("processed checkout", {"checkout_charge": PROCESSED}, [{"charge_id": "4007", "transaction_id": "pi_3Pq"}]),
        (
            "processed checkout, in capitals",
            {"checkout_charge": PROCESSED | {"status": "SUCCESS"}},
            [{"charge_id": "4007", "transaction_id": "pi_3Pq"}],
        ),
        ("subscription", {"subscription": RENEWED}, [{"customer_id": "2", "subscription_id": "11"}]),
        (
            "subscription of 2021-01",
            {"subscription": RENEWED | {"status": "ACTIVE", "email": EMAIL}},
            [{"customer_email": EMAIL, "customer_id": "2", "subscription_id": "11"}],
        ),
        ("subscription with its charge", {"subscription": RENEWED, "charge": CHARGE}, [OF_CHARGE]),
    ],
)
RECHARGE_UNPAID: list[Body] = group(
    "recharge",
    [
        *(
            (f"charge {status}", {"charge": CHARGE | {"status": status}})
            for status in (
                "queued",
                "error",
                "skipped",
                "refunded",
                "partially_refunded",
                "pending",
                "pending_manual_payment",
                "contacted",
            )
        ),
        (
            "charge without status",
            {"charge": CHARGE | {"status": None, "error_type": "CARD_DECLINED"}, "success": False},
        ),
        ("charge of zero amount", {"charge": CHARGE | {"total_price": "0.00"}}),
        ("order, refunded completely", {"order": ORDER_11 | {"total_refunds": "10.00"}}),
        ("order queued", {"order": ORDER_11 | {"status": "queued"}}),
        ("order, its charge in error", {"order": ORDER_11 | {"charge": ORDER_11["charge"] | {"status": "error"}}}),
        ("order of zero amount", {"order": ORDER_11 | {"total_price": "0.00"}}),
        ("checkout open", {"checkout": CHECKOUT | {"completed_at": None, "charge_id": None}}),
        ("checkout open, bare", {"checkout": {"token": "x", "email": EMAIL, "line_items": [], "completed_at": None}}),
        ("checkout without charge", {"checkout": CHECKOUT | {"charge_id": None}}),
        ("checkout of zero amount", {"checkout": CHECKOUT | {"total_price": "0.00"}}),
        ("processed checkout of zero amount", {"checkout_charge": PROCESSED | {"free": True}}),
        ("processed checkout, failed", {"checkout_charge": PROCESSED | {"status": "failed"}}),
        *(
            (f"subscription {status}", {"subscription": RENEWED | {"status": status}})
            for status in ("cancelled", "expired")
        ),
        (
            "subscription with a charge in error, few fields",
            {"subscription": RENEWED, "charge": {"status": "error", "error_type": "CARD_DECLINED"}},
        ),
        ("subscription of zero amount", {"subscription": RENEWED | {"price": "0.00"}}),
        ("subscription with a charge in error", {"subscription": RENEWED, "charge": CHARGE | {"status": "error"}}),
    ],
)
RECHARGE_UNKNOWN: list[Body] = group(
    "recharge",
    [
        ("shop's order", {"order": {"id": 77, "status": "success", "line_items": [{}], "transaction_id": "abc"}}),
        (
            "shop's order, more of it",
            {"order": {"id": 77, "status": "success", "line_items": [{"sku": "x"}], "charge_id": 5, "email": EMAIL}},
        ),
        (
            "Shopify's order",
            {
                "order": {
                    "id": 450789469,
                    "financial_status": "paid",
                    "status": "success",
                    "line_items": [{"product_id": 1, "variant_id": 2}],
                    "customer": {"id": 2, "email": EMAIL},
                    "total_price": "10.00",
                    "client_details": {"browser_ip": "192.0.2.1"},
                }
            },
        ),
        ("one page of several charges", {"charges": [CHARGE], "next_cursor": "eyJ", "previous_cursor": None}),
        ("shop's charge", {"charge": {"id": "ch_7", "status": "success", "amount": 5}}),
        ("shop's charge with a number", {"charge": {"id": 7, "status": "success", "amount": 5}}),
        ("shop's subscription", {"subscription": {"id": 5, "status": "active", "customer_id": 1, "plan": "gold"}}),
        (
            "two charges",
            {"charges": [CHARGE, CHARGE | {"id": 4008, "external_transaction_id": {"payment_processor": "pi_4"}}]},
        ),
        ("customer", {"customer": CUSTOMER | {"charges": [CHARGE]}}),
    ],
)

PAID = ADYEN_PAID + WORLDPAY_PAID + RECURLY_PAID + RECHARGE_PAID
UNPAID = ADYEN_UNPAID + WORLDPAY_UNPAID + RECURLY_UNPAID + RECHARGE_UNPAID
UNKNOWN = ADYEN_UNKNOWN + WORLDPAY_UNKNOWN + RECURLY_UNKNOWN + RECHARGE_UNKNOWN
