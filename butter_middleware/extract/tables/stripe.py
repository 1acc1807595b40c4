"""Stripe's objects, in the three shapes that its API versions gave them.

A: before 2022-11-15. B: to 2025-02 (acacia). C: from 2025-03-31 (basil).

Sources:
    https://docs.stripe.com/api/checkout/sessions/object
    https://docs.stripe.com/api/payment_intents/object
    https://docs.stripe.com/api/invoices/object
    https://docs.stripe.com/api/invoice-payment/object
    https://docs.stripe.com/api/subscriptions/object
    https://docs.stripe.com/api/charges/object
    https://docs.stripe.com/billing/subscriptions/trials (trials without a card)
    https://docs.stripe.com/billing/subscriptions/pending-updates-reference
    https://docs.stripe.com/upgrades#2022-11-15 (charges became latest_charge)
    https://docs.stripe.com/changelog/basil/2025-03-31/add-support-for-multiple-partial-payments-on-invoices
    https://docs.stripe.com/changelog/basil/2025-03-31/adds-new-parent-field-to-invoicing-objects
    https://docs.stripe.com/changelog/dahlia/2026-05-27/invoice-object-amount-paid-off-stripe-property

Each object has its type in `object`. The prefixes of IDs are not checked, because Stripe calls their change compatible
(https://docs.stripe.com/upgrades). The prefix counts only if a shop left `object` out, and for a session of the test
mode.
Not mapped: `balance_transaction`, `three_d_secure.transaction_id`, an address in `billing_details.name`.
"""

from typing import Final, cast

from butter_middleware.extract.preset import NEVER, Preset, Shape

_CUSTOMER: Final = "customer.id || customer || customer_account.id || customer_account"
_NETWORK: Final = "payment_method_details.card.network_transaction_id"
_PART: Final = {
    "charge_id": (
        "payment.charge.id || payment.charge || "
        "payment.payment_intent.latest_charge.id || payment.payment_intent.latest_charge"
    ),
    "transaction_id": "payment.payment_intent.id || payment.payment_intent",
    "network_transaction_id": f"payment.charge.{_NETWORK} || payment.payment_intent.latest_charge.{_NETWORK}",
}


def _id(*places: str) -> str:
    """Return the expression for the ID of an object that may be expanded: `invoice.id || invoice`."""
    return " || ".join(f"{place}.id || {place}" for place in places)


def _subscription(invoice: str = "") -> str:
    return _id(f"{invoice}subscription", f"{invoice}parent.subscription_details.subscription")


def _done(listed: str, word: str) -> str:
    """Return the items of a list that are done, or its only item, which may lack the status."""
    return f"({listed}[?says(status, '{word}')] || (length({listed} || `[]`) == `1` && {listed}[?!status]))"


def _parts(invoice: str = "") -> str:
    """Return the place of an invoice's payments in shape C. There may be several, and canceled attempts are listed."""
    returned = "payment.charge.refunded || payment.payment_intent.latest_charge.refunded"
    return f"{_done(f'{invoice}payments.data', 'paid')}[?!({returned})]"


def _refunded(intent: str = "") -> str:
    return f"{intent}latest_charge.refunded || {_listed(intent)}.refunded"


def _returned(invoice: str = "") -> str:
    """Return whether an invoice was not paid through Stripe, or all its payments were refunded or credited.

    Charges count only if they are expanded.
    """
    outside, credited = f"{invoice}amount_paid_off_stripe", f"{invoice}post_payment_credit_notes_amount"
    return (
        f"{invoice}paid_out_of_band || "
        f"({outside} && !zero({outside}) && {outside} == {invoice}amount_paid) || "
        f"{invoice}charge.refunded || {_refunded(f'{invoice}payment_intent.')} || "
        f"({_done(f'{invoice}payments.data', 'paid')} && !({_parts(invoice)})) || "
        f"({credited} && !zero({credited}) && {credited} == {invoice}total)"
    )


def _listed(intent: str = "") -> str:
    """Return the expression for the charge of a payment intent of shape A. Its list also has the refused charges."""
    return f"({_done(f'{intent}charges.data', 'succeeded')} | [0])"


def _charge(intent: str = "") -> str:
    """Return the expression for the ID of a payment intent's charge, in all shapes."""
    return f"{_id(f'{intent}latest_charge')} || {_listed(intent)}.id"


def _network(intent: str = "") -> str:
    return f"{intent}latest_charge.{_NETWORK} || {_listed(intent)}.{_NETWORK}"


def _form(prefix: str) -> str:
    """Return the form of an ID in an object without `object`. `in_stock` and `pi_7` may be a shop's own values."""
    return f"like(id, '{prefix}_(?=.*[0-9])(?=.*[A-Za-z]).{{3,}}|{prefix}_[A-Za-z0-9]{{14,}}')"


SHAPES: Final = (
    Shape(
        "event of a refund, a dispute or an end",
        when=(
            "(says(object, 'event') || data.object) && (contains(type, 'refund') || contains(type, 'dispute') || "
            "contains(type, 'failed') || contains(type, 'deleted') || contains(type, 'canceled') || "
            "contains(type, 'expired') || contains(type, 'voided') || contains(type, 'upcoming') || "
            "contains(type, 'trial_will_end'))"
        ),
        unpaid=NEVER,
    ),
    Shape(
        "checkout.session",
        when="says(object, 'checkout.session') || (!object && payment_status && like(id, 'cs_.+'))",
        paid={
            "status || (says(payment_status, 'paid') && 'complete')": ("complete",),  # the oldest have no status
            "payment_status": ("paid", "no_payment_required"),
        },
        # No money: a card was saved, the price was zero, or a trial began without a card.
        unpaid=(
            "((says(payment_status, 'no_payment_required') || zero(amount_total)) && (!subscription || "
            "(says(payment_method_collection, 'if_required') && !(subscription.default_payment_method)))) || "
            f"{_refunded('payment_intent.')} || {_returned('invoice.')}"
        ),
        fields={
            "customer_email": (
                "customer_details.email || customer_email || customer.email || invoice.customer_email || "
                "payment_intent.receipt_email || payment_intent.latest_charge.billing_details.email"
            ),
            "customer_id": _CUSTOMER,
            "invoice_id": _id("invoice", "subscription.latest_invoice"),
            "subscription_id": f"{_id('subscription')} || {_subscription('invoice.')}",
            "charge_id": (
                f"{_charge('payment_intent.')} || {_id('invoice.charge')} || {_charge('invoice.payment_intent.')}"
            ),
            "transaction_id": _id("payment_intent", "invoice.payment_intent"),
            "network_transaction_id": (
                f"{_network('payment_intent.')} || invoice.charge.{_NETWORK} || {_network('invoice.payment_intent.')}"
            ),
        },
        each=_parts("invoice."),
        of_each=_PART,
        under=("session", "checkout_session"),
        when_under=f"!object && payment_status && {_form('cs')}",
    ),
    Shape(
        "payment_intent",
        when=(
            "says(object, 'payment_intent') || (!object && status && (like(id, 'pi_[A-Za-z0-9]{14,}') || "
            "(like(id, 'pi_.+') && some(`2`, amount_received, latest_charge, charges, client_secret, payment_method, "
            "payment_method_types, capture_method, confirmation_method))))"
        ),
        paid={"status": ("succeeded", "requires_capture")},
        unpaid=f"zero(amount) || {_refunded()}",
        fields={
            "customer_email": (
                "receipt_email || latest_charge.billing_details.email || latest_charge.receipt_email || "
                f"customer.email || {_listed()}.billing_details.email || {_listed()}.receipt_email || "
                "invoice.customer_email"
            ),
            "customer_id": _CUSTOMER,
            "invoice_id": _id("invoice"),  # A and B
            "subscription_id": _subscription("invoice."),
            "charge_id": _charge(),
            "transaction_id": "id",
            "network_transaction_id": _network(),
        },
        under=("payment_intent", "intent", "payment"),
        when_under=f"!object && status && {_form('pi')}",
    ),
    Shape(
        "invoice",
        when=(
            "says(object, 'invoice') || (!object && status && (like(id, 'in_[A-Za-z0-9]{14,}') || "
            "(like(id, 'in_.+') && some(`2`, amount_paid, billing_reason, collection_method, hosted_invoice_url, "
            "lines))))"
        ),
        paid={"status || (says(paid, 'true') && 'paid')": ("paid",)},  # the oldest versions have no status
        # Nothing was due, as in a trial, the money did not come through Stripe, or it was refunded.
        unpaid=f"zero(amount_paid) || zero(total) || {_returned()}",
        fields={
            "customer_email": "customer_email || customer.email || charge.billing_details.email",
            "customer_id": _CUSTOMER,
            "invoice_id": "id",
            "subscription_id": _subscription(),
            "charge_id": f"{_id('charge')} || {_charge('payment_intent.')}",
            "transaction_id": _id("payment_intent"),
            "network_transaction_id": f"charge.{_NETWORK} || {_network('payment_intent.')}",
        },
        each=_parts(),
        of_each=_PART,
        under=("invoice",),
        when_under=f"!object && status && {_form('in')}",
    ),
    Shape(
        "invoice_payment",
        when="says(object, 'invoice_payment')",
        paid={"status": ("paid",)},
        unpaid="zero(amount_paid)",
        fields={
            **_PART,
            "customer_email": "invoice.customer_email",
            "customer_id": "invoice.customer.id || invoice.customer",
            "invoice_id": _id("invoice"),
            "subscription_id": _subscription("invoice."),
        },
    ),
    Shape(
        "subscription",
        when=(
            "says(object, 'subscription') || (!object && status && (like(id, 'sub_[A-Za-z0-9]{14,}') || "
            "(like(id, 'sub_.+') && some(`2`, latest_invoice, current_period_end, billing_cycle_anchor, "
            "collection_method, items, default_payment_method))))"
        ),
        paid={"status": ("active", "trialing")},
        unpaid=(
            # An expanded invoice shows itself that it is paid. If it is sent by mail, the subscription is active before
            # the shopper has paid.
            "((type(latest_invoice) == 'object' || says(collection_method, 'send_invoice')) && "
            "!(says(latest_invoice.status, 'paid') || says(latest_invoice.paid, 'true'))) || "
            # A change waits for its failed payment: the latest invoice is open.
            "pending_update || "
            # No card was entered yet, or the trial needs none.
            "client_secret || (pending_setup_intent && !says(pending_setup_intent.status, 'succeeded')) || "
            "(says(status, 'trialing') && !default_payment_method && !default_source && "
            "says(trial_settings.end_behavior.missing_payment_method, 'cancel', 'pause')) || "
            # There is nothing to pay.
            "(says(status, 'active') && (zero(latest_invoice.amount_paid) || zero(latest_invoice.total) || "
            "zero(plan.amount) || (length(items.data || `[]`) == `1` && zero(items.data[0].price.unit_amount)))) || "
            f"{_returned('latest_invoice.')}"
        ),
        promise="!(says(status, 'active') && says(latest_invoice.status, 'paid'))",
        fields={
            "customer_email": "customer.email || latest_invoice.customer_email || latest_invoice.customer.email",
            "customer_id": _CUSTOMER,
            "invoice_id": _id("latest_invoice"),
            "subscription_id": "id",
            "charge_id": f"{_id('latest_invoice.charge')} || {_charge('latest_invoice.payment_intent.')}",
            "transaction_id": _id("latest_invoice.payment_intent"),
            "network_transaction_id": (
                f"latest_invoice.charge.{_NETWORK} || {_network('latest_invoice.payment_intent.')}"
            ),
        },
        each=_parts("latest_invoice."),
        of_each=_PART,
        under=("subscription",),
        when_under=f"!object && status && {_form('sub')}",
    ),
    Shape(
        "charge",
        when=(
            "says(object, 'charge') || (!object && status && (like(id, '(ch|py)_[A-Za-z0-9]{14,}') || "
            "(like(id, '(ch|py)_.+') && some(`2`, amount_captured, balance_transaction, billing_details, captured, "
            "paid, payment_intent, payment_method_details, receipt_url))))"
        ),
        paid={"status || (says(paid, 'true') && 'succeeded')": ("succeeded",)},  # the oldest versions have no status
        unpaid="refunded || (amount_refunded && amount_refunded == amount) || zero(amount)",
        fields={
            "customer_email": (
                "receipt_email || billing_details.email || customer.email || payment_intent.receipt_email || "
                "invoice.customer_email"
            ),
            "customer_id": _CUSTOMER,
            "invoice_id": _id("invoice", "payment_intent.invoice"),  # A and B
            "subscription_id": _subscription("invoice."),
            "charge_id": "id",
            "transaction_id": _id("payment_intent"),
            "network_transaction_id": _NETWORK,
        },
        under=("charge",),
        when_under=f"!object && status && {_form('(ch|py)')}",
    ),
    Shape("setup_intent", when="says(object, 'setup_intent')", unpaid=NEVER, pending="!says(status, 'succeeded')"),
    Shape(
        "object that is not a payment",
        when=(
            "says(object, 'application_fee', 'balance_transaction', 'credit_note', 'customer', 'discount', 'dispute', "
            "'ephemeral_key', 'fee_refund', 'invoiceitem', 'line_item', 'mandate', 'payment_link', 'payment_method', "
            "'payout', 'price', 'product', 'quote', 'radar.early_fraud_warning', 'refund', 'review', 'source', "
            "'subscription_schedule', 'token', 'topup', 'transfer', 'transfer_reversal') || "
            "(!object && like(id, '(re|dp|cn|qt)_.+'))"
        ),
        unpaid=NEVER,
    ),
)


def stripe(*, at: str | None = None) -> Preset:
    """Return an extractor of Stripe's checkout sessions, payment intents, invoices, subscriptions and charges.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. There
            an ID of Stripe's form and its state are enough. If it is a list, each of its items counts.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression.
    """
    # A shop may omit `livemode`. The ID of a session shows it too, and so does an expanded object.
    expanded = "!says(livemode, 'true') && contains(*.livemode || `[]`, `false`)"
    test = f"says(livemode, 'false') || like(id, 'cs_test_.+') || ({expanded})"
    return Preset("stripe", SHAPES, at, prepare=_plain, test=test, live="says(livemode, 'true')")


def _plain(fields: dict[str, object]) -> dict[str, object]:
    """Undo FastAPI's form of an object of Stripe's SDK (v15 and later), which it puts under `_data`."""
    data = fields.get("_data")
    return cast("dict[str, object]", data) if isinstance(data, dict) else fields
