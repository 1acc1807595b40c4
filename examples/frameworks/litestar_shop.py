"""A shop on Litestar.

The middleware is around the app, so it sees the server's start and stop.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn litestar_shop:app
"""

from typing import Any

from litestar import Litestar, Request, post
from litestar.params import FromPath

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


@post("/checkout/{cart:str}", status_code=200)
async def checkout(
    cart: FromPath[str], request: Request[object, object, Any]
) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}


app = ButterMiddleware(Litestar([checkout]), butter)
