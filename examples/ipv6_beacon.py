"""A shop whose shoppers may come over IPv6.

Its page asks the beacon, a host with A records only, for a token with the shopper's
IPv4 address. Here both are on this machine: the shop at ::1, the beacon at 127.0.0.1.

Set:  BUTTER_USERNAME, BUTTER_PASSWORD, BUTTER_ENVIRONMENT=staging,
      and BUTTER_BEACON_KEYS to what this prints:
      python -c 'import secrets; print(secrets.token_urlsafe(32))'
Run:  uvicorn ipv6_beacon:app --host ::1 --no-proxy-headers
      uvicorn ipv6_beacon:beacon --host 127.0.0.1 --port 8001 --no-proxy-headers
Open: http://[::1]:8000/cart/7
"""

import os

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, EmailStr

from butter_middleware import (
    Beacon,
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
    extract,
)

SHOP = os.environ.get("SHOP_ORIGIN", "http://[::1]:8000")
BEACON = os.environ.get(
    "BEACON_URL", "http://127.0.0.1:8001/"
)  # in production https://v4.shop.example/

butter = Butter(
    client_ip=client_ip.direct(),
    ipv4_beacon=Beacon(origins=[SHOP], bind="path:cart_id"),
    routes=[
        CheckoutRoute(
            "/checkout/{cart_id}",
            psp="stripe",
            extract=extract.json(invoice_id="invoice"),
        )
    ],
)
beacon = (
    butter.ipv4_beacon
)  # here in its own process. Within one app: app.host("v4.shop.example", beacon)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    email: EmailStr


PAGE = """<!doctype html><title>Cart CART</title><button>Pay</button><output></output>
<script>
const butterToken = (cart) =>
  fetch("BEACON", {
    method: "POST", body: cart, signal: AbortSignal.timeout(1000),
  })
    .then((answer) => answer.json())
    .then(({token = ""}) => token)
    .catch(() => "")  // a shopper without IPv4, or no beacon: the checkout goes on

document.querySelector("button").onclick = async () => {
  const answer = await fetch("/checkout/CART", {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "X-Butter-Token": await butterToken("CART"),
    },
    body: JSON.stringify({email: "shopper@example.com"}),
  })
  document.querySelector("output").textContent = (await answer.json()).status
}
</script>"""


@app.get("/cart/{cart_id:int}", response_class=HTMLResponse)
def cart(cart_id: int) -> str:
    """Show the checkout page."""
    return PAGE.replace("CART", str(cart_id)).replace("BEACON", BEACON)


@app.post("/checkout/{cart_id}")
def checkout(cart_id: str, order: Order, request: Request) -> dict[str, str]:
    """Charge the cart."""
    annotate(request, customer_email=order.email)
    return {"status": "paid", "invoice": f"in_{cart_id}"}
