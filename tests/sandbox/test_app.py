"""The sandbox: the contract, its inbox, the requests of scripts and of the page, and the requests it refuses."""

import asyncio
import json
import subprocess
import sys
import threading
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi import body, drive, http_scope, sends, start
from processes import Late, until
from shops import CREDENTIALS, SHOPPER

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, annotate, client_ip, events, extract
from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.config import SANDBOX_SOURCES
from butter_middleware.sandbox import Sandbox
from butter_middleware.sandbox import inbox as inboxes
from butter_middleware.sandbox.app import MOST_BYTES
from butter_middleware.sandbox.events import MOST_STREAMS
from butter_middleware.sandbox.inbox import Inbox
from butter_middleware.testing import FakeButter, inbox

ANY = {"authorization": "Basic " + b64encode(b"any:thing").decode()}
JSON_TYPE = (b"content-type", b"application/json")
GOOD = {"customer_email": "ada@example.com", "ipv4_address": SHOPPER, "psp": "stripe", "invoice_id": "in_1"}


class Client:
    """Sends the requests of scripts, shops and pages to a sandbox."""

    def __init__(self, sandbox: Sandbox, http: httpx.Client) -> None:
        self.sandbox = sandbox
        self.http = http

    def post(self, record: object = None, **headers: str) -> httpx.Response:
        content = json.dumps(GOOD if record is None else record)
        sent = ANY | {"content-type": "application/json"} | headers
        return self.http.post("/v1/analytics", content=content, headers=sent)

    def state(self) -> Any:
        return self.http.get("/api/records").json()

    @property
    def last(self) -> Any:
        return self.state()["records"][-1]


@pytest.fixture
def client_of(late_server: tuple[Late, str]) -> Iterator[Callable[[Sandbox], Client]]:
    late, url = late_server
    with httpx.Client(base_url=url, trust_env=False) as http:

        def client_of(sandbox: Sandbox) -> Client:
            late.app = sandbox
            return Client(sandbox, http)

        yield client_of


@pytest.fixture
def client(client_of: Callable[[Sandbox], Client]) -> Client:
    return client_of(Sandbox())


# The contract


def test_an_accepted_record_is_kept_as_it_came(client: Client) -> None:
    """The entry has its fields, its time and its answer."""
    assert client.post().json() == {"status": "ok"}
    entry = client.last
    assert entry.pop("at").endswith("Z")
    raw = entry.pop("request")
    assert raw.startswith("POST /v1/analytics HTTP/1.1\n")
    assert "authorization: Basic (masked)\n" in raw
    assert raw.endswith(f"\n\n{json.dumps(GOOD)}")
    assert entry == {
        "seq": 1, "outcome": "accepted", "status": 200, "switched": False, "record": GOOD, "problems": [], "body": "",
        "duplicate_of": None, "route": "", "sources": {}, "answer": '{"status": "ok"}',
    }  # fmt: skip


def test_both_spellings_of_the_path_are_taken(client: Client) -> None:
    """Butter's documentation has two pages, and each uses another spelling."""
    assert client.http.post("/v1/analytics/", json=GOOD, headers=ANY).status_code == 200


def test_a_record_that_came_before_is_marked(client: Client) -> None:
    """A duplicate has the same PSP and IDs, except for spaces. Butter has no idempotency key and would keep both."""
    client.post()
    client.post(GOOD | {"invoice_id": "in_2"})
    client.post(GOOD | {"customer_email": "other@example.com", "invoice_id": " in_1 "})
    entry = client.last
    assert (entry["outcome"], entry["status"], entry["duplicate_of"]) == ("duplicate", 200, 1)


def test_a_rejected_record_names_each_problem(client: Client) -> None:
    """The entry names each problem and its field. A value that is not a string is shown as JSON."""
    answer = client.post({"psp": "paypal", "customer_email": "nobody", "charge_id": None, "x": {"y": [1.5]}})
    assert answer.status_code == 422
    entry = client.last
    assert (entry["outcome"], entry["status"]) == ("rejected", 422)
    assert {problem["field"] for problem in entry["problems"]} >= {"psp", "customer_email", "ipv4_address"}
    assert all(problem["message"] for problem in entry["problems"])
    assert entry["record"]["charge_id"] == "null"
    assert entry["record"]["x"] == '{"y": [1.5]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[1]",
        b"7",
        b"null",
        b'{"psp": NaN}',
        b"[" * 30_000,
        b'{"a":' * 9_000,
        b"\xff\xfe",
        b"9" * 9000,
    ],
    ids=lambda body: repr(body[:9]),
)
def test_an_invalid_body_is_rejected_and_shown(client: Client, body: bytes) -> None:
    """Whatever is sent, the answer is 422, and `JSON.parse` can still read the list."""
    sent = ANY | {"content-type": "application/json"}
    assert client.http.post("/v1/analytics", content=body, headers=sent).status_code == 422
    state = json.loads(client.http.get("/api/records").text, parse_constant=pytest.fail)
    entry = state["records"][-1]
    assert entry["outcome"] == "rejected"
    assert entry["body"] == body.decode("utf-8", "replace")[:4096]


def test_a_body_that_is_too_long_is_refused(client: Client) -> None:
    """A record has about 200 bytes."""
    assert client.post(GOOD | {"invoice_id": "x" * MOST_BYTES}).status_code == 413
    assert client.last["problems"] == [{"field": "", "message": f"longer than {MOST_BYTES} bytes"}]


def test_any_credentials_pass_but_some_are_needed(client: Client) -> None:
    """The shop must send some, because Butter refuses requests without credentials."""
    assert client.http.get("/", headers=ANY).json() == {"status": "ok"}
    assert client.http.get("/").status_code == 401
    assert client.post(authorization="").status_code == 401
    assert (client.last["outcome"], client.last["problems"][0]["message"]) == ("refused", "unauthorized")


def test_credentials_can_be_required(client_of: Callable[[Sandbox], Client]) -> None:
    """If the sandbox is given credentials, it accepts no others."""
    client = client_of(Sandbox(username="merchant", password="secret"))
    assert client.post().status_code == 401
    right = "Basic " + b64encode(b"merchant:secret").decode()
    assert client.post(authorization=right).status_code == 200
    assert "secret" not in client.http.get("/api/records").text


def test_the_root_is_the_page_for_a_browser_and_the_ping_for_a_client(client: Client) -> None:
    """`GET /` is Butter's documented ping."""
    page = client.http.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert client.http.get("/", headers=ANY | {"accept": "text/html"}).json() == {"status": "ok"}
    assert client.http.head("/app.js").headers["content-length"] == str(len(client.http.get("/app.js").content))


def test_unknown_paths_are_404(client: Client) -> None:
    """They are not in the inbox."""
    assert client.http.get("/v2", headers=ANY).status_code == 404
    assert client.http.get("/v1/analytics", headers=ANY).status_code == 405
    assert client.http.get("/api/nothing").status_code == 404
    assert client.state()["records"] == []


# The switches


@pytest.mark.parametrize("answer", ["401", "403", "422", "429", "500"])
def test_a_switch_stays_until_it_is_switched_off(client: Client, answer: str) -> None:
    """Pings get the same answer. A record is shown with this answer, as refused."""
    assert client.http.put("/api/answer", json={"answer": answer}).json()["answer"] == answer
    for _again in range(2):
        refused = client.post()
        assert refused.status_code == int(answer)
        assert refused.headers.get("retry-after") == ("5" if answer == "429" else None)
    assert client.http.get("/", headers=ANY).status_code == int(answer)
    entry = client.last
    assert (entry["outcome"], entry["status"], entry["switched"]) == ("refused", int(answer), True)
    client.http.put("/api/answer", json={"answer": "contract"})
    assert client.post().status_code == 200
    assert client.last["outcome"] == "accepted"


def test_slow_accepts_the_record_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is shown before it is answered."""
    monkeypatch.setattr("butter_middleware.sandbox.app.SLOW_SECONDS", 60.0)
    client.http.put("/api/answer", json={"answer": "slow"})
    answers: list[int] = []

    def post() -> None:
        answers.append(client.http.post("/v1/analytics", json=GOOD, headers=ANY, timeout=40).status_code)

    shop = threading.Thread(target=post, daemon=True)
    shop.start()
    until(lambda: bool(client.state()["records"]), "it is shown")
    assert client.last["outcome"] == "accepted"
    assert answers == []
    client.sandbox.close()  # a slow answer does not delay it
    shop.join(20)
    assert answers == [200]
    assert client.post().status_code == 200


def test_reset_needs_a_server_that_can_break_a_connection(client: Client) -> None:
    """This server cannot, and answers 500. The command's own server does a real reset (see `test_command.py`)."""
    client.http.put("/api/answer", json={"answer": "reset"})
    assert client.post().status_code == 500
    assert (client.last["outcome"], client.last["status"]) == ("refused", None)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b'{"answer": "418"}', b'{"answer": ["401"]}', b"{" * 9000])
def test_an_unknown_switch_changes_nothing(client: Client, content: bytes) -> None:
    """The answer names the valid ones."""
    answer = client.http.put("/api/answer", content=content)
    assert answer.status_code == 422
    assert "contract, 401, 403" in answer.json()["detail"]
    assert client.sandbox.answer == "contract"


def test_the_middleware_follows_a_switch(client: Client, make_butter: Callable[..., Butter]) -> None:
    """401 is a hold, and loses nothing. When the switch is off, the record arrives and the status is "ok" again."""
    butter = make_butter(base_url=str(client.http.base_url), transport=None, client_ip=client_ip.direct())
    client.http.put("/api/answer", json={"answer": "401"})
    butter.record(Checkout(**GOOD))  # type: ignore[arg-type]
    until(lambda: butter.status().endpoint == "hold", "the hold")
    client.http.put("/api/answer", json={"answer": "contract"})
    until(lambda: butter.status().delivered == 1, "the probe")
    assert butter.status().endpoint == "ok"
    assert [entry["outcome"] for entry in client.state()["records"]] == ["refused", "accepted"]
    assert client.last["sources"]["invoice_id"] == "the Checkout"


# What the middleware reports


def test_sources_are_shown_for_fields_of_the_record(client: Client) -> None:
    """The rest is left out, because any client can send the header."""
    told = {"route": "POST /pay", "fields": {"invoice_id": "extract.json(): id", "evil": "x", "psp": 7}}
    client.post(**{SANDBOX_SOURCES: json.dumps(told)})
    assert client.last["route"] == "POST /pay"
    assert client.last["sources"] == {"invoice_id": "extract.json(): id"}


@pytest.mark.parametrize("told", ["", "nothing", "[]", '{"fields": []}', '{"route": {}}', "[" * 9000])
def test_malformed_sources_are_left_out(client: Client, told: str) -> None:
    """The record is still accepted."""
    client.post(**{SANDBOX_SOURCES: told})
    assert (client.last["outcome"], client.last["route"], client.last["sources"]) == ("accepted", "", {})


# What did not arrive


def test_a_test_record_needs_no_shop(client_of: Callable[[Sandbox], Client]) -> None:
    """It is handled like any record, with the sandbox's credentials. A switch applies to it."""
    client = client_of(Sandbox(username="merchant", password="secret"))
    assert client.http.post("/api/test").status_code == 200
    assert (client.last["outcome"], client.last["record"]["ipv4_address"]) == ("accepted", "192.0.2.1")
    client.http.put("/api/answer", json={"answer": "422"})
    assert client.http.post("/api/test").status_code == 422
    assert "secret" not in client.http.get("/api/records").text


@pytest.mark.parametrize("content", [b"", b"{}", b"7", b"[7]", b"[" * 9000])
def test_a_malformed_report_is_refused(client: Client, content: bytes) -> None:
    """The list does not change."""
    assert client.http.post("/api/reports", content=content).status_code == 422
    assert client.state()["not_sent"] == []


def test_a_checkout_without_a_record_is_reported_with_its_fix(
    client: Client, make_butter: Callable[..., Butter]
) -> None:
    """The reports cover parked, skipped, duplicate and an annotation without effect. They have no shopper's data."""
    butter = make_butter(
        CheckoutRoute("/checkout", "stripe", extract.json(invoice_id="id", customer_email="email")),
        base_url=str(client.http.base_url),
        transport=None,
        client_ip=client_ip.direct(),
    )

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        annotate(scope, customer_id="cus_1")
        status, answer = scope["headers"][0][1].split(b" ", 1)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def buy(answer: bytes, path: str = "/checkout") -> None:
        scope = http_scope(path, client=(SHOPPER, 1), headers=[(b"x-answer", answer)])
        asyncio.run(drive(ButterMiddleware(app, butter), scope))

    paid = b'200 {"id": "in_1", "email": "ada@example.com"}'
    for answer in (paid, paid, b'200 {"id": "in_2"}', b"402 {}"):
        buy(answer)
    buy(paid, "/chekout")
    assert butter.flush()
    expected = {
        ("skipped", "duplicate"), ("parked", "no_email"), ("skipped", "status"), ("ignored", "annotate"),
    }  # fmt: skip

    def told_of() -> dict[tuple[str, str], dict[str, Any]]:
        return {(entry["name"], entry["reason"]): entry for entry in client.state()["not_sent"]}

    until(lambda: len(told_of()) >= len(expected), "the reports")
    told = told_of()
    assert told.keys() == expected
    assert {name for (name, _reason), entry in told.items() if entry["outcome"] == "missing"} == {
        "parked", "skipped", "ignored",
    }  # fmt: skip
    assert told["skipped", "duplicate"]["outcome"] == "skipped"
    assert "annotate(request, customer_email=...)" in told["parked", "no_email"]["message"]
    assert "answered 402" in told["skipped", "status"]["message"]
    assert {entry["route"] for entry in told.values()} == {"POST /checkout", ""}
    assert client.state()["arrived"] == 1
    text = json.dumps(client.state()["not_sent"])
    assert not [value for value in ("ada@example.com", "in_1", "in_2", "cus_1", SHOPPER) if value in text]


def test_a_checkout_that_gives_a_record_hands_nothing_to_the_log_thread(
    client: Client, make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox only gets reports of the others. This checkout hands nothing to another thread."""
    handed = list[object]()
    route = CheckoutRoute("/checkout", "stripe", extract.json(invoice_id="id", customer_email="email"))
    options = {"base_url": str(client.http.base_url), "transport": None, "client_ip": client_ip.direct()}
    butter = make_butter(route, **options)
    monkeypatch.setattr("butter_middleware.telemetry.dispatcher.log_thread.run", handed.append)
    paid = body(b'{"id": "in_1", "email": "ada@example.com"}')
    for times in range(2):  # the second one is a duplicate, which is reported to the sandbox
        asyncio.run(drive(ButterMiddleware(sends(start(), paid), butter), http_scope("/checkout", client=(SHOPPER, 1))))
        assert butter.flush()
        told = [event for call in handed for event in getattr(call, "args", ()) if isinstance(event, events.Event)]
        assert [event.reason for event in told] == ["duplicate"] * times


@pytest.mark.server
def test_each_worker_reports(client: Client, path: Path) -> None:
    """Several processes of a shop share a file. One sends the records of all. Each reports its own failures."""
    shop = """
import sys
import anyio
from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract

url, file, number = sys.argv[1:]
route = CheckoutRoute("/checkout", "stripe", extract.json(invoice_id="id", customer_email="email"))
butter = Butter(client_ip=client_ip.direct(), routes=[route], base_url=url, username="a", password="b", outbox=file)


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": scope["query_string"]})


async def nothing(message=None):
    return {"type": "http.request"}


async def buy(answer):
    scope = {"type": "http", "method": "POST", "path": "/checkout", "headers": [], "client": ("81.2.69.142", 1)}
    await ButterMiddleware(app, butter)(scope | {"query_string": answer}, nothing, nothing)


anyio.run(buy, b'{"id": "in_%b", "email": "ada@example.com"}' % number.encode())
anyio.run(buy, b'{"id": "in_lonely_%b"}' % number.encode())
print("bought", flush=True)
sys.stdin.read()
butter.flush(20)
butter.close()
"""
    url = str(client.http.base_url)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", shop, url, str(path), str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(3)
    ]
    until(lambda: client.state()["arrived"] == 3, "the records")
    until(lambda: len(client.state()["not_sent"]) == 3, "the reports")
    for worker in workers:
        worker.communicate(timeout=30)
        assert worker.returncode == 0
    state = client.state()
    assert {entry["record"]["invoice_id"] for entry in state["records"]} == {"in_0", "in_1", "in_2"}
    assert {entry["sources"]["invoice_id"] for entry in state["records"]} == {"extract.json(): id"}
    assert {entry["reason"] for entry in state["not_sent"]} == {"no_email"}


def test_a_server_that_is_not_a_sandbox_gets_one_report(
    make_butter: Callable[..., Butter], late_server: tuple[Late, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets one report, and no second one for a while. Records are still sent."""
    monkeypatch.setattr("butter_middleware.telemetry.sandbox_reports.REST", 600.0)
    late, url = late_server
    fake, came = FakeButter(**CREDENTIALS), list[str]()

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        came.append(scope["path"])
        await fake(scope, receive, send)

    late.app = counted
    butter = make_butter(base_url=url, transport=None)
    for _time in range(3):
        butter.record(Checkout(**GOOD))  # type: ignore[arg-type]
        assert butter.flush()
    butter.record(Checkout(**GOOD | {"invoice_id": "in_2"}))  # type: ignore[arg-type]
    assert butter.flush()
    log_thread.settle(10)  # it reports checkouts without a record
    until(lambda: "/api/reports" in came, "the report")
    assert sorted(came)[-3:] == ["/api/reports", "/v1/analytics", "/v1/analytics"]
    assert fake.requests == len(came) - 1


def test_a_test_reports_to_no_sandbox(make_butter: Callable[..., Butter], client: Client) -> None:
    """Nothing leaves the process, although `base_url` is a sandbox."""
    butter = make_butter(base_url=str(client.http.base_url), transport=None)
    with inbox() as butter_inbox:
        annotate({"type": "http"}, customer_id="x")
        butter.record(Checkout(**GOOD))  # type: ignore[arg-type]
        butter.record(Checkout(**GOOD))  # type: ignore[arg-type]
        assert butter_inbox.ignored
        assert butter_inbox.skipped == {"duplicate": 1}
    assert (client.state()["arrived"], client.state()["not_sent"]) == (0, [])


# The inbox's bounds


def take(inbox: Inbox, *numbers: int) -> None:
    for number in numbers:
        inbox.take(json.dumps(GOOD | {"invoice_id": f"in_{number}"}).encode(), 200)


def test_the_oldest_are_dropped_and_counted() -> None:
    """This applies beyond `keep`. The numbers continue."""
    inbox = Inbox(keep=3)
    take(inbox, 1, 2, 3, 4, 5)
    assert [entry.seq for entry in inbox.since(0, 1 << 30)] == [3, 4, 5]
    counts = {"accepted": 5, "duplicate": 0, "rejected": 0, "refused": 0, "missing": 0, "skipped": 0, "dropped": 2}
    assert inbox.counts == counts
    assert inbox.first == 3


def test_a_dropped_record_is_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A duplicate is found even if the first record is no longer shown. The list of keys is bounded too."""
    monkeypatch.setattr(inboxes, "KNOWN_KEYS", 4)
    inbox = Inbox(keep=1)
    take(inbox, 1, 2, 3, 1)
    assert json.loads(inbox.since(3, 1)[0].json)["duplicate_of"] == 1
    take(inbox, 4, 5, 1)
    assert json.loads(inbox.since(6, 1)[0].json)["duplicate_of"] is None


def test_large_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand bodies of 64 KiB would fill a laptop's memory."""
    monkeypatch.setattr(inboxes, "KEEP_CHARACTERS", 20_000)
    inbox = Inbox()
    for _large in range(10):
        inbox.take(json.dumps({"psp": "x" * 6000}).encode(), 422)
    assert sum(len(entry.json) for entry in inbox.since(0, 1 << 30)) <= 20_000
    assert inbox.counts["dropped"] > 6


def test_cleared_entries_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound only counts the entries that are kept."""
    monkeypatch.setattr(inboxes, "KEEP_CHARACTERS", 15_000)
    inbox = Inbox()
    for _time in range(3):
        inbox.take(json.dumps({"psp": "x" * 6000}).encode(), 422)
        assert (len(inbox.since(0, 1 << 30)), inbox.counts["dropped"]) == (1, 0)
        inbox.clear()


@pytest.fixture
def taken() -> Iterator[Callable[[], tuple[int, int]]]:
    """Measure the memory that is used now, and the peak."""
    tracemalloc.start()
    yield tracemalloc.get_traced_memory
    tracemalloc.stop()


def posted(sandbox: Sandbox, chunk: bytes, chunks: int) -> int:
    """Post a body of `chunks` equal chunks. Return the status."""
    left = iter(range(chunks - 1, -1, -1))

    async def receive() -> Message:
        return {"type": "http.request", "body": chunk, "more_body": next(left) > 0}

    headers = [(b"host", b"localhost"), (b"authorization", ANY["authorization"].encode()), JSON_TYPE]
    messages = asyncio.run(drive(sandbox, http_scope("/v1/analytics", headers=headers), receive))
    return int(messages[0]["status"])


def test_records_that_are_no_longer_kept_take_no_room(taken: Callable[[], tuple[int, int]]) -> None:
    """Neither the inbox nor the Butter behind it keeps them."""
    sandbox, body = Sandbox(keep=1), json.dumps(GOOD | {"user_agent": "x" * 50_000}).encode()
    assert posted(sandbox, body, 1) == 200
    before, _most = taken()
    assert {posted(sandbox, body, 1) for _time in range(100)} == {200}
    now, _most = taken()
    assert now - before < 1_000_000


def test_a_body_without_an_end_takes_no_room(taken: Callable[[], tuple[int, int]]) -> None:
    """It is read, so that its sender gets the answer, but not kept."""
    sandbox, chunk = Sandbox(), b"x" * MOST_BYTES
    before, _most = taken()
    assert posted(sandbox, chunk, 100) == 413
    _now, most = taken()
    assert most - before < 20 * MOST_BYTES


def test_a_message_of_the_stream_has_a_size_limit() -> None:
    """`since` stops at the size limit. The next call continues from there."""
    inbox = Inbox()
    take(inbox, *range(10))
    first = inbox.since(0, 1000)
    assert 1 < len(first) < 10
    assert inbox.since(first[-1].seq, 1 << 30)[0].seq == first[-1].seq + 1
    assert inbox.since(10, 1 << 30) == []


def test_clearing_keeps_the_number(client: Client) -> None:
    """The number tells open pages which entries are new."""
    client.post()
    state = client.http.delete("/api/records").json()
    assert (state["first"], state["arrived"], state["counts"]["accepted"]) == (2, 1, 0)
    client.post()
    assert (client.last["seq"], client.last["outcome"]) == (2, "accepted")


def test_a_repr_shows_no_shoppers_data() -> None:
    """The repr has only counts and numbers."""
    sandbox = Sandbox()
    entry = sandbox.inbox.take(json.dumps(GOOD).encode(), 200)
    assert (repr(sandbox), repr(entry)) == ("Sandbox(1 arrived)", "Entry(1)")


# The stream


def messages(client: Client, count: int, after: str = "") -> list[tuple[str, str, Any]]:
    """Read `count` events, each as name, ID and data."""
    found: list[tuple[str, str, Any]] = []
    headers = {"last-event-id": after} if after else {}
    with client.http.stream("GET", "/api/events", headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
                fields = {}
                if len(found) == count:
                    break
            else:
                fields = {}
    return found


def test_a_page_gets_the_existing_records_and_the_new_ones(client: Client) -> None:
    """First comes the state, then the records. A page that reconnects gets those after the last that it has."""
    client.post()
    state, records = messages(client, 2)
    assert (state[0], records[0]) == ("state", "records")
    assert state[2]["counts"]["accepted"] == 1
    assert [entry["seq"] for entry in records[2]] == [1]
    client.post(GOOD | {"invoice_id": "in_2"})
    _state, records = messages(client, 2, after=records[1])
    assert [entry["seq"] for entry in records[2]] == [2]


@pytest.mark.parametrize("after", ["ffffffff-1", "nonsense", "-", "1"])
def test_a_page_of_another_run_starts_from_the_beginning(client: Client, after: str) -> None:
    """The numbers of a sandbox that was restarted are not valid."""
    client.post()
    _state, records = messages(client, 2, after=after)
    assert [entry["seq"] for entry in records[2]] == [1]


def test_streams_are_bounded_and_end_with_the_sandbox(client: Client) -> None:
    """A page that is opened in a loop can neither overload the sandbox nor keep it from stopping."""
    url = str(client.http.base_url)
    with httpx.Client(base_url=url, trust_env=False, limits=httpx.Limits(max_connections=None)) as pages:
        opened = [pages.send(pages.build_request("GET", "/api/events"), stream=True) for _ in range(MOST_STREAMS)]
        assert {response.status_code for response in opened} == {200}
        assert client.http.get("/api/events").status_code == 503
        opened[0].close()
        until(lambda: client.http.get("/api/records").is_success and _can_listen(client), "a place is free again")
        client.sandbox.close()
        client.post()  # wakes the loop, as the command's signal does
        for response in opened[1:]:
            response.read()


def _can_listen(client: Client) -> bool:
    with client.http.stream("GET", "/api/events") as response:
        return response.status_code == 200


# Requests it refuses


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "{own}"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        # Another page, or another server of this machine
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"origin": "http://localhost:{port}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        # A host name whose owner lets it point at this machine (DNS rebinding)
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "evil.example:8025"}, 421),
        ({"host": "192.0.2.1"}, 421),
        ({"host": "[::ffff:192.0.2.1]"}, 421),
        ({"host": ""}, 421),
        ({"host": "127.0.0.1@evil.example"}, 421),
        # This machine's own names
        ({"host": "localhost:8025"}, 200),
        ({"host": "[::1]"}, 200),
        ({"host": "LOCALHOST", "origin": "http://localhost"}, 200),
    ],
)
def test_no_other_page_can_switch_read_or_post(client: Client, headers: dict[str, str], status: int) -> None:
    """Origin, Sec-Fetch-Site and Host decide. A refused request changes nothing and is not shown."""
    own = str(client.http.base_url).rstrip("/")
    sent = {name: value.format(own=own, port=client.http.base_url.port) for name, value in headers.items()}
    assert client.http.put("/api/answer", json={"answer": "500"}, headers=sent).status_code == status
    assert client.http.get("/api/records", headers=sent).status_code == status
    assert client.sandbox.answer == ("500" if status == 200 else "contract")
    client.sandbox.answer = "contract"
    assert client.post(**sent).status_code == status
    assert client.http.delete("/api/records", headers=sent).status_code == status
    assert client.sandbox.inbox.arrived == (status == 200)


def test_a_link_may_lead_to_the_page(client: Client) -> None:
    """A browser marks such a request as a navigation, and the page with the link cannot read the answer."""
    link = {"accept": "text/html", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.http.get("/", headers=link).status_code == 200
    assert client.http.get("/", headers=link | {"sec-fetch-dest": "document"}).status_code == 200


def test_a_form_and_a_frame_are_refused(client: Client) -> None:
    """They are navigations too, maybe without an Origin. A frame would hold a stream. A form would post a record."""
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.http.get("/api/events", headers=elsewhere | {"sec-fetch-dest": "iframe"}).status_code == 403
    assert client.post(**elsewhere, **{"sec-fetch-dest": "document"}).status_code == 403
    assert client.sandbox.inbox.arrived == 0


def test_no_other_page_can_read_by_cors(client: Client) -> None:
    """A preflight request is refused too."""
    asked = {"origin": "https://evil.example", "access-control-request-method": "PUT"}
    answer = client.http.options("/api/answer", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_exposed_sandbox_has_names_and_addresses(client_of: Callable[[Sandbox], Client]) -> None:
    """It accepts its own names and any address. It refuses other names."""
    client = client_of(Sandbox(exposed=True, names=("desk.example",)))
    for host in ("192.0.2.1:8025", "desk.example", "DESK.example:80", "[2001:db8::1]"):
        assert client.http.get("/api/records", headers={"host": host}).status_code == 200
    assert client.http.get("/api/records", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/icon.svg", "/api/records", "/nothing"])
def test_every_answer_forbids_what_the_page_does_not_need(client: Client, path: str) -> None:
    """The headers forbid inline scripts, other origins, frames, content sniffing and caching."""
    headers = client.http.get(path, headers={"accept": "text/html"}).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_page_has_no_inline_code_and_no_foreign_address(client: Client) -> None:
    """The page, the script and the style are three separate files."""
    page = client.http.get("/", headers={"accept": "text/html"}).text
    script, style = (client.http.get(path).text for path in ("/app.js", "/style.css"))
    assert " on" not in page.replace(" only", "").lower().split("<body>")[0]
    assert 'style="' not in page
    for text in (page, script, style):
        assert "https://" not in text
    assert "innerHTML" not in script
