"""A shop on Recharge that charges at once and returns the charge (API 2021-11).

Recharge sends IDs as integers, and they become strings. The address is that of the
request, not `client_details.browser_ip`.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn recharge_charge:app
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
        CheckoutRoute("/charge", psp="recharge", extract=extract.recharge()),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    number: str
    email: EmailStr


@app.post("/charge")
def charge(order: Order) -> dict[str, object]:
    """Charge, and return Recharge's answer."""
    return {"charge": process(order)}


def process(order: Order) -> dict[str, object]:
    """Replace this with the POST to Recharge's `/charges/{id}/process`."""
    return {
        "id": 4007,
        "address_id": 5,
        "status": "success",
        "customer": {
            "id": 7,
            "email": order.email,
            "external_customer_id": {"ecommerce": "decoy"},
        },
        "external_transaction_id": {"payment_processor": "ch_7"},
        "line_items": [{"purchase_item_id": 11, "purchase_item_type": "subscription"}],
        "client_details": {"browser_ip": "192.0.2.1"},
    }
