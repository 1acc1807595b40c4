"""A shop on AWS Lambda, behind API Gateway or at a function URL.

The handler is lambda_function.handler.
"""

from fastapi import FastAPI, Request
from mangum import Mangum

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    annotate,
    client_ip,
    extract,
)

butter = Butter(
    client_ip=client_ip.api_gateway(),
    delivery="inline",
    routes=[
        CheckoutRoute(
            "/checkout/{cart}", psp="stripe", extract=extract.json(invoice_id="invoice")
        )
    ],
)
app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.post("/checkout/{cart}")
def checkout(cart: str, request: Request) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}


handler = Mangum(app)
