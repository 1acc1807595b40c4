"""ASGI middleware that tells Butter who paid, and from which IPv4 address, without touching the checkout."""

from typing import TYPE_CHECKING

from butter_middleware._lazy import face

if TYPE_CHECKING:
    from butter_middleware import client_ip, extract
    from butter_middleware.beacon import Beacon
    from butter_middleware.butter import Butter
    from butter_middleware.checkout import Checkout, CheckoutFields, Record
    from butter_middleware.delivery import Delivery
    from butter_middleware.errors import ButterError, ConfigurationError, ExtractionError
    from butter_middleware.exchange import CheckoutRequest, CheckoutResponse
    from butter_middleware.middleware import ButterMiddleware
    from butter_middleware.notes import CheckoutNote, annotate
    from butter_middleware.outbox import MemoryOutbox, Outbox, Settled, Settlement, SQLiteOutbox
    from butter_middleware.routes import CheckoutRoute
    from butter_middleware.status import Status

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

if not TYPE_CHECKING:  # to a checker, a module with __getattr__ has every name there could be
    _HOMES = {
        "Beacon": "beacon",
        "Butter": "butter",
        "ButterError": "errors",
        "ButterMiddleware": "middleware",
        "Checkout": "checkout",
        "CheckoutFields": "checkout",
        "CheckoutNote": "notes",
        "CheckoutRequest": "exchange",
        "CheckoutResponse": "exchange",
        "CheckoutRoute": "routes",
        "ConfigurationError": "errors",
        "Delivery": "delivery",
        "ExtractionError": "errors",
        "MemoryOutbox": "outbox",
        "Outbox": "outbox",
        "Record": "checkout",
        "SQLiteOutbox": "outbox",
        "Settled": "outbox",
        "Settlement": "outbox",
        "Status": "status",
        "annotate": "notes",
        "client_ip": "client_ip",
        "extract": "extract",
    }
    __getattr__, __dir__ = face(globals(), _HOMES)
