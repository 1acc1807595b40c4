"""Recharge's charges, orders, checkouts and subscriptions, in the API versions 2021-11 and 2021-01.

Sources:
    https://developer.rechargepayments.com/2021-11/charges/charge_object
    https://developer.rechargepayments.com/2021-11/orders/order_object
    https://developer.rechargepayments.com/2021-11/checkouts/checkout_object
    https://developer.rechargepayments.com/2021-11/subscriptions/subscriptions_object
    https://developer.rechargepayments.com/2021-01/charges/charge_object
    https://developer.rechargepayments.com/2021-01/orders/order_object

Not mapped: `external_order_id` and `external_customer_id`, which are the shop system's; a one-time line item; an
order's own `id`. `client_details.browser_ip` counts only on a route with `address_from_body=True`.
"""

from typing import Final

from butter_middleware.extract.preset import ADDRESS, Preset, Shape

_CUSTOMER: Final = {"customer_email": "customer.email || email", "customer_id": "customer.id || customer_id"}
_TRANSACTION: Final = "external_transaction_id.payment_processor || transaction_id"
_BROWSER: Final = {ADDRESS: "client_details.browser_ip"}
_ITEMS: Final = (
    "line_items[?purchase_item_type == 'subscription' || (!purchase_item_type && subscription_id && "
    "type != 'ONETIME' && type != 'onetime')]"
)
_ITEM: Final = {"subscription_id": "purchase_item_id || subscription_id"}

SHAPES: Final = (
    Shape(
        "checkout",
        when="contains(keys(@), 'completed_at') && token && line_items",
        under=("checkout",),
        when_under="contains(keys(@), 'completed_at')",
        unpaid="!completed_at",
        fields={"customer_email": "email", "charge_id": "charge_id", "customer_id": "customer_id"},
    ),
    Shape(
        "order",
        when="status && line_items && (charge.id || charge_id) && !object",
        # A prepaid order waits, its charge being paid; an order may be made while its charge is not.
        paid={"status": ("success",), "charge.status || charge_status || 'success'": ("success",)},
        fields={
            **_CUSTOMER,
            **_BROWSER,
            "charge_id": "charge.id || charge_id",
            "transaction_id": f"charge.external_transaction_id.payment_processor || {_TRANSACTION}",
        },
        each=_ITEMS,
        of_each=_ITEM,
    ),
    Shape(
        "charge",
        when=(
            "id && status && (external_transaction_id.payment_processor || "
            "(line_items && (address_id || processor_name || scheduled_at || transaction_id)))"
        ),
        paid={"status": ("success",)},
        fields={**_CUSTOMER, **_BROWSER, "charge_id": "id", "transaction_id": _TRANSACTION},
        each=_ITEMS,
        of_each=_ITEM,
    ),
    Shape(
        "subscription",
        when="id && status && (address_id || customer_id) && (order_interval_frequency || charge_interval_frequency)",
        paid={"status": ("active",)},
        fields={**_CUSTOMER, "subscription_id": "id"},
    ),
)


def recharge(*, at: str | None = None) -> Preset:
    """Return an extractor of Recharge's charges, orders, checkouts and subscriptions.

    Args:
        at: Where the object stands in the response, as JMESPath, if not in one of the usual wrappers.

    Raises:
        ConfigurationError: `at` is no JMESPath expression.
    """
    return Preset("recharge", SHAPES, at)
