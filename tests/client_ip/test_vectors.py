"""The cases that this package shares with its sister implementations, if they are beside the repository."""

import json
from pathlib import Path
from typing import Any

import pytest

from butter_middleware import client_ip

FILE = Path(__file__).parents[3] / "shared" / "client_ip_vectors.json"
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else []


def strategy_of(kind: str, params: dict[str, Any]) -> client_ip.Strategy:
    networks, header = params.get("trusted_cidrs"), params.get("header", "X-Forwarded-For")
    match kind:
        case "peer":
            return client_ip.Peer()
        case "rightmost_untrusted":
            return client_ip.RightmostUntrusted(params["trusted_cidrs"], header)
        case "trusted_hops":
            return client_ip.TrustedHops(params["hops"], header, networks)
        case "header":
            return client_ip.SingleHeader(header, networks)
        case "forwarded_rightmost_untrusted":
            return client_ip.Forwarded(networks)
        case _:
            raise AssertionError(kind)


@pytest.mark.skipif(not VECTORS, reason="the shared cases are not beside this repository")
@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS])
def test_a_shared_case(vector: dict[str, Any]) -> None:
    """All implementations return the same address for a shared case, or none."""
    strategy = strategy_of(vector["strategy"]["kind"], vector["strategy"]["params"])
    scope = {
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in vector["headers"]],
        "client": None if vector["peer"] is None else (vector["peer"], 40000),
    }
    result = strategy.resolve(scope)
    assert result.ipv4 == vector["expected"], vector["note"]
    assert (result.reason is client_ip.Reason.OK) is (result.ipv4 is not None)
