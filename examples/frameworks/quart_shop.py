"""A shop on Quart.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn quart_shop:app
"""

from quart import Quart, request

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
    extract,
)

butter = Butter(
    client_ip=client_ip.nginx(["127.0.0.1"]),
    routes=[
        CheckoutRoute(
            "/checkout/{cart}", psp="stripe", extract=extract.json(invoice_id="invoice")
        )
    ],
)
shop = Quart(__name__)


@shop.post("/checkout/<cart>")
async def checkout(cart: str) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}


app = ButterMiddleware(shop, butter)
