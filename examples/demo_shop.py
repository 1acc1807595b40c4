"""The shop of `demo.py`: the FastAPI example, behind a proxy at 127.0.0.1. Where Butter is, the environment says."""

from fastapi import FastAPI, Request
from pydantic import BaseModel

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

butter = Butter(
    client_ip=client_ip.nginx(["127.0.0.1"]),
    routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)
app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    email: str


@app.post("/checkout/{cart_id}")
async def checkout(cart_id: str, order: Order, request: Request) -> dict[str, str]:
    """Charge the cart."""
    annotate(request, customer_email=order.email)
    return {"status": "paid", "invoice": f"in_{cart_id}"}
