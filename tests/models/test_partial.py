"""Checkouts in two parts: the shopper's request has the address, and a webhook reports the payment."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from outboxes import NOW, Clock, capture, invoices, record
from processes import until
from shops import SHOPPER

from butter_middleware import (
    Beacon,
    Butter,
    ButterMiddleware,
    CheckoutResponse,
    CheckoutRoute,
    ConfigurationError,
    Record,
    SQLiteOutbox,
    annotate,
    client_ip,
    extract,
)
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.models.partial import Part
from butter_middleware.outbox import Resolution
from butter_middleware.outbox.sqlite import schema
from butter_middleware.testing import FakeButter

Fields = dict[str, Any]
SESSION: Fields = {"id": "cs_1", "object": "checkout.session", "status": "open", "payment_status": "unpaid"}
PAID: Fields = {
    **SESSION,
    "livemode": True,
    "status": "complete",
    "payment_status": "paid",
    "customer_details": {"email": "ada@example.com"},
    "invoice": "in_1",
    "payment_intent": "pi_1",
}
RECORD = {
    "customer_email": "ada@example.com",
    "ipv4_address": SHOPPER,
    "psp": "stripe",
    "invoice_id": "in_1",
    "transaction_id": "pi_1",
}
BEGIN = CheckoutRoute("/sessions", "stripe", join="id")
CONFIRM = CheckoutRoute("/webhook", "stripe", extract.stripe(), join="data.object.id", address=False, source="request")
STRIPES: Fields = {"client": ("54.187.174.169", 443), "headers": []}


def begin(butter: Butter, session: Fields = SESSION, annotations: Fields | None = None, **scope: Any) -> None:
    """The shopper starts a session, which the shop returns."""
    notes: Fields = annotations or {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **notes)
        await sends(start(), body(json.dumps(session).encode()))(scope, receive, send)

    anyio.run(drive, ButterMiddleware(app, butter), http_scope("/sessions", **scope))
    assert butter.flush()


def confirm(butter: Butter, paid: Fields = PAID, status: int = 200, kind: str = "checkout.session.completed") -> None:
    """The PSP's server reports the payment. The shop's response is empty."""
    event = json.dumps({"object": "event", "type": kind, "data": {"object": paid}}).encode()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await sends(start(status, headers=[]), body())(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request", "body": event, "more_body": False}

    anyio.run(drive, ButterMiddleware(app, butter), http_scope("/webhook", **STRIPES), receive)
    assert butter.flush()


@pytest.fixture
def serve(make_butter: Callable[..., Butter], tmp_path: Path) -> Callable[..., Butter]:
    """Start a worker of the shop on the shared file."""

    def run(*routes: CheckoutRoute, **options: Any) -> Butter:
        return make_butter(*(routes or (BEGIN, CONFIRM)), **({"outbox": tmp_path / "butter.db"} | options))

    return run


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("order", [(begin, confirm), (confirm, begin)])
def test_two_parts_make_one_record(
    serve: Callable[..., Butter], fake: FakeButter, order: Any, *, restarted: bool
) -> None:
    """The parts may come in either order, in two workers at once or one after the other."""
    one, other = order
    first = serve()
    one(first)
    assert (fake.records, first.status().parts) == ([], 1)
    if restarted:
        first.close()
    second = serve()
    other(second)
    assert first.flush()
    assert second.flush()
    assert fake.records == [RECORD]
    assert (second.status().parts, dict(second.status().skipped)) == (0, {})


DYING_WORKER = """
import os, signal, sys
from test_partial import BEGIN, CONFIRM, begin
from shops import CREDENTIALS
from butter_middleware import Butter, client_ip

butter = Butter(**CREDENTIALS, client_ip=client_ip.TrustedHops(1), outbox=sys.argv[1], routes=[BEGIN, CONFIRM])
begin(butter)
assert butter.status().parts == 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_part_survives_the_worker_that_received_it(
    serve: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """A process is killed after the shopper's request. The process that gets the webhook finds the part."""
    died = subprocess.run(
        [sys.executable, "-c", DYING_WORKER, tmp_path / "butter.db"],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    confirm(serve())
    assert fake.records == [RECORD]


def test_a_repeated_part_makes_no_second_record(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """PSPs send a webhook more than once, and shoppers reload."""
    butter = serve()
    for step in (begin, begin, confirm, confirm, begin):
        step(butter)
    assert fake.records == [RECORD]
    assert (butter.status().parts, butter.status().skipped) == (0, {"duplicate": 2})


def test_an_unpaid_checkout_makes_no_record(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """A complete part of the shopper is not evidence without the payment's part."""
    butter = serve()
    begin(butter, SESSION, {"customer_email": "ada@example.com", "transaction_id": "pi_1"})
    confirm(butter, PAID | {"payment_status": "unpaid"})
    confirm(butter, PAID | {"status": "expired"})
    confirm(butter, PAID, status=400)
    assert fake.records == []
    assert butter.status().skipped == {"not_paid": 2, "status": 1}
    assert butter.status().parts == 1


def test_a_preset_may_read_the_new_session(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """A preset finds no payment in a session that was just created. This is correct."""
    butter = serve(CheckoutRoute("/sessions", "stripe", extract.stripe(), join="id"), CONFIRM)
    begin(butter)
    confirm(butter)
    assert fake.records == [RECORD]
    assert butter.status().skipped == {}


def test_each_part_adds_its_fields(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """The e-mail may be annotated when the session is created. If both parts have a field, the payment's is used."""
    butter = serve(send_user_agent=True)
    headers = [(b"x-forwarded-for", SHOPPER.encode()), (b"user-agent", b"Firefox")]
    begin(
        butter, SESSION, {"customer_email": "shop@example.com", "customer_id": "c1", "invoice_id": 4}, headers=headers
    )
    confirm(butter, PAID | {"customer_details": None})
    assert fake.records == [
        RECORD | {"customer_email": "shop@example.com", "customer_id": "c1", "user_agent": "Firefox"}
    ]


def test_the_sender_of_a_webhook_is_not_the_shopper(
    serve: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """Its address is not looked up, counted or logged. Other events at the same URL are not checkouts."""
    route = CheckoutRoute(
        "/webhook",
        "stripe",
        extract.stripe(),
        join="type == 'checkout.session.completed' && data.object.id",
        address=False,
        source="request",
    )
    butter = serve(BEGIN, route, client_ip=client_ip.cloudflare())
    caplog.clear()
    confirm(butter, {"object": "customer", "id": "cus_1"}, kind="customer.created")
    confirm(butter)
    assert butter.status().skipped == {"not_a_checkout": 1}
    assert butter.status().parts == 1
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []
    assert fake.records == []


def test_a_single_part_expires(
    serve: Callable[..., Butter],
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Soon after `join_ttl` it is deleted, counted and logged once. The second part then finds nothing to join."""
    clock, monotonic = Clock(), Clock(0.0)
    monkeypatch.setattr("butter_middleware.outbox.steady.monotonic", monotonic)
    first = serve(clock=clock, join_ttl=3600)
    begin(first, SESSION | {"id": "cs_1"})
    begin(first, SESSION | {"id": "cs_2"})
    for _ten_minutes in range(9):
        clock.now += 600
        monotonic.now += 600
        first.pipeline.ask(lambda store: store.prune(), otherwise=False)
    first.close()
    second = serve(clock=clock, join_ttl=3600)
    second.pipeline.start()
    until(lambda: second.status().skipped == {"join_expired": 2}, "they expire")
    confirm(second, PAID)
    assert fake.records == []
    assert second.status().skipped == {"join_expired": 2}
    assert caplog.text.count("did not come within join_ttl") == 1
    assert second.status().parts == 1


def test_a_shopper_over_ipv6_needs_a_token(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """The shopper's part is skipped without an IPv4 address. The beacon's token provides one."""
    beacon = Beacon(origins=["https://shop.example"], bind="header:x-cart", keys=["k" * 32])
    butter = serve(ipv4_beacon=beacon, client_ip=client_ip.direct())
    token = beacon.issue(SHOPPER, "7", butter.clock())
    peer = ("2001:db8::1", 1)
    begin(butter, client=peer, headers=[])
    assert butter.status().skipped == {"no_address:ipv6_client": 1}
    headers = [(b"x-butter-token", token.encode()), (b"x-cart", b"7")]
    begin(butter, client=peer, headers=headers)
    begin(butter, SESSION | {"id": "cs_2"}, client=peer, headers=headers)
    assert butter.status().skipped["no_address:token_replayed"] == 1
    confirm(butter)
    assert fake.records == [RECORD]


@pytest.mark.parametrize("step", [begin, confirm])
def test_an_unreadable_part_is_parked(serve: Callable[..., Butter], step: Any) -> None:
    """A failing function or expression, a wrong field, or several records for one key: it waits for a fixed route."""

    def fails(_response: object) -> str:
        raise KeyError

    side: Fields = (
        {"path": "/sessions"} if step is begin else {"path": "/webhook", "address": False, "source": "request"}
    )
    cases: list[tuple[Any, Any]] = [
        (lambda _r: {"invoice": "in_1"}, lambda _r: "k"),
        (lambda _r: {"customer_email": "nobody"}, lambda _r: "k"),
        (lambda _r: [{"invoice_id": 1}, {"invoice_id": 2}], lambda _r: "k"),
        (None, fails),
        (None, "abs(type)" if step is confirm else "abs(id)"),
    ]
    for extractor, join in cases:
        butter = serve(CheckoutRoute(psp="stripe", extract=extractor, join=join, **side), outbox=None)
        step(butter)
        (counted,) = butter.status().skipped
        assert counted.startswith("parked:")
        assert butter.status().parts == 0


def test_a_request_body_over_the_cap_is_parked(serve: Callable[..., Butter]) -> None:
    """A body that was not captured cannot be read."""
    butter = serve(BEGIN, CONFIRM, max_body_bytes=50)
    confirm(butter)
    assert butter.status().skipped == {"parked:unreadable": 1}


def test_a_function_may_give_the_key(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """It gets the same response as an extractor. An integer works like a string, and None is not a checkout."""
    begins = CheckoutRoute("/sessions", "stripe", join=lambda response: response.json().get("number"))
    confirms = CheckoutRoute(
        "/webhook",
        "stripe",
        extract.stripe(at="data.object"),
        join=lambda response: response.request.json()["data"]["object"].get("client_reference_id"),
        address=False,
        source="request",
    )
    butter = serve(begins, confirms)
    begin(butter, {"number": 7})
    begin(butter, {})
    confirm(butter, PAID | {"client_reference_id": "7"})
    assert fake.records == [RECORD]
    assert butter.status().skipped == {"not_a_checkout": 1}


@pytest.mark.parametrize(
    "join", [lambda r: r.request.path_params["order"], lambda r: r.headers["location"].rpartition("=")[2]]
)
def test_a_redirect_to_the_psps_page_begins_a_checkout(
    serve: Callable[..., Butter], fake: FakeButter, join: Any
) -> None:
    """A shop may answer with a redirect. The key is then the order ID in the path, or in the location."""
    confirms = CheckoutRoute(
        "/webhook",
        "stripe",
        extract.stripe(),
        join="data.object.client_reference_id",
        address=False,
        source="request",
    )
    butter = serve(CheckoutRoute("/orders/{order}/pay", "stripe", join=join), confirms)
    location = [(b"location", b"https://pay.example/?order=o7")]
    redirect = ButterMiddleware(sends(start(303, headers=location), body()), butter)
    anyio.run(drive, redirect, http_scope("/orders/o7/pay"))
    confirm(butter, PAID | {"client_reference_id": "o7"})
    assert fake.records == [RECORD]
    confirm(butter, PAID | {"client_reference_id": "o8"}, status=303)
    assert butter.status().skipped == {"status": 1}


def test_an_expression_ignores_a_redirect(serve: Callable[..., Butter]) -> None:
    """A redirect has no JSON. It may lead to the login page."""
    butter = serve()
    redirect = ButterMiddleware(sends(start(303), body()), butter)
    anyio.run(drive, redirect, http_scope("/sessions"))
    assert butter.flush()
    assert (butter.status().skipped, butter.status().parked) == ({"status": 1}, 0)


def test_the_decorator_takes_a_webhook_too(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """`butter.checkout_route` has the options of `CheckoutRoute`."""
    butter = serve(BEGIN)

    @butter.checkout_route("/webhook", psp="stripe", join="data.object.id", address=False, source="request")
    def paid(response: CheckoutResponse) -> Fields:
        session = response.json()["data"]["object"]
        return {"customer_email": session["customer_details"]["email"], "invoice_id": session["invoice"]}

    begin(butter)
    confirm(butter)
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_1", SHOPPER)]


def test_a_webhook_alone_may_be_read_by_its_request(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """`source="request"` works for any webhook. If the PSP sends the shopper's address, no second part is needed."""
    charge = {
        "id": 11,
        "status": "success",
        "customer": {"email": "ada@example.com"},
        "client_details": {"browser_ip": SHOPPER},
        "line_items": [{"purchase_item_type": "subscription", "purchase_item_id": 77}],
        "processor_name": "stripe",
    }
    route = CheckoutRoute("/webhook", "recharge", extract.recharge(), address_from_body=True, source="request")
    butter = make_butter(route)
    confirm(butter, {"charge": charge})
    assert [(record["charge_id"], record["ipv4_address"]) for record in fake.records] == [("11", SHOPPER)]


def test_a_recorded_webhook_has_no_address(serve: Callable[..., Butter], fake: FakeButter) -> None:
    """`butter.record(request, ...)` in a webhook's endpoint is parked, and the log names the fix."""
    butter = serve()
    butter.record(http_scope("/webhook"), customer_email="ada@example.com", invoice_id="in_1")
    butter.record(http_scope("/sessions"), customer_email="ada@example.com", invoice_id="in_2")
    assert butter.flush()
    assert [record["invoice_id"] for record in fake.records] == ["in_2"]
    assert butter.status().skipped == {"parked:invalid": 1}


def test_the_file_does_not_contain_the_session(serve: Callable[..., Butter], tmp_path: Path) -> None:
    """The stored key is a digest."""
    butter = serve()
    begin(butter, SESSION | {"id": "cs_live_secret"})
    butter.close()
    with closing(sqlite3.connect(tmp_path / "butter.db")) as connection:
        ((key, fields),) = connection.execute("SELECT key, fields FROM parts").fetchall()
    assert "secret" not in key + fields
    assert json.loads(fields) == {"psp": "stripe", "ipv4_address": SHOPPER}


def test_a_dry_run_stores_no_part(serve: Callable[..., Butter]) -> None:
    """It counts the parts that it would have stored."""
    butter = serve(dry_run=True)
    begin(butter)
    confirm(butter)
    assert (butter.status().skipped, butter.status().parts) == ({"dry_run": 2}, 0)


class Queue:
    async def enqueue(self, record: Record) -> None:
        """Accept a record."""


def test_decorated_routes_warn_that_parts_are_in_memory(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The warning is logged once, and not with a file. With a queue, a file is not the remedy."""
    for outbox, times, remedy in (
        (None, 1, "outbox="),
        (tmp_path / "butter.db", 0, ""),
        (Queue(), 1, "butter.record()"),
    ):
        caplog.clear()
        butter = make_butter(outbox=outbox)
        for path in ("/begin", "/confirm"):
            butter.checkout_route(path, psp="stripe", join="id")(lambda _response: None)
        butter.checkout_route("/other", psp="stripe")(lambda _response: None)
        (*said,) = [line for line in caplog.messages if "meet in memory" in line]
        assert len(said) == times
        assert all(remedy in line and ("outbox=" in line) is (outbox is None) for line in said)


def test_parts_in_memory_cause_a_warning(make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture) -> None:
    """In memory, parts join within one process only. This is logged at the start. Parts left at the end are lost."""
    butter = make_butter(BEGIN, CONFIRM)
    assert "the parts of a checkout (CheckoutRoute(join=...)) meet in memory" in caplog.text
    begin(butter)
    butter.pipeline.shutdown()
    assert butter.status().lost == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": False}, "address=False leaves its records without an address"),
        ({"join": "id ||"}, "not a JMESPath expression"),
        ({"join": 7}, "join is not callable"),
        ({"join": "id", "address_from_body": True}, "Leave address_from_body out"),
        ({"source": "body"}, "use 'response' or 'request'"),
    ],
)
def test_wrong_options_are_refused(options: Fields, says: str) -> None:
    """A mistake stops the start."""
    with pytest.raises(ConfigurationError, match=r"route '/pay'.*" + says.replace("(", r"\(")):
        CheckoutRoute("/pay", "stripe", **options)


def test_a_file_of_version_1_is_migrated(tmp_path: Path) -> None:
    """A file from before parts existed keeps its captures and records, and accepts parts."""
    path = tmp_path / "butter.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for statement in (
            f"PRAGMA page_size = {schema.PAGE_BYTES}",
            "PRAGMA journal_mode = WAL",
            *schema.MIGRATIONS[0],
        ):
            old.execute(statement)
        old.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        old.execute("PRAGMA user_version = 1")
        known, stored = record(1), capture(2)
        old.execute(
            "INSERT INTO records (key, captured_at, due_at, payload) VALUES (?, ?, ?, ?)",
            (known.key, NOW, NOW, known.payload),
        )
        old.execute("INSERT INTO piles (slot) VALUES (NULL)")
        old.execute(
            "INSERT INTO captures (pile, captured_at, head, body) VALUES (1, ?, ?, ?)",
            (NOW, stored.head(), stored.body),
        )
    outbox = SQLiteOutbox(path, clock=Clock())
    outbox.validate()
    store = outbox.store()
    store.open()
    assert invoices(store.due(10)) == ["in_1"]
    (given,) = store.unread(10, below=store.counts().newest_capture)
    assert given.capture == stored
    part = Part(Part.key_of("stripe", "cs_1"), shopper=True, fields={"psp": "stripe"}, captured_at=NOW)
    (resolved,) = store.resolve([Resolution(given.id, part=part)])
    assert (resolved.there, list(resolved.outcomes)) == (True, [])
    assert store.counts().parts == 1
    store.close()
    with closing(sqlite3.connect(path)) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
