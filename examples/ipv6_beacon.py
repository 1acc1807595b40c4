"""A shop whose shoppers may come over IPv6: its page asks a host with A records only for a token of the IPv4 address.

Make a key: python -c 'import secrets; print(secrets.token_urlsafe(32))'
Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... BUTTER_ENVIRONMENT=staging BUTTER_BEACON_KEYS=... python ipv6_beacon.py
Open http://[::1]:8000/cart/7: this machine stands for both hosts, ::1 for the shop's, 127.0.0.1 for the beacon's.
"""

import asyncio
import os

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, EmailStr

from butter_middleware import Beacon, Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

SHOP = os.environ.get("SHOP_ORIGIN", "http://[::1]:8000")
BEACON = os.environ.get("BEACON_URL", "http://127.0.0.1:8001/")  # in production https://v4.shop.example/

butter = Butter(
    client_ip=client_ip.direct(),
    ipv4_beacon=Beacon(origins=[SHOP], bind="path:cart_id"),
    routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)
beacon = butter.ipv4_beacon  # on a port of its own here; within one app: app.host("v4.shop.example", beacon)

app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


class Order(BaseModel):
    """What the shopper sends."""

    email: EmailStr


PAGE = """<!doctype html><title>Cart CART</title><button>Pay</button><output></output>
<script>
const butterToken = (cart) =>
  fetch("BEACON", {method: "POST", body: cart, signal: AbortSignal.timeout(1000)})
    .then((answer) => answer.json())
    .then(({token = ""}) => token)
    .catch(() => "")  // a shopper without IPv4, or no beacon: the checkout goes on

document.querySelector("button").onclick = async () => {
  const answer = await fetch("/checkout/CART", {
    method: "POST",
    headers: {"Content-Type": "application/json", "X-Butter-Token": await butterToken("CART")},
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


async def serve() -> None:
    """Serve the shop over IPv6 and the beacon over IPv4."""
    shop = uvicorn.Config(app, host="::1", port=8000, proxy_headers=False)
    v4 = uvicorn.Config(beacon, host="127.0.0.1", port=8001, proxy_headers=False)
    await asyncio.gather(uvicorn.Server(shop).serve(), uvicorn.Server(v4).serve())


if __name__ == "__main__":
    asyncio.run(serve())
