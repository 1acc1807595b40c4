"""Extractors: from a checkout's response to the fields of its record."""

from typing import TYPE_CHECKING

from butter_middleware._utils.lazy import face

if TYPE_CHECKING:
    from butter_middleware.extract.explanation import Attempt, Explanation, Field, Outcome, explain
    from butter_middleware.extract.expressions import json
    from butter_middleware.extract.models import model
    from butter_middleware.extract.tables.adyen import adyen
    from butter_middleware.extract.tables.braintree import braintree
    from butter_middleware.extract.tables.recharge import recharge
    from butter_middleware.extract.tables.recurly import recurly
    from butter_middleware.extract.tables.stripe import stripe
    from butter_middleware.extract.tables.worldpay import worldpay

__all__ = [
    "Attempt",
    "Explanation",
    "Field",
    "Outcome",
    "adyen",
    "braintree",
    "explain",
    "json",
    "model",
    "recharge",
    "recurly",
    "stripe",
    "worldpay",
]

if not TYPE_CHECKING:  # a type checker accepts every name of a module that has __getattr__
    _HOMES = {
        **dict.fromkeys(("Attempt", "Explanation", "Field", "Outcome", "explain"), "explanation"),
        "json": "expressions",
        "model": "models",
        **{psp: f"tables.{psp}" for psp in ("adyen", "braintree", "recharge", "recurly", "stripe", "worldpay")},
    }
    __getattr__, __dir__ = face(globals(), {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
