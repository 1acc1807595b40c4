"""From a response to its records: what an extractor may do, and what happens to a capture that cannot be read."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import UUID

import anyio
import pytest
from asgi import JSON, body, drive, http_scope, sends, start
from pydantic import AliasChoices, AliasPath, BaseModel, Field
from shops import SHOPPER

from butter_middleware import (
    Beacon,
    Butter,
    ButterMiddleware,
    Checkout,
    CheckoutResponse,
    CheckoutRoute,
    SQLiteOutbox,
    annotate,
    client_ip,
    extract,
)
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.client_ip.address import NOWHERE
from butter_middleware.models.http import Capture
from butter_middleware.reader.reader import Reader
from butter_middleware.testing import FakeButter

Fields = dict[str, Any]
GOOD: Fields = {"customer_email": "a@example.com", "invoice_id": "in_1"}
SECRET = "shopper-secret@example.com"
PAID_INTENT = b'{"object": "payment_intent", "id": "pi_1", "status": "succeeded", "latest_charge": "ch_1"}'


def read(butter: Butter, content: bytes = b"{}", **scope: Any) -> None:
    """Answer one checkout with `content`, and wait for the result."""
    app = ButterMiddleware(sends(start(), body(content)), butter)
    anyio.run(drive, app, http_scope(**scope))
    assert butter.flush()


@pytest.mark.parametrize(
    ("gives", "records"),
    [
        (GOOD, 1),
        (lambda r: Checkout(ipv4_address=r.request.ipv4_address, psp="adyen", **GOOD), 1),
        ([GOOD, GOOD | {"invoice_id": "in_2"}], 2),
        (lambda _r: (GOOD | {"invoice_id": n} for n in range(3)), 3),
        ([GOOD, None], 1),
        (None, 0),
        ([], 0),
    ],
)
def test_what_an_extractor_may_return(
    make_butter: Callable[..., Butter], fake: FakeButter, gives: Any, records: int
) -> None:
    """It returns a mapping, a Checkout, or several of them, also lazily. None or an empty list is not a checkout."""
    function: Any = gives if callable(gives) else lambda _response: gives
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", function))
    read(butter)
    assert len(fake.records) == records
    assert butter.status().skipped == ({} if records else {"not_a_checkout": 1})


def test_an_extractor_sees_the_response_and_the_request(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The attributes are named as in httpx. Credentials are left out."""
    seen: list[Any] = []

    def look(response: CheckoutResponse) -> Fields:
        request = response.request
        seen.extend((response.status_code, response.headers["content-type"], response.body, response.json()))
        seen.extend((request.method, request.path, request.path_params, request.query_params["a"]))
        seen.extend((request.headers.get("x-forwarded-for"), request.headers.get("cookie"), request.ipv4_address))
        seen.extend((response.headers.get("set-cookie"), repr(response)))
        return GOOD

    butter = make_butter(CheckoutRoute("/checkout/{cart_id:int}", "stripe", look))
    headers = [(b"x-forwarded-for", SHOPPER.encode()), (b"cookie", b"s=1"), (b"Authorization", b"Bearer x")]
    answer = start(headers=[*JSON, (b"Set-Cookie", b"s=1")])
    app = ButterMiddleware(sends(answer, body(b'{"a": 1}')), butter)
    anyio.run(drive, app, http_scope(headers=headers, query_string=b"a=b"))
    assert butter.flush()
    assert seen == [
        200,
        "application/json",
        b'{"a": 1}',
        {"a": 1},
        "POST",
        "/checkout/7",
        {"cart_id": 7},
        "b",
        SHOPPER,
        None,
        SHOPPER,
        None,
        "CheckoutResponse(200, CheckoutRequest(POST))",
    ]


class Order(BaseModel):
    invoice: str
    email: str


@pytest.mark.parametrize("blank", [None, "", " ", "\t\n"])
def test_a_blank_field_is_absent(make_butter: Callable[..., Butter], fake: FakeButter, blank: str | None) -> None:
    """A field that the extractor leaves blank comes from the annotation. This is not a conflict."""
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD | {"customer_email": blank, "psp": blank})
    butter = make_butter(route)
    answer = sends(start(), body(b"{}"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, customer_email="ada@example.com", invoice_id=blank)
        await answer(scope, receive, send)

    anyio.run(drive, ButterMiddleware(app, butter), http_scope())
    assert butter.flush()
    (record,) = fake.records
    assert (record["customer_email"], record["invoice_id"]) == ("ada@example.com", "in_1")
    assert butter.status().conflicts == {}


class Broken(Mapping[str, Any]):
    """A mapping without the keys that it lists."""

    def __getitem__(self, name: str) -> Any:
        raise KeyError(SECRET)

    def __iter__(self) -> Iterator[str]:
        return iter(GOOD)

    def __len__(self) -> int:
        return len(GOOD)


def fails(_response: CheckoutResponse) -> Mapping[str, Any]:
    raise KeyError(SECRET)


def fails_late(_response: CheckoutResponse) -> Iterator[Fields]:
    yield GOOD
    raise ValueError(SECRET)


@pytest.mark.parametrize(
    ("function", "content", "reason", "says"),
    [
        (fails, b"{}", "extractor_error", r"raised KeyError at test_reader.py:\d+"),
        (fails_late, b"{}", "extractor_error", "raised ValueError"),
        (lambda _r: 7, b"{}", "unreadable", "returned int: return a mapping"),
        (lambda _r: SECRET, b"{}", "unreadable", "returned str"),
        (lambda _r: Order(invoice="in_1", email=SECRET), b"{}", "unreadable", "returned Order: return a mapping"),
        (extract.json(invoice_id="id"), b"{", "unreadable", "is not JSON, or ends early"),
        (extract.json(invoice_id="abs(id)"), b'{"id": "%s"}' % SECRET.encode(), "unreadable", "JMESPathTypeError"),
        (lambda _r: {"invoice_id": "in_1"}, b"{}", "no_email", r"call annotate\(request, customer_email=\.\.\.\)"),
        (lambda _r: GOOD | {"customer_email": "nobody"}, b"{}", "invalid", r"customer_email \(not an e-mail address\)"),
        (lambda _r: {"customer_email": SECRET}, b"{}", "invalid", "no ID .* neither the extractor nor"),
        (
            lambda _r: {"email": "a@example.com", "paymentIntentId": "pi_1"},
            b"{}",
            "invalid",
            r"email \(no such field; did you mean customer_email\?\), paymentIntentId \(no such field\); neither",
        ),
        (
            extract.stripe(),
            PAID_INTENT,
            "no_email",
            r"email, all absent, and 2 longer; nothing",
        ),
        (lambda _r: GOOD | {SECRET: 1}, b"{}", "invalid", r"a field \(no such field\)"),
        (lambda _r: GOOD | {"psp": SECRET}, b"{}", "invalid", r"psp \(not one of Butter's PSPs\)"),
        (extract.json(invoice_id="id"), b"{}", "invalid", r"fix the expressions.*when="),
    ],
)
def test_an_unreadable_capture_is_parked_and_logged(
    make_butter: Callable[..., Butter],
    caplog: pytest.LogCaptureFixture,
    function: Any,
    content: bytes,
    reason: str,
    says: str,
) -> None:
    """It is kept and counted. One line gives the reason and the remedy, without personal data."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", function))
    caplog.clear()
    read(butter, content)
    read(butter, content)
    status = butter.status()
    assert (status.parked, dict(status.skipped)) == (2, {f"parked:{reason}": 2})
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].exc_info is None
    caplog.clear()
    text = lines[0].getMessage()
    assert "POST /checkout/{cart_id}" in text
    assert SECRET not in text
    assert re.search(says, text)


def asks_a_library(_response: CheckoutResponse) -> Fields:
    return {"invoice_id": UUID(SECRET)}


def asks_a_function(response: CheckoutResponse) -> Fields:
    return asks_a_library(response)


INSTALLED = asks_a_library.__code__.replace(co_filename="/venv/lib/python3.13/site-packages/shop/pay.py")


@pytest.mark.parametrize(
    ("function", "file"),
    [
        (asks_a_library, "test_reader.py"),
        (asks_a_function, "test_reader.py"),
        (FunctionType(INSTALLED, globals()), "pay.py"),
    ],
)
def test_the_logged_line_number_is_the_extractors(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, function: Any, file: str
) -> None:
    """It is the last one of the merchant's code, and not the library's that it called, nor the first one.

    The shop may itself be installed in site-packages.
    """
    read(make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", function)))
    line = asks_a_library.__code__.co_firstlineno + 1
    assert f"raised ValueError at {file}:{line}. Fix it" in caplog.text


class Failing(client_ip.Peer):
    """A merchant's own strategy."""

    def resolve(self, scope: Mapping[str, Any]) -> client_ip.ClientIP:
        raise KeyError(SECRET, scope)


@pytest.mark.parametrize(
    ("strategy", "path", "route", "kind"),
    [
        (Failing(), "/pay", CheckoutRoute("/pay", "stripe"), KeyError),
        (client_ip.Peer(), f"/{'7' * 5000}", CheckoutRoute("/{cart:int}", "stripe"), ValueError),
        (client_ip.Peer(), "/pay", CheckoutRoute("/pay", "stripe", fails), KeyError),
        (client_ip.Peer(), "/pay", CheckoutRoute("/pay", "stripe", lambda _r: Broken()), KeyError),
    ],
)
def test_the_reader_raises_nothing(
    strategy: client_ip.Strategy, path: str, route: CheckoutRoute, kind: type[Exception]
) -> None:
    """A capture that fails is parked. A repr does not show its error, which may quote the input."""
    capture = Capture("POST", path, b"", [], (SHOPPER, 4711), 200, [], b"{}", {"invoice_id": "in_1"}, 0.0)
    reader = Reader(strategy, 1 << 20, frozenset(), lambda _capture, _address: None, NOWHERE)
    reading = reader.read(capture, route)
    assert reading.parked is not None
    assert kind.__name__ in reading.parked.detail
    assert isinstance(reading.error, kind)
    assert SECRET not in repr(reading)
    assert kind.__name__ not in repr(reading).replace(reading.parked.detail, "")


def test_good_records_of_a_bad_batch_are_sent(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """If one of several records is bad, the capture is parked. The good ones are sent once."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: [GOOD, {"invoice_id": "in_2"}]))
    read(butter)
    assert len(fake.records) == 1
    assert butter.status().parked == 1


def test_a_gate_runs_first(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`when` decides before the extractor runs."""
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", fails, lambda r: bool(r.json()["paid"]))
    butter = make_butter(route)
    read(butter, b'{"paid": false}')
    assert butter.status().skipped == {"gated": 1}
    read(butter, b'{"paid": true}')
    assert butter.status().skipped == {"gated": 1, "parked:extractor_error": 1}


def test_an_address_in_the_body_is_not_used(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The author of the body could choose the evidence. The address comes from the request only."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD | {"ipv4_address": "9.9.9.9"}))
    read(butter)
    assert fake.records[0]["ipv4_address"] == SHOPPER


@pytest.mark.parametrize("on", [True, False])
def test_newer_fields_are_sent_only_if_switched_on(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    on: bool,  # noqa: FBT001 - parametrized
) -> None:
    """user_agent and network_transaction_id are sent only if the account accepts them."""
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD | {"network_transaction_id": "nt"})
    butter = make_butter(route, send_user_agent=on, send_network_transaction_id=on)
    read(butter, headers=[(b"x-forwarded-for", SHOPPER.encode()), (b"user-agent", b"Firefox")])
    newer = {"user_agent": "Firefox", "network_transaction_id": "nt"} if on else {}
    assert fake.records[0] == GOOD | {"psp": "stripe", "ipv4_address": SHOPPER} | newer


def test_without_an_address_nothing_is_sent(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is counted, and logged once with the remedy. The capture is parked if a fix can find the address."""
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD)
    butter = make_butter(route)
    for _twice in range(2):
        read(butter, headers=[(b"x-forwarded-for", b"2a00:1450:4009:81a::200e")])
    assert butter.status().skipped == {"no_address:ipv6_client": 2}
    assert caplog.text.count("ipv6_client") == 1
    read(butter, headers=[])
    assert butter.status().skipped["no_address:header_missing"] == 1
    assert butter.status().parked == 1
    assert fake.records == []


UNPAID = b'{"object": "payment_intent", "id": "pi_1", "status": "requires_payment_method"}'
IPV6 = [(b"x-forwarded-for", b"2a00:1450:4009:81a::200e")]
BEACON = Beacon(origins=["https://shop.example"], bind="path:cart_id", keys=["k" * 32])


@pytest.mark.parametrize(
    ("given", "skip"),
    [
        ({"extract": extract.stripe()}, "not_paid"),
        ({"extract": fails, "when": lambda _r: False}, "gated"),
        ({"extract": lambda _r: None}, "not_a_checkout"),
        ({"join": "client_secret"}, "not_a_checkout"),
        ({}, "not_annotated"),
    ],
)
@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({"client_ip": client_ip.aws_alb(["10.9.0.0/16"])}, {}),
        ({"client_ip": client_ip.cloudflare()}, {}),
        ({}, {"headers": IPV6}),
        ({"ipv4_beacon": BEACON}, {"headers": [*IPV6, (b"x-butter-token", b"A" * 76)]}),
    ],
    ids=["untrusted peer", "no header", "IPv6", "a forged token"],
)
def test_a_response_that_is_not_a_checkout_needs_no_address(
    make_butter: Callable[..., Butter], given: Fields, skip: str, options: Fields, request_: Fields
) -> None:
    """It counts under its own reason, not as missing evidence. It is not kept, so unpaid requests fill no outbox."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", **given), **options)
    read(butter, UNPAID, **request_)
    status = butter.status()
    assert (status.parked, dict(status.skipped)) == (0, {skip: 1})
    assert status.coverage.ratio == (None if skip != "not_annotated" else 0)


@pytest.mark.parametrize(
    "gives",
    [
        lambda _r: GOOD,
        lambda r: Checkout(psp="stripe", ipv4_address=r.request.ipv4_address, **GOOD),
        fails,
        lambda _r: 7,
    ],
)
@pytest.mark.parametrize(("headers", "reason", "parked"), [([], "header_missing", 1), (IPV6, "ipv6_client", 0)])
def test_a_checkout_without_an_address_is_kept_if_a_fix_can_find_it(
    make_butter: Callable[..., Butter], gives: Any, headers: Any, reason: str, parked: int
) -> None:
    """The address has to be fixed first, so the result of the extractor does not matter."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", gives))
    read(butter, headers=headers)
    assert (butter.status().parked, dict(butter.status().skipped)) == (parked, {f"no_address:{reason}": 1})


def test_unpaid_requests_do_not_fill_the_outbox(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """Two hundred unpaid requests of an attacker, with the longest headers that servers accept, use no space."""
    outbox = SQLiteOutbox(tmp_path / "butter.db", max_bytes=2 * 1024**2)
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extract.stripe())
    butter = make_butter(route, outbox=outbox, client_ip=client_ip.aws_alb(["10.0.0.0/16"]))
    app = ButterMiddleware(sends(start(), body(UNPAID)), butter)
    stranger = http_scope(client=("198.18.0.1", 4711), headers=[(b"x-pad", b"a" * 16_000)])
    for _request in range(200):
        anyio.run(drive, app, stranger)
    assert butter.flush(60)
    read(butter, b'{"object": "invoice", "id": "in_1", "status": "paid", "customer_email": "a@example.com"}')
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]
    assert (butter.status().lost, butter.status().parked) == (0, 0)


@pytest.mark.parametrize(("environment", "sent"), [("staging", 1), ("production", 0)])
def test_private_addresses_are_accepted_in_staging_only(
    make_butter: Callable[..., Butter], fake: FakeButter, environment: str, sent: int
) -> None:
    """Staging accepts addresses that are not public, production does not."""
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD)
    read(make_butter(route, environment=environment, client_ip=client_ip.direct()), client=("192.168.1.7", 1))
    assert len(fake.records) == sent


def test_a_dry_run_reads_and_keeps_nothing(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`dry_run` counts the records that it would have sent."""
    butter = make_butter(dry_run=True)
    read(butter, b'{"customer": {"email": "a@example.com"}, "invoice": "in_1"}')
    assert butter.status().skipped == {"dry_run": 1}
    assert (fake.records, butter.status().pending) == ([], 0)


def test_record_takes_a_whole_checkout(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`butter.record` sends it once."""
    butter = make_butter()
    checkout = Checkout(ipv4_address=SHOPPER, psp="stripe", **GOOD)
    butter.record(checkout)
    butter.record(checkout)
    assert butter.flush()
    assert fake.records == [checkout.payload()]
    assert butter.status().skipped == {"duplicate": 1}


def test_a_response_model_is_an_extractor(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`extract.model` passes the shop's own model to a function. A body that does not fit is parked."""
    extractor = extract.model(Order, lambda order: {"invoice_id": order.invoice, "customer_email": order.email})
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extractor))
    read(butter, b'{"invoice": "in_1", "email": "a@example.com"}')
    assert fake.records[0]["invoice_id"] == "in_1"
    read(butter, b'{"invoice": "in_1"}')
    assert butter.status().skipped == {"parked:unreadable": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_response_model_reads_the_same_encodings_as_expressions(
    make_butter: Callable[..., Butter], fake: FakeButter, encoding: str
) -> None:
    """Some servers write a byte order mark. A JSON parser may ignore it."""
    extractor = extract.model(Order, lambda order: {"invoice_id": order.invoice, "customer_email": order.email})
    for given in (extractor, extract.json(invoice_id="invoice", customer_email="email")):
        butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", given))
        read(butter, '{"invoice": "in_1", "email": "a@example.com"}'.encode(encoding))
    assert [record["invoice_id"] for record in fake.records] == ["in_1", "in_1"]
    read(make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extractor)), b"\xff{")
    assert len(fake.records) == 2


class Spelled(BaseModel):
    invoice: str = Field(alias="invoiceId")
    email: str = Field(validation_alias=AliasChoices("eMail", AliasPath("customer", "email")))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b'{"eMail": "a@example.com"}', "invoiceId"),
        (b'{"invoiceId": "in_1"}', "eMail"),
        (b'{"invoiceId": "in_1", "customer": {"email": 7}}', "customer"),
        (b"[]", "the body"),
    ],
)
def test_a_wrong_field_of_a_model_is_named_as_in_the_body(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, content: bytes, names: str
) -> None:
    """Models often have aliases, because the page's script wants camelCase."""
    extractor = extract.model(Spelled, lambda order: {"invoice_id": order.invoice})
    read(make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extractor)), content)
    assert f"the response does not fit Spelled: see {names}." in caplog.text


def test_a_json_body_may_be_anything(make_butter: Callable[..., Butter]) -> None:
    """JSON of another shape, or with deep nesting, is parked and raises nothing."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract.json(invoice_id="a.b[0]")))
    for content in (b"null", b"[]", b'"x"', b"1e999", b"[" * 100_000):
        read(butter, content)
    assert butter.status().parked == 5


def test_json_headers_without_a_body_are_unreadable(make_butter: Callable[..., Butter]) -> None:
    """A JSON content type announces a body. An empty body is parked."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract.json(invoice_id="id")))
    app = ButterMiddleware(sends(start(headers=JSON), body()), butter)
    anyio.run(drive, app, http_scope())
    assert butter.flush()
    assert butter.status().parked == 1


def test_a_gate_that_returns_an_awaitable_is_an_error(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A coroutine is always true. The capture is parked until the gate is fixed."""

    async def paid() -> bool:
        return False

    given: list[Any] = []

    def gate(_response: Any) -> Any:
        given.append(paid())
        return given[-1]

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _r: GOOD, when=gate))
    read(butter)
    given[0].close()
    assert butter.status().skipped == {"parked:unreadable": 1}
    assert fake.records == []
