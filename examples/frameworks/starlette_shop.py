"""A shop on Starlette.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn starlette_shop:app
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

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


async def checkout(request: Request) -> JSONResponse:
    annotate(request, customer_email="shopper@example.com")
    return JSONResponse({"invoice": f"in_{request.path_params['cart']}"})


app = Starlette(
    routes=[Route("/checkout/{cart}", checkout, methods=["POST"])],
    middleware=[Middleware(ButterMiddleware, butter=butter)],
)
