"""A shop on Adyen's Checkout API, whose endpoint returns Adyen's answer.

Only `"resultCode": "Authorised"` is a checkout. Adyen's answer has no e-mail, so the
endpoint annotates it.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn adyen_payment:app
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
        CheckoutRoute("/payments", psp="adyen", extract=extract.adyen()),
    ],
)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    number: str
    email: EmailStr
    card: str = "4111"


@app.post("/payments")
def payments(order: Order, request: Request) -> dict[str, object]:
    """Pay, and return Adyen's answer."""
    annotate(request, customer_email=order.email)
    return ask_adyen(order)


def ask_adyen(order: Order) -> dict[str, object]:
    """Replace this with `adyen.checkout.payments_api.payments({...}).message`."""
    if order.card == "refused":
        return {
            "resultCode": "Refused",
            "pspReference": "PSP8",
            "refusalReason": "Not enough balance",
        }
    if order.card == "3ds":
        return {
            "resultCode": "RedirectShopper",
            "action": {"type": "redirect", "url": "https://example.com/3ds"},
        }
    return {
        "resultCode": "Authorised",
        "pspReference": "PSP7",
        "merchantReference": order.number,
        "additionalData": {
            "recurring.shopperReference": "shopper-7",
            "networkTxReference": "777718270854480",
        },
    }
