"""A shop on FastAPI.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn fastapi_shop:app
"""

from fastapi import FastAPI, Request

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
app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)


@app.post("/checkout/{cart}")
def checkout(cart: str, request: Request) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}
