"""Each preset against spoofed headers: a small run of `benchmarks/spoofing.py`, and a check that it finds mistakes."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from butter_middleware import client_ip

SPOOFING: Any = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/spoofing.py"))
PLATFORMS: list[Any] = list(SPOOFING["platforms"]())


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_no_address_is_wrong_or_missing(platform: Any) -> None:
    """The address is the shopper's, whatever headers the shopper sends."""
    assert SPOOFING["judge"](platform, 200, seed=7) == (0, 0)


def test_each_preset_is_attacked() -> None:
    """A new preset needs a model of its platform."""
    presets = {name for name in client_ip.__all__ if name.islower()} - {"explain"}
    assert presets <= {platform.name.partition("(")[0] for platform in PLATFORMS}


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("aws_alb()", client_ip.TrustedHops(2)),  # one proxy too many is counted
        ("nginx([VPC])", client_ip.SingleHeader("X-Real-IP")),  # a header that this platform passes on
        ("Forwarded(hops=2)", client_ip.TrustedHops(2)),
        ("cloudflare()", client_ip.SingleHeader("True-Client-IP")),
    ],
)
def test_a_wrong_strategy_is_noticed(name: str, strategy: client_ip.Strategy) -> None:
    """A strategy that reads the shopper's own header finds wrong addresses, and misses some."""
    (platform,) = (each for each in PLATFORMS if each.name == name)
    wrong, missing = SPOOFING["judge"](replace(platform, strategy=strategy), 2000, seed=7)
    assert wrong > 0
    assert missing > 0
