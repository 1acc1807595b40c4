"""Under pytest nothing leaves the process. `butter_inbox` shows what would have. Each test runs a merchant's suite."""

import re
import threading

import pytest
from processes import until
from suites import Suite

from butter_middleware._utils import overrides


def test_a_record_is_seen_as_it_was_posted(suite: Suite) -> None:
    """Each field is an attribute of a frozen object, and the repr shows them."""
    tests = """
def test_it(butter_inbox):
    buy()
    (record,) = butter_inbox.sent
    assert (record.customer_email, record.ipv4_address) == ("ada@example.com", "203.0.113.7")
    assert (record.psp, record.invoice_id, record.charge_id) == ("stripe", "in_7", None)
    assert record.route == "POST /checkout/{cart_id}"
    assert record.payload == {
        "customer_email": "ada@example.com", "ipv4_address": "203.0.113.7", "psp": "stripe", "invoice_id": "in_7"
    }
    assert repr(record) == (
        "InboxRecord(customer_email='ada@example.com', ipv4_address='203.0.113.7', psp='stripe', invoice_id='in_7', "
        "route='POST /checkout/{cart_id}')"
    )
    with pytest.raises(AttributeError):
        record.invoice_id = "in_8"
    assert butter_inbox.assert_sent(invoice_id="in_7", charge_id=None, route="POST /checkout/{cart_id}") == record


def test_a_number_equals_its_text(butter_inbox):
    from butter_middleware import Checkout

    butter.record(Checkout(customer_email="a@example.com", ipv4_address="8.8.8.8", psp="recurly", invoice_id=4711))
    assert butter_inbox.assert_sent(invoice_id=4711).route is None


def test_the_status_agrees(butter_inbox):
    buy()
    assert butter.flush()
    assert (butter.status().delivered, butter.status().pending, butter.status().lost) == (1, 0, 0)
    assert butter.status().coverage.ratio == 1
    assert repr(butter_inbox) == "ButterInbox(1 sent, 0 pending, 0 dead, 0 parked, 0 skipped)"
"""
    suite.run(tests).assert_outcomes(passed=3)


def test_each_test_begins_without_state(suite: Suite) -> None:
    """Each test sends the same invoice. No key, count, answer, parked checkout or log line is left from another."""
    tests = """
@pytest.mark.parametrize("time", range(3))
def test_it(butter_inbox, caplog, time):
    assert butter_inbox.sent == []
    buy()
    buy()
    order()
    assert len(butter_inbox.parked) == 1
    assert [record.invoice_id for record in butter_inbox.sent] == ["in_7"]
    assert butter_inbox.skipped == {"duplicate": 1}
    assert caplog.text.count("the extractor of POST /orders raised KeyError") == 1
    assert (butter.status().captured, butter.status().parked, butter.status().endpoint) == (3, 1, "ok")
    butter_inbox.respond_with(*[401] * 9)
    buy("8")
    assert butter_inbox.pending
    assert butter.status().endpoint == "hold"


def test_a_late_annotation_is_logged_again(caplog):
    from butter_middleware import annotate

    for _time in range(2):
        annotate({})
    from butter_middleware._utils import log_thread
    log_thread.settle(5)
    assert caplog.text.count("annotate() had no effect") == 1


def test_and_again(caplog):
    test_a_late_annotation_is_logged_again(caplog)
"""
    suite.run(tests).assert_outcomes(passed=5)


@pytest.mark.parametrize("where", ["conftest", "module", "fixture", "test"])
def test_a_butter_is_reached_whenever_it_is_built(suite: Suite, where: str) -> None:
    """It may be built in a `conftest.py`, at collection, in a fixture, or in the test itself."""
    load = "import shop\n"
    if where == "conftest":
        suite.write("conftest", load)
    tests = f"""
from starlette.testclient import TestClient
import pytest

{load if where == "module" else ""}

@pytest.fixture
def app():
    import shop
    yield shop.app


@pytest.fixture(scope="session")
def client():
    import shop
    with TestClient(shop.app) as client:
        yield client


def test_it(butter_inbox{", app" if where == "fixture" else ""}):
    import shop
    TestClient(shop.app).post("/checkout/7", headers={{"x-forwarded-for": "203.0.113.7"}})
    butter_inbox.assert_sent(invoice_id="in_7")


@pytest.mark.parametrize("time", range(2))
def test_of_a_session(client, butter_inbox, time):
    client.post("/checkout/7", headers={{"x-forwarded-for": "203.0.113.7"}})
    butter_inbox.assert_sent(invoice_id="in_7")
"""
    suite.run(tests, head="").assert_outcomes(passed=3)


def test_credentials_and_keys_are_never_needed(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments may be None or empty, and the environment may name a file that does not exist."""
    monkeypatch.setenv("BUTTER_PASSWORD_FILE", "/run/secrets/of-production")
    monkeypatch.setenv("BUTTER_USERNAME", "")
    tests = """
from butter_middleware import Beacon, Butter, ConfigurationError, client_ip


@pytest.mark.parametrize("given", [None, ""])
def test_it(given):
    Butter(username=given, password=given, client_ip=client_ip.direct())
    Beacon(origins=["https://shop.example"], bind="path:cart_id")


@pytest.mark.parametrize(
    "wrong", [{"client_ip": None}, {"outbox": 42}, {"username": "a:b"}, {"base_url": "butter"}, {"environment": "test"}]
)
def test_other_mistakes_still_raise(wrong):
    with pytest.raises(ConfigurationError):
        Butter(**{"client_ip": client_ip.direct()} | wrong)
"""
    suite.run(tests).assert_outcomes(passed=7)


def test_a_transport_of_the_tests_own_is_kept(suite: Suite) -> None:
    """Its records go there, also those of a queue. No file is opened, and each test still begins without state."""
    tests = """
from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, MemoryOutbox, SQLiteOutbox, client_ip
from butter_middleware.testing import FakeButter

CREDENTIALS = {"username": "shop", "password": "s3cret"}
CHECKOUT = Checkout(customer_email="a@example.com", ipv4_address="8.8.8.8", psp="adyen", transaction_id="PSP1")
fake = FakeButter(**CREDENTIALS)
own = Butter(
    **CREDENTIALS, client_ip=client_ip.direct(), outbox="/var/lib/no-such-shop/butter.db", transport=fake.transport()
)


@pytest.mark.parametrize("time", [1, 2])
def test_it(butter_inbox, time):
    own.record(CHECKOUT)
    assert own.flush()
    assert len(fake.records) == time
    assert butter_inbox.sent == []
    with pytest.raises(AssertionError, match="has a transport of its own|was built with transport="):
        butter_inbox.assert_sent(transaction_id="PSP1")


def test_its_parked_checkouts_are_seen(butter_inbox):
    @own.checkout_route("/own", psp="adyen")
    def broken(response):
        raise RuntimeError

    own.record({"type": "http", "method": "POST", "path": "/own", "headers": [], "client": ("8.8.8.8", 1)})
    (parked,) = butter_inbox.parked
    assert parked.reason == "invalid"


@pytest.mark.parametrize("make", [SQLiteOutbox, str])
def test_no_file_is_opened(tmp_path, make):
    outbox = make(tmp_path / "butter.db")
    with Butter(client_ip=client_ip.direct(), outbox=outbox, transport=fake.transport()) as butter:
        butter.record(CHECKOUT)
        butter.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_retry_is_not_for_it(butter_inbox):
    away = FakeButter(**CREDENTIALS)
    away.respond_with(*[503] * 100)
    butter = Butter(**CREDENTIALS, client_ip=client_ip.direct(), transport=away.transport())
    butter.record(CHECKOUT)
    butter.close()
    asked = away.requests
    butter_inbox.retry_now()
    assert (away.requests, butter.status().endpoint, butter.status().pending) == (asked, "unknown", 1)


class Queue:
    def __init__(self):
        self.records = []

    async def enqueue(self, record):
        self.records.append(record)


def test_a_queue_beside_it_is_kept():
    queue = Queue()
    with Butter(client_ip=client_ip.direct(), outbox=queue, transport=fake.transport()) as butter:
        butter.record(CHECKOUT)
    assert len(queue.records) == 1


def test_a_queue_without_it_is_not_reached(butter_inbox):
    queue = Queue()
    butter = Butter(client_ip=client_ip.direct(), outbox=queue)
    butter.record(CHECKOUT)
    butter_inbox.assert_sent(transaction_id="PSP1")
    assert queue.records == []


def test_an_outbox_beside_it_is_kept():
    outbox = MemoryOutbox()
    with Butter(client_ip=client_ip.direct(), outbox=outbox, transport=fake.transport(), **CREDENTIALS) as butter:
        butter.record(CHECKOUT)
        assert butter.flush()
        assert (butter.outbox, butter.status().delivered) == (outbox, 1)


@pytest.mark.asyncio
async def test_the_consumer_of_a_queue_delivers_to_the_inbox(butter_inbox):
    from butter_middleware import Record

    delivery = Butter(client_ip=client_ip.direct(), outbox=Queue()).delivery()
    settlement = await delivery.deliver(Record.of(CHECKOUT, 0.0))
    assert settlement.settled == "delivered"
    butter_inbox.assert_sent(transaction_id="PSP1")
"""
    suite.run(tests).assert_outcomes(passed=10)


def test_the_inbox_is_complete_whichever_client_is_used(suite: Suite) -> None:
    """The records are there after the call, with TestClient (lifespan or not) and httpx on asyncio and trio."""
    tests = """
import httpx
from fastapi import BackgroundTasks


@app.post("/later/{number}")
def later(number: str, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(
        butter.record, {"type": "http", "method": "POST", "path": "/checkout/9", "client": ("10.0.0.1", 1),
                        "headers": [(b"x-forwarded-for", b"203.0.113.9")]},
        customer_email="late@example.com", charge_id=number,
    )
    return {}


def test_many_without_lifespan(butter_inbox):
    for number in range(20):
        buy(number)
        assert len(butter_inbox.sent) == number + 1


def test_with_lifespan(butter_inbox):
    with TestClient(app) as client:
        buy("1", client)
        butter_inbox.assert_sent(invoice_id="in_1")
        buy("2", client)
    butter_inbox.assert_sent(invoice_id="in_2")
    buy("3")
    assert [record.invoice_id for record in butter_inbox.sent] == ["in_1", "in_2", "in_3"]
    assert butter.status().lost == 0


def test_a_background_task(butter_inbox):
    TestClient(app).post("/later/ch_1")
    butter_inbox.assert_sent(charge_id="ch_1", ipv4_address="203.0.113.9")


def test_after_close(butter_inbox):
    buy("1")
    butter.close()
    butter_inbox.assert_sent(invoice_id="in_1")
    buy("2")
    butter_inbox.assert_sent(invoice_id="in_2")


async def buy_async(butter_inbox):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        await client.post("/checkout/7", headers=SHOPPER)
    butter_inbox.assert_sent(invoice_id="in_7", ipv4_address="203.0.113.7")


@pytest.mark.asyncio
async def test_asyncio(butter_inbox):
    await buy_async(butter_inbox)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_anyio(butter_inbox, anyio_backend):
    await buy_async(butter_inbox)


def test_trio(butter_inbox):
    import trio
    trio.run(buy_async, butter_inbox)
"""
    suite.run(tests).assert_outcomes(passed=8)


def test_a_server_in_a_thread_is_reached(suite: Suite) -> None:
    """The plugin also applies to a live server in the test's process."""
    tests = """
import httpx
from processes import served


def test_it(butter_inbox):
    with served(app) as url:
        assert httpx.post(f"{url}/checkout/7", headers=SHOPPER).status_code == 200
        butter_inbox.assert_sent(invoice_id="in_7")
"""
    suite.run(tests).assert_outcomes(passed=1)


def test_documentation_addresses_and_testclient(suite: Suite) -> None:
    """TestClient is a proxy on 127.0.0.1 if it sends a header. Addresses for documentation count as shoppers'."""
    tests = """
from butter_middleware import Beacon, Butter, ButterMiddleware, CheckoutRoute, client_ip, extract

KEYS = {"customer_email": "email", "invoice_id": "id"}


def shop(strategy, **options):
    route = CheckoutRoute("/checkout", psp="stripe", extract=extract.json(**KEYS))
    body = CheckoutRoute(
        "/hook", psp="adyen", address_from_body=True, extract=extract.json(**KEYS, ipv4_address="ip"),
    )
    return ButterMiddleware(paid, Butter(client_ip=strategy, routes=[route, body], **options))


async def paid(scope, receive, send):
    message = await receive()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"]})


PAID = {"email": "a@example.com", "id": "in_1"}
NETS = ["192.0.2.1", "198.51.100.1", "203.0.113.255"]


@pytest.mark.parametrize("address", NETS)
def test_a_documentation_address_is_a_shopper(butter_inbox, address):
    TestClient(shop(client_ip.direct()), client=(address, 4711)).post("/checkout", json=PAID)
    butter_inbox.assert_sent(ipv4_address=address)


@pytest.mark.parametrize("address", NETS)
def test_in_a_body_too(butter_inbox, address):
    TestClient(shop(client_ip.direct())).post("/hook", json=PAID | {"ip": address})
    butter_inbox.assert_sent(ipv4_address=address)


@pytest.mark.parametrize("address", ["10.0.0.1", "198.18.0.1", "224.0.0.1"])
def test_a_private_address_is_not_used(butter_inbox, address):
    client = TestClient(shop(client_ip.direct()), client=(address, 4711))
    client.post("/checkout", json=PAID)
    client.post("/hook", json=PAID | {"ip": address})
    assert [parked.reason for parked in butter_inbox.parked] == ["no_address"]
    assert butter_inbox.skipped == {"no_address:body_private": 1}


def test_testclient_is_a_proxy_on_this_host(butter_inbox):
    client = TestClient(shop(client_ip.nginx(["127.0.0.1"])))
    client.post("/checkout", json=PAID, headers=SHOPPER)
    butter_inbox.assert_sent(ipv4_address="203.0.113.7")


def test_testclient_is_this_machine_if_the_test_asks_for_it(butter_inbox):
    butter_inbox.client_ip = None
    TestClient(shop(client_ip.direct())).post("/checkout", json=PAID)
    with pytest.raises(AssertionError, match="127.0.0.1 is this machine"):
        butter_inbox.assert_sent(invoice_id="in_1")


def test_staging_admits_it(butter_inbox):
    app = shop(client_ip.direct(), environment="staging")
    TestClient(app).post("/checkout", json=PAID)
    TestClient(app).post("/hook", json=PAID | {"id": "in_2", "ip": "10.0.0.7"})
    assert [record.ipv4_address for record in butter_inbox.sent] == ["203.0.113.1", "10.0.0.7"]


@pytest.mark.parametrize("own", [None, client_ip.direct()])
def test_the_beacon_sees_them_too(butter_inbox, own):
    beacon = Beacon(origins=["https://shop.example"], bind="header:X-Cart", client_ip=own)
    butter = Butter(
        client_ip=client_ip.direct(), ipv4_beacon=beacon,
        routes=[CheckoutRoute("/checkout", psp="stripe", extract=extract.json(**KEYS))],
    )
    token = TestClient(butter.ipv4_beacon, client=("203.0.113.7", 1)).post("/", content="7").json()["token"]
    app = ButterMiddleware(paid, butter)
    for number in range(2):
        TestClient(app, client=("2001:db8::1", 1)).post(
            "/checkout", json=PAID | {"id": f"in_{number}"}, headers={"X-Cart": "7", "X-Butter-Token": token}
        )
    assert [record.ipv4_address for record in butter_inbox.sent] == ["203.0.113.7"]
    assert butter_inbox.skipped == {"no_address:token_replayed": 1}
"""
    suite.run(tests).assert_outcomes(passed=14)


def test_two_requests_that_make_one_record(suite: Suite) -> None:
    """The fake outbox joins the parts of a payment page, again in each test."""
    tests = """
from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract

shop = Butter(
    client_ip=client_ip.aws_alb(), outbox="/var/lib/no-such-shop/butter.db",
    routes=[
        CheckoutRoute("/sessions", psp="stripe", join="id"),
        CheckoutRoute("/hook", psp="stripe", join="id", address=False,
                      extract=extract.json(customer_email="email", charge_id="charge")),
    ],
)


async def paid(scope, receive, send):
    message = await receive()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"]})


@pytest.mark.parametrize("time", range(2))
def test_it(butter_inbox, time):
    client = TestClient(ButterMiddleware(paid, shop))
    client.post("/sessions", json={"id": "cs_1"}, headers=SHOPPER)
    assert butter_inbox.sent == []
    client.post("/hook", json={"id": "cs_1", "email": "ada@example.com", "charge": "ch_1"})
    assert butter_inbox.assert_sent(charge_id="ch_1", ipv4_address="203.0.113.7").route is None
"""
    suite.run(tests).assert_outcomes(passed=2)


def test_a_queue_in_postgresql_works_without_postgresql(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs neither a DSN nor a server. What would go into the order's transaction is in the inbox."""
    monkeypatch.delenv("BUTTER_POSTGRES_DSN", raising=False)
    tests = """
import psycopg

from butter_middleware import Butter, Checkout, ConfigurationError, client_ip
from butter_middleware.postgres import PostgresOutbox

CHECKOUT = Checkout(customer_email="a@example.com", ipv4_address="8.8.8.8", psp="adyen", transaction_id="PSP1")
queued = Butter(client_ip=client_ip.direct(), outbox=PostgresOutbox(), durability="before_response")


class Sync:
    def execute(self): ...


class Async:
    async def execute(self): ...


def test_it(butter_inbox):
    queued.record(CHECKOUT)
    butter_inbox.assert_sent(transaction_id="PSP1")


def test_in_a_transaction(butter_inbox):
    assert queued.record(CHECKOUT, connection=Sync()) is None
    butter_inbox.assert_sent(transaction_id="PSP1")


@pytest.mark.asyncio
async def test_in_an_asynchronous_one(butter_inbox):
    await queued.record(CHECKOUT, connection=Async())
    butter_inbox.assert_sent(transaction_id="PSP1")


def test_connection_needs_a_postgres_outbox(butter_inbox):
    with pytest.raises(ConfigurationError, match="PostgresOutbox"):
        butter.record(CHECKOUT, connection=Sync())
"""
    suite.run(tests).assert_outcomes(passed=4)


def test_a_response_that_waits_for_its_record_is_not_held_back(suite: Suite) -> None:
    """Inline delivery and a durable capture do not hold back a test's response, even if Butter does not answer."""
    tests = """
import time

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip


class Queue:
    async def enqueue(self, record): ...


async def paid(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("options", [
    {"delivery": "inline", "inline_timeout": 30}, {"delivery": "inline", "inline_timeout": 30, "outbox": Queue()},
    {"durability": "before_response"}, {"durability": "before_response", "outbox": "/var/lib/no-such-shop/butter.db"},
])
@pytest.mark.parametrize("answer", [200, 503, 401, 422, 429, 403])
def test_it(butter_inbox, options, answer):
    route = CheckoutRoute("/pay", "adyen", lambda _: {"customer_email": "a@example.com", "transaction_id": "PSP1"})
    shop = Butter(client_ip=client_ip.aws_alb(), routes=[route], **options)
    butter_inbox.respond_with(answer)
    before = time.monotonic()
    TestClient(ButterMiddleware(paid, shop)).post("/pay", headers=SHOPPER)
    assert time.monotonic() - before < 20
    assert len([*butter_inbox.sent, *butter_inbox.pending, *butter_inbox.dead]) == 1
"""
    suite.run(tests).assert_outcomes(passed=24)


def test_a_failing_test_shows_the_nearest_record(suite: Suite) -> None:
    """It shows field by field, without lines of this package's code."""
    tests = """
def test_it(butter_inbox):
    for cart in ("7", "8", "12"):
        buy(cart)
    butter_inbox.assert_sent(invoice_id="in_1", charge_id="ch_1", customer_email="ada@example.com")
"""
    result = suite.run(tests)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       butter_inbox.assert_sent(*",
            "E       AssertionError: no record was sent with invoice_id='in_1', charge_id='ch_1', customer_email=*",
            "E       the nearest of the 3 that were sent:",
            "E         customer_email  'ada@example.com'",
            "E         ipv4_address    '203.0.113.7'",
            "E         psp             'stripe'",
            "E       ! invoice_id      'in_12', expected 'in_1'",
            "E       ! charge_id       absent, expected 'ch_1'",
            "E         route           'POST /checkout/{cart_id}'",
        ],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*inbox.py*")


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("pass", "no response of a checkout route was seen. The routes are POST /checkout/{cart_id}, POST /orders: do"),
        (
            "buy(); buy()",
            "skipped: 1 x duplicate. POST /checkout/{cart_id}: A record with the same PSP and IDs was taken before.",
        ),
        ("butter_inbox.respond_with(503); buy()", "pending, since Butter answered 503 (butter_inbox.retry_now() tries"),
        ("butter_inbox.respond_with(401); buy(); buy(8)", "pending, since Butter was not asked yet (butter_inbox."),
        ("butter_inbox.respond_with(422); buy()", "dead, since Butter answered 422: InboxRecord(customer_email='ada@"),
        ("order(); butter_inbox.parked", "POST /orders was parked (extractor_error):"),
        ("TestClient(app).post('/orders/7')", "do the request's method and path match one, and does ButterMiddleware"),
    ],
)
def test_a_failing_test_reports_the_other_records(suite: Suite, test: str, says: str) -> None:
    """It names what is pending, dead, parked or skipped, and what to do, or reports that no response was seen."""
    result = suite.run(f"def test_it(butter_inbox):\n    {test}\n    butter_inbox.assert_sent(invoice_id='in_77')\n")
    result.assert_outcomes(failed=1)
    assert says in re.sub(r"\nE +", "\n", result.stdout.str())


def test_without_a_butter_the_failure_says_so(suite: Suite) -> None:
    """The app may run in another process, or not be imported at all."""
    result = suite.run("def test_it(butter_inbox):\n    butter_inbox.assert_sent()\n", head="")
    result.stdout.fnmatch_lines(["E*no Butter with a route was built in this process*"])


def test_an_unknown_field(suite: Suite) -> None:
    """A wrong field name is a mistake in the test: it raises TypeError."""
    result = suite.run("def test_it(butter_inbox):\n    butter_inbox.assert_sent(invoice='in_7')\n")
    result.stdout.fnmatch_lines(["E*TypeError: a record has no field invoice. Did you mean invoice_id?"])


def test_nothing_is_left_after_the_run(suite: Suite) -> None:
    """The components of production are back, and the threads of the run's Butters have ended."""
    suite.run("def test_it(butter_inbox):\n    buy()\n    assert butter_inbox.sent\n").assert_outcomes(passed=1)
    assert overrides.current() is None
    ours = {"butter-read", "butter-send", "butter-store"}
    until(lambda: not ours & {thread.name for thread in threading.enumerate()}, "the end of the threads")


def test_our_own_tests_run_without_it(request: pytest.FixtureRequest) -> None:
    """The plugin is not loaded here, because these tests need the real outboxes."""
    assert overrides.current() is None
    assert request.config.pluginmanager.is_blocked("butter_middleware")
