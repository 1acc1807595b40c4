"""A shop on Braintree's SDK, which answers with the few fields that its pages need.

Guests have no e-mail at Braintree, so the endpoint annotates it.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn braintree_sale:app
"""

from fastapi import FastAPI, Request
from pydantic import BaseModel, EmailStr

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
    extract,
)

butter = Butter(
    client_ip=client_ip.aws_alb(),
    routes=[
        CheckoutRoute("/pay", psp="braintree", extract=extract.braintree()),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    number: str
    email: EmailStr


@app.post("/pay")
def pay(order: Order, request: Request) -> dict[str, object]:
    """Sell, and return the transaction."""
    annotate(request, customer_email=order.email)
    sale = sell(order)
    return {
        "success": True,
        "transaction": {
            "id": sale["id"],
            "status": sale["status"],
            "amount": sale["amount"],
        },
    }


def sell(order: Order) -> dict[str, str]:
    """Replace this with `gateway.transaction.sale({...}).transaction`."""
    return {
        "id": "7k3x",
        "status": "submitted_for_settlement",
        "amount": "10.00",
        "order_id": order.number,
    }
