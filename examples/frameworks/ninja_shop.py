"""A shop on Django Ninja.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn ninja_shop:app
"""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])

from ninja import NinjaAPI

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
api = NinjaAPI()


@api.post("/checkout/{cart}")
async def checkout(request: ASGIRequest, cart: str) -> dict[str, str]:
    annotate(request, customer_email="shopper@example.com")
    return {"invoice": f"in_{cart}"}


urlpatterns = [path("", api.urls)]
app = ButterMiddleware(get_asgi_application(), butter)
