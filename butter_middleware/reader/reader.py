"""Makes a capture's records: the address, the extractor, the merge, the check."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import isawaitable
from itertools import islice
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.client_ip import ClientIP, Reason, Strategy
from butter_middleware.client_ip.address import Networks, in_body
from butter_middleware.errors import ExtractionError
from butter_middleware.ipv6.beacon import Beacon
from butter_middleware.models.checkout import Checkout, Record, as_text, given, sources_text
from butter_middleware.models.http import Capture, CheckoutResponse, view
from butter_middleware.models.partial import SOURCE, Part
from butter_middleware.models.payments import Payments
from butter_middleware.models.reasons import ParkReason, Skip
from butter_middleware.outbox.base import Parked
from butter_middleware.reader.evidence import weakness
from butter_middleware.reader.messages import (
    broken_extractor,
    invalid,
    listed,
    misrecorded,
    unreadable,
    unrecognised,
    wrong_fields,
)
from butter_middleware.reader.provenance import origins

MOST_RECORDS: Final = 1000
"""A response with more is parked: an infinite iterator would take all of the process's memory."""

MOST_UNRECOGNISED: Final = 100
"""The most unrecognised bodies of a route that a process keeps because they may be paid."""


class _Unrouted(CheckoutRoute):
    def __str__(self) -> str:
        return "a request that no checkout route matches"


_UNROUTED: Final = _Unrouted("/{path:path}", psp="stripe")
"""The route of a recorded request that matches no route. Its PSP is ignored: the fields contain the PSP."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result for a capture: records, or why there are none. With `parked`, the records are the valid ones."""

    records: tuple[Record, ...] = ()
    parked: Parked | None = None
    part: Part | None = None
    """Instead of records, if the route has `join`."""
    skipped: str | None = None
    """A `Skip`, or `no_address:<reason>`. With `parked` too, if another configuration could find the address."""
    remedy: str = ""
    """For a person, if something can be done about `skipped`, or about weak records."""
    everyday: bool = False
    """Whether `skipped` is normal, such as a refusal, so that no remedy is necessary."""
    conflicts: tuple[str, ...] = ()
    """The fields for which `annotate` and the extractor gave different values. The extractor's value is used."""
    token: str = field(default="", repr=False)
    """Identifies the IPv4 beacon's token that proved the address. A token is for one checkout."""
    if_replayed: "ReadResult | None" = None
    """Replaces this result if the token has proved another checkout before."""
    error: BaseException | None = field(default=None, repr=False)
    """The exception of the merchant's code, for tests. It may quote the capture, so it is neither logged nor stored."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads captures by their routes. It uses no file, network or clock, but the merchant's functions may."""

    strategy: Strategy
    max_body_bytes: int
    optional_fields: frozenset[str]
    """Which of `user_agent` and `network_transaction_id` the merchant's account accepts."""
    observe: Callable[[Capture, ClientIP], None]
    """Gets each resolved address."""
    admitted: Networks
    """Addresses in bodies that are accepted although they are not public."""
    beacon: Beacon | None = None
    """Checks the tokens of shoppers on IPv6."""
    staging: bool = False
    """Whether objects of a PSP's test mode are evidence."""
    sandbox: bool = False
    """Whether a sandbox gets the source of each field."""
    _unrecognised: Counter[str] = field(default_factory=Counter[str], init=False, repr=False)
    """How many unrecognised bodies were kept, by route."""

    def read(self, capture: Capture, route: CheckoutRoute | None) -> ReadResult:
        """Read one capture by the route that its request matches, if any. Raises no `Exception`."""
        try:
            return self._read(capture, route)
        except Exception as error:  # noqa: BLE001 - strategies may be the merchant's, and so may what extractors return
            return ReadResult(parked=unreadable(error), error=error)

    def _read(self, capture: Capture, route: CheckoutRoute | None) -> ReadResult:
        if route is None and capture.recorded:
            route = _UNROUTED
        if route is None:
            return ReadResult(
                parked=Parked(ParkReason.NO_ROUTE, "no route matches this request any more. Add it again.")
            )
        address = self._resolve(route, capture) if route.from_shopper else None
        ipv4 = "" if address is None else address.ipv4 or ""
        params, of_request = route.template.params(capture.path), route.source == "request"
        response = view(capture, params, ipv4, self.max_body_bytes, of_request=of_request)
        found = self._found(route, response, recorded=capture.recorded)
        if isinstance(found, ReadResult) and found.skipped is not None:
            return found
        # First, because a response that is not a checkout needs no address, and must not be parked without one.
        if address is not None and address.ipv4 is None:
            return _without_address(route, address.reason, address.remedy)
        if isinstance(found, ReadResult):
            return found
        key, extracted = found
        if key:
            reading = self._part(route, capture, response, Part.key_of(route.psp, key), extracted)
        else:
            reading = self._merge(route, capture, response, extracted)
        if reading.records and not reading.remedy:
            weak = weakness(route, response, reading.records, recorded=capture.recorded)
            reading = replace(reading, remedy=weak) if weak else reading
        # Only a token gives an IPv4 address in addition to the shopper's IPv6 address.
        if self.beacon is None or address is None or address.ipv6 is None:
            return reading
        token, replayed = self.beacon.digest_of(capture, route), _without_address(route, Reason.TOKEN_REPLAYED)
        return replace(reading, token=token, if_replayed=replayed)

    def _found(
        self, route: CheckoutRoute, response: CheckoutResponse, *, recorded: bool
    ) -> tuple[str, list[Mapping[str, Any]]] | ReadResult:
        """Return the key of the parts (empty for a whole checkout) and the fields, or why it is not a checkout."""
        if recorded:
            return "", [{}]
        try:
            if route.when is not None and not _verdict(route.when(response)):
                return ReadResult(skipped=Skip.GATED)
            key = "" if route.key_of is None else as_text(route.key_of(response))
            if key is None:
                return ReadResult(skipped=Skip.NOT_A_CHECKOUT)
            extracted = self._extract(route, response)
            found = extracted if isinstance(extracted, ReadResult) else (key, extracted)
        except ExtractionError as error:
            return ReadResult(parked=Parked(ParkReason.UNREADABLE, f"{route}: {error}"), error=error)
        except Exception as error:  # noqa: BLE001 - the merchant's function may raise anything
            return ReadResult(parked=Parked(ParkReason.EXTRACTOR_ERROR, broken_extractor(route, error)), error=error)
        return found

    def _resolve(self, route: CheckoutRoute, capture: Capture) -> ClientIP:
        address = self.strategy.resolve(capture.scope)
        self.observe(capture, address)
        return address if self.beacon is None else self.beacon.resolve(address, capture, route)

    def _extract(self, route: CheckoutRoute, response: CheckoutResponse) -> list[Mapping[str, Any]] | ReadResult:
        if route.extract is None:
            return [{}] if response.request.annotations or route.begins else ReadResult(skipped=Skip.NOT_ANNOTATED)
        extracted = route.extract(response)
        if isinstance(extracted, Payments):
            if route.begins and not extracted:
                return [{}]  # the shopper has not paid yet
            judged = self._judge(route, extracted)
            if judged is not None:
                return judged
            extracted = extracted.with_addresses()
        results = [] if extracted is None else list(islice(_each(extracted), MOST_RECORDS + 1))
        if len(results) > MOST_RECORDS:
            msg = f"the extractor gives more than {MOST_RECORDS} records for one response. Let it end."
            raise ExtractionError(msg)
        return results or ReadResult(skipped=Skip.NOT_A_CHECKOUT)

    def _judge(self, route: CheckoutRoute, payments: Payments) -> ReadResult | None:
        if not payments.fields:
            if payments.looks_paid:
                self._unrecognised[route.name] += 1
                if self._unrecognised[route.name] <= MOST_UNRECOGNISED:
                    return ReadResult(parked=unrecognised(route, payments.remedy))
            remedy = payments.remedy and f"{route}: {payments.remedy}"
            return ReadResult(skipped=payments.skip, remedy=remedy, everyday=payments.everyday)
        if payments.test_mode and not self.staging:
            remedy = (
                f"{route}: a payment of the PSP's test mode, which is not evidence in production. Use the PSP's live "
                "keys here, or Butter(environment='staging')."
            )
            return ReadResult(skipped=Skip.TEST_MODE, remedy=remedy)
        return None

    def _merge(
        self,
        route: CheckoutRoute,
        capture: Capture,
        response: CheckoutResponse,
        extracted: list[Mapping[str, Any]],
    ) -> ReadResult:
        records: list[Record] = []
        unlocated: ReadResult | None = None
        parked: Parked | None = None
        for result in extracted:
            # From a body only if the route allows it: otherwise the author of the body would choose the evidence.
            ipv4: str | Reason = response.request.ipv4_address
            if route.address_from_body:
                ipv4 = in_body(result.get("ipv4_address"), self.admitted)
            if isinstance(ipv4, Reason):
                unlocated = _without_address(route, ipv4)
                continue
            fields = self._fields(route, capture, result, ipv4)
            sources = ""
            if self.sandbox:
                told = origins(route, capture, response, result, fields, self.strategy)
                sources = sources_text(str(route), told)
            try:
                checkout = Checkout.model_validate(fields)
                records.append(Record.of(checkout, capture.captured_at, capture.traceparent, sources))
            except ValidationError as error:
                parked = (
                    misrecorded(route, fields, error) if capture.recorded else invalid(route, response, fields, error)
                )
        conflicts = tuple(sorted({name for result in extracted for name in _conflicts(capture.annotations, result)}))
        if parked is None and unlocated is not None:
            return replace(unlocated, records=tuple(records), conflicts=conflicts)
        return ReadResult(tuple(records), parked, conflicts=conflicts)

    def _part(
        self,
        route: CheckoutRoute,
        capture: Capture,
        response: CheckoutResponse,
        key: str,
        extracted: list[Mapping[str, Any]],
    ) -> ReadResult:
        if len(extracted) > 1:
            detail = (
                f"{route}: the extractor gave {len(extracted)} records for one join key. Return only the one that it "
                "names."
            )
            return ReadResult(parked=Parked(ParkReason.INVALID, detail))
        fields = self._fields(route, capture, extracted[0], response.request.ipv4_address)
        try:
            Checkout.model_validate(fields)
        except ValidationError as error:
            # A part may lack fields, because only both parts together must be complete. But its values must be valid.
            wrong = {name: kind for name, kind in wrong_fields(error).items() if kind not in {"missing", "no_ids"}}
            if wrong:
                detail = f"the part of {route} is not what Butter accepts: {listed(wrong)}"
                return ReadResult(parked=Parked(ParkReason.INVALID, detail))
        if self.sandbox:
            told = {"": str(route)} | origins(route, capture, response, extracted[0], fields, self.strategy)
            fields |= {f"{SOURCE}{name}": source for name, source in told.items()}
        part = Part(key, route.address, fields, capture.captured_at, capture.traceparent)
        return ReadResult(part=part, conflicts=tuple(sorted(_conflicts(capture.annotations, extracted[0]))))

    def _fields(self, route: CheckoutRoute, capture: Capture, result: Mapping[str, Any], ipv4: str) -> dict[str, Any]:
        # A server's User-Agent is not the shopper's.
        agent = dict(capture.headers).get(b"user-agent", b"") if route.from_shopper else b""
        fields = (
            given(
                {
                    "psp": None if route is _UNROUTED else route.psp,
                    "user_agent": agent.decode("latin-1").replace("\0", ""),
                }
            )
            | given(capture.annotations)
            | given(result)
            | {"ipv4_address": ipv4}
        )
        if not route.address:
            del fields["ipv4_address"]
        for name in ("user_agent", "network_transaction_id"):
            if name not in self.optional_fields:
                fields.pop(name, None)
        return fields


def _each(extracted: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(extracted, Checkout):
        yield extracted.payload()
    elif isinstance(extracted, Mapping):
        yield cast("Mapping[str, Any]", extracted)
    elif isinstance(extracted, Iterable) and not isinstance(extracted, str | bytes | BaseModel):
        for item in cast("Iterable[object]", extracted):
            if item is not None:
                yield from _each(item)
    else:
        msg = (
            f"the extractor returned {type(extracted).__name__}: return a mapping, a Checkout, several of them, or None"
        )
        raise ExtractionError(msg)


def _verdict(answer: object) -> bool:
    if isawaitable(answer):
        msg = "when= returned an awaitable: make it a plain function"
        raise ExtractionError(msg)
    return bool(answer)


def _conflicts(annotations: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    found = given(result) if annotations else {}
    for name, value in given(annotations).items():
        if name in found and str(value).strip() != str(found[name]).strip():
            yield name


def _without_address(route: CheckoutRoute, reason: Reason, remedy: str = "") -> ReadResult:
    remedy = f"{route}: no address ({reason.value}). {remedy or reason.remedy}"
    parked = Parked(ParkReason.NO_ADDRESS, remedy) if reason.mendable else None
    return ReadResult(parked=parked, skipped=f"no_address:{reason.value}", remedy=remedy)
