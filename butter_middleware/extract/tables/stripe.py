"""Stripe's objects, in the three shapes that its API versions gave them.

A: before 2022-11-15. B: to 2025-02 (acacia). C: from 2025-03-31 (basil).

Sources:
    https://docs.stripe.com/api/checkout/sessions/object
    https://docs.stripe.com/api/payment_intents/object
    https://docs.stripe.com/api/invoices/object
    https://docs.stripe.com/api/subscriptions/object
    https://docs.stripe.com/api/charges/object
    https://docs.stripe.com/upgrades#2022-11-15 (charges became latest_charge)
    https://docs.stripe.com/changelog/basil/2025-03-31/add-support-for-multiple-partial-payments-on-invoices
    https://docs.stripe.com/changelog/basil/2025-03-31/adds-new-parent-field-to-invoicing-objects

No prefix of an ID is checked: Stripe calls changing them compatible (https://docs.stripe.com/upgrades).
Not mapped: `balance_transaction`, `three_d_secure.transaction_id`, an address in `billing_details.name`.
"""

from typing import Final, cast

from butter_middleware.extract.preset import NEVER, Preset, Shape

_CUSTOMER: Final = "customer.id || customer || customer_account"
_TEST: Final = "livemode == `false`"
_CHARGE_OF_A: Final = "(charges.data[?!status || status == 'succeeded'] | [0])"
"""Shape A lists a payment intent's charges, the refused ones too."""

_DEEPEST: Final = 20
"""Levels of a body that are looked at, far below what an interpreter can nest."""

SHAPES: Final = (
    Shape(
        "checkout.session",
        when="object == 'checkout.session'",
        paid={
            "status || (payment_status == 'paid' && 'complete')": ("complete",),  # the oldest have no status
            "payment_status": ("paid", "no_payment_required"),
        },
        # A card was kept for later, or the price was nothing: no money, and no ID either.
        unpaid="payment_status == 'no_payment_required' && !(payment_intent || invoice || subscription)",
        test=_TEST,
        fields={
            "customer_email": "customer_details.email || customer_email",
            "customer_id": _CUSTOMER,
            "invoice_id": "invoice.id || invoice",
            "subscription_id": "subscription.id || subscription",
            "charge_id": "payment_intent.latest_charge.id || payment_intent.latest_charge",
            "transaction_id": "payment_intent.id || payment_intent",
            "network_transaction_id": (
                "payment_intent.latest_charge.payment_method_details.card.network_transaction_id"
            ),
        },
    ),
    Shape(
        "payment_intent",
        when="object == 'payment_intent'",
        paid={"status": ("succeeded", "requires_capture")},
        test=_TEST,
        fields={
            "customer_email": (
                "receipt_email || latest_charge.billing_details.email || customer.email || "
                f"{_CHARGE_OF_A}.billing_details.email"
            ),
            "customer_id": _CUSTOMER,
            "invoice_id": "invoice.id || invoice",  # A and B
            "charge_id": f"latest_charge.id || latest_charge || {_CHARGE_OF_A}.id",
            "transaction_id": "id",
            "network_transaction_id": (
                "latest_charge.payment_method_details.card.network_transaction_id || "
                f"{_CHARGE_OF_A}.payment_method_details.card.network_transaction_id"
            ),
        },
    ),
    Shape(
        "invoice",
        when="object == 'invoice'",
        paid={"status || (paid && 'paid')": ("paid",)},  # the oldest versions have no status
        test=_TEST,
        fields={
            "customer_email": "customer_email",
            "customer_id": "customer.id || customer",
            "invoice_id": "id",
            "subscription_id": (
                "subscription.id || subscription || "
                "parent.subscription_details.subscription.id || parent.subscription_details.subscription"
            ),
            "charge_id": "charge.id || charge",
            "transaction_id": "payment_intent.id || payment_intent",
            "network_transaction_id": "charge.payment_method_details.card.network_transaction_id",
        },
        # C: an invoice may be paid in parts.
        each="payments.data[?!status || status == 'paid']",
        of_each={
            "charge_id": "payment.charge.id || payment.charge",
            "transaction_id": "payment.payment_intent.id || payment.payment_intent",
        },
    ),
    Shape(
        "subscription",
        when="object == 'subscription'",
        paid={"status": ("active", "trialing")},
        # An invoice sent by mail leaves the subscription active while nobody has paid.
        unpaid="(latest_invoice.status || collection_method == 'send_invoice') && latest_invoice.status != 'paid'",
        test=_TEST,
        fields={
            "customer_email": "customer.email",
            "customer_id": "customer.id || customer",
            "invoice_id": "latest_invoice.id || latest_invoice",
            "subscription_id": "id",
            "charge_id": "latest_invoice.charge.id || latest_invoice.charge",  # B
        },
    ),
    Shape(
        "charge",
        when="object == 'charge'",
        paid={"status": ("succeeded",)},
        test=_TEST,
        fields={
            "customer_email": "receipt_email || billing_details.email",
            "customer_id": "customer.id || customer",
            "invoice_id": "invoice.id || invoice",  # A and B
            "charge_id": "id",
            "transaction_id": "payment_intent.id || payment_intent",
            "network_transaction_id": "payment_method_details.card.network_transaction_id",
        },
    ),
    Shape("payment_link or setup_intent", when="object == 'payment_link' || object == 'setup_intent'", unpaid=NEVER),
)


def stripe(*, at: str | None = None) -> Preset:
    """Return an extractor of Stripe's checkout sessions, payment intents, invoices, subscriptions and charges.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.

    Raises:
        ConfigurationError: `at` is no JMESPath expression.
    """
    return Preset("stripe", SHAPES, at, prepare=_plain)


def _plain(node: object, depth: int = 0) -> object:
    """Undo what FastAPI makes of an object of Stripe's SDK (v15 and later) that is returned as it stands: `_data`."""
    if depth > _DEEPEST:
        return node
    if isinstance(node, list):
        return [_plain(item, depth + 1) for item in cast("list[object]", node)]
    if isinstance(node, dict):
        fields = cast("dict[str, object]", node)
        data = fields.get("_data")
        fields = cast("dict[str, object]", data) if isinstance(data, dict) else fields
        return {name: _plain(value, depth + 1) for name, value in fields.items()}
    return node
