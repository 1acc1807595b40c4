"""ASGI middleware that tells Butter who paid, and from which IPv4 address, without touching the checkout."""

from typing import TYPE_CHECKING

from butter_middleware._utils import overrides as _overrides
from butter_middleware._utils.lazy import face

if TYPE_CHECKING:
    from butter_middleware import client_ip, extract
    from butter_middleware.butter import Butter
    from butter_middleware.capture.annotations import CheckoutNote, annotate
    from butter_middleware.capture.middleware import ButterMiddleware
    from butter_middleware.capture.routes import CheckoutRoute
    from butter_middleware.delivery.delivery import Delivery
    from butter_middleware.errors import ButterError, ConfigurationError, ExtractionError
    from butter_middleware.ipv6.beacon import Beacon
    from butter_middleware.models.checkout import Checkout, CheckoutFields, Record
    from butter_middleware.models.http import CheckoutRequest, CheckoutResponse
    from butter_middleware.outbox import MemoryOutbox, Outbox, Settled, Settlement, SQLiteOutbox
    from butter_middleware.pipeline.status import Status

__all__ = [
    "Beacon",
    "Butter",
    "ButterError",
    "ButterMiddleware",
    "Checkout",
    "CheckoutFields",
    "CheckoutNote",
    "CheckoutRequest",
    "CheckoutResponse",
    "CheckoutRoute",
    "ConfigurationError",
    "Delivery",
    "ExtractionError",
    "MemoryOutbox",
    "Outbox",
    "Record",
    "SQLiteOutbox",
    "Settled",
    "Settlement",
    "Status",
    "annotate",
    "client_ip",
    "extract",
]


def _keep_records() -> _overrides.End:
    from butter_middleware.testing import outside_pytest  # noqa: PLC0415 - only while unittest runs

    return outside_pytest.begin()


_overrides.begin_under_unittest(_keep_records)

if not TYPE_CHECKING:  # a type checker accepts every name of a module that has __getattr__
    _HOMES = {
        "Beacon": "butter_middleware.ipv6.beacon",
        "Butter": "butter_middleware.butter",
        "ButterError": "butter_middleware.errors",
        "ButterMiddleware": "butter_middleware.capture.middleware",
        "Checkout": "butter_middleware.models.checkout",
        "CheckoutFields": "butter_middleware.models.checkout",
        "CheckoutNote": "butter_middleware.capture.annotations",
        "CheckoutRequest": "butter_middleware.models.http",
        "CheckoutResponse": "butter_middleware.models.http",
        "CheckoutRoute": "butter_middleware.capture.routes",
        "ConfigurationError": "butter_middleware.errors",
        "Delivery": "butter_middleware.delivery.delivery",
        "ExtractionError": "butter_middleware.errors",
        "MemoryOutbox": "butter_middleware.outbox",
        "Outbox": "butter_middleware.outbox",
        "Record": "butter_middleware.models.checkout",
        "SQLiteOutbox": "butter_middleware.outbox",
        "Settled": "butter_middleware.outbox",
        "Settlement": "butter_middleware.outbox",
        "Status": "butter_middleware.pipeline.status",
        "annotate": "butter_middleware.capture.annotations",
        "client_ip": "butter_middleware.client_ip",
        "extract": "butter_middleware.extract",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
