"""The source of each field of a record, without values. Only a sandbox on this machine gets it (`Record.sources`)."""

from collections.abc import Mapping
from typing import Any

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip import Forwarded, Strategy
from butter_middleware.client_ip.headers import peer_of
from butter_middleware.extract.explanation import told
from butter_middleware.models.checkout import given
from butter_middleware.models.http import Capture, CheckoutResponse


def origins(
    route: CheckoutRoute,
    capture: Capture,
    response: CheckoutResponse,
    result: Mapping[str, Any],
    fields: Mapping[str, Any],
    strategy: Strategy,
) -> dict[str, str]:
    """Return the source of each of a record's `fields`. `result` is the extractor's. Never raises."""
    gave, noted = given(result), given(capture.annotations)
    extractor, expressions = "", dict[str, str]()
    if gave:
        explanation = told(response, route.extract)
        if explanation.extractor:
            extractor = explanation.extractor.removesuffix("()") + "()"
        expressions = {field.name: field.given_by for field in explanation.fields if field.given_by is not None}
    annotated = "butter.record()" if capture.recorded else "annotate()"

    def origin(name: str) -> str:
        if name == "ipv4_address" and not route.address_from_body:
            return _address(capture, response, strategy)
        if name in gave:
            return f"{extractor}: {expressions[name]}" if name in expressions else extractor
        if name in noted:
            return annotated
        return "the route's psp=" if name == "psp" else "the request's User-Agent"

    return {name: origin(name) for name in fields}


def _address(capture: Capture, response: CheckoutResponse, strategy: Strategy) -> str:
    how = f"client_ip.{type(strategy).__name__}"
    header = "Forwarded" if isinstance(strategy, Forwarded) else getattr(strategy, "header", "")
    header = str(header or getattr(strategy, "name", ""))
    written = header.lower().encode()
    if any(name.lower() == written for name, _value in capture.headers):
        return f"{how}: {header}"
    peer = peer_of(capture.scope).client
    seen = peer is not None and peer[0] == response.request.ipv4_address
    return f"{how}: the TCP peer" if seen else f"{how}, or the IPv6 beacon's token"
