"""`butter.record(request, ...)`: for results that a background task gets after the response."""

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from processes import until
from shops import SHOPPER
from starlette.testclient import TestClient

from butter_middleware import Beacon, Butter, ButterMiddleware, Checkout, CheckoutRoute, Record, client_ip
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.client_ip import ClientIP
from butter_middleware.models.http import Capture
from butter_middleware.testing import FakeButter

Fields = dict[str, Any]
FIELDS: Fields = {"customer_email": "a@example.com", "charge_id": "ch_1"}
HEADERS = {"x-forwarded-for": SHOPPER}
SECRET = "shopper-secret@example.com"


def watched(*routes: CheckoutRoute, make: Callable[..., Butter], **options: Any) -> Butter:
    return make(*(routes or (CheckoutRoute("/checkout/{cart_id}", "adyen"),)), **options)


def record(butter: Butter, fields: Fields, request_body: bytes = b"", **scope: Any) -> None:
    """Redirect, which is not captured, then record as a Starlette background task does. Wait for the result."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await sends(start(303), body())(scope, receive, send)
        butter.record(scope, **fields)

    async def receive() -> Message:
        return {"type": "http.request", "body": request_body, "more_body": False}

    anyio.run(drive, ButterMiddleware(app, butter), http_scope(**scope), receive)
    assert butter.flush()


@pytest.mark.parametrize("path", ["/checkout/7", "/shop/checkout/7"])
def test_a_background_task_records_its_request(make_butter: Callable[..., Butter], fake: FakeButter, path: str) -> None:
    """The address comes from the request, the PSP from the route. The app may be mounted in another one."""
    butter = watched(make=make_butter)
    shop, outer = FastAPI(), FastAPI()
    outer.mount("/shop", shop)
    outer.mount("/", shop)
    shop.add_middleware(ButterMiddleware, butter=butter)

    def settle(request: Request) -> None:
        butter.record(request, customer_email="a@example.com", transaction_id=4711)

    @shop.post("/checkout/{cart_id}")
    def pay(cart_id: str, request: Request, tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(settle, request)
        return {"status": "pending"}

    assert TestClient(outer).post(path, headers=HEADERS).json() == {"status": "pending"}
    assert butter.flush()
    whole = {"customer_email": "a@example.com", "ipv4_address": SHOPPER, "psp": "adyen", "transaction_id": "4711"}
    assert fake.records == [whole]
    assert butter.status().skipped == {"not_annotated": 1}


@pytest.mark.parametrize("address", ["10.0.3.17", "127.0.0.1", "100.64.0.1", "240.0.0.1", "255.255.255.255"])
@pytest.mark.parametrize(("environment", "sent"), [("staging", 1), ("production", 0)])
def test_a_whole_checkout_needs_a_public_address(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    address: str,
    environment: str,
    sent: int,
) -> None:
    """The task may have got a proxy's address. In production that is never evidence, and it is logged once."""
    butter = make_butter(environment=environment)
    caplog.clear()
    for number in range(2):
        fields: Fields = FIELDS | {"charge_id": f"ch_{number}"}
        butter.record(Checkout(ipv4_address=address, psp="stripe", **fields))
    assert butter.flush()
    assert [found["ipv4_address"] for found in fake.records] == [address] * 2 * sent
    assert butter.status().skipped == ({} if sent else {"no_address:private_address": 2})
    assert caplog.text.count("a Checkout with an ipv4_address that is not public") == (0 if sent else 1)
    assert address not in caplog.text


def test_the_routes_extractor_and_gate_are_not_called(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The fields are the whole record: there is no response for an extractor or a gate to read."""
    route = CheckoutRoute("/checkout/{cart_id}", "adyen", lambda _r: None, when=lambda _r: False)
    butter = watched(route, make=make_butter)
    record(butter, FIELDS)
    assert [found["charge_id"] for found in fake.records] == ["ch_1"]


def test_a_request_that_no_route_matches(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A request can be recorded anywhere in the app. The fields then give the PSP."""
    butter = watched(make=make_butter)
    record(butter, FIELDS | {"psp": "recurly"}, path="/elsewhere")
    assert fake.records == [FIELDS | {"psp": "recurly", "ipv4_address": SHOPPER}]


def test_a_checkout_over_a_websocket(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """It begins as a GET request, and its headers and peer give the address."""
    butter = watched(make=make_butter)
    shop = FastAPI()
    shop.add_middleware(ButterMiddleware, butter=butter)

    @shop.websocket("/live/{cart_id}")
    async def pay(websocket: WebSocket) -> None:
        await websocket.accept()
        butter.record(websocket, psp="adyen", **FIELDS)
        await websocket.close()

    with TestClient(shop).websocket_connect("/live/7", headers=HEADERS):
        pass
    assert butter.flush()
    assert fake.records == [FIELDS | {"psp": "adyen", "ipv4_address": SHOPPER}]


def test_the_address_is_read_before_the_app_runs(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A middleware of the app may change the peer and the headers. These changes do not count."""
    butter = watched(make=make_butter, client_ip=client_ip.direct())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["client"] = ("9.9.9.9", 1)
        await sends(start(), body())(scope, receive, send)
        butter.record(scope, **FIELDS)

    anyio.run(drive, ButterMiddleware(app, butter), http_scope(client=(SHOPPER, 1)))
    assert butter.flush()
    assert [found["ipv4_address"] for found in fake.records] == [SHOPPER]


def test_an_address_that_a_fixed_configuration_finds(
    tmp_path: Path, make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """It is parked like a captured response, and is sent once the configuration is fixed."""
    wrong = watched(make=make_butter, outbox=tmp_path / "butter.db", client_ip=client_ip.TrustedHops(2))
    record(wrong, FIELDS)
    assert (wrong.status().parked, wrong.status().skipped["no_address:too_few_hops"]) == (1, 1)
    assert "lower the number of hops" in caplog.text
    wrong.close()
    fixed = watched(make=make_butter, outbox=tmp_path / "butter.db")
    fixed.pipeline.start()
    record(fixed, FIELDS | {"charge_id": "ch_2"})
    until(lambda: len(fake.records) == 2, "what was parked arrives too")
    assert {found["charge_id"]: found["ipv4_address"] for found in fake.records} == {"ch_1": SHOPPER, "ch_2": SHOPPER}


@pytest.mark.parametrize("bind", ["path:cart_id", "field:cart"])
@pytest.mark.parametrize("cart", ["7", "8"])
def test_a_beacons_token_counts(make_butter: Callable[..., Butter], fake: FakeButter, bind: str, cart: str) -> None:
    """A shopper on IPv6 is recorded by the token of this request, but not by the token of another cart."""
    beacon = Beacon(origins=["https://shop.example"], bind=bind, keys=["k" * 32])
    route = CheckoutRoute("/checkout/{cart_id}", "adyen", capture_request_body=True)
    butter = watched(route, make=make_butter, ipv4_beacon=beacon, client_ip=client_ip.direct())
    token = beacon.issue(SHOPPER, cart, butter.clock())
    headers = [(b"x-butter-token", token.encode()), (b"content-type", b"application/json")]
    record(butter, FIELDS, b'{"cart": "7"}', headers=headers, client=("2001:db8::1", 1))
    assert [found["ipv4_address"] for found in fake.records] == ([SHOPPER] if cart == "7" else [])
    assert butter.status().skipped.get("no_address:token_foreign", 0) == (cart != "7")


@pytest.mark.parametrize(
    ("fields", "path", "reason", "says"),
    [
        ({}, "/checkout/7", "invalid", "no ID. Fix: pass one of invoice_id"),
        ({"charge_id": "ch_1"}, "/checkout/7", "no_email", "pass customer_email="),
        ({"customer_email": SECRET}, "/checkout/7", "invalid", "no ID"),
        (FIELDS | {"customer_email": "nobody"}, "/checkout/7", "invalid", "customer_email (not an e-mail address)"),
        (FIELDS | {"charge": "ch_1"}, "/checkout/7", "invalid", "charge (no such field; did you mean charge_id?)"),
        (FIELDS | {"charge_id": object()}, "/checkout/7", "invalid", "charge_id (not a string or a whole number)"),
        (FIELDS | {"psp": SECRET}, "/checkout/7", "invalid", "psp (not one of Butter's PSPs)"),
        (FIELDS, "/elsewhere", "invalid", "the PSP is not known"),
    ],
)
def test_wrong_fields_are_parked_and_raise_nothing(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    fields: Fields,
    path: str,
    reason: str,
    says: str,
) -> None:
    """A checkout that records wrong fields continues. One line says what to pass, without personal data."""
    butter = watched(make=make_butter)
    caplog.clear()
    record(butter, fields, path=path)
    assert (butter.status().parked, butter.status().skipped[f"parked:{reason}"]) == (1, 1)
    (line,) = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert says in line
    assert "butter.record()" in line
    assert SECRET not in line
    assert fake.records == []


class OutOfContext:
    """A framework's proxy of the current request, outside a request."""

    @property
    def scope(self) -> Any:
        raise RuntimeError


def test_a_wrong_request_raises_nothing(make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture) -> None:
    """`record` may be called within a checkout. The loss is logged with the remedy, and counted."""
    butter = watched(make=make_butter)
    butter.record({"type": "http"}, **FIELDS)
    assert butter.status().faults == {"request:KeyError": 1}
    wrong: Any = butter.record
    given = [(("/checkout/7",), FIELDS), ((None,), {}), ((FIELDS,), {}), (({},), FIELDS), ((OutOfContext(),), FIELDS)]
    for arguments, fields in given:
        wrong(*arguments, **fields)
    assert butter.status().lost == len(given)
    assert "takes a Checkout alone, or a request (or its scope) with the fields by name. It got NoneType" in caplog.text


def test_fields_beside_a_checkout_are_ignored(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """The Checkout is complete evidence: it is recorded unchanged, and the mistake is logged."""
    butter = watched(make=make_butter)
    wrong: Any = butter.record
    wrong(Checkout(ipv4_address=SHOPPER, psp="adyen", **FIELDS), transaction_id="t_2")
    assert butter.flush()
    assert [record.get("transaction_id") for record in fake.records] == [None]
    assert "It took the Checkout without transaction_id: put them into it." in caplog.text


class Broken:
    """A merchant's own strategy that raises."""

    def resolve(self, _scope: Mapping[str, Any], /) -> ClientIP:
        raise ZeroDivisionError

    def admitting_private(self) -> "Broken":
        return self


class Transactional:
    """A queue that accepts records within a transaction."""

    def __init__(self) -> None:
        self.taken: list[Record] = []

    async def enqueue(self, record: Record) -> None:
        self.taken.append(record)

    def enqueue_in(self, _connection: object, records: Sequence[Record]) -> None:
        self.taken += records


@pytest.mark.parametrize("connection", [None, object()], ids=["alone", "in a transaction"])
def test_a_record_is_parked_if_the_strategy_raises(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, connection: Any
) -> None:
    """It waits until the strategy is fixed, within a transaction or without."""
    queue = Transactional()
    butter = watched(make=make_butter, client_ip=Broken(), outbox=queue)
    butter.record(http_scope(), connection=connection, **FIELDS)
    assert butter.flush()
    assert (butter.status().captured, butter.status().parked, queue.taken) == (1, 1, [])
    assert "reading a capture raised ZeroDivisionError" in caplog.text


def test_a_wrong_request_within_a_transaction_raises_nothing(make_butter: Callable[..., Butter]) -> None:
    """Nothing is raised or written, and the loss is counted."""
    queue = Transactional()
    butter = watched(make=make_butter, outbox=queue)
    wrong: Any = butter.record
    wrong({"type": "http"}, connection=object(), **FIELDS)
    assert (butter.status().faults, queue.taken) == ({"request:KeyError": 1}, [])


def test_it_is_stored_on_disk(tmp_path: Path, make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Like a captured response it survives the process, without cookies and credentials."""
    path = tmp_path / "butter.db"
    first = watched(make=make_butter, outbox=path, client_ip=client_ip.TrustedHops(2))
    headers = [(b"x-forwarded-for", SHOPPER.encode()), (b"cookie", b"session=sesame"), (b"authorization", b"sesame")]
    record(first, FIELDS, headers=headers)
    first.close()
    with sqlite3.connect(path) as connection:
        ((head,),) = connection.execute("SELECT head FROM captures").fetchall()
    connection.close()
    assert "sesame" not in head
    assert Capture.from_head(head, b"", None).recorded


class Labelled(StrEnum):
    """Strings that are enum members with other values."""

    def __new__(cls, text: str, label: str) -> Self:
        """Make a member whose value is its label."""
        member = str.__new__(cls, text)
        member._value_ = label
        return member

    INVOICE = "in_1", "Invoice"


class Numbered(int, Enum):
    """Numbers that are enum members."""

    CHARGE = 7


@pytest.mark.parametrize("text", ["é\x00\u2028", "\ud800", Labelled.INVOICE])
def test_any_string_of_an_annotation_is_kept(tmp_path: Path, make_butter: Callable[..., Butter], text: str) -> None:
    """The file also keeps strings that UTF-8 JSON cannot carry, such as half a surrogate pair. The reader decides."""
    path = tmp_path / "butter.db"
    butter = watched(make=make_butter, outbox=path, client_ip=client_ip.TrustedHops(2))
    record(butter, {**FIELDS, "invoice_id": text}, headers=[(b"x-forwarded-for", SHOPPER.encode())])
    butter.close()
    with sqlite3.connect(path) as connection:
        ((head,),) = connection.execute("SELECT head FROM captures").fetchall()
    connection.close()
    assert Capture.from_head(head, b"", None).annotations["invoice_id"] == text


def test_an_enum_number_is_recorded_as_a_number(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The record has the number, not the member's name, as after a round trip through a file."""
    record(watched(make=make_butter), FIELDS | {"charge_id": Numbered.CHARGE})
    assert [record["charge_id"] for record in fake.records] == ["7"]


def test_a_capture_of_an_older_file_was_not_recorded() -> None:
    """A file from before `record(request)` existed is read as before."""
    seen: Any = {"method": "POST", "path": "/", "query_string": b"", "headers": [], "client": None}
    capture = Capture(**seen, status_code=200, response_headers=[], body=b"", annotations={}, captured_at=1.0)
    head = json.loads(capture.head())
    del head["recorded"]
    assert Capture.from_head(json.dumps(head), b"", None) == capture
