"""Worldpay's formats: Access Payments, Card Payments v7, Payment Queries, their events, and the order code of WPG.

Sources:
    https://docs.worldpay.com/access/products/payments/openapi/other/payment
    https://docs.worldpay.com/access/products/card-payments/authorize-a-payment
    https://docs.worldpay.com/access/products/payment-queries
    https://docs.worldpay.com/access/products/events
    https://docs.worldpay.com/apis/wpg/reference/paymentstatuses

None of them has an e-mail, a customer, an invoice or a subscription. It is not documented which reference Butter uses
for matching: `transactionReference` is the shop's own for the payment, `paymentId` is Worldpay's.
"""

from typing import Final, Literal, get_args

from butter_middleware import config
from butter_middleware.extract.preset import NEVER, WRAPPERS, Preset, Shape

Reference = Literal["transactionReference", "paymentId"]

_TEST: Final = (
    "([_links, _actions][].*[].href[] | [?type(@) == 'string' && contains(@, '//try.access.worldpay.com')]) "
    "|| (orderCode && says(environment, 'TEST'))"
)
_NAMED: Final = "(type(transactionReference) == 'string' || type(paymentId) == 'string')"
_LINKED: Final = (
    "(contains(to_string([_links, _actions]), 'access.worldpay') || some(`1`, _links.\"payments:settle\", "
    '_links."payments:events", _links."payments:cancel", _links."cardPayments:settle", '
    '_links."cardPayments:events", _links."cardPayments:cancel"))'
)
"""Other APIs have links too."""
_OUTCOMES: Final = (
    "'authorized', 'sentForSettlement', 'refused', 'sentForCancellation', 'sentForRefund', 'sentForPartialRefund', "
    "'sentForPartialSettlement', '3dsDeviceDataRequired', '3dsChallenged', '3dsAuthenticationFailed', "
    "'3dsUnavailable', 'fraudHighRisk', 'fraudAssessed', 'authenticated', 'verified', 'notVerified', 'highRisk'"
)
_ITS_OWN: Final = (
    "'sentForSettlement', 'sentForCancellation', 'sentForRefund', '3dsDeviceDataRequired', '3dsChallenged', "
    "'3dsAuthenticationFailed', '3dsUnavailable', 'fraudHighRisk'"
)
"""Outcomes that only Worldpay has."""
_EVENTS: Final = (
    *("authorized", "sentForSettlement", "settled"),
    *("authorizationSucceeded", "saleSucceeded", "settlementRequested", "settlementRequestSubmitted"),
)
_OF_PAYMENT: Final = (
    "'outcome', 'lastEvent', 'transactionReference', 'paymentId', 'schemeReference', 'scheme', 'issuer', "
    "'riskFactors', 'paymentInstrument', 'commandId', 'linkData', 'token', 'fraud', 'threeDS', 'exemption', 'value', "
    "'amount', 'currency', 'timestamp', 'merchant', 'refusalCode', 'refusalDescription', 'advice', 'instruction', "
    "'challenge', 'deviceDataCollection', 'authentication', 'channel'"
)
_NOTHING: Final = "zero(value.amount) || zero(amount.value) || zero(amount)"


def _shapes(transaction: str) -> tuple[Shape, ...]:
    fields = {"transaction_id": transaction, "network_transaction_id": "schemeReference || scheme.reference"}
    return (
        Shape(
            "payment",
            # Other APIs may have `outcome` and a reference. So more of Worldpay's keys are needed, or no other keys.
            when=(
                f"(says(outcome, {_ITS_OWN}) && {_NAMED}) || (says(outcome, {_OUTCOMES}) && ({_LINKED} || "
                f"({_NAMED} && (some(`1`, schemeReference, scheme.reference, issuer.authorizationCode, riskFactors, "
                f"linkData) || only(@, {_OF_PAYMENT})))))"
            ),
            paid={"outcome": ("authorized", "sentForSettlement")},
            unpaid=_NOTHING,
            fields=fields,
            when_at=f"says(outcome, {_OUTCOMES}) && {_NAMED}",
        ),
        Shape(
            "queried payment",
            when=f"type(lastEvent) == 'string' && ({_LINKED} || ({_NAMED} && only(@, {_OF_PAYMENT})))",
            paid={"lastEvent": _EVENTS},
            unpaid=_NOTHING,
            fields=fields,
            when_at=f"type(lastEvent) == 'string' && {_NAMED}",
        ),
        Shape(
            "event",
            when=f"type(type) == 'string' && {_NAMED} && (classification || downstreamReference || {_LINKED})",
            paid={"type": _EVENTS},
            unpaid=f"(classification && !says(classification, 'payment')) || {_NOTHING}",
            fields=fields,
            under=("eventDetails",),
            when_under=f"type(type) == 'string' && {_NAMED}",
        ),
        Shape(
            "order",
            when=(
                "type(orderCode) == 'string' && (type(payment.lastEvent) == 'string' || "
                "((type(lastEvent) == 'string' || type(paymentStatus) == 'string') && (some(`1`, paymentResponse, "
                "authorizeOnly, customerOrderCode, orderDescription, environment, merchantCode, journal) || "
                "only(@, 'orderCode', 'lastEvent', 'paymentStatus', 'amount', 'currency', 'currencyCode', 'token', "
                "'paymentMethod', 'payment', 'orderKey'))))"
            ),
            paid={
                "lastEvent || payment.lastEvent || paymentStatus": (
                    *("authorised", "authorized", "captured", "settled", "settledByMerchant"),
                    *("sentForSettlement", "success"),
                )
            },
            unpaid="zero(amount) || zero(amount.value) || zero(payment.amount.value)",
            fields={"transaction_id": "orderCode"},
            when_at=(
                "type(orderCode) == 'string' && (type(lastEvent) == 'string' || "
                "type(payment.lastEvent) == 'string' || type(paymentStatus) == 'string')"
            ),
        ),
        Shape("refusal by the API", when="errorName && message", unpaid=NEVER),
    )


def worldpay(*, at: str | None = None, prefer: Reference = "transactionReference") -> Preset:
    """Return an extractor of Worldpay's payments.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. There
            the state and a reference are enough. If it is a list, each of its items counts.
        prefer: Which reference becomes `transaction_id`. If it is absent, the other one is used.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression, or `prefer` is not a reference.
    """
    config.one_of("extract.worldpay(): prefer", prefer, get_args(Reference))
    (other,) = set(get_args(Reference)) - {prefer}
    wrappers = WRAPPERS | {"_embedded", "eventDetails", "paymentService", "reply", "notify", "orderStatus"}
    return Preset("worldpay", _shapes(f"{prefer} || {other}"), at, wrappers | {"orderStatusEvent"}, test=_TEST)
