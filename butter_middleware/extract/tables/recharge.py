"""Recharge's charges, orders, checkouts and subscriptions, in the API versions 2021-11 and 2021-01.

Sources:
    https://developer.rechargepayments.com/2021-11/charges/charge_object
    https://developer.rechargepayments.com/2021-11/orders/order_object
    https://developer.rechargepayments.com/2021-11/checkouts/checkout_object
    https://developer.rechargepayments.com/2021-11/checkouts/checkout_process
    https://developer.rechargepayments.com/2021-11/subscriptions/subscriptions_object
    https://developer.rechargepayments.com/2021-01/charges/charge_object
    https://developer.rechargepayments.com/2021-01/orders/order_object
    https://developer.rechargepayments.com/2021-01/checkouts/checkout_object

No object has a type. So keys that only Recharge has count, and IDs that are numbers.
Not mapped: `external_order_id` and `external_customer_id`, which are the shop system's, a one-time line item, and an
order's own `id`. `client_details.browser_ip` counts only on a route with `address_from_body=True`.
"""

from typing import Final, Literal, get_args

from butter_middleware import config
from butter_middleware.extract.preset import ADDRESS, NEVER, WRAPPERS, Preset, Shape

ChargeId = Literal["recharge", "processor"]

_CUSTOMER: Final = {"customer_email": "customer.email || email", "customer_id": "customer.id || customer_id"}
_TRANSACTION: Final = "external_transaction_id.payment_processor || transaction_id"
_BROWSER: Final = {ADDRESS: "client_details.browser_ip"}
_ITEMS: Final = (
    "line_items[?says(purchase_item_type, 'subscription') || (subscription_id && says(type, 'subscription'))] || "
    "(length(line_items[?purchase_item_type || type] || `[]`) == `0` && line_items[?subscription_id])"
)
"""Items show which of them are subscriptions. In the oldest versions they do not."""
_ITEM: Final = {"subscription_id": "purchase_item_id || subscription_id"}
_NUMBER: Final = "(type(id) == 'number' || like(id, '[0-9]+'))"
_STRONG: Final = (
    "charge_attempts, charge_status, customer.external_customer_id, customer_hash, external_cart_token, "
    "external_order_id, external_transaction_id, has_uncommited_changes, has_uncommitted_changes, is_prepaid, "
    "last_charge_attempt, last_charge_attempt_date, number_times_tried, shipments_count, shopify_cart_token, "
    "shopify_order_id, total_weight_grams, line_items[?purchase_item_id || purchase_item_type || "
    "external_variant_id || shopify_variant_id || (subscription_id && says(type, 'subscription', 'onetime'))]"
)
_WEAK: Final = (
    "address_id, charge_id, orders_count, payment_processor, processor_name, retry_date, scheduled_at, "
    "line_items[?subscription_id]"
)
_PROVED: Final = f"(some(`2`, {_STRONG}) || (some(`1`, {_STRONG}) && some(`2`, {_WEAK})))"
_OF_CHARGE: Final = (
    "some(`1`, analytics_data, charge_attempts, customer_hash, error_type, external_transaction_id, "
    "has_uncommited_changes, has_uncommitted_changes, last_charge_attempt, last_charge_attempt_date, "
    "number_times_tried, orders_count, processor_name, retry_date, shipments_count, sub_total)"
)
_OF_ORDER: Final = (
    "(is_prepaid != `null` || some(`1`, address_is_active, charge, charge_id, charge_status, external_order_name, "
    "external_order_number, shipped_date, shopify_order_number))"
)
"""Tells orders from charges: they are similar, and an order's ID is not that of its charge."""
_NOTHING: Final = "zero(total_price) || (total_refunds && total_refunds == total_price)"
"""It was free, or fully refunded."""


def _shapes(charge_id: ChargeId) -> tuple[Shape, ...]:
    of_charge, of_order, of_checkout = {
        "recharge": ("id", "charge.id || charge_id", "charge_id"),
        "processor": (_TRANSACTION, f"charge.{_TRANSACTION}", "payment_processor_transaction_id"),
    }[charge_id]
    fields_of_checkout = {
        "customer_email": "email",
        "customer_id": "customer_id",
        "charge_id": of_checkout,
        "transaction_id": "payment_processor_transaction_id",
    }
    return (
        Shape(
            "processed checkout",
            when="charge_id && status && some(`2`, authorization_token, payment_processor, "
            "payment_processor_transaction_id, payment_processor_customer_id, payment_token, payment_type)",
            paid={"status": ("success",)},
            unpaid="says(free, 'true')",
            fields=fields_of_checkout,
            under=("checkout_charge",),
            when_under="charge_id && status",
        ),
        Shape(
            "checkout",
            when=(
                "token && type(line_items) == 'array' && !status && some(`1`, charge_id, external_checkout_id, "
                "requires_shipping, buyer_accepts_marketing, payment_processor, shipping_rate, shipping_line)"
            ),
            paid={"like(completed_at, '[0-9]{4}-.*') && type(charge_id)": ("number", "string")},
            unpaid=f"!completed_at || {_NOTHING}",
            fields=fields_of_checkout,
            under=("checkout",),
            when_under=(
                "(completed_at && charge_id && (some(`1`, token, payment_processor, external_checkout_id) || "
                "only(@, 'completed_at', 'charge_id', 'customer_id', 'email'))) || (token && !status)"
            ),
        ),
        Shape(
            "order",
            when=f"{_NUMBER} && status && !object && {_OF_ORDER} && {_PROVED}",
            # A prepaid order waits although its charge is paid. Another order may exist before its charge is paid.
            paid={"status": ("success",), "charge.status || charge_status || status": ("success",)},
            unpaid=f"{_NOTHING} || zero(charge.total_price)",
            fields={
                **_CUSTOMER,
                **_BROWSER,
                "charge_id": of_order,
                "transaction_id": f"charge.external_transaction_id.payment_processor || {_TRANSACTION}",
            },
            each=_ITEMS,
            of_each=_ITEM,
            under=("order",),
            when_under=f"{_NUMBER} && status && !object && {_PROVED}",
            when_at=f"{_NUMBER} && status && !object && {_OF_ORDER} && (some(`1`, {_STRONG}) || some(`2`, {_WEAK}))",
        ),
        Shape(
            "subscription",
            when=(
                f"{_NUMBER} && status && (address_id || customer_id) && "
                "(order_interval_frequency || charge_interval_frequency) && !line_items"
            ),
            paid={"status": ("active",)},
            unpaid="zero(price)",
            promise="`true`",
            fields={**_CUSTOMER, "subscription_id": "id"},
        ),
        Shape(
            "charge",
            when=f"{_NUMBER} && status && !object && {_OF_CHARGE} && !{_OF_ORDER} && {_PROVED}",
            paid={"status": ("success",)},
            unpaid=_NOTHING,
            fields={**_CUSTOMER, **_BROWSER, "charge_id": of_charge, "transaction_id": _TRANSACTION},
            each=_ITEMS,
            of_each=_ITEM,
            never_under=("order",),
            under=("charge",),
            when_under=(
                f"{_NUMBER} && !{_OF_ORDER} && says(status, 'success', 'queued', 'error', 'skipped', 'refunded', "
                f"'partially_refunded', 'pending') && (some(`1`, {_STRONG}) || some(`2`, {_WEAK}, transaction_id))"
            ),
        ),
        Shape("refund", when="refund_id || (charge_id && refund_amount)", unpaid=NEVER),
    )


def recharge(*, at: str | None = None, charge_id: ChargeId = "recharge") -> Preset:
    """Return an extractor of Recharge's charges, orders, checkouts and subscriptions.

    Args:
        at: The place of the object in the response, as JMESPath, if it is not in one of the usual wrappers. There a
            few of Recharge's keys are enough. If it is a list, each of its items counts.
        charge_id: The ID that is sent as `charge_id`: that of Recharge's own charge, or that of the payment processor
            behind Recharge, which is also the `transaction_id`.

    Raises:
        ConfigurationError: `at` is not a JMESPath expression, or `charge_id` is neither.
    """
    config.one_of("extract.recharge(): charge_id", charge_id, get_args(ChargeId))
    return Preset("recharge", _shapes(charge_id), at, WRAPPERS | {"checkout_charge"})
