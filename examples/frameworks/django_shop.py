"""A shop on Django.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn django_shop:app
"""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from django.urls import path

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


def checkout(request: ASGIRequest, cart: str) -> JsonResponse:
    annotate(request, customer_email="shopper@example.com")
    return JsonResponse({"invoice": f"in_{cart}"})


urlpatterns = [path("checkout/<str:cart>", checkout)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
app = ButterMiddleware(get_asgi_application(), butter)
