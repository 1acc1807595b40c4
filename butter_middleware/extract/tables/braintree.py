"""Braintree's transactions and subscriptions, as its SDKs, its GraphQL API and its webhooks spell them.

Sources:
    https://developer.paypal.com/braintree/docs/reference/response/transaction/python
    https://developer.paypal.com/braintree/docs/reference/response/subscription/python
    https://developer.paypal.com/braintree/docs/reference/general/statuses
    https://developer.paypal.com/braintree/graphql/reference/ (Transaction, PaymentStatus, legacyId)

Not mapped: `global_id`, `graphql_id`, `order_id`, `merchant_account_id`.
"""

from typing import Final

from butter_middleware.extract.preset import WRAPPERS, Preset, Shape

_PAID: Final = ("authorized", "submitted_for_settlement", "settling", "settled")
_LATEST: Final = f"(transactions[?{' || '.join(f'status == {word!r}' for word in _PAID)}] | [0])"
"""A subscription lists its transactions, newest first, the refused ones too."""

SHAPES: Final = (
    Shape(
        "transaction",
        when=(
            "status && (id || legacyId) && !plan_id && !planId && !transaction && "
            "(legacyId || merchant_account_id || merchantAccountId || customer_details || "
            "payment_instrument_type || paymentInstrumentType || processor_response_code || processorResponseCode || "
            "graphql_id || graphqlId || global_id || globalId || paymentMethodSnapshot)"
        ),
        under=("transaction", "transactions"),
        when_under="status && (id || legacyId)",
        paid={"status": _PAID},
        unpaid="type == 'credit' || type == 'CREDIT'",  # a refund
        fields={
            "customer_email": "customer_details.email || customer.email",
            # GraphQL's own ID is no ID of the other interfaces; legacyId is.
            "customer_id": "customer_details.id || customer.legacyId || customer.id",
            "subscription_id": "subscription_id || subscriptionId",
            "transaction_id": "legacyId || id",
            "network_transaction_id": "network_transaction_id || networkTransactionId",
        },
    ),
    Shape(
        "subscription",
        when=(
            "id && status && (plan_id || planId) && (transactions || payment_method_token || paymentMethodToken || "
            "billing_day_of_month || billingDayOfMonth)"
        ),
        under=("subscription",),
        when_under="id && contains(keys(@), 'transactions')",
        # A webhook leaves the state out.
        paid={f"status || {_LATEST}.status": ("Active", *_PAID)},
        unpaid=f"transactions && !{_LATEST}",
        fields={
            "customer_email": f"{_LATEST}.customer_details.email || {_LATEST}.customer.email",
            "customer_id": f"{_LATEST}.customer_details.id || {_LATEST}.customer.id",
            "subscription_id": "id",
            "transaction_id": f"{_LATEST}.id",
            "network_transaction_id": f"{_LATEST}.network_transaction_id || {_LATEST}.networkTransactionId",
        },
    ),
)


def braintree(*, at: str | None = None) -> Preset:
    """Return an extractor of Braintree's transactions and subscriptions.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.

    Raises:
        ConfigurationError: `at` is no JMESPath expression.
    """
    mutations = {
        f"{verb}{method}"
        for verb in ("charge", "authorize")
        for method in ("PaymentMethod", "CreditCard", "PayPalAccount", "VenmoAccount", "UsBankAccount")
    }
    return Preset("braintree", SHAPES, at, WRAPPERS | mutations | {"notification", "subject"})
