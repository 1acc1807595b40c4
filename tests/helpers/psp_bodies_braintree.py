"""Bodies with Braintree's objects, as spelled by each SDK, GraphQL and the webhooks. Written by hand."""

from base64 import b64encode
from typing import Any

from psp_bodies import Body, group

EMAIL = "ada@example.com"
TX, SUB, NET = "d2mxk8pz", "6sf3ng", "020190722123456"

PYTHON: dict[str, Any] = {
    "id": TX,
    "amount": "10.00",
    "created_at": "2026-01-05T10:00:00",
    "credit_card_details": {"last_4": "1111", "token": "cktoken"},
    "currency_iso_code": "EUR",
    "customer_details": {"id": "c_91", "email": EMAIL, "global_id": "decoy"},
    "global_id": "decoy",
    "graphql_id": "decoy",
    "merchant_account_id": "shop_eur",
    "network_transaction_id": NET,
    "order_id": "decoy",
    "payment_instrument_type": "credit_card",
    "processor_response_code": "1000",
    "refund_ids": [],
    "refunded_transaction_id": None,
    "status": "submitted_for_settlement",
    "subscription_id": SUB,
    "type": "sale",
}
NODE: dict[str, Any] = {
    "id": TX,
    "amount": "10.00",
    "creditCard": {"last4": "1111"},
    "currencyIsoCode": "EUR",
    "customer": {"id": "c_91", "email": EMAIL},
    "globalId": "decoy",
    "graphQLId": "decoy",
    "merchantAccountId": "shop_eur",
    "networkTransactionId": NET,
    "orderId": "decoy",
    "processorResponseCode": "1000",
    "refundIds": [],
    "status": "submitted_for_settlement",
    "subscriptionId": SUB,
    "type": "sale",
}
JAVA: dict[str, Any] = {
    "id": TX,
    "amount": 10.0,
    "customer": {"id": "c_91", "email": EMAIL},
    "merchantAccountId": "shop_eur",
    "networkTransactionId": NET,
    "processorResponseCode": "1000",
    "paymentInstrumentType": "credit_card",
    "status": "SUBMITTED_FOR_SETTLEMENT",
    "subscriptionId": SUB,
    "type": "SALE",
}
OF_SALE = {
    "customer_email": EMAIL,
    "customer_id": "c_91",
    "subscription_id": SUB,
    "transaction_id": TX,
    "network_transaction_id": NET,
}
BARE = {"id": TX, "status": "submitted_for_settlement", "amount": "10.00"}
SUBSCRIPTION: dict[str, Any] = {
    "id": SUB,
    "balance": "0.00",
    "billing_day_of_month": 5,
    "first_billing_date": "2026-01-05",
    "merchant_account_id": "shop_eur",
    "payment_method_token": "cktoken",
    "plan_id": "gold",
    "price": "10.00",
    "status": "Active",
    "transactions": [PYTHON],
    "trial_period": False,
}


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


GRAPHQL: dict[str, Any] = {
    "id": encoded(f"transaction_{TX}"),
    "legacyId": TX,
    "amount": {"value": "10.00", "currencyCode": "EUR"},
    "customer": {"id": encoded("customer_c_91"), "email": EMAIL},
    "orderId": "decoy",
    "status": "SUBMITTED_FOR_SETTLEMENT",
}
OF_GRAPHQL = {"customer_email": EMAIL, "customer_id": "c_91", "transaction_id": TX}


def charged(transaction: dict[str, Any], mutation: str = "chargePaymentMethod") -> dict[str, Any]:
    return {"data": {mutation: {"transaction": transaction}}, "extensions": {"requestId": "r"}}


def webhook(kind: str, subject: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "timestamp": "2026-01-05T10:00:00Z", "subject": subject}


def without(thing: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in thing.items() if name not in names}


PAID: list[Body] = group(
    "braintree",
    [
        ("Python", PYTHON, [OF_SALE]),
        ("Python, result", {"is_success": True, "transaction": PYTHON}, [OF_SALE]),
        (
            "Python, guest",
            PYTHON | {"customer_details": {"id": None, "email": ""}},
            [without(OF_SALE, "customer_email", "customer_id")],
        ),
        ("Node", NODE, [OF_SALE]),
        ("Node, result", {"success": True, "transaction": NODE}, [OF_SALE]),
        ("Java, result", {"success": True, "target": JAVA, "transaction": None, "errors": None}, [OF_SALE]),
        (
            ".NET, result",
            {
                "Target": {
                    "Id": TX,
                    "Status": "SUBMITTED_FOR_SETTLEMENT",
                    "MerchantAccountId": "x",
                    "ProcessorResponseCode": "1000",
                    "CustomerDetails": {"Id": "c_91", "Email": EMAIL},
                }
            },
            [without(OF_SALE, "subscription_id", "network_transaction_id")],
        ),
        ("few fields", {"success": True, "transaction": BARE}, [{"transaction_id": TX}]),
        (
            "few fields and a network ID",
            {"transaction": {"id": TX, "status": "authorized", "networkTransactionId": NET}},
            [{"transaction_id": TX, "network_transaction_id": NET}],
        ),
        (
            "few fields at the root, of its own state",
            BARE | {"customer_details": {"id": "c_91", "email": EMAIL}},
            [OF_GRAPHQL],
        ),
        *(
            (f"state {state}", PYTHON | {"status": state}, [OF_SALE])
            for state in ("authorized", "settling", "settled", "settlement_confirmed", "Submitted For Settlement")
        ),
        ("without an ID that is a word", PYTHON | {"id": "tx_7ab"}, [OF_SALE | {"transaction_id": "tx_7ab"}]),
        (
            "at a place, few fields",
            {"paid_by": {"id": TX, "status": "settled", "note": "mine"}},
            [{"transaction_id": TX}],
            {"at": "paid_by"},
        ),
        ("at a list", {"sales": [BARE]}, [{"transaction_id": TX}], {"at": "sales"}),
        ("GraphQL", charged(GRAPHQL), [OF_GRAPHQL]),
        ("GraphQL, credit card", charged(GRAPHQL, "chargeCreditCard"), [OF_GRAPHQL]),
        ("GraphQL, PayPal", charged(GRAPHQL, "chargePayPalAccount"), [OF_GRAPHQL]),
        ("GraphQL, authorized", charged(GRAPHQL | {"status": "AUTHORIZED"}, "authorizePaymentMethod"), [OF_GRAPHQL]),
        ("GraphQL without legacyId", charged(without(GRAPHQL, "legacyId")), [OF_GRAPHQL]),
        (
            "GraphQL, three fields",
            charged({"id": encoded(f"transaction_{TX}"), "status": "SETTLING"}),
            [{"transaction_id": TX}],
        ),
        (
            "GraphQL, customer with legacyId",
            charged(GRAPHQL | {"customer": {"id": "Y3VzdG9t", "legacyId": "c_91"}}),
            [without(OF_GRAPHQL, "customer_email")],
        ),
        ("GraphQL, node", {"data": {"node": {"__typename": "Transaction"} | GRAPHQL}}, [OF_GRAPHQL]),
        ("GraphQL, captured", charged(GRAPHQL, "captureTransaction"), [OF_GRAPHQL]),
        ("subscription", {"success": True, "subscription": SUBSCRIPTION}, [OF_SALE]),
        (
            "subscription, Node",
            {
                "subscription": {
                    "id": SUB,
                    "status": "Active",
                    "planId": "gold",
                    "paymentMethodToken": "t",
                    "transactions": [NODE],
                }
            },
            [OF_SALE],
        ),
        (
            "subscription on trial",
            without(SUBSCRIPTION, "transactions") | {"trial_period": True},
            [{"subscription_id": SUB}],
        ),
        (
            "subscription, a credit is newer",
            SUBSCRIPTION | {"transactions": [PYTHON | {"id": "cr3d1t", "type": "credit"}, PYTHON]},
            [OF_SALE],
        ),
        (
            "subscription, a refund is newer",
            SUBSCRIPTION
            | {"transactions": [without(PYTHON, "type") | {"id": "r3fnd1", "refunded_transaction_id": TX}, PYTHON]},
            [OF_SALE],
        ),
        ("subscription, renewed", SUBSCRIPTION | {"transactions": [PYTHON, PYTHON | {"id": "0ldtx1"}]}, [OF_SALE]),
        (
            "subscription, paid at the second attempt",
            SUBSCRIPTION | {"transactions": [PYTHON, PYTHON | {"id": "f41led", "status": "processor_declined"}]},
            [OF_SALE],
        ),
        (
            "subscription at a place",
            {"kept": {"id": SUB, "status": "Active", "planId": "gold"}},
            [{"subscription_id": SUB}],
            {"at": "kept"},
        ),
        (
            "webhook, subscription charged",
            webhook(
                "subscription_charged_successfully",
                {
                    "subscription": {
                        "id": SUB,
                        "transactions": [{"id": TX, "status": "submitted_for_settlement", "amount": "49.99"}],
                        "add_ons": [],
                        "discounts": [],
                    }
                },
            ),
            [{"subscription_id": SUB, "transaction_id": TX}],
        ),
        (
            "webhook, transaction settled",
            webhook("transaction_settled", {"transaction": PYTHON | {"status": "settled"}}),
            [OF_SALE],
        ),
        (
            "webhook, SDK's notification",
            {
                "notification": webhook(
                    "transaction_settled",
                    {
                        "transaction": {
                            "id": TX,
                            "status": "settled",
                            "type": "sale",
                            "currency_iso_code": "USD",
                            "merchant_account_id": "m",
                        }
                    },
                )
            },
            [{"transaction_id": TX}],
        ),
        (
            "webhook, local payment",
            webhook(
                "local_payment_completed",
                {
                    "local_payment": {
                        "payment_id": "decoy",
                        "transaction": {
                            "id": "0mega1",
                            "status": "authorized",
                            "amount": "49.99",
                            "order_id": "order4567",
                        },
                    }
                },
            ),
            [{"transaction_id": "0mega1"}],
        ),
        ("JSON:API", {"data": {"type": "transactions", "id": TX, "attributes": without(PYTHON, "id")}}, [OF_SALE]),
        ("alone in a list", {"transactions": [PYTHON]}, [OF_SALE]),
        (
            "in a list, named by its order",
            {"order": {"transactionId": TX, "transactions": [PYTHON | {"id": "0ldtx1"}, PYTHON]}},
            [OF_SALE],
        ),
    ],
)

UNPAID: list[Body] = group(
    "braintree",
    [
        *(
            (f"state {state}", {"transaction": PYTHON | {"status": state}})
            for state in (
                *("authorizing", "authorization_expired", "failed", "gateway_rejected", "processor_declined"),
                *("settlement_declined", "settlement_pending", "voided"),
            )
        ),
        ("without state, in GraphQL", charged(GRAPHQL | {"status": "PENDING"})),
        ("credit", PYTHON | {"type": "credit", "refunded_transaction_id": "0ldtx1"}),
        ("Java, credit", {"target": JAVA | {"type": "CREDIT"}}),
        ("refunded", PYTHON | {"status": "settled", "refund_ids": ["r3fund"]}),
        ("refunded, Node", NODE | {"refundIds": ["r3fund"]}),
        ("zero amount", PYTHON | {"amount": "0.00"}),
        ("zero amount, GraphQL", charged(GRAPHQL | {"amount": {"value": "0.00"}})),
        (
            "refused result",
            {"success": False, "message": "Do Not Honor", "transaction": NODE | {"status": "processor_declined"}},
        ),
        ("refused result, paid inside", {"success": False, "transaction": NODE}),
        ("refused, Python", {"is_success": False, "message": "no"}),
        ("GraphQL errors", {"errors": [{"message": "no"}], "data": {"chargePaymentMethod": None}}),
        (
            "GraphQL refund",
            {
                "data": {
                    "node": {"id": encoded("refund_r3fund"), "status": "SUBMITTED_FOR_SETTLEMENT", "legacyId": "r3fund"}
                }
            },
        ),
        ("client token", {"clientToken": "eyJ2ZXJz"}),
        *(
            (f"subscription {state}", SUBSCRIPTION | {"status": state})
            for state in ("Past Due", "Canceled", "Expired", "Pending")
        ),
        ("subscription, sale declined", SUBSCRIPTION | {"transactions": [PYTHON | {"status": "processor_declined"}]}),
        (
            "subscription, newest declined",
            SUBSCRIPTION | {"transactions": [PYTHON | {"id": "f41led", "status": "failed"}, PYTHON]},
        ),
        (
            "subscription, its newest sale without state",
            SUBSCRIPTION | {"transactions": [without(PYTHON, "status") | {"id": "n3wtx1"}, PYTHON]},
        ),
        ("subscription, only a credit", SUBSCRIPTION | {"transactions": [PYTHON | {"type": "credit"}]}),
        ("subscription of zero amount", without(SUBSCRIPTION, "transactions") | {"price": "0.00"}),
        (
            "subscription with a declined sale",
            {"subscription": without(SUBSCRIPTION, "transactions"), "transaction": PYTHON | {"status": "failed"}},
        ),
        (
            "webhook, subscription unsuccessful",
            webhook(
                "subscription_charged_unsuccessfully",
                {"subscription": {"id": SUB, "transactions": [{"id": TX, "status": "failed"}]}},
            ),
        ),
        (
            "webhook, settlement declined",
            webhook("transaction_settlement_declined", {"transaction": PYTHON | {"status": "settlement_declined"}}),
        ),
    ],
)

UNKNOWN: list[Body] = group(
    "braintree",
    [
        ("shop's row with a number", {"id": 7001, "status": "settled", "customer_details": {"id": 33}}),
        (
            "shop's row with digits",
            {"id": "7001", "status": "settled", "customer_details": {"id": "33", "email": EMAIL}},
        ),
        ("shop's transaction with a number", {"transaction": {"id": 7001, "status": "authorized", "amount": 10}}),
        (
            "shop's transaction with a UUID",
            {"transaction": {"id": "2b1f6c0e-8a54-4a3e-9b6e-0e6d6f0f7a11", "status": "settled"}},
        ),
        ("shop's transaction with a prefix", {"transaction": {"id": "ord_7001", "status": "settled"}}),
        ("shop's transaction with a word", {"transaction": {"id": "pending", "status": "authorized"}}),
        (
            "shop's transaction with keys of its own",
            {"transaction": {"id": "ab12cd34", "status": "settled", "cart": 7, "items": []}},
        ),
        ("shop's transaction, another state", {"transaction": {"id": "ab12cd34", "status": "paid"}}),
        ("shop's order", {"order": {"id": "ab12cd34", "status": "authorized", "order_id": "7"}}),
        ("shop's subscription", {"subscription": {"id": "5", "plan_id": "gold", "status": "active"}}),
        (
            "shop's subscription with transactions",
            {"subscription": {"id": 5, "plan_id": 1, "transactions": [{"id": 9, "status": "settled"}]}},
        ),
        ("GraphQL, an ID without meaning", charged({"id": "Z2xvYmFs", "status": "AUTHORIZED"})),
        (
            "two sales without an order",
            {"transactions": [PYTHON, PYTHON | {"id": "0ldtx1", "subscription_id": None}]},
        ),
        (
            "verification",
            {
                "verification": {
                    "id": "v3rif1",
                    "status": "verified",
                    "merchant_account_id": "m",
                    "processor_response_code": "1000",
                }
            },
        ),
        ("dispute", {"dispute": {"id": "d1spu7", "status": "open", "transaction": {"id": TX, "amount": "10.00"}}}),
        ("customer's history", {"customer": {"id": "c_91", "transactions": [PYTHON]}}),
        ("payment method", {"payment_method": {"token": "cktoken", "subscriptions": [SUBSCRIPTION]}}),
    ],
)
