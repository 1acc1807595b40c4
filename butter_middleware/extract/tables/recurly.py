"""Recurly's objects (v2021-02-25): a purchase's invoice collection, invoices, transactions, subscriptions.

Sources:
    https://recurly.com/developers/api/v2021-02-25/#operation/create_purchase
    https://recurly.com/developers/api/v2021-02-25/#operation/get_invoice
    https://recurly.com/developers/api/v2021-02-25/#operation/get_transaction
    https://recurly.com/developers/api/v2021-02-25/#operation/get_subscription

Not mapped: an invoice's `number`, which is the printed one; `gateway_reference`. A transaction's `ip_address_v4` counts
only on a route with `address_from_body=True`. The preview of a purchase has no ID. Webhooks carry IDs only, and are no
checkouts.
"""

from typing import Final

from butter_middleware.extract.preset import ADDRESS, NEVER, WRAPPERS, Preset, Shape

_ACCOUNT: Final = {"customer_email": "account.email", "customer_id": "account.id || account.code"}
_SUCCESS: Final = "(transactions[?(!status || status == 'success') && type != 'refund' && type != 'verify'] | [0])"
"""An invoice lists its attempts, the declined ones too."""

SHAPES: Final = (
    Shape("declined purchase", when="error && (charge_invoice || object == 'invoice_collection')", unpaid=NEVER),
    Shape(
        "invoice",
        when="object == 'invoice' || (account && (subscription_ids || line_items) && (state || number))",
        under=("charge_invoice",),
        when_under="account || id",
        # An invoice sent by mail is pending. A shop may leave the state out.
        paid={f"{_SUCCESS}.status || state || 'paid'": ("success", "paid")},
        # Money going back; a preview; without a state, what was declined, or is sent by mail.
        unpaid=(
            f"type == 'credit' || !id || (!state && (transactions || collection_method == 'manual') && !{_SUCCESS})"
        ),
        fields={
            **_ACCOUNT,
            "invoice_id": "id",
            "transaction_id": f"{_SUCCESS}.id",
            ADDRESS: f"{_SUCCESS}.ip_address_v4",
        },
        each="subscription_ids",
        of_each={"subscription_id": "@"},
    ),
    Shape(
        "transaction",
        when="object == 'transaction'",
        paid={"status": ("success",)},
        unpaid="type == 'refund' || type == 'verify'",
        fields={**_ACCOUNT, "invoice_id": "invoice.id", "transaction_id": "id", ADDRESS: "ip_address_v4"},
        each="subscription_ids",
        of_each={"subscription_id": "@"},
    ),
    Shape(
        "subscription",
        when="object == 'subscription' || (account && plan && (id || uuid) && state)",
        paid={"state": ("active",)},
        unpaid="collection_method == 'manual'",  # by mail: whether it is paid, its invoices say
        fields={**_ACCOUNT, "invoice_id": "active_invoice_id", "subscription_id": "id || uuid"},
    ),
)


def recurly(*, at: str | None = None) -> Preset:
    """Return an extractor of Recurly's purchases, invoices, transactions and subscriptions.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.

    Raises:
        ConfigurationError: `at` is no JMESPath expression.
    """
    return Preset("recurly", SHAPES, at, WRAPPERS | {"charge_invoice", "invoice_collection", "invoiceCollection"})
