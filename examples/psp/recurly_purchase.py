"""A shop on Recurly that sells two plans at once.

Each subscription gives one record. Recurly's answer contains everything.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn recurly_purchase:app
"""

from fastapi import FastAPI
from pydantic import BaseModel, EmailStr

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    client_ip,
    extract,
)

butter = Butter(
    client_ip=client_ip.aws_alb(),
    routes=[
        CheckoutRoute("/subscribe", psp="recurly", extract=extract.recurly()),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    number: str
    email: EmailStr


@app.post("/subscribe")
def subscribe(order: Order) -> dict[str, object]:
    """Purchase, and return the invoice collection."""
    return purchase(order)


def purchase(order: Order) -> dict[str, object]:
    """Replace this with `client.create_purchase({...})`, which FastAPI serialises."""
    return {
        "object": "invoice_collection",
        "charge_invoice": {
            "object": "invoice",
            "id": "inv7",
            "number": "1007",
            "state": "paid",
            "account": {"id": "acc7", "code": order.number, "email": order.email},
            "subscription_ids": ["sub7", "sub8"],
            "transactions": [
                {
                    "object": "transaction",
                    "id": "tr7",
                    "status": "success",
                    "type": "purchase",
                }
            ],
        },
        "credit_invoices": [],
    }
