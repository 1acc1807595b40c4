"""Extractors: from a checkout's response to the fields of its record."""

from butter_middleware.extract.explanation import Attempt, Explanation, Field, Outcome, explain
from butter_middleware.extract.expressions import json
from butter_middleware.extract.models import model
from butter_middleware.extract.tables import adyen, braintree, recharge, recurly, stripe, worldpay

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
