"""The health route: the reason it reports for each fault, and its cost for the app."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import drive, http_scope
from fastapi import FastAPI
from outboxes import Clock
from processes import until
from shops import SHOPPER, buy
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from butter_middleware import Butter, Checkout, CheckoutResponse, CheckoutRoute, Record
from butter_middleware.outbox import Counts, MemoryOutbox, MemoryStore
from butter_middleware.pipeline.health import Health, HealthInput, diagnose
from butter_middleware.pipeline.reader_thread import ReaderThread
from butter_middleware.telemetry.coverage import Coverage
from butter_middleware.testing import FakeButter

CHECKOUT = Checkout(customer_email="shopper@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_secret")
WELL = HealthInput(
    running=True,
    answered=True,
    counts=Counts(),
    lost=0,
    oldest_pending_age=None,
    endpoint="ok",
    ill_for=0.0,
    low_coverage=None,
    outbox_faults=(),
    dead_threads=(),
    reading_for=0.0,
    host="butter.example",
)


def ask(butter: Butter, query: str = "", method: str = "GET") -> tuple[int, Any]:
    answer = TestClient(butter.health_app).request(method, f"/?{query}")
    return answer.status_code, answer.json() if answer.content else None


@pytest.mark.parametrize(
    ("signs", "code"),
    [
        (replace(WELL, answered=False), "outbox_silent"),
        (replace(WELL, outbox_faults=("fault",)), "outbox_fault"),
        (replace(WELL, outbox_faults=("full",)), "outbox_full"),
        (replace(WELL, outbox_faults=("lock",)), "outbox_lock"),
        (replace(WELL, outbox_faults=("broken",)), "outbox_broken"),
        (replace(WELL, outbox_faults=("log",)), "outbox_log"),
        (replace(WELL, dead_threads=("butter-read",)), "thread_dead"),
        (replace(WELL, reading_for=60.1), "reading_hangs"),
        (replace(WELL, counts=Counts(hold="401")), "hold"),
        (replace(WELL, endpoint="hold", ill_for=1.0), "hold"),
        (replace(WELL, endpoint="open", ill_for=900.1), "endpoint_away"),
        (replace(WELL, endpoint="paused", ill_for=8000.0), "endpoint_away"),
        (replace(WELL, counts=Counts(pending=3), oldest_pending_age=3600.1), "pending_old"),
        (replace(WELL, counts=Counts(dead=1)), "dead"),
        (replace(WELL, counts=Counts(parked=1)), "parked"),
        (replace(WELL, lost=1), "lost"),
        (replace(WELL, low_coverage=Coverage(1, {"not_json": 1})), "coverage"),
    ],
)
def test_each_fault_has_a_reason_and_a_remedy(signs: HealthInput, code: str) -> None:
    """Each fault has one reason from a fixed list, with what to do."""
    (reason,) = diagnose(signs).reasons
    assert reason.code == code
    assert reason.detail
    assert reason.remedy.endswith(".")


@pytest.mark.parametrize(
    "signs",
    [
        WELL,
        replace(WELL, running=False, answered=False),
        replace(WELL, endpoint="unknown"),
        replace(WELL, endpoint="open", ill_for=900.0),
        replace(WELL, counts=Counts(pending=1000), oldest_pending_age=3600.0),
        replace(WELL, reading_for=60.0),
    ],
)
def test_a_passing_fault_is_healthy(signs: HealthInput) -> None:
    """A process that has not started, a short outage and a young backlog are not faults."""
    assert diagnose(signs) == Health()


def test_every_code_is_in_the_docs() -> None:
    """An operator can look up the code of an alert."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    source = Path(str(diagnose.__code__.co_filename)).read_text()
    codes = {f"outbox_{fault}" for fault in ("fault", "full", "lock", "broken", "log")} | {
        line.strip().strip('",').partition('"')[0]
        for line in source.splitlines()
        if line.startswith('            "') and line.strip().endswith('",') and " " not in line.strip()
    }
    assert {"hold", "parked", "coverage", "reading_hangs"} <= codes
    assert [code for code in codes if f"`{code}`" not in page] == []


def test_a_healthy_shop(make_butter: Callable[..., Butter]) -> None:
    """The status is healthy before the first checkout, and after one."""
    butter = make_butter()
    assert ask(butter) == (200, {"status": "healthy", "reasons": []})
    buy(butter, "a")
    assert ask(butter, "strict=1") == (200, {"status": "healthy", "reasons": []})


def test_a_degraded_shop_stays_in_service(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Wrong credentials and a parked capture are both reported. The status is 200, or 503 if the query asks for it."""
    butter = make_butter(password="wrong")
    buy(butter, "a", "free")
    until(lambda: butter.status().endpoint == "hold", "the hold")
    status, answer = ask(butter)
    assert (status, answer["status"]) == (200, "degraded")
    assert [reason["code"] for reason in answer["reasons"]] == ["hold", "parked", "coverage"]
    assert "in_secret" not in json.dumps(answer)
    assert [ask(butter, query)[0] for query in ("strict=1", "strict=true", "strict=0", "strict=", "other=1")] == [
        *(503, 503, 200, 200, 200),
    ]


def test_a_hold_is_seen_by_every_process(make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path) -> None:
    """Processes that do not deliver report it too."""
    first, second = (make_butter(outbox=tmp_path / "b.db", password="wrong") for _ in range(2))
    first.record(CHECKOUT)
    until(lambda: first.status().endpoint == "hold", "the hold")
    second.record(CHECKOUT)
    until(lambda: [r["code"] for r in ask(second)[1]["reasons"]] == ["hold"], "the hold in the other")
    assert second.status().endpoint != "hold"


def test_a_growing_sqlite_log_is_reported(
    make_butter: Callable[..., Butter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported while another program reads an older state of the file."""
    monkeypatch.setattr("butter_middleware.outbox.sqlite.database.ALARMING_LOG_BYTES", 1)
    monkeypatch.setattr("butter_middleware.outbox.sqlite.database.IDLE_WRITES", 1)
    butter = make_butter(outbox=tmp_path / "b.db")
    buy(butter, "a")
    reader = sqlite3.connect(tmp_path / "b.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM captures").fetchone()
    buy(butter, "b")
    until(lambda: [r["code"] for r in ask(butter)[1]["reasons"]] == ["outbox_log"], "the log is said")
    reader.close()
    buy(butter, "c")
    until(lambda: ask(butter)[1]["reasons"] == [], "it is over")


def test_an_old_backlog_and_a_long_outage(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The times come from the injected clock."""
    clock = Clock()
    butter = make_butter(clock=clock)
    fake.respond_with(*[503] * 20)
    for number in range(6):
        butter.record(CHECKOUT.model_copy(update={"invoice_id": f"in_{number}"}))
    until(lambda: butter.status().endpoint == "open", "the open breaker")
    assert ask(butter)[1]["reasons"] == []
    clock.now += 7200
    assert [reason["code"] for reason in ask(butter)[1]["reasons"]] == ["endpoint_away", "pending_old"]


class Away:
    """A queue that accepts nothing."""

    async def enqueue(self, _record: Record) -> None:
        raise ConnectionError


@pytest.mark.parametrize(
    ("options", "detail", "remedy"),
    [
        ({"base_url": "https://proxy.example:8443/butter"}, "Butter has not taken", "reaches proxy.example;"),
        ({"outbox": Away()}, "the queue has not taken", "reaches it;"),
    ],
)
def test_an_outage_names_the_host_or_the_queue(
    make_butter: Callable[..., Butter], fake: FakeButter, options: Any, detail: str, remedy: str
) -> None:
    """It names the configured host, or the queue: a fault of the queue is not Butter's."""
    clock = Clock()
    butter = make_butter(clock=clock, **options)
    fake.respond_with(*[503] * 20)
    for number in range(6):
        butter.record(CHECKOUT.model_copy(update={"invoice_id": f"in_{number}"}))
    until(lambda: butter.status().endpoint in {"open", "half_open"}, "the open breaker")
    clock.now += 1200
    (reason,) = ask(butter)[1]["reasons"]
    assert (reason["code"], detail in reason["detail"], remedy in reason["remedy"]) == ("endpoint_away", True, True)


def test_an_extractor_that_hangs(make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported although the thread is alive."""
    go_on, begun = threading.Event(), threading.Event()

    def hang(_response: CheckoutResponse) -> None:
        begun.set()
        go_on.wait(20)

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", hang))
    threading.Thread(target=buy, args=(butter, "a")).start()
    assert begun.wait(10)
    monkeypatch.setattr("butter_middleware.pipeline.health.HANGING_SECONDS", 0.0)
    assert [reason["code"] for reason in ask(butter)[1]["reasons"]] == ["reading_hangs"]
    go_on.set()


def test_a_thread_that_ended(make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch) -> None:
    """No known fault ends a thread. If one ends, health reports it."""
    butter = make_butter()
    monkeypatch.setattr(ReaderThread, "_run", lambda _thread: None)
    butter.record(CHECKOUT)
    until(lambda: bool(butter.pipeline.dead_threads), "the thread's end")
    assert [reason["code"] for reason in ask(butter)[1]["reasons"]] == ["thread_dead"]


def test_methods_and_other_scopes(make_butter: Callable[..., Butter]) -> None:
    """GET and HEAD are answered, other methods are refused. Other protocols are ignored."""
    app = make_butter().health_app
    client = TestClient(app)
    assert (client.head("/").status_code, client.head("/").content) == (200, b"")
    assert client.head("/").headers["content-length"] == str(len(client.get("/").content))
    refused = client.post("/")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert client.get("/").headers["cache-control"] == "no-store"
    for kind in ("lifespan", "websocket"):
        assert anyio.run(drive, app, {"type": kind}) == []


def test_it_can_be_mounted(make_butter: Callable[..., Butter]) -> None:
    """It works in FastAPI, in Starlette as a route or a mount, and without a framework."""
    app = make_butter().health_app
    api = FastAPI()
    api.mount("/healthz/butter", app)
    star = Starlette(routes=[Mount("/mounted", app), Route("/routed", app)])
    for client, path in [(TestClient(api), "/healthz/butter"), (TestClient(star), "/mounted")]:
        assert client.get(path).json()["status"] == "healthy"
    assert TestClient(star).get("/routed").json()["status"] == "healthy"


class SlowStore(MemoryStore):
    """Its counts block until the test releases them."""

    held = threading.Event()

    def counts(self) -> Counts:
        self.held.wait(20)
        return super().counts()


class Slow(MemoryOutbox):
    def store(self, **_options: object) -> MemoryStore:
        return SlowStore()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_no_event_loop_waits_for_it(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """If the outbox does not answer, the route reports it after a moment. The event loop serves others meanwhile."""
    monkeypatch.setattr("butter_middleware.pipeline.reporter.OUTBOX_SECONDS", 0.3)
    monkeypatch.setattr(SlowStore, "held", threading.Event())
    butter = make_butter(outbox=Slow())
    butter.pipeline.start()
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.001)
            gaps.append(time.monotonic() - before)

    sent: list[Any] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            sent.extend(await drive(butter.health_app, http_scope(method="GET")))
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert [reason["code"] for reason in json.loads(sent[1]["body"])["reasons"]] == ["outbox_silent"]
    assert len(gaps) > 10
    SlowStore.held.set()
