"""Bodies that were written to mislead the presets, and the expected records of each."""

import psp_bodies_braintree as b
import psp_bodies_others as o
import psp_bodies_stripe as s
from psp_bodies import Body

PI = "pi_3MtwBwLkdIwHu7ix28a3tqPa"

PAID: list[Body] = [
    Body(
        "stripe",
        "dto root",
        {"id": PI, "status": "succeeded", "amount": 2000, "currency": "usd"},
        [{"transaction_id": PI}],
    ),
    Body(
        "stripe",
        "dto nested unknown key",
        {"result": {"payment": {"id": PI, "status": "succeeded", "receiptEmail": "a@b.co"}}},
        [{"transaction_id": PI, "customer_email": "a@b.co"}],
    ),
    Body(
        "stripe",
        "session dto no object",
        {
            "session": {
                "id": "cs_live_a1b2c3",
                "status": "complete",
                "paymentStatus": "paid",
                "customerEmail": "a@b.co",
                "paymentIntent": PI,
                "amountTotal": 2000,
            }
        },
        [{"customer_email": "a@b.co", "transaction_id": PI}],
    ),
    Body(
        "stripe",
        "spread order+intent",
        {**s.INTENT, "orderId": 7, "items": [1], "customerId": 77, "email": "shop@x.co"},
        [s.OF_INTENT],
    ),
    Body(
        "stripe",
        "basil sub paid",
        s.SUBSCRIPTION
        | {
            "latest_invoice": s.INVOICE
            | {
                "payments": {
                    "data": [
                        {
                            "status": "paid",
                            "payment": {
                                "type": "payment_intent",
                                "payment_intent": s.INTENT | {"latest_charge": s.CHARGE},
                            },
                        }
                    ]
                }
            }
        },
        [
            s.OF_SUBSCRIPTION
            | {"customer_email": s.EMAIL, "charge_id": s.CH, "transaction_id": s.PI}
            | {"network_transaction_id": "104557651805572"}
        ],
    ),
    Body(
        "stripe", "sub in event updated", s.event("customer.subscription.updated", s.SUBSCRIPTION), [s.OF_SUBSCRIPTION]
    ),
    Body(
        "stripe",
        "invoice payment_record",
        s.INVOICE | s.parts({"type": "payment_record", "payment_record": "pr_1"}),
        [s.OF_INVOICE],
    ),
    Body(
        "stripe",
        "two parts no status",
        s.INVOICE
        | {"payments": {"data": [{"payment": {"payment_intent": "pi_0"}}, {"payment": {"payment_intent": "pi_1"}}]}},
        [s.OF_INVOICE],
    ),
    Body(
        "stripe",
        "list page of one",
        {"object": "list", "data": [s.INVOICE | s.OF_A], "url": "/v1/invoices"},
        [s.OF_INVOICE | {"subscription_id": s.SUB, "charge_id": s.CH, "transaction_id": s.PI}],
    ),
    Body(
        "stripe",
        "dispute inside charge",
        s.CHARGE | {"disputed": True},
        [
            {
                "customer_email": "ada@example.com",
                "customer_id": "cus_Pq1",
                "charge_id": "ch_3Pq",
                "transaction_id": "pi_3Pq",
                "network_transaction_id": "104557651805572",
            }
        ],
    ),
    Body(
        "stripe",
        "session with lines, subscription obj",
        s.SESSION
        | {
            "mode": "subscription",
            "payment_intent": None,
            "invoice": None,
            "subscription": s.SUBSCRIPTION | {"latest_invoice": s.INVOICE},
        },
        [{"customer_email": s.EMAIL, "customer_id": s.CUS, "invoice_id": s.INV, "subscription_id": s.SUB}],
    ),
    Body(
        "stripe",
        "previous + new",
        {"order": {"payment": s.INTENT}, "payments": [s.INTENT | {"id": "pi_old", "latest_charge": "ch_old"}]},
        [s.OF_INTENT],
    ),
    Body(
        "stripe",
        "latestCharge names",
        {
            "payment": {
                "latestCharge": "ch_9",
                "charges": [s.CHARGE, s.CHARGE | {"id": "ch_9", "payment_intent": "pi_9"}],
            }
        },
        [
            {
                "customer_email": "ada@example.com",
                "customer_id": "cus_Pq1",
                "charge_id": "ch_9",
                "transaction_id": "pi_9",
                "network_transaction_id": "104557651805572",
            }
        ],
    ),
    Body("stripe", "wrong word case", s.INTENT | {"status": "SUCCEEDED"}, [s.OF_INTENT]),
    Body(
        "stripe",
        "event with camel",
        {
            "object": "event",
            "type": "checkout.session.completed",
            "data": {
                "object": {
                    "id": "cs_1",
                    "object": "checkout.session",
                    "paymentStatus": "paid",
                    "status": "complete",
                    "customerDetails": {"email": "a@b.co"},
                    "subscription": "sub_1",
                }
            },
        },
        [{"customer_email": "a@b.co", "subscription_id": "sub_1"}],
    ),
    Body(
        "braintree",
        "local payment",
        {
            "kind": "local_payment_funded",
            "subject": {"local_payment_funded": {"payment_id": "x"}},
            "local_payment_funded": {
                "payment_id": "x",
                "transaction": {
                    "id": "9xk2p1vd",
                    "status": "settled",
                    "amount": "10.00",
                    "order_id": "o",
                    "sca_exemption_requested": None,
                    "risk_data": None,
                    "three_d_secure_info": None,
                    "mastercard_transaction_link_id": None,
                },
            },
        },
        [{"transaction_id": "9xk2p1vd"}],
    ),
    Body(
        "braintree",
        "node fields dto",
        {
            "success": True,
            "transaction": {
                "id": "9xk2p1vd",
                "status": "submitted_for_settlement",
                "amount": "10.00",
                "processorResponseText": "Approved",
                "customer": {"id": "c1", "email": "a@b.co"},
                "paypalAccount": {},
            },
        },
        [{"transaction_id": "9xk2p1vd", "customer_id": "c1", "customer_email": "a@b.co"}],
    ),
    Body("braintree", "gql alias", {"data": {"charge": {"transaction": b.GRAPHQL}}}, [b.OF_GRAPHQL]),
    Body(
        "braintree",
        "at list two",
        {"sales": [b.PYTHON | {"subscription_id": None}, b.PYTHON | {"id": "x1y2z3", "subscription_id": None}]},
        [
            {
                "customer_email": "ada@example.com",
                "customer_id": "c_91",
                "transaction_id": "d2mxk8pz",
                "network_transaction_id": "020190722123456",
            },
            {
                "customer_email": "ada@example.com",
                "customer_id": "c_91",
                "transaction_id": "x1y2z3",
                "network_transaction_id": "020190722123456",
            },
        ],
        {"at": "sales"},
    ),
    Body(
        "adyen",
        "snake",
        {
            "psp_reference": "NC6HT9CRT65ZGN82",
            "result_code": "Authorised",
            "additional_data": {"recurring.shopper_reference": "s7"},
        },
        [{"transaction_id": "NC6HT9CRT65ZGN82", "customer_id": "s7"}],
    ),
    Body(
        "adyen",
        "details donation token",
        {"pspReference": "NC6HT9CRT65ZGN82", "resultCode": "Authorised", "donationToken": "x", "shopperLocale": "en"},
        [{"transaction_id": "NC6HT9CRT65ZGN82"}],
    ),
    Body(
        "adyen",
        "flat webhook",
        {
            "live": "true",
            "eventCode": "AUTHORISATION",
            "success": "true",
            "pspReference": "P1",
            "merchantAccountCode": "m",
            "value": "1000",
            "currency": "EUR",
        },
        [{"transaction_id": "P1"}],
    ),
    Body(
        "worldpay",
        "relative links",
        {
            "outcome": "authorized",
            "transactionReference": "R",
            "_links": {"payments:settle": {"href": "/payments/x"}, "curies": []},
        },
        [{"transaction_id": "R"}],
    ),
    Body(
        "worldpay",
        "v7 full",
        {
            "outcome": "authorized",
            "commandId": "c",
            "paymentId": "payX",
            "riskFactors": [],
            "issuer": {"authorizationCode": "1"},
            "scheme": {"reference": "060720116005060"},
            "_links": {"cardPayments:settle": {"href": "https://access.worldpay.com/cardPayments/x"}},
        },
        [{"transaction_id": "payX", "network_transaction_id": "060720116005060"}],
    ),
    Body(
        "worldpay",
        "snake wp",
        {"outcome": "sent_for_settlement", "transaction_reference": "R", "scheme_reference": "1"},
        [{"transaction_id": "R", "network_transaction_id": "1"}],
    ),
    Body(
        "worldpay",
        "xml attrs",
        {
            "orderStatus": {
                "@orderCode": "o-7",
                "payment": {"paymentMethod": "VISA", "lastEvent": "AUTHORISED", "amount": {"@value": "1000"}},
            }
        },
        [{"transaction_id": "o-7"}],
    ),
    Body("recurly", "node camel", {"object": "invoice_collection", "chargeInvoice": o.INVOICE}, [o.OF_RECURLY]),
    Body(
        "recurly",
        "tx no account",
        {
            "object": "transaction",
            "id": "lr9t1d6nq4ei",
            "status": "success",
            "type": "purchase",
            "invoice": {"id": "mf9t1d6nq4ab"},
        },
        [{"invoice_id": "mf9t1d6nq4ab", "transaction_id": "lr9t1d6nq4ei"}],
    ),
    Body("recurly", "sub+inv", {"subscription": o.SUBSCRIPTION, "invoice": o.INVOICE}, [o.OF_RECURLY]),
    Body(
        "recurly",
        "xml paid invoice",
        {
            "paid_charge_invoice_notification": {
                "account": {"account_code": "c", "email": "a@b.co"},
                "invoice": {
                    "uuid": "421f7b7d414e4c6792938e7c49d552e9",
                    "state": "paid",
                    "total_in_cents": 1000,
                    "subscription_ids": ["396e4e17484ae1a4"],
                },
            }
        },
        [
            {
                "customer_email": "a@b.co",
                "customer_id": "c",
                "invoice_id": "421f7b7d414e4c6792938e7c49d552e9",
                "subscription_id": "396e4e17484ae1a4",
            }
        ],
    ),
    Body(
        "recharge",
        "order no charge",
        {"order": {k: v for k, v in o.ORDER_11.items() if k != "charge"}},
        [{"customer_email": o.EMAIL, "customer_id": "2", "subscription_id": "11"}],
    ),
    Body(
        "recharge",
        "charge paid webhook 2021-11 real",
        {
            "charge": {
                "id": 427845001,
                "address_id": 48563471,
                "analytics_data": {"utm_params": []},
                "billing_address": {},
                "client_details": {"browser_ip": None, "user_agent": None},
                "currency": "USD",
                "customer": {
                    "id": 43845860,
                    "email": "a@b.co",
                    "external_customer_id": {"ecommerce": "5879596548252"},
                    "hash": "h",
                },
                "external_order_id": {"ecommerce": "1"},
                "external_transaction_id": {"payment_processor": "ch_1"},
                "has_uncommitted_changes": False,
                "line_items": [
                    {
                        "purchase_item_id": 256558187,
                        "purchase_item_type": "subscription",
                        "external_variant_id": {"ecommerce": "1"},
                        "quantity": 1,
                    }
                ],
                "orders_count": 0,
                "processor_name": "shopify_payments",
                "status": "success",
                "total_price": "11.00",
                "total_refunds": "0.00",
                "type": "recurring",
            }
        },
        [
            {
                "charge_id": "427845001",
                "customer_email": "a@b.co",
                "customer_id": "43845860",
                "subscription_id": "256558187",
                "transaction_id": "ch_1",
            }
        ],
    ),
    Body(
        "recharge",
        "sub camel",
        {
            "subscription": {
                "id": 11,
                "addressId": 5,
                "customerId": 2,
                "orderIntervalFrequency": 30,
                "chargeIntervalFrequency": 30,
                "status": "ACTIVE",
                "price": "5.00",
            }
        },
        [{"customer_id": "2", "subscription_id": "11"}],
    ),
]

UNPAID: list[Body] = [
    Body("stripe", "dto root canceled", {"id": PI, "status": "canceled", "amount": 2000}),
    Body(
        "stripe",
        "basil sub with confirmation_secret",
        s.SUBSCRIPTION
        | {
            "status": "incomplete",
            "latest_invoice": s.INVOICE | {"status": "open", "confirmation_secret": {"client_secret": "x"}},
        },
    ),
    Body(
        "stripe",
        "refund answer",
        {"refund": {"id": "re_1", "object": "refund", "status": "succeeded"}, "charge": s.CHARGE},
    ),
    Body("stripe", "livemode only customer", {"object": "customer", "id": "cus_1"}),
    Body(
        "stripe",
        "PI expanded failed charge",
        s.INTENT | {"status": "requires_payment_method", "latest_charge": s.CHARGE | {"status": "failed"}},
    ),
    Body("stripe", "succeeded boolean", s.INTENT | {"status": True}),
    Body("stripe", "session status list", s.SESSION | {"payment_status": ["paid"]}),
    Body("stripe", "invoice zero via credit", s.INVOICE | {"amount_paid": 0, "total": 2000, "starting_balance": -2000}),
    Body(
        "stripe",
        "trial setup_intent key",
        {
            "subscription": s.TRIAL,
            "setupIntent": {"object": "setup_intent", "status": "requires_payment_method", "client_secret": "x"},
        },
    ),
    Body("stripe", "trial flat secret", {"subscriptionId": "sub_1", "clientSecret": "seti_x", "status": "trialing"}),
    Body("stripe", "trial requires action", {"subscription": s.TRIAL, "requiresAction": True}),
    Body(
        "braintree",
        "refund result",
        {"success": True, "transaction": b.NODE | {"type": "credit", "refundedTransactionId": "x1y2z3"}},
    ),
    Body("braintree", "void", {"success": True, "transaction": b.NODE | {"status": "voided"}}),
    Body(
        "braintree",
        "sub old newest pending",
        {
            "subscription": b.SUBSCRIPTION
            | {"transactions": [b.PYTHON | {"status": "authorizing", "id": "n3wtx1"}, b.PYTHON]}
        },
    ),
    Body("braintree", "zero float", b.PYTHON | {"amount": 0.0}),
    Body(
        "adyen",
        "flat webhook zero",
        {
            "eventCode": "AUTHORISATION",
            "success": "true",
            "pspReference": "P1",
            "merchantAccountCode": "m",
            "value": "0",
        },
    ),
    Body("adyen", "capture failed", o.notified(o.ITEM | {"eventCode": "CAPTURE_FAILED"})),
    Body("adyen", "offer closed", o.notified(o.ITEM | {"eventCode": "OFFER_CLOSED"})),
    Body("adyen", "order closed", o.notified(o.ITEM | {"eventCode": "ORDER_CLOSED"})),
    Body("adyen", "negative", o.PAYMENT | {"amount": {"value": -5}}),
    Body("adyen", "giftcard balance", {"pspReference": "P", "resultCode": "Success", "balance": {"value": 1}}),
    Body(
        "adyen",
        "donation data",
        {"data": {"id": "D", "donationAccount": "X", "status": "completed", "payment": o.PAYMENT}},
    ),
    Body(
        "worldpay",
        "xml zero",
        {"orderStatus": {"@orderCode": "o-7", "payment": {"lastEvent": "AUTHORISED", "amount": {"@value": "0"}}}},
    ),
    Body(
        "worldpay",
        "event settled refund",
        {"eventDetails": {"classification": "payment", "transactionReference": "R", "type": "refunded"}},
    ),
    Body(
        "worldpay",
        "3ds nested",
        {
            "outcome": "3dsChallenged",
            "transactionReference": "R",
            "authentication": {"outcome": "authorized"},
            "challenge": {},
        },
    ),
    Body(
        "recurly",
        "3ds error",
        {
            "error": {
                "type": "transaction",
                "transaction_error": {
                    "object": "transaction_error",
                    "transaction_id": "lr9t1d6nq4ei",
                    "three_d_secure_action_token_id": "x",
                },
            }
        },
    ),
    Body("recurly", "credit-paid", o.INVOICE | {"paid": 0, "transactions": []}),
    Body("recurly", "wh sub", {"id": "x", "object_type": "subscription", "site_id": "s", "event_type": "activated"}),
    Body("recharge", "refunded", {"charge": o.CHARGE | {"status": "refunded"}}),
]

UNKNOWN: list[Body] = [
    Body(
        "stripe",
        "search result",
        {"object": "search_result", "data": [s.INTENT, s.INTENT | {"id": "pi_9", "latest_charge": "ch_9"}]},
    ),
    Body(
        "stripe",
        "checkout list in dict",
        {"payments": {"object": "list", "data": [s.CHARGE, s.CHARGE | {"id": "ch_9", "payment_intent": "pi_9"}]}},
    ),
    Body("stripe", "metadata copies", {"id": 7, "metadata": {"payment_intent": s.INTENT}}),
    Body("braintree", "txn123", {"transaction": {"id": "txn123", "status": "settled"}}),
    Body("braintree", "own state digits", {"transaction": {"id": "7001", "status": "submitted_for_settlement"}}),
    Body(
        "braintree",
        "own state digits2",
        {"id": "7001", "status": "submitted_for_settlement", "customer_details": {"email": "a@b.co"}},
    ),
    Body(
        "braintree",
        "own state uuid",
        {"transaction": {"id": "2b1f6c0e-8a54-4a3e-9b6e-0e6d6f0f7a11", "status": "submitted_for_settlement"}},
    ),
    Body(
        "braintree",
        "verification result",
        {"success": True, "creditCard": {"token": "t", "verification": {"id": "abc123", "status": "verified"}}},
    ),
    Body(
        "braintree",
        "gql legacy int",
        {"data": {"chargePaymentMethod": {"transaction": {"id": 5, "legacyId": 77, "status": "SETTLED"}}}},
    ),
    Body("braintree", "settled list", {"transactions": [b.PYTHON, b.PYTHON | {"id": "x1y2z3"}]}),
    Body(
        "adyen",
        "order of payments",
        {"order": {"id": 7, "status": "completed", "payments": [o.PAYMENT, o.PAYMENT | {"pspReference": "P0"}]}},
    ),
    Body("adyen", "session bare completed", {"id": "CS123", "status": "completed"}),
    Body(
        "adyen",
        "donation wrapped",
        {"donation": {"id": "D", "donationAccount": "X", "status": "completed", "payment": o.PAYMENT}},
    ),
    Body(
        "worldpay",
        "HAL shop",
        {
            "order": {
                "outcome": "authorized",
                "transactionReference": "ORD-7",
                "_links": {"self": {"href": "/orders/7"}},
            }
        },
    ),
    Body("worldpay", "ref number", {"outcome": "authorized", "transactionReference": 77, "paymentId": 88}),
    Body(
        "recurly", "list of subs", {"object": "list", "data": [o.SUBSCRIPTION, o.SUBSCRIPTION | {"id": "zz9t1d6nq4cd"}]}
    ),
    Body("recharge", "B3 charge", {"charge": {"id": 77, "status": "success", "transaction_id": "abc"}}),
    Body("recharge", "own checkout", {"checkout": {"id": 5, "completed_at": "2026-01-05", "charge_id": 9, "total": 5}}),
    Body(
        "recharge",
        "own order",
        {
            "order": {
                "id": 77,
                "status": "success",
                "scheduled_at": "2026",
                "payment_processor": "stripe",
                "line_items": [{"subscription_id": 5}],
            }
        },
    ),
    Body("recharge", "onetime", {"onetime": {"id": 1, "address_id": 2, "price": "5"}}),
]
