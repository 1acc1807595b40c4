"""`address_from_body`: the shopper's address is in the body if a server makes the request, and only then."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from hypothesis import given
from hypothesis import strategies as st
from shops import SHOPPER

from butter_middleware import (
    Beacon,
    Butter,
    ButterMiddleware,
    Checkout,
    CheckoutResponse,
    CheckoutRoute,
    ConfigurationError,
    client_ip,
    extract,
)
from butter_middleware.client_ip.address import ANYWHERE, NOWHERE, in_body
from butter_middleware.client_ip.reason import Reason
from butter_middleware.testing import FakeButter

PSPS = "175.16.199.37"
"""The shopper's address at the PSP. The request comes from SHOPPER, or from a server there."""
CHARGE: dict[str, Any] = {
    "charge": {
        "id": 11,
        "status": "success",
        "customer": {"id": 5, "email": "a@example.com"},
        "client_details": {"browser_ip": PSPS},
        "external_transaction_id": {"payment_processor": "pi_1"},
        "line_items": [{"purchase_item_type": "subscription", "purchase_item_id": 77}],
    }
}
PAYMENT: dict[str, Any] = {
    "object": "transaction",
    "id": "tr1",
    "status": "success",
    "type": "purchase",
    "account": {"id": "ac1", "email": "a@example.com"},
    "ip_address_v4": PSPS,
}
PURCHASE: dict[str, Any] = {
    "object": "invoice_collection",
    "charge_invoice": {
        "object": "invoice",
        "id": "in1",
        "state": "paid",
        "account": {"id": "ac1", "email": "a@example.com"},
        "transactions": [
            {"id": "tr0", "status": "declined", "type": "purchase", "ip_address_v4": "9.9.9.9"},
            {"id": "tr1", "status": "success", "type": "purchase", "ip_address_v4": PSPS},
        ],
    },
}
OWN: dict[str, Any] = {"customer_email": "a@example.com", "invoice_id": "in_1"}
EXTRACTORS: list[Any] = [
    pytest.param("recharge", extract.recharge(), CHARGE, id="recharge charge"),
    pytest.param("recurly", extract.recurly(), PAYMENT, id="recurly transaction"),
    pytest.param("recurly", extract.recurly(), PURCHASE, id="recurly purchase"),
    pytest.param("adyen", lambda r: OWN | {"ipv4_address": r.json()["ip"]}, {"ip": PSPS}, id="function"),
    pytest.param(
        "adyen",
        lambda r: Checkout(psp="adyen", ipv4_address=r.json()["ip"], **OWN),
        {"ip": PSPS},
        id="Checkout",
    ),
]


def read(butter: Butter, content: dict[str, Any], **scope: Any) -> None:
    app = ButterMiddleware(sends(start(), body(json.dumps(content).encode())), butter)
    anyio.run(drive, app, http_scope("/pay", **scope))
    assert butter.flush()


@pytest.mark.parametrize(("psp", "extractor", "content"), EXTRACTORS)
@pytest.mark.parametrize(("from_body", "address"), [(True, PSPS), (False, SHOPPER)])
def test_the_address_in_the_body_needs_the_flag(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    psp: Any,
    extractor: Any,
    content: dict[str, Any],
    from_body: bool,  # noqa: FBT001 - parametrized
    address: str,
) -> None:
    """With the flag the body's address counts, without it the request's. The other one is ignored."""
    butter = make_butter(CheckoutRoute("/pay", psp, extractor, address_from_body=from_body))
    read(butter, content)
    assert [record["ipv4_address"] for record in fake.records] == [address]


@pytest.mark.parametrize(("psp", "extractor", "content"), EXTRACTORS)
def test_without_the_flag_it_replaces_no_missing_address(
    make_butter: Callable[..., Butter], fake: FakeButter, psp: Any, extractor: Any, content: dict[str, Any]
) -> None:
    """A shopper on IPv6, or without an address, gets no record with the body's."""
    butter = make_butter(CheckoutRoute("/pay", psp, extractor))
    read(butter, content, headers=[(b"x-forwarded-for", b"2a00:1450:4009:81a::200e")])
    read(butter, content, headers=[])
    assert fake.records == []
    assert butter.status().skipped == {"no_address:ipv6_client": 1, "no_address:header_missing": 1}


def test_expressions_may_have_the_address(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`extract.json` may have the field on such routes. On any other route this is refused."""
    extractor = extract.json(customer_email="email", charge_id="id", ipv4_address="ip || client.ip")
    butter = make_butter(CheckoutRoute("/pay", "adyen", extractor, address_from_body=True))
    read(butter, {"email": "a@example.com", "id": 1, "client": {"ip": f" {PSPS} "}})
    assert [record["ipv4_address"] for record in fake.records] == [PSPS]
    with pytest.raises(ConfigurationError, match="address_from_body=True"):
        CheckoutRoute("/pay", "adyen", extractor)


@pytest.mark.parametrize(
    ("value", "environment", "counted"),
    [
        (None, "production", "no_address:body_missing"),
        ("", "production", "no_address:body_missing"),
        ("shopper", "production", "no_address:body_malformed"),
        (f"{PSPS}:443", "production", "no_address:body_malformed"),
        ("175.016.199.037", "production", "no_address:body_malformed"),
        (2948646693, "production", "no_address:body_malformed"),
        ({"ip": PSPS}, "production", "no_address:body_malformed"),
        ("2a00:1450:4009:81a::200e", "production", "no_address:body_ipv6"),
        ("10.0.0.1", "production", "no_address:body_private"),
        ("240.0.0.1", "production", "no_address:body_private"),
        ("10.0.0.1", "staging", ""),
        (f"::ffff:{PSPS}", "production", ""),
    ],
)
def test_only_a_public_ipv4_address_counts(
    make_butter: Callable[..., Butter], fake: FakeButter, value: object, environment: str, counted: str
) -> None:
    """Any other value makes no record and has a reason. If another extractor could find one, the capture is parked."""
    route = CheckoutRoute("/pay", "adyen", lambda r: OWN | {"ipv4_address": r.json()["ip"]}, address_from_body=True)
    butter = make_butter(route, environment=environment)
    read(butter, {"ip": value})
    assert butter.status().skipped == ({counted: 1} if counted else {})
    assert len(fake.records) == (not counted)
    assert butter.status().parked == (counted in {"no_address:body_missing", "no_address:body_malformed"})


def test_the_remedy_is_logged_without_the_address(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the fix, and no address."""
    route = CheckoutRoute("/pay", "adyen", lambda r: OWN | {"ipv4_address": r.json()["ip"]}, address_from_body=True)
    butter = make_butter(route)
    caplog.clear()
    for _twice in range(2):
        read(butter, {"ip": "10.98.76.54"})
    (line,) = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert line == (
        "butter: POST /pay: no address (body_private). The PSP was told the address of a server or a proxy: "
        "pass it the shopper's own. See docs/errors.md#body-private."
    )


def test_records_with_an_address_are_sent(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Each record has its own address. Those without one are counted."""

    def several(response: CheckoutResponse) -> list[dict[str, Any]]:
        return [OWN | {"invoice_id": number, "ipv4_address": ip} for number, ip in enumerate(response.json()["ips"])]

    butter = make_butter(CheckoutRoute("/pay", "adyen", several, address_from_body=True))
    read(butter, {"ips": [PSPS, "10.0.0.1", SHOPPER]})
    assert {record["invoice_id"]: record["ipv4_address"] for record in fake.records} == {"0": PSPS, "2": SHOPPER}
    assert butter.status().skipped == {"no_address:body_private": 1}


def test_the_caller_is_not_the_shopper(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The user agent and a doubtful address of the calling server do not count, and no token is needed."""
    route = CheckoutRoute("/pay", "recharge", extract.recharge(), address_from_body=True)
    butter = make_butter(
        route,
        send_user_agent=True,
        client_ip=client_ip.TrustedHops(3),
        ipv4_beacon=Beacon(origins=["https://shop.example"], bind="path:cart_id", keys=["k" * 32]),
    )
    read(butter, CHARGE, headers=[(b"user-agent", b"Recharge/1.0")])
    (record,) = fake.records
    assert "user_agent" not in record
    assert butter.status().skipped == {}


def test_a_recorded_request_of_such_a_route_has_no_address(
    make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """`butter.record(request, ...)` never uses the calling server's address as the shopper's."""
    butter = make_butter(CheckoutRoute("/pay", "adyen", address_from_body=True))
    butter.record(http_scope("/pay"), customer_email="a@example.com", charge_id="ch_1")
    untyped: Any = butter.record
    untyped(http_scope("/pay"), customer_email="a@example.com", charge_id="ch_1", ipv4_address=PSPS)
    assert butter.flush()
    assert fake.records == []
    assert butter.status().skipped == {"no_address:body_missing": 2}


def test_a_fixed_extractor_finds_a_parked_address(
    tmp_path: Path, make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """The deploy that names the right field sends the parked record."""

    def serve(field: str) -> Butter:
        extractor = extract.json(customer_email="email", charge_id="id", ipv4_address=field)
        route = CheckoutRoute("/pay", "adyen", extractor, address_from_body=True)
        return make_butter(route, outbox=tmp_path / "butter.db")

    wrong = serve("client_ip")
    read(wrong, {"email": "a@example.com", "id": 1, "ip": PSPS})
    assert wrong.status().parked == 1
    wrong.close()
    fixed = serve("ip")
    read(fixed, {"email": "a@example.com", "id": 2, "ip": SHOPPER})
    assert {record["charge_id"]: record["ipv4_address"] for record in fake.records} == {"1": PSPS, "2": SHOPPER}


@given(st.one_of(st.text(), st.none(), st.integers(), st.ip_addresses().map(str)), st.booleans())
def test_any_value_is_an_address_or_a_reason(value: object, staging: bool) -> None:  # noqa: FBT001 - drawn
    """No value raises, and a record accepts each address."""
    found = in_body(value, ANYWHERE if staging else NOWHERE)
    assert isinstance(found, Reason) or Checkout(psp="adyen", ipv4_address=found, **OWN).ipv4_address == found
