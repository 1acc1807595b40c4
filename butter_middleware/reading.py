"""From a capture to its records: the address, the extractor, the merge, the check."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, cast

from pydantic import ValidationError

from butter_middleware.beacon import Redeemer
from butter_middleware.checkout import EVIDENCE_IDS, Checkout, Record
from butter_middleware.client_ip import ClientIP, Reason, Strategy
from butter_middleware.counters import Skip
from butter_middleware.errors import ExtractionError
from butter_middleware.exchange import Capture, view
from butter_middleware.outbox.protocol import Parked, ParkReason
from butter_middleware.routes import CheckoutRoute, RouteTable

_NAME: Final = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a capture holds: records, or why there are none. Records beside `parked` are good ones of several."""

    records: tuple[Record, ...] = ()
    parked: Parked | None = None
    skipped: str | None = None
    """A `Skip`, or `no_address:<reason>`."""
    remedy: str = ""
    """For a person, where something can be done about `skipped`."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads captures as the routes say. Pure but for the merchant's own extractors; it never raises."""

    routes: RouteTable
    strategy: Strategy
    max_body_bytes: int
    optional_fields: frozenset[str]
    """Those of `user_agent` and `network_transaction_id` that the merchant's account accepts."""
    observe: Callable[[Capture, ClientIP], None]
    """Sees each address as it was resolved."""
    redeemer: Redeemer | None = None
    """Takes the tokens of shoppers on IPv6, where there is a beacon."""

    def read(self, capture: Capture) -> Reading:
        """Read one capture."""
        route = self.routes.find(capture.method, capture.path)
        if route is None:
            return Reading(parked=Parked(ParkReason.NO_ROUTE, "no route matches this request any more. Add it again."))
        address = self._resolve(route, capture)
        if address.ipv4 is None:
            return _without_address(route, address)
        try:
            extracted = self._extract(route, capture, address.ipv4)
        except ExtractionError as error:
            return Reading(parked=Parked(ParkReason.UNREADABLE, f"{route}: {error}"))
        except Exception as error:  # noqa: BLE001 - the merchant's function may raise anything
            return Reading(parked=Parked(ParkReason.EXTRACTOR_ERROR, _describe(route, error)))
        if isinstance(extracted, Skip):
            return Reading(skipped=extracted)
        reading = self._merge(route, capture, address.ipv4, extracted)
        return self._once(route, capture, address, reading)

    def _resolve(self, route: CheckoutRoute, capture: Capture) -> ClientIP:
        address = self.strategy.resolve(capture.scope)
        self.observe(capture, address)
        return address if self.redeemer is None else self.redeemer.resolve(address, capture, route)

    def _once(self, route: CheckoutRoute, capture: Capture, address: ClientIP, reading: Reading) -> Reading:
        # Only a token gives an IPv4 address beside the shopper's IPv6.
        by_token = self.redeemer if address.ipv6 is not None else None
        if by_token is None or not by_token.replayed(capture, route, reading.records):
            return reading
        return _without_address(route, replace(address, ipv4=None, reason=Reason.TOKEN_REPLAYED))

    def _extract(self, route: CheckoutRoute, capture: Capture, ipv4_address: str) -> list[Mapping[str, Any]] | Skip:
        response = view(capture, route.template.params(capture.path), ipv4_address, self.max_body_bytes)
        if route.when is not None and not route.when(response):
            return Skip.GATED
        if route.extract is None:
            return [{}] if capture.annotations else Skip.NOT_ANNOTATED
        extracted = route.extract(response)
        results = [] if extracted is None else list(_each(extracted))
        return results or Skip.NOT_A_CHECKOUT

    def _merge(
        self, route: CheckoutRoute, capture: Capture, ipv4_address: str, extracted: list[Mapping[str, Any]]
    ) -> Reading:
        agent = dict(capture.headers).get(b"user-agent", b"").decode("latin-1")
        records: list[Record] = []
        parked: Parked | None = None
        for result in extracted:
            fields = (
                {"psp": route.psp, "user_agent": agent}
                | _given(capture.annotations)
                | _given(result)
                # Never from a body: whoever writes the body would choose the evidence.
                | {"ipv4_address": ipv4_address}
            )
            for name in ("user_agent", "network_transaction_id"):
                if name not in self.optional_fields:
                    fields.pop(name, None)
            try:
                records.append(Record.of(Checkout.model_validate(fields), capture.captured_at))
            except ValidationError as error:
                parked = _invalid(route, fields, error)
        return Reading(tuple(records), parked)


def _each(extracted: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(extracted, Checkout):
        yield extracted.payload()
    elif isinstance(extracted, Mapping):
        yield cast("Mapping[str, Any]", extracted)
    elif isinstance(extracted, Iterable) and not isinstance(extracted, str | bytes):
        for item in cast("Iterable[object]", extracted):
            if item is not None:
                yield from _each(item)
    else:
        msg = (
            f"the extractor returned {type(extracted).__name__}: return a mapping, a Checkout, several of them, or None"
        )
        raise ExtractionError(msg)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _without_address(route: CheckoutRoute, address: ClientIP) -> Reading:
    remedy = f"{route}: no address ({address.reason.value}). {address.reason.remedy}"
    if address.reason.mendable:
        return Reading(parked=Parked(ParkReason.NO_ADDRESS, remedy))
    return Reading(skipped=f"no_address:{address.reason.value}", remedy=remedy)


def _invalid(route: CheckoutRoute, fields: Mapping[str, Any], error: ValidationError) -> Parked:
    if not any(name in fields for name in EVIDENCE_IDS):
        detail = (
            f"no ID for {route}: neither the extractor nor annotate() gave one of {', '.join(EVIDENCE_IDS[:4])}. "
            "Mend the expressions; where this response is no paid checkout, say so with when=."
        )
        return Parked(ParkReason.INVALID, detail)
    wrong = {_place(e["loc"]): e["type"] for e in error.errors(include_url=False, include_input=False)}
    if wrong == {"customer_email": "missing"}:
        detail = (
            f"no customer e-mail for {route}: the extractor gave none and nothing was annotated. "
            "Call annotate(request, customer_email=...) in the endpoint."
        )
        return Parked(ParkReason.NO_EMAIL, detail)
    places = ", ".join(f"{place} ({kind})" for place, kind in sorted(wrong.items()))
    return Parked(ParkReason.INVALID, f"the record of {route} is not what Butter accepts: {places}")


def _place(location: tuple[int | str, ...]) -> str:
    """Name the field; a name that does not look like one could be anything, personal data included."""
    name = str(location[0]) if location else "record"
    return name if _NAME.fullmatch(name) else "a field"


def _describe(route: CheckoutRoute, error: Exception) -> str:
    """Say where the extractor failed. The error's own text may quote what it read, so it is left out."""
    frames = extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"the extractor of {route} raised {type(error).__name__}{where}. Mend it: the capture is read again at the "
        "next start where the outbox is durable."
    )
