"""Adyen's Checkout API (v72, and older ones): payments, results of sessions, and the webhooks of both.

Sources:
    https://docs.adyen.com/api-explorer/Checkout/latest/post/payments
    https://docs.adyen.com/api-explorer/Checkout/latest/post/payments/details
    https://docs.adyen.com/api-explorer/Checkout/latest/get/sessions/(sessionId)
    https://docs.adyen.com/api-explorer/Checkout/latest/post/donations
    https://docs.adyen.com/api-explorer/Webhooks/latest/post/AUTHORISATION
    https://docs.adyen.com/online-payments/build-your-integration/payment-result-codes
    https://docs.adyen.com/development-resources/additional-data (the keys of additionalData hold the dots)

The e-mail and the shopper's address are in the request, and in a webhook that is configured to have them. Not mapped:
`merchantReference`, which is the shop's own, `originalReference`, and the `id` of a session or of a payment link.
"""

from typing import Final

from butter_middleware.extract.preset import NEVER, WRAPPERS, Preset, Shape

_ADDITIONAL: Final = {
    "customer_email": "additionalData.shopperEmail",
    "customer_id": (
        'additionalData."recurring.shopperReference" || additionalData."tokenization.shopperReference" || '
        'additionalData."shopperReference" || additionalData.recurring.shopperReference || '
        "additionalData.tokenization.shopperReference"
    ),
    "network_transaction_id": "additionalData.networkTxReference",
}
_NOTHING: Final = "zero(amount.value) || zero(amount) || zero(value) || zero(additionalData.authorisedAmountValue)"
"""A card was saved, without a payment."""
_DONATION: Final = "donationAccount || donationCampaignId || donationType"
_AUTHORISED: Final = (
    "payments[?says(resultCode, 'Authorised', 'PartiallyAuthorised') && pspReference && "
    "!zero(amount.value) && !zero(additionalData.authorisedAmountValue)]"
)
_PAID: Final = ("Authorised", "PartiallyAuthorised")
_CODES: Final = (
    "'Authorised', 'PartiallyAuthorised', 'Refused', 'Error', 'Cancelled', 'Received', 'Pending', 'RedirectShopper', "
    "'ChallengeShopper', 'IdentifyShopper', 'PresentToShopper', 'AuthenticationFinished', "
    "'AuthenticationNotRequired', 'Success'"
)

SHAPES: Final = (
    Shape("donation", when=f"({_DONATION}) && (pspReference || payment || donation || id)", unpaid=NEVER),
    Shape(
        "payment",
        when=f"says(resultCode, {_CODES})",
        paid={"resultCode": _PAID},
        unpaid=_NOTHING,
        fields={**_ADDITIONAL, "transaction_id": "pspReference"},
    ),
    Shape(
        "result of a session",
        when="like(id, 'CS.+') && status && payments[?resultCode] && !sessionData",
        paid={"status": ("completed",)},
        unpaid=f"!({_AUTHORISED})",
        fields=_ADDITIONAL,
        each=_AUTHORISED,
        of_each={
            "transaction_id": "pspReference",
            "network_transaction_id": "additionalData.networkTxReference",
        },
    ),
    Shape(
        "webhook",
        when="eventCode && pspReference && some(`1`, merchantAccountCode, success, eventDate, merchantReference)",
        # CAPTURE, REFUND and the others are about a known payment, and have their own reference.
        paid={"eventCode": ("AUTHORISATION",), "success": ("true",)},
        unpaid=f"{_NOTHING} || {_DONATION}",
        fields={**_ADDITIONAL, "transaction_id": "pspReference"},
    ),
    Shape(
        "session or payment link",
        when="sessionData || (id && merchantAccount && (url || returnUrl || expiresAt))",
        unpaid=NEVER,
        under=("session",),
        when_under="id && status && !says(status, 'completed')",
    ),
    Shape(
        "capture, cancellation or refund",
        when="(paymentPspReference && status) || (pspReference && starts_with(response, '['))",
        unpaid=NEVER,
    ),
    Shape("refusal by the API", when="errorCode && errorType", unpaid=NEVER),
)


def adyen(*, at: str | None = None) -> Preset:
    """Return an extractor of Adyen's payments.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. If it
            is a list, each of its items counts.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression.
    """
    wrappers = WRAPPERS | {"notificationItems", "NotificationRequestItem"}
    return Preset("adyen", SHAPES, at, wrappers, test="says(live, 'false')")
