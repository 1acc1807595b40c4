"""Adyen's Checkout API (v72, and older ones): payments, and the results of sessions.

Sources:
    https://docs.adyen.com/api-explorer/Checkout/latest/post/payments
    https://docs.adyen.com/api-explorer/Checkout/latest/post/payments/details
    https://docs.adyen.com/api-explorer/Checkout/latest/get/sessions/(sessionId)
    https://docs.adyen.com/online-payments/build-your-integration/payment-result-codes
    https://docs.adyen.com/development-resources/additional-data (the keys of additionalData hold the dots)

The e-mail and the shopper's address are in the request alone. Not mapped: `merchantReference`, which is the shop's own;
the `id` of a session or of a payment link.
"""

from typing import Final

from butter_middleware.extract.preset import NEVER, Preset, Shape

_ADDITIONAL: Final = {
    "customer_id": (
        'additionalData."recurring.shopperReference" || additionalData."tokenization.shopperReference" || '
        'additionalData."shopperReference"'
    ),
    "network_transaction_id": "additionalData.networkTxReference",
}

_AUTHORISED: Final = "payments[?resultCode == 'Authorised' && amount.value != `0`]"

SHAPES: Final = (
    Shape(
        "payment",
        when="resultCode",
        paid={"resultCode": ("Authorised",)},
        unpaid="amount.value == `0`",  # a card was kept for later
        fields={**_ADDITIONAL, "transaction_id": "pspReference"},
    ),
    Shape(
        "result of a session",
        when="id && status && payments[?resultCode] && !sessionData",
        paid={"status": ("completed",)},
        unpaid=f"!({_AUTHORISED})",
        fields=_ADDITIONAL,
        each=_AUTHORISED,
        of_each={"transaction_id": "pspReference"},
    ),
    Shape(
        "session or payment link",
        when="sessionData || (id && merchantAccount && (url || returnUrl || expiresAt))",
        under=("session",),
        when_under="id && status && status != 'completed'",
        unpaid=NEVER,
    ),
    Shape("capture, cancellation or refund", when="paymentPspReference && status", unpaid=NEVER),
    Shape("refusal by the API", when="errorCode && errorType", unpaid=NEVER),
)


def adyen(*, at: str | None = None) -> Preset:
    """Return an extractor of Adyen's payments.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.

    Raises:
        ConfigurationError: `at` is no JMESPath expression.
    """
    return Preset("adyen", SHAPES, at)
