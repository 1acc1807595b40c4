"""Recurly's objects (v2021-02-25): a purchase's invoice collection, invoices, transactions, subscriptions, webhooks.

Sources:
    https://recurly.com/developers/api/v2021-02-25/#operation/create_purchase
    https://recurly.com/developers/api/v2021-02-25/#operation/get_invoice
    https://recurly.com/developers/api/v2021-02-25/#operation/get_transaction
    https://recurly.com/developers/api/v2021-02-25/#operation/get_subscription
    https://docs.recurly.com/recurly-subscriptions/docs/charge-invoice-notifications
    https://docs.recurly.com/recurly-subscriptions/docs/payment-notifications (JSON with IDs only, XML with the objects)

Not mapped: an invoice's `number`, which is the printed one, and `gateway_reference`. A transaction's `ip_address_v4`
counts only on a route with `address_from_body=True`. The preview of a purchase has no ID. It is not documented which of
an object's two IDs Butter uses for matching, `id` or `uuid`.
"""

from typing import Final, Literal, get_args

from butter_middleware import config
from butter_middleware.extract.preset import ADDRESS, NEVER, WRAPPERS, Preset, Shape

Reference = Literal["id", "uuid"]

_ACCOUNT: Final = {"customer_email": "account.email", "customer_id": "account.id || account.code"}
_KEPT: Final = "!says(type, 'refund', 'verify') && !refunded && !voided_at && !zero(amount)"
_SUCCESS: Final = (
    f"((transactions[?says(status, 'success') && {_KEPT}] || "
    f"(length(transactions || `[]`) == `1` && transactions[?!status && {_KEPT}])) | [0])"
)
"""An invoice lists its attempts, also the declined ones. A single attempt may lack its result."""
_ID: Final = "like(id, '[a-z0-9]{11,13}')"
_OF_ACCOUNT: Final = "(type(account.id) == 'string' || type(account.code) == 'string')"
_INVOICE_STATES: Final = "'open', 'pending', 'processing', 'past_due', 'paid', 'closed', 'failed', 'voided'"
_SUBSCRIPTION_STATES: Final = "'active', 'canceled', 'expired', 'failed', 'future', 'paused'"
_TRIAL: Final = "(trial_ends_at && (trial_ends_at == current_period_ends_at || !active_invoice_id))"


def _shapes(prefer: Reference) -> tuple[Shape, ...]:
    other = "uuid" if prefer == "id" else "id"

    def ids(place: str = "") -> str:
        return f"{place}{prefer} || {place}{other}"

    return (
        Shape(
            "declined purchase",
            when="error && (charge_invoice || says(object, 'invoice_collection'))",
            unpaid=NEVER,
            pending="`true`",
        ),
        Shape(
            "invoice",
            when=(
                f"says(object, 'invoice') || (!object && {_ID} && {_OF_ACCOUNT} && says(state, {_INVOICE_STATES}) && "
                "some(`2`, subscription_ids, line_items, transactions, collection_method, net_terms, origin, "
                "billing_info_id, refundable_amount, due_at, dunning_campaign_id, number))"
            ),
            # An invoice that is sent by mail is pending. A shop may omit the state.
            paid={f"state || {_SUCCESS}.status": ("paid", "success")},
            # A refund, a preview, nothing to pay, or paid and refunded.
            unpaid=(
                f"says(type, 'credit') || !(id || uuid) || zero(total) || zero(paid) || (transactions && !{_SUCCESS})"
            ),
            fields={
                **_ACCOUNT,
                "invoice_id": ids(),
                "transaction_id": ids(f"{_SUCCESS}."),
                ADDRESS: f"{_SUCCESS}.ip_address_v4",
            },
            each="subscription_ids",
            of_each={"subscription_id": "@"},
            under=("charge_invoice",),
            when_under="!object && (id || uuid || account)",
            when_at=f"!object && {_ID} && {_OF_ACCOUNT} && says(state, {_INVOICE_STATES}) && !plan",
        ),
        Shape(
            "transaction",
            when=(
                f"says(object, 'transaction') || (!object && {_ID} && says(status, 'success', 'declined', 'pending', "
                "'scheduled', 'processing', 'void', 'error') && says(type, 'purchase', 'authorization', 'capture', "
                "'refund', 'verify') && some(`2`, invoice.id, subscription_ids, gateway_reference, "
                "gateway_approval_code, collection_method, origin, payment_gateway, account.id))"
            ),
            paid={"status": ("success",)},
            unpaid="says(type, 'refund', 'verify') || refunded || voided_at || zero(amount)",
            fields={
                **_ACCOUNT,
                "invoice_id": ids("invoice."),
                "transaction_id": ids(),
                ADDRESS: "ip_address_v4",
            },
            each="subscription_ids",
            of_each={"subscription_id": "@"},
        ),
        Shape(
            "subscription",
            when=(
                f"says(object, 'subscription') || (!object && {_ID} && {_OF_ACCOUNT} && type(plan.code) == 'string' && "
                f"says(state, {_SUBSCRIPTION_STATES}) && some(`2`, uuid, collection_method, unit_amount, "
                "current_period_started_at, current_term_started_at, activated_at, auto_renew, active_invoice_id))"
            ),
            paid={"state": ("active",)},
            # Sent by mail (only its invoices show whether it is paid), nothing to pay, or a trial without a card.
            unpaid=(
                "says(collection_method, 'manual') || zero(unit_amount) || zero(total) || "
                f"({_TRIAL} && !billing_info_id && !(account.billing_info))"
            ),
            promise="`true`",
            fields={**_ACCOUNT, "invoice_id": "active_invoice_id", "subscription_id": ids()},
            when_at=f"!object && {_ID} && {_OF_ACCOUNT} && plan && says(state, {_SUBSCRIPTION_STATES})",
        ),
        Shape(
            "invoice's webhook",
            when="site_id && event_type && says(object_type, 'charge_invoice', 'invoice')",
            paid={"event_type": ("paid",)},  # "closed" is also the end of an unpaid one
            fields={"customer_id": "account_id || account_code", "invoice_id": ids()},
        ),
        Shape(
            "payment's webhook",
            when="site_id && event_type && says(object_type, 'payment', 'transaction')",
            paid={"event_type": ("succeeded", "success", "successful")},
            fields={
                "customer_id": "account_id || account_code",
                "invoice_id": "invoice_id",
                "transaction_id": ids(),
            },
        ),
        Shape("another webhook", when="site_id && event_type && object_type", unpaid=NEVER),
        Shape(
            "payment's notification",
            when="account.account_code && transaction.id && transaction.action && transaction.status",
            paid={"transaction.status": ("success",)},
            unpaid=(
                "says(transaction.action, 'refund', 'credit', 'verify') || zero(transaction.amount_in_cents) || "
                "says(transaction.voidable_p, 'void')"
            ),
            fields={
                "customer_email": "account.email",
                "customer_id": "account.account_code",
                "invoice_id": "transaction.invoice_id",
                "subscription_id": "transaction.subscription_id",
                "transaction_id": "transaction.id",
            },
        ),
        Shape(
            "invoice's notification",
            when="account.account_code && invoice.uuid && (invoice.state || invoice.status)",
            paid={"invoice.state || invoice.status": ("paid", "collected")},
            unpaid="zero(invoice.total_in_cents) || says(invoice.type, 'credit')",
            fields={
                "customer_email": "account.email",
                "customer_id": "account.account_code",
                "invoice_id": "invoice.uuid",
                "subscription_id": "invoice.subscription_id",
            },
            each="invoice.subscription_ids || invoice.subscription_ids.subscription_id",
            of_each={"subscription_id": "@"},
        ),
        Shape(
            "object that is not a payment",
            when=(
                "says(object, 'account', 'billing_info', 'coupon', 'coupon_redemption', 'credit_payment', 'error', "
                "'line_item', 'plan', 'shipping_address', 'unique_coupon_code')"
            ),
            unpaid=NEVER,
        ),
    )


def recurly(*, at: str | None = None, prefer: Reference = "id") -> Preset:
    """Return an extractor of Recurly's purchases, invoices, transactions and subscriptions.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. There
            an ID of Recurly's form, an account and one of its states are enough. If it is a list, each of its items
            counts.
        prefer: Which ID of an object is sent. If it is absent, the other one is sent. Recurly lists an invoice's
            subscriptions by `id` only.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression, or `prefer` is not an ID.
    """
    config.one_of("extract.recurly(): prefer", prefer, get_args(Reference))
    notifications = {
        f"{state}_notification" for state in ("successful_payment", "paid_charge_invoice", "closed_invoice")
    }
    wrappers = WRAPPERS | {"charge_invoice", "invoice_collection"} | notifications
    return Preset("recurly", _shapes(prefer), at, wrappers, test="says(transaction.test, 'true')")
