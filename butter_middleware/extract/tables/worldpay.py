"""Worldpay's dialects: Access Payments, Card Payments v7, Payment Queries, and the older order code of WPG.

Sources:
    https://docs.worldpay.com/access/products/payments/openapi/other/payment
    https://docs.worldpay.com/access/products/card-payments/authorize-a-payment
    https://docs.worldpay.com/access/products/payment-queries
    https://docs.worldpay.com/apis/wpg/reference/paymentstatuses

None of them holds an e-mail, a customer, an invoice or a subscription. Which reference Butter matches on is not
documented: `transactionReference` is the shop's own for the payment, `paymentId` is Worldpay's.
"""

from typing import Final, Literal, get_args

from butter_middleware.errors import ConfigurationError
from butter_middleware.extract.preset import WRAPPERS, Preset, Shape

Reference = Literal["transactionReference", "paymentId"]

_TEST: Final = (
    "([_links, _actions][].*[].href[] | [?type(@) == 'string' && contains(@, '//try.access.worldpay.com')]) "
    "|| environment == 'TEST'"
)


def _shapes(transaction: str) -> tuple[Shape, ...]:
    return (
        Shape(
            "payment",
            # Both APIs: `outcome` alone may be anybody's.
            when="outcome && (transactionReference || paymentId || _links || _actions || schemeReference || scheme)",
            when_under="outcome",
            paid={"outcome": ("authorized", "sentForSettlement")},
            test=_TEST,
            fields={
                "transaction_id": transaction,
                "network_transaction_id": "schemeReference || scheme.reference",
            },
        ),
        Shape(
            "queried payment",
            when="lastEvent && (transactionReference || paymentId || _links || _actions)",
            when_under="lastEvent",
            paid={
                "lastEvent": (
                    *("authorized", "sentForSettlement", "settled"),
                    *("authorizationSucceeded", "saleSucceeded", "settlementRequested", "settlementRequestSubmitted"),
                )
            },
            test=_TEST,
            fields={
                "transaction_id": transaction,
                "network_transaction_id": "schemeReference || scheme.reference",
            },
        ),
        Shape(
            "order",
            when="orderCode && (lastEvent || payment.lastEvent || paymentStatus)",
            paid={
                "lastEvent || payment.lastEvent || paymentStatus": (
                    *("authorised", "authorized", "captured", "settled", "settledByMerchant"),
                    *("sentForSettlement", "success"),
                )
            },
            test=_TEST,
            fields={"transaction_id": "orderCode"},
        ),
    )


def worldpay(*, at: str | None = None, prefer: Reference = "transactionReference") -> Preset:
    """Return an extractor of Worldpay's payments.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.
        prefer: Which reference becomes `transaction_id`; the other one does where it is absent.

    Raises:
        ConfigurationError: `at` is no JMESPath expression, or `prefer` is no reference.
    """
    if prefer not in get_args(Reference):
        msg = f"extract.worldpay(): prefer={prefer!r}: use {' or '.join(map(repr, get_args(Reference)))}."
        raise ConfigurationError(msg)
    (other,) = set(get_args(Reference)) - {prefer}
    return Preset("worldpay", _shapes(f"{prefer} || {other}"), at, WRAPPERS | {"reply", "orderStatus"})
