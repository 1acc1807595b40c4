"""Braintree's transactions and subscriptions, in the spellings of its SDKs, its GraphQL API and its webhooks.

Sources:
    https://developer.paypal.com/braintree/docs/reference/response/transaction/python
    https://developer.paypal.com/braintree/docs/reference/response/subscription/python
    https://developer.paypal.com/braintree/docs/reference/general/statuses
    https://developer.paypal.com/braintree/docs/reference/general/webhooks/overview
    https://developer.paypal.com/braintree/graphql/reference/ (Transaction, PaymentStatus, legacyId)
    https://developer.paypal.com/braintree/graphql/guides/making_api_calls/ (its IDs are other APIs' IDs, encoded)

No object has a type. So the form of its ID counts, and keys that only Braintree has.
Not mapped: `global_id`, `graphql_id`, `order_id`, `merchant_account_id`.
"""

import re
from base64 import b64decode
from typing import Final

from butter_middleware.extract import normal
from butter_middleware.extract.preset import NEVER, WRAPPERS, Preset, Shape

_PAID: Final = ("authorized", "submitted_for_settlement", "settling", "settlement_confirmed", "settled")
_ITS_OWN: Final = (
    "'submitted_for_settlement', 'settling', 'settlement_confirmed', 'settlement_pending', 'settlement_declined', "
    "'processor_declined', 'gateway_rejected', 'authorization_expired'"
)
"""States that only Braintree has."""
_STATES: Final = f"{_ITS_OWN}, 'authorized', 'authorizing', 'settled', 'failed', 'voided'"
_ID: Final = "like(id, '[a-z0-9_]{1,36}')"
_LETTERED_ID: Final = "like(id, '(?=.*[a-z])[a-z0-9]{1,36}')"
_BARE_ID: Final = "like(id, '(?![a-z]{2,}[0-9]+$)(?=.*[0-9])(?=.*[a-z])[a-z0-9]{2,16}|[b-df-hj-np-tv-z]{6,8}')"
"""An ID without further proof: letters and digits in Braintree's form, but not a number, a word, a UUID, or a word that
ends with a number."""
_OF_GRAPHQL: Final = "(like(legacyId, '[a-z0-9_]{1,36}') && like(id, '[A-Za-z0-9+/=_-]{6,}'))"
_PROOF: Final = (
    "merchant_account_id, processor_response_code, processor_response_type, processor_authorization_code, "
    "processor_settlement_response_code, payment_instrument_type, graphql_id, global_id, network_transaction_id, "
    "network_response_code, cvv_response_code, avs_postal_code_response_code, avs_street_address_response_code, "
    "gateway_rejection_reason, settlement_batch_id, escrow_status, disbursement_details, status_history, "
    "credit_card_details, paypal_details, apple_pay_details, android_pay_details, google_pay_details, "
    "venmo_account_details, payment_method_snapshot, subscription_details, currency_iso_code, descriptor"
)
_KEYS: Final = (
    f"'id', 'legacyId', 'status', 'amount', 'type', 'order_id', 'created_at', 'updated_at', 'subscription_id', "
    "'customer', 'customer_details', 'billing', 'billing_details', 'shipping', 'shipping_details', 'credit_card', "
    "'paypal', 'payment_method', 'plan_id', 'recurring', 'tax_amount', 'currency', '_global', 'risk_data', "
    "'three_d_secure_info', 'sca_exemption_requested', 'mastercard_transaction_link_id', 'refund_ids', 'refund_id', "
    "'refunded_transaction_id', 'disputes', 'discounts', 'add_ons', 'channel', 'processor_response_text', "
    f"{', '.join(repr(name) for name in _PROOF.split(', '))}"
)
_BARE: Final = f"says(status, {_STATES}) && ({_BARE_ID} || {_OF_GRAPHQL})"
_LATEST: Final = "(transactions[?!says(type, 'credit') && !refunded_transaction_id] | [0])"
"""A subscription lists its transactions, newest first: refused ones and refunds too."""
_SALE: Final = (
    f"(says({_LATEST}.status, {_STATES}) && (like({_LATEST}.id, '[a-z0-9_]{{1,36}}') || "
    f"like({_LATEST}.legacyId, '[a-z0-9_]{{1,36}}')))"
)

SHAPES: Final = (
    Shape(
        "refund",
        when="says(_global, 'refund') || says(__typename, 'Refund') || refunded_transaction_id",
        unpaid=NEVER,
    ),
    Shape(
        "transaction",
        when=(
            "status && !transaction && !(transactions && plan_id) && ("
            "says(_global, 'transaction') || "
            f"(({_ID} || {_OF_GRAPHQL}) && some(`2`, {_PROOF})) || "
            f"(({_LETTERED_ID} || {_OF_GRAPHQL}) && says(status, {_ITS_OWN}) && "
            f"(some(`1`, {_PROOF}, customer_details.id, customer_details.email) || says(type, 'sale', 'credit'))))"
        ),
        paid={"status": _PAID},
        # A refund, a payment that was refunded later, or an amount of zero.
        unpaid=("says(type, 'credit') || refund_id || refund_ids || refunds || zero(amount) || zero(amount.value)"),
        fields={
            "customer_email": "customer_details.email || customer.email",
            # The other interfaces do not know GraphQL's own ID, but legacyId.
            "customer_id": "customer_details.id || customer.legacyId || (!legacyId && customer.id)",
            "subscription_id": "subscription_id || (!legacyId && subscription_details.id)",
            "transaction_id": "legacyId || id",
            "network_transaction_id": "network_transaction_id",
        },
        under=("transaction", "transactions", "target"),
        when_under=f"(says(status, {_ITS_OWN}) && {_LETTERED_ID}) || ({_BARE} && only(@, {_KEYS}))",
        when_at=f"(says(status, {_ITS_OWN}) && {_LETTERED_ID}) || ({_BARE})",
    ),
    Shape(
        "subscription",
        when=(
            "like(id, '[A-Za-z0-9_-]{1,36}') && status && plan_id && (some(`2`, payment_method_token, "
            "billing_day_of_month, merchant_account_id, paid_through_date, billing_period_start_date, "
            "billing_period_end_date, current_billing_cycle, next_billing_date, next_billing_period_amount, "
            "next_bill_amount, first_billing_date, number_of_billing_cycles, never_expires, transactions) || "
            f"{_SALE})"
        ),
        # A webhook has no state.
        paid={f"status || {_LATEST}.status": ("Active", *_PAID)},
        unpaid=(
            f"(transactions && !({_SALE} && says({_LATEST}.status, {', '.join(map(repr, _PAID))}))) || "
            f"{_LATEST}.refund_ids || zero({_LATEST}.amount) || zero(price)"
        ),
        promise="!transactions",
        fields={
            "customer_email": f"{_LATEST}.customer_details.email || {_LATEST}.customer.email",
            "customer_id": f"{_LATEST}.customer_details.id || {_LATEST}.customer.id",
            "subscription_id": "id",
            "transaction_id": f"{_LATEST}.legacyId || {_LATEST}.id",
            "network_transaction_id": f"{_LATEST}.network_transaction_id",
        },
        under=("subscription",),
        when_under=(
            "like(id, '[A-Za-z0-9_-]{1,36}') && type(transactions) == 'array' && "
            f"({_SALE} || (status && length(transactions) == `0`))"
        ),
        when_at=(
            f"like(id, '[A-Za-z0-9_-]{{1,36}}') && ((plan_id && says(status, 'Active', 'Pending', 'Past Due', "
            f"'Canceled', 'Expired')) || {_SALE})"
        ),
    ),
)


def braintree(*, at: str | None = None) -> Preset:
    """Return an extractor of Braintree's transactions and subscriptions.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. There
            an ID of Braintree's form and one of its states are enough. If it is a list, each of its items counts.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression.
    """
    mutations = {
        f"{verb}{method}"
        for verb in ("charge", "authorize")
        for method in ("PaymentMethod", "CreditCard", "PayPalAccount", "VenmoAccount", "UsBankAccount")
    }
    wrappers = WRAPPERS | mutations | {"captureTransaction", "node", "notification", "subject"}
    wrappers |= {"local_payment", "local_payment_completed", "local_payment_funded"}
    return Preset("braintree", SHAPES, at, wrappers, prepare=_decoded)


def _decoded(fields: dict[str, object]) -> dict[str, object]:
    """Add the ID of the other interfaces to a GraphQL object. Its `id` is that ID, encoded with the kind."""
    kind, known = _parts(next((value for name, value in fields.items() if normal.key(name) == "id"), None))
    if not known:
        return fields
    return {"legacyId": known, **{name: value for name, value in fields.items() if value}, "_global": kind}


def _parts(encoded: object) -> tuple[str, str]:
    """Return the kind and the other interfaces' ID from an encoded ID, as of `transaction_7k3x`."""
    if not isinstance(encoded, str) or not 12 <= len(encoded) <= 200 or len(encoded) % 4:  # noqa: PLR2004 - base64 of "refund_" and more
        return "", ""
    try:
        text = b64decode(encoded, validate=True).decode("ascii")
    except ValueError:
        return "", ""
    match = re.fullmatch(r"(transaction|refund|subscription|customer)_([A-Za-z0-9_-]+)", text)
    return (match[1], match[2]) if match else ("", "")
