"""A shop on Django REST framework.

Run it: BUTTER_USERNAME=... BUTTER_PASSWORD=... uvicorn rest_framework_shop:app
"""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
)
django.setup()

from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

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


@api_view(["POST"])
def checkout(request: Request, cart: str) -> Response:
    annotate(request, customer_email="shopper@example.com")
    return Response({"invoice": f"in_{cart}"})


urlpatterns = [path("checkout/<str:cart>", checkout)]
app = ButterMiddleware(get_asgi_application(), butter)
