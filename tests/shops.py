"""What the tests' shops have in common."""

from typing import Any

from butter_middleware import CheckoutRoute, extract

CREDENTIALS: dict[str, Any] = {"username": "merchant", "password": "s3cret-pass"}
ROUTE = CheckoutRoute(
    "/checkout/{cart_id}",
    psp="stripe",
    extract=extract.json(customer_email="customer.email", invoice_id="invoice.id || invoice"),
)
PAID: dict[str, Any] = {"customer": {"email": "shopper@example.com"}, "invoice": {"id": "in_1"}}
SHOPPER = "81.2.69.142"
