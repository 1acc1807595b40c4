"""A shop on BlackSheep.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn blacksheep_shop:app
"""

from blacksheep import Application, Request, post

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


@post("/checkout/{cart}")
async def checkout(cart: str, request: Request) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}


app = ButterMiddleware(Application(), butter)
