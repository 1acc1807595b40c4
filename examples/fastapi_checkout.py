"""A FastAPI shop whose checkout answers JSON.

The IDs are read from the response, and the e-mail is annotated.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn fastapi_checkout:app
"""

from uuid import uuid4

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
    # nginx is in front of the app, at these addresses:
    client_ip=client_ip.nginx(["127.0.0.1", "10.0.0.0/8"]),
    routes=[
        CheckoutRoute(
            "/checkout/{cart_id}",
            psp="stripe",
            when=lambda response: response.json()["status"] == "paid",
            extract=extract.json(
                invoice_id="invoice.id || invoice",
                charge_id="charge",
                customer_id="customer",
            ),
        ),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    email: EmailStr


@app.post("/checkout/{cart_id}")
def checkout(cart_id: str, order: Order, request: Request) -> dict[str, str]:
    """Charge the cart, and annotate the e-mail, which the response does not contain."""
    annotate(request, customer_email=order.email)
    return {
        "status": "paid",
        "invoice": f"in_{cart_id}",
        "charge": f"ch_{uuid4().hex[:12]}",
        "customer": f"cus_{cart_id}",
    }
