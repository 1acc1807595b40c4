"""More bodies as shops and PSPs send them, and the expected records of each."""

import psp_bodies_braintree as b
import psp_bodies_others as o
import psp_bodies_stripe as s
from psp_bodies import Body

PI = "pi_3MtwBwLkdIwHu7ix28a3tqPa"

PAID: list[Body] = [
    Body("stripe", "PaymentIntent.status nested", {"stripe": {"paymentIntent": s.INTENT}}, [s.OF_INTENT]),
    Body(
        "stripe",
        "sub active, latest_invoice null",
        s.SUBSCRIPTION | {"latest_invoice": None},
        [{"customer_id": s.CUS, "subscription_id": s.SUB}],
    ),
    Body(
        "stripe",
        "invoice paid forced A bool",
        {"id": "in_1", "object": "invoice", "paid": True, "closed": True, "charge": "ch_1", "total": 500},
        [{"invoice_id": "in_1", "charge_id": "ch_1"}],
    ),
    Body(
        "stripe",
        "charge source email",
        s.CHARGE
        | {"billing_details": {"email": None}, "receipt_email": None, "customer": {"id": "cus_9", "email": "c@d.co"}},
        [
            {
                "customer_email": "c@d.co",
                "customer_id": "cus_9",
                "charge_id": "ch_3Pq",
                "transaction_id": "pi_3Pq",
                "network_transaction_id": "104557651805572",
            }
        ],
    ),
    Body(
        "stripe",
        "charge with deleted customer",
        s.CHARGE | {"customer": {"id": "cus_9", "deleted": True}},
        [
            {
                "customer_email": "ada@example.com",
                "customer_id": "cus_9",
                "charge_id": "ch_3Pq",
                "transaction_id": "pi_3Pq",
                "network_transaction_id": "104557651805572",
            }
        ],
    ),
    Body(
        "stripe",
        "stripe order object 2022",
        {"object": "order", "id": "order_1", "status": "complete", "payment": {"payment_intent": s.INTENT}},
        [s.OF_INTENT],
    ),
    Body(
        "stripe",
        "incomplete sub + intent ok",
        {"subscription": s.SUBSCRIPTION | {"status": "incomplete"}, "paymentIntent": s.INTENT},
        [s.OF_INTENT],
    ),
    Body("stripe", "session payment_link recurring", s.SESSION | {"payment_link": "plink_1"}, [s.OF_SESSION]),
    Body(
        "stripe",
        "invoice.payment_succeeded cycle",
        s.event("invoice.payment_succeeded", s.INVOICE | s.OF_A | {"billing_reason": "subscription_cycle"}),
        [s.OF_INVOICE | {"subscription_id": s.SUB, "charge_id": s.CH, "transaction_id": s.PI}],
    ),
    Body(
        "stripe",
        "two invoices",
        {"data": {"invoice": s.INVOICE, "invoices": [s.INVOICE | {"id": "in_0"}]}},
        [s.OF_INVOICE],
    ),
    Body(
        "stripe",
        "id number",
        s.INTENT | {"id": None},
        [{k: v for k, v in s.OF_INTENT.items() if k != "transaction_id"}],
    ),
    Body(
        "stripe",
        "sub + session",
        {"session": s.SESSION | {"payment_intent": None, "subscription": s.SUB}, "subscription": s.SUBSCRIPTION},
        [{"customer_email": s.EMAIL, "customer_id": s.CUS, "invoice_id": s.INV, "subscription_id": s.SUB}],
    ),
    Body(
        "braintree",
        "php",
        {
            "success": True,
            "transaction": {
                "id": "9xk2p1vd",
                "status": "authorized",
                "type": "sale",
                "currencyIsoCode": "USD",
                "amount": "5.00",
                "merchantAccountId": "m",
                "customer": {"id": None, "email": None},
                "customerDetails": {},
                "creditCard": {},
            },
        },
        [{"transaction_id": "9xk2p1vd"}],
    ),
    Body(
        "braintree",
        "ruby symbols",
        {
            "transaction": {
                ":id": "9xk2p1vd",
                ":status": "settled",
                ":merchant_account_id": "m",
                ":processor_response_code": "1000",
            }
        },
        [{"transaction_id": "9xk2p1vd"}],
    ),
    Body(
        "braintree",
        "pending review",
        {"transaction": b.NODE | {"status": "authorized", "gatewayRejectionReason": None}},
        [b.OF_SALE],
    ),
    Body(
        "braintree",
        "sub Active transactions empty",
        {"subscription": b.SUBSCRIPTION | {"transactions": [], "trialPeriod": True, "trial_period": True}},
        [{"subscription_id": b.SUB}],
    ),
    Body(
        "braintree",
        "vault + charge",
        {
            "data": {
                "chargePaymentMethod": {
                    "clientMutationId": None,
                    "transaction": b.GRAPHQL
                    | {
                        "paymentMethod": {"id": "cGF5bWVudG1ldGhvZF9jY19kYg==", "legacyId": "ccdb"},
                        "statusHistory": [{"status": "AUTHORIZED"}],
                    },
                }
            }
        },
        [b.OF_GRAPHQL],
    ),
    Body(
        "adyen",
        "notif snake",
        {
            "live": "true",
            "notification_items": [
                {
                    "notification_request_item": {
                        "event_code": "AUTHORISATION",
                        "success": "true",
                        "psp_reference": "P1",
                        "merchant_account_code": "m",
                    }
                }
            ],
        },
        [{"transaction_id": "P1"}],
    ),
    Body(
        "adyen",
        "shopperReference root",
        o.PAYMENT | {"additionalData": {"shopperReference": "s9"}},
        [{"customer_id": "s9", "transaction_id": o.PSP}],
    ),
    Body(
        "adyen",
        "session result w/ donation",
        {
            "id": "CS1",
            "status": "completed",
            "payments": [
                {"pspReference": "P1", "resultCode": "Authorised", "amount": {"value": "0"}},
                {"pspReference": "P2", "resultCode": "Authorised", "amount": {"value": "10"}},
            ],
        },
        [{"transaction_id": "P2"}],
    ),
    Body(
        "worldpay",
        "response wrap",
        {"response": {"body": o.ACCESS}},
        [{"transaction_id": "Memory265-13/08/1876", "network_transaction_id": "060720116005060"}],
    ),
    Body(
        "worldpay",
        "moto token",
        {"outcome": "authorized", "_links": o.LIVE, "paymentId": "payX"},
        [{"transaction_id": "payX"}],
    ),
    Body(
        "recurly",
        "py vars client",
        {
            "object": "invoice_collection",
            "charge_invoice": o.INVOICE | {"_Resource__response": None},
            "credit_invoices": None,
        },
        [o.OF_RECURLY],
    ),
    Body(
        "recurly",
        "sub by uuid only",
        {k: v for k, v in o.SUBSCRIPTION.items() if k != "id"},
        [o.OF_SUBSCRIPTION | {"subscription_id": o.SUBSCRIPTION["uuid"]}],
    ),
    Body("recurly", "inv legacy", o.INVOICE | {"type": "legacy"}, [o.OF_RECURLY]),
    Body("recurly", "gift card purchase", o.INVOICE | {"origin": "gift_card"}, [o.OF_RECURLY]),
    Body(
        "recurly",
        "verify in list",
        o.INVOICE | {"transactions": [o.TRANSACTION | {"type": "verify", "id": "ve9t1d6nq4ei"}, o.TRANSACTION]},
        [o.OF_RECURLY],
    ),
    Body(
        "recharge",
        "2021-01 checkout",
        {
            "checkout": {
                "token": "t",
                "charge_id": 99,
                "completed_at": "2019-01-01T00:00:00",
                "email": "a@b.co",
                "line_items": [{}],
                "total_price": "11.00",
                "payment_processor": None,
            }
        },
        [{"charge_id": "99", "customer_email": "a@b.co"}],
    ),
    Body("recharge", "charge type int string id", {"charge": o.CHARGE | {"id": "4007"}}, [o.OF_CHARGE]),
    Body(
        "recharge",
        "order w/ charge_id null",
        {"order": o.CHARGE_01 | {"id": 9001, "charge_id": None, "is_prepaid": False}},
        [{k: v for k, v in o.OF_CHARGE.items() if k != "charge_id"}],
    ),
    Body("recharge", "at orders", {"orders": [o.ORDER_11]}, [o.OF_CHARGE], {"at": "orders"}),
    Body(
        "recharge", "bundle charge", {"charge": o.CHARGE | {"line_items": o.ITEMS[:1] * 2}}, [o.OF_CHARGE, o.OF_CHARGE]
    ),
]

UNPAID: list[Body] = [
    Body("stripe", "sub past_due w paid inv", s.SUBSCRIPTION | {"status": "past_due", "latest_invoice": s.INVOICE}),
    Body(
        "stripe",
        "sub active, invoice processing",
        s.SUBSCRIPTION
        | {"latest_invoice": s.INVOICE | {"status": "open", "payment_intent": s.INTENT | {"status": "processing"}}},
    ),
    Body(
        "stripe",
        "invoice unpaid A",
        {"id": "in_1", "object": "invoice", "paid": False, "closed": False, "charge": None},
    ),
    Body(
        "stripe",
        "setup session",
        {
            "id": "cs_1",
            "object": "checkout.session",
            "mode": "setup",
            "status": "complete",
            "payment_status": "no_payment_required",
            "setup_intent": "seti_1",
        },
    ),
    Body(
        "stripe",
        "async failed",
        s.event("checkout.session.async_payment_failed", s.SESSION | {"payment_status": "unpaid"}),
    ),
    Body("stripe", "amount zero PI", s.INTENT | {"amount": 0}),
    Body(
        "stripe",
        "list of refunds",
        {"object": "list", "data": [{"object": "refund", "id": "re_1", "status": "succeeded"}]},
    ),
    Body("stripe", "ok false", {"ok": False, "payment_intent": s.INTENT}),
    Body(
        "braintree", "sub trial zero price?", {"subscription": b.SUBSCRIPTION | {"price": "0.00", "transactions": []}}
    ),
    Body("braintree", "status map", {"transaction": b.NODE | {"status": {"name": "settled"}}}),
    Body(
        "adyen",
        "resultcode in error",
        {"status": 500, "errorCode": "905", "errorType": "configuration", "resultCode": "Error"},
    ),
    Body(
        "adyen", "3ds then details", {"payment": {"resultCode": "IdentifyShopper", "action": {}}, "details": o.PAYMENT}
    ),
    Body("worldpay", "partial refund", o.ACCESS | {"outcome": "sentForPartialRefund"}),
    Body(
        "worldpay",
        "query not paid key",
        {"lastEvent": "settlementFailed", "transactionReference": "R", "_links": o.LIVE},
    ),
    Body("recurly", "write off", o.INVOICE | {"type": "credit", "origin": "write_off"}),
    Body(
        "recurly",
        "pending ACH",
        o.INVOICE | {"state": "processing", "transactions": [o.TRANSACTION | {"status": "processing"}]},
    ),
    Body("recurly", "coupon zero", o.SUBSCRIPTION | {"total": 0, "unit_amount": 10}),
    Body("recharge", "sub w/ order error", {"subscription": o.RENEWED, "order": o.ORDER_11 | {"status": "error"}}),
]

UNKNOWN: list[Body] = [
    Body("stripe", "camel list session", {"sessions": [s.SESSION]}),
    Body("stripe", "history key", {"history": [s.CHARGE], "charge": None}),
    Body("stripe", "empty", {}),
    Body("stripe", "null", None),
    Body("stripe", "string", "paid"),
    Body(
        "braintree", "3ds lookup", {"paymentMethod": {"nonce": "x", "threeDSecureInfo": {}}, "lookup": {"acsUrl": "u"}}
    ),
    Body(
        "braintree",
        "shop sub w/ plan + token",
        {"subscription": {"id": "5", "plan_id": "gold", "status": "Active", "payment_method": "visa"}},
    ),
    Body("braintree", "transaction string", {"transaction": "d2mxk8pz", "status": "settled"}),
    Body(
        "braintree",
        "search edges",
        {
            "data": {
                "search": {"transactions": {"edges": [{"node": b.GRAPHQL}, {"node": b.GRAPHQL | {"legacyId": "x1"}}]}}
            }
        },
    ),
    Body(
        "braintree",
        "gql refund under refundTransaction",
        {
            "data": {
                "refundTransaction": {
                    "refund": {"id": "cmVmdW5kX3gxeTJ6Mw==", "legacyId": "x1y2z3", "status": "SUBMITTED_FOR_SETTLEMENT"}
                }
            }
        },
    ),
    Body("adyen", "Authorized US", {"pspReference": "NC6", "resultCode": "Authorized"}),
    Body(
        "adyen",
        "two notif same",
        o.notified(o.ITEM, o.ITEM | {"eventCode": "CAPTURE", "pspReference": "P2", "originalReference": o.PSP}),
    ),
    Body(
        "worldpay",
        "authorised british",
        {"outcome": "authorised", "transactionReference": "R", "paymentId": "p", "schemeReference": "1"},
    ),
    Body("worldpay", "order status SUCCESS bool", {"orderCode": "O", "paymentStatus": True}),
    Body("recharge", "orders list of one", {"orders": [o.ORDER_11]}),
]
