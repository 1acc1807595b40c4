"""A shop on Worldpay's Access Payments, which puts Worldpay's object into its JSON.

Worldpay never sends the e-mail, so the endpoint annotates it. `prefer` chooses the
reference that is sent.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn worldpay_payment:app
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
        CheckoutRoute(
            "/orders",
            psp="worldpay",
            extract=extract.worldpay(at="paid_by", prefer="paymentId"),
        ),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    number: str
    email: EmailStr


@app.post("/orders")
def orders(order: Order, request: Request) -> dict[str, object]:
    """Pay, and answer with the order and how it was paid."""
    annotate(request, customer_email=order.email)
    return {"number": order.number, "paid_by": pay(order)}


def pay(order: Order) -> dict[str, object]:
    """Replace this with the POST to Worldpay's `/api/payments`."""
    return {
        "outcome": "authorized",
        "transactionReference": order.number,
        "paymentId": "pay7",
        "schemeReference": "060720116005060",
        "_links": {"self": {"href": "https://access.worldpay.com/api/payments/7"}},
    }
