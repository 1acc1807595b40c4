"""A shop on Falcon.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn falcon_shop:app
"""

from falcon.asgi import App, Request, Response

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


class Checkout:
    async def on_post(self, req: Request, resp: Response, cart: str) -> None:
        annotate(req, customer_email="shopper@example.com")
        resp.media = {"invoice": f"in_{cart}"}


api = App()
api.add_route("/checkout/{cart}", Checkout())
app = ButterMiddleware(api, butter)
