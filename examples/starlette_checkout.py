"""A Starlette shop with a hosted payment page.

The shopper comes back to an HTML page, so everything is annotated.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn starlette_checkout:app
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
)

butter = Butter(
    client_ip=client_ip.heroku(),
    routes=[CheckoutRoute("/thanks/{order:int}", psp="adyen", methods=["GET"])],
)


async def thanks(request: Request) -> HTMLResponse:
    """Confirm the order. A reload of this page gives the same record, sent once."""
    order = request.path_params["order"]
    annotate(
        request, customer_email="shopper@example.com", transaction_id=f"PSP{order}"
    )
    return HTMLResponse(f"<h1>Thank you for order {order}</h1>")


app = Starlette(
    routes=[Route("/thanks/{order:int}", thanks)],
    middleware=[Middleware(ButterMiddleware, butter=butter)],
)
