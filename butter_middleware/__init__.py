"""ASGI middleware that tells Butter who paid, and from which IPv4 address, without touching the checkout."""

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
