"""Extractors: from a checkout's response to the fields of its record."""

from butter_middleware.extract.expressions import json
from butter_middleware.extract.models import model

__all__ = ["json", "model"]
