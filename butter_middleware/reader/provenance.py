"""Where each field of a record came from: told to a sandbox on this machine, and to nobody else. No value is in it."""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any, Final, TypeVar

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip import Forwarded, Strategy
from butter_middleware.client_ip.headers import peer_of
from butter_middleware.extract.explanation import told
from butter_middleware.models.http import Capture, CheckoutResponse
from butter_middleware.models.partial import Part, joined

T = TypeVar("T")

REMEMBERED: Final = 10_000
LONGEST: Final = 200
"""Characters of one source: an expression may be of any length, and a header may not."""

Origins = Mapping[str, str]
"""A record's fields, each with what gave it."""
_UNKNOWN: Final[tuple[None, Origins]] = (None, {})


class Sources:
    """What is told beside each record, by the record's key. In memory only; beyond `REMEMBERED` the oldest go.

    The reader's thread notes it before the outbox has the record, and the sender's asks for it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._parts: OrderedDict[tuple[str, bool], tuple[Part, Origins]] = OrderedDict()

    def note(self, key: str, route: str, origins: Origins) -> None:
        """Remember what gave the fields of a record that came by `route`."""
        fields = {name: origin[:LONGEST] for name, origin in origins.items()}
        with self._lock:
            _remember(self._texts, key, json.dumps({"route": route[:LONGEST], "fields": fields}))

    def note_part(self, part: Part, route: str, origins: Origins) -> None:
        """Remember it for a part of a checkout, and for the record where this part completes it."""
        with self._lock:
            earlier, known = self._parts.get((part.key, part.shopper), _UNKNOWN)
            part = part.after(earlier)
            _remember(self._parts, (part.key, part.shopper), (part, {**known, **origins}))
            shopper, began = self._parts.get((part.key, True), _UNKNOWN)
            payment, paid = self._parts.get((part.key, False), _UNKNOWN)
        if (record := joined(shopper, payment)) is not None:
            # As `joined` has it: what the shopper's request alone can know, it gives.
            own = {name: origin for name, origin in began.items() if name in {"ipv4_address", "user_agent"}}
            self.note(record.key, route, {**began, **paid, **own})

    def text(self, key: str) -> str | None:
        """Return the header's value for a record, JSON in ASCII; None where nothing is known."""
        with self._lock:
            return self._texts.get(key)


def _remember(memory: OrderedDict[Any, T], key: object, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def origins(
    route: CheckoutRoute,
    capture: Capture,
    response: CheckoutResponse,
    result: Mapping[str, Any],
    fields: Mapping[str, Any],
    strategy: Strategy,
) -> dict[str, str]:
    """Say for each of a record's `fields` what gave it; `result` is what the extractor did. Never raises."""
    gave, noted = _set(result), _set(capture.annotations)
    expressions = dict(_expressions(route, response)) if gave else {}
    extractor = expressions.get("", "")
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


def _set(fields: Mapping[str, Any]) -> set[str]:
    return {name for name, value in fields.items() if value is not None and value != ""}


def _expressions(route: CheckoutRoute, response: CheckoutResponse) -> Iterator[tuple[str, str]]:
    """Give the fields with the expressions that gave them, and the extractor's name as that of the field ""."""
    explanation = told(response, route.extract)
    yield "", explanation.extractor.removesuffix("()") + "()" if explanation.extractor else ""
    for field in explanation.fields:
        if field.given_by is not None:
            yield field.name, field.given_by


def _address(capture: Capture, response: CheckoutResponse, strategy: Strategy) -> str:
    how = f"client_ip.{type(strategy).__name__}"
    header = "Forwarded" if isinstance(strategy, Forwarded) else getattr(strategy, "header", "")
    header = str(header or getattr(strategy, "name", ""))
    if any(name.decode("latin-1").lower() == header.lower() for name, _value in capture.headers):
        return f"{how}: {header}"
    peer = peer_of(capture.scope).client
    seen = peer is not None and peer[0] == response.request.ipv4_address
    return f"{how}: the TCP peer" if seen else f"{how}, or the IPv6 beacon's token"
