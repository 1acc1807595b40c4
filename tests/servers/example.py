"""The example that EXAMPLE names, with the outbox on disk that EXAMPLE_OUTBOX names, and time to drain."""

import os
from importlib import import_module
from typing import Any

from butter_middleware import Butter

build = Butter.__init__


def build_patient(butter: Butter, **options: Any) -> None:
    build(butter, **options, outbox=os.environ["EXAMPLE_OUTBOX"], drain_timeout=20)


Butter.__init__ = build_patient  # type: ignore[assignment, method-assign]
app = import_module(os.environ["EXAMPLE"]).app
