"""Concurrent checkouts do not mix: a small run of `benchmarks/interleaved.py`."""

import runpy
from pathlib import Path
from typing import Any

import pytest

INTERLEAVED: Any = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/interleaved.py"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_checkouts_at_once_do_not_mix(backend: str) -> None:
    """Annotated, in one body or streamed: each record has its own checkout's data, once."""
    assert INTERLEAVED["prove"](backend, 300, 100) == (0, 0, 0)
