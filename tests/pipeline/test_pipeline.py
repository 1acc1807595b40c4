"""The worker of a process: it starts on first use, drains at the end, and restarts after a fork."""

import asyncio
import gc
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio
from asgi import body, drive, http_scope, sends, start
from outboxes import capture
from processes import HERE, served, until
from shops import PAID, ROUTE, SHOPPER
from starlette.testclient import TestClient

from butter_middleware import (
    Butter,
    ButterMiddleware,
    Checkout,
    CheckoutResponse,
    CheckoutRoute,
    MemoryOutbox,
    Record,
    client_ip,
)
from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.errors import OutboxClosedError
from butter_middleware.outbox import MemoryStore, SQLiteOutbox
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.pipeline import store_thread
from butter_middleware.pipeline.leader import LOOK_SECONDS
from butter_middleware.pipeline.participant import Participant
from butter_middleware.pipeline.pipeline import Pipeline
from butter_middleware.pipeline.reader_thread import ReaderThread
from butter_middleware.testing import FakeButter

GOOD: dict[str, Any] = {"customer_email": "a@example.com", "invoice_id": "in_1"}


def checkout(number: int) -> Checkout:
    return Checkout(ipv4_address=SHOPPER, psp="stripe", customer_email="a@example.com", invoice_id=f"in_{number}")


THREADS = {"butter-store", "butter-read", "butter-send"}


def threads(but: Collection[threading.Thread] = ()) -> set[str]:
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("butter") and thread not in but}
    return names - {"butter-say"}  # the process keeps its log thread


def lookups() -> list[threading.Thread]:
    """Return the lookup threads of earlier tests, which may hang until the process ends."""
    return [thread for thread in threading.enumerate() if thread.name == "butter-call"]


def test_it_starts_on_first_use_and_ends_with_close(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """No thread runs before the first record or after close. A closed Butter may be used again."""
    earlier = lookups()
    until(lambda: threads(earlier) == set(), "the end of other tests' threads")
    butter = make_butter()
    assert threads(earlier) == set()
    for number in range(2):
        butter.record(checkout(number))
        until(lambda: threads(earlier) == THREADS, "all threads")
        butter.close()
        until(lambda: threads(earlier) == set(), "the end of the threads")
    assert len(fake.records) == 2


class Exit:
    async def enqueue(self, _record: Record) -> None:
        raise SystemExit


def test_close_works_without_a_live_thread(make_butter: Callable[..., Butter]) -> None:
    """A queue that raises SystemExit does not break the shutdown of the app."""
    earlier = lookups()
    until(lambda: threads(earlier) == set(), "the end of other tests' threads")
    butter = make_butter(outbox=Exit(), drain_timeout=0.1)
    butter.record(checkout(1))
    until(lambda: bool(butter.status().faults), "the fault")
    butter.close()
    until(lambda: threads(earlier) == set(), "the end of the threads")


class Careless:
    """It leaves a failing task behind, as a broker's client does if its connection breaks during a call."""

    def __init__(self) -> None:
        self.enqueued: list[str] = []

    async def enqueue(self, record: Record) -> None:
        async def fail() -> None:
            raise KeyError

        task = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        del task
        gc.collect()  # now asyncio reports that the exception was never retrieved
        self.enqueued.append(record.key)

    def has(self, number: int) -> bool:
        return len(self.enqueued) == number


def test_a_failing_task_of_a_queue_is_counted_and_stops_nothing(make_butter: Callable[..., Butter]) -> None:
    """A task that a queue left on the loop may fail. The process still sends."""
    queue = Careless()
    butter = make_butter(outbox=queue)
    for number in range(1, 4):
        butter.record(checkout(number))
        until(partial(queue.has, number), f"record {number}")
        time.sleep(2 * LOOK_SECONDS)  # the leader checks the sender meanwhile
    assert butter.status().faults == {"delivering:KeyError": 3}


async def lifespan(app: Any) -> list[str]:
    """Run an app's lifespan as a server does. Return the messages of the app."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    answered: list[str] = []

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        answered.append(message["type"])

    with suppress(RuntimeError):
        await app({"type": "lifespan"}, receive, send)
    return answered


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for _twice in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
    else:
        await send(start())
        await send(body(b"{}"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_the_lifespan_delivers_records_in_memory(
    make_butter: Callable[..., Butter], fake: FakeButter, backend: str
) -> None:
    """Shutdown drains. It may happen more than once: some hosts run a lifespan for each request."""
    counter = iter(range(100))
    route = CheckoutRoute("/checkout/{x}", "stripe", lambda _r: GOOD | {"invoice_id": next(counter)})
    app = ButterMiddleware(shop, make_butter(route))

    async def invocation() -> None:
        await drive(app, http_scope())
        assert await lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    for number in range(1, 4):
        anyio.run(invocation, backend=backend)
        assert len(fake.records) == number


def test_trio_may_be_a_guest_of_asyncio(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """An asyncio loop then runs on the app's thread, but the app does not run in it."""
    butter = make_butter(delivery="inline", inline_timeout=20)
    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            drive,
            app,
            http_scope(),
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        (await ended).unwrap()

    asyncio.run(main())
    assert len(fake.records) == 1
    assert butter.status().faults == {}


def test_a_response_that_cannot_be_woken_blocks_no_other(make_butter: Callable[..., Butter]) -> None:
    """Waking fails if memory is short for a moment. The response for the next record is woken again."""
    numbers, wakes = iter(range(2)), list[object]()
    route = CheckoutRoute("/checkout/{x}", "stripe", lambda _r: GOOD | {"invoice_id": next(numbers)})
    app = ButterMiddleware(sends(start(), body(b"{}")), make_butter(route, delivery="inline", inline_timeout=0.5))

    async def main(monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def fail_once(*arguments: Any, **options: Any) -> object:
            wakes.append(arguments)
            if len(wakes) == 1:
                raise MemoryError
            return wake(*arguments, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", fail_once)
        for _ in range(2):
            await drive(app, http_scope())

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(main(monkeypatch))
        until(lambda: len(wakes) == 2, "each was to be woken, in time or not")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("opens", [True, False])
def test_the_app_starts_when_its_outbox_is_open(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, backend: str, opens: Any
) -> None:
    """The server reports the start once the file is open for the first checkout. A disk that hangs stops no start."""
    opened = threading.Event()

    class Opening(MemoryStore):
        def open(self) -> None:
            opened.wait(20)

    class Outbox(MemoryOutbox):
        def store(self, **_options: object) -> MemoryStore:
            return Opening()

    butter = make_butter(outbox=Outbox())
    monkeypatch.setattr("butter_middleware.pipeline.pipeline.OPEN_SECONDS", 30 if opens else 0.05)
    answered: list[Message] = []

    async def receive() -> Message:
        if not answered:
            return {"type": "lifespan.startup"}
        opened.set()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        assert answered or opened.is_set() == opens
        answered.append(message)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ButterMiddleware(shop, butter), {"type": "lifespan"}, receive, send)
            if opens:
                await anyio.wait_all_tasks_blocked()
                assert answered == []
                opened.set()

    anyio.run(main, backend=backend)
    assert len(answered) == 2


STARTS = """
import sys
import anyio
from butter_middleware import Butter, ButterMiddleware, client_ip

async def app(_scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})

async def receive():
    return {"type": "lifespan.startup"}

async def send(message):
    print("httpx" in sys.modules)

butter = Butter(client_ip=client_ip.direct(), username="u", password="p", outbox=sys.argv[1])
anyio.run(ButterMiddleware(app, butter), {"type": "lifespan"}, receive, send)
"""


@pytest.mark.parametrize("delivers", [True, False])
def test_the_app_starts_when_its_http_client_is_loaded(tmp_path: Path, delivers: Any) -> None:
    """The first checkouts do not compete with the import. A process that does not deliver does not import it."""
    with closing(SQLiteOutbox(tmp_path / "butter.db").store()) as store:
        store.open()
        assert delivers or store.lead()
        command = [sys.executable, "-c", STARTS, str(tmp_path / "butter.db")]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == f"{delivers}\n"


class Queue:
    """A queue that is away."""

    async def enqueue(self, record: Record) -> None:
        raise ConnectionRefusedError(record.key)


@pytest.mark.parametrize(
    ("outbox", "level", "remedy"),
    [
        ("file", logging.INFO, "sent after the next start"),
        (None, logging.WARNING, "outbox="),
        (Queue(), logging.WARNING, "durability='before_response'"),
    ],
)
def test_a_missing_lifespan_is_logged_once_and_starts_the_threads(
    make_butter: Callable[..., Butter],
    path: Path,
    caplog: pytest.LogCaptureFixture,
    outbox: object,
    level: int,
    remedy: str,
) -> None:
    """The first request of any kind starts the threads, and logs what the missing lifespan means for the outbox."""
    caplog.set_level(logging.INFO)
    app = ButterMiddleware(sends(start(404)), make_butter(outbox=path if outbox == "file" else outbox))
    for _twice in range(2):
        anyio.run(drive, app, http_scope("/health", method="GET"))
    until(lambda: threads(lookups()) == THREADS, "all threads")
    (line,) = [line for line in caplog.records if "no lifespan event" in line.getMessage()]
    assert line.levelno == level
    assert remedy in line.getMessage()
    assert ("outbox=" in line.getMessage()) is (outbox is None)


def test_a_first_request_does_not_resolve_the_path(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lifespan, the first request starts the threads. A network disk that hangs would block the loop."""
    butter = make_butter(outbox=path)
    asked: list[str] = []

    def realpath(given: str) -> str:
        asked.append(given)
        return given

    monkeypatch.setattr(os.path, "realpath", realpath)
    anyio.run(drive, ButterMiddleware(sends(start(), body(b"{}")), butter), http_scope("/health", method="GET"))
    assert threads(lookups()) == THREADS
    assert asked == []


def test_records_left_in_memory_are_logged_and_counted(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown that leaves records in memory logs their number at ERROR, and the status counts them as lost.

    If the process does not end, they are not: they wait after the next start.
    """
    fake.respond_with(*[503] * 100)
    butter = make_butter(drain_timeout=0.5)
    for number in range(3):
        butter.record(checkout(number))
    butter.pipeline.shutdown()
    assert "records that are only in memory and are lost if this process ends now: 3." in caplog.text
    assert butter.status().lost == 3
    butter.close()
    assert butter.status().lost == 3
    butter.pipeline.start()
    assert (butter.status().pending, butter.status().lost) == (3, 0)


def test_records_that_a_queue_did_not_take_are_logged_with_the_remedy(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """The remedy is the queue, not a file in its place."""
    butter = make_butter(outbox=Queue(), drain_timeout=0.5)
    butter.record(checkout(1))
    butter.pipeline.shutdown()
    (line,) = [line for line in caplog.messages if "only in memory and are lost if this process ends now: 1." in line]
    assert "see that it can be reached" in line
    assert "outbox=" not in line


def test_a_checkout_during_the_end_of_the_lifespan_is_sent(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes just after the drain found nothing waiting. In memory it has no other chance."""
    goes_on = threading.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.to_thread.run_sync(goes_on.wait, 20, abandon_on_cancel=True)
            return await fake.transport().handle_async_request(request)

    butter = make_butter(transport=Slow())
    butter.pipeline.start()
    wait = Participant.wait

    def wait_and_buy(participant: Participant, verdict: Callable[[], bool | None], timeout: float) -> bool:
        drained = wait(participant, verdict, timeout)
        butter.record(checkout(1))
        return drained

    with monkeypatch.context() as patch:
        patch.setattr(Participant, "wait", wait_and_buy)
        butter.pipeline.shutdown()
    for _twice in range(2):  # the first look asks for a second one
        butter.pipeline.look_again()
        assert butter.pipeline.ask(lambda _store: True, otherwise=False, seconds=20)
    goes_on.set()
    until(lambda: len(fake.records) == 1, "the record")


def test_flush_returns_early_if_waiting_cannot_help(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """While the endpoint fails, flush does not wait for its whole timeout."""
    fake.respond_with(*[503] * 100)
    butter = make_butter()
    butter.record(checkout(1))
    assert not butter.flush(timeout=60)
    assert butter.status().endpoint == "open"
    assert butter.status().pending == 1


def test_flush_keeps_its_timeout(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A Butter that hangs does not delay flush beyond its timeout."""
    fake.respond_with("timeout")
    butter = make_butter(drain_timeout=0.1)
    butter.record(checkout(1))
    begun = time.monotonic()
    assert not butter.flush(timeout=0.1)
    assert time.monotonic() - begun < 5


def test_nothing_waits_for_a_capture_of_a_later_format(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """If this version cannot read a capture, neither `flush` nor the shutdown waits for it."""
    with closing(SQLiteOutbox(path).store()) as store:
        store.open()
        store.append([capture(1), capture(2, body=json.dumps(PAID).encode())])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE captures SET head = '{}' WHERE id = (SELECT min(id) FROM captures)")
        connection.commit()
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: len(fake.records) == 1, "the other one")
    assert butter.flush(20)
    assert butter.status().pending == 0


@pytest.mark.parametrize("durable", [True, False])
def test_captures_left_by_a_close_are_read_after_the_next_start(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, *, durable: bool
) -> None:
    """A worker that is closed while it reads captures, and started again, reads the rest. `flush` waits for them."""
    begun, go_on = threading.Event(), threading.Event()

    def extract(response: CheckoutResponse) -> Any:
        if not begun.is_set():
            begun.set()
            go_on.wait(60)
        return {"customer_email": "shopper@example.com", "invoice_id": response.json()["invoice"]["id"]}

    butter = make_butter(
        CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=path if durable else None, drain_timeout=0.1
    )
    for number in range(3):
        content = json.dumps(PAID | {"invoice": {"id": f"in_{number}"}}).encode()
        anyio.run(drive, ButterMiddleware(sends(start(), body(content)), butter), http_scope())
    assert begun.wait(20)
    butter.close()
    butter.pipeline.start()
    until(lambda: len(fake.records) == 3, "all of them")
    assert butter.flush(20)
    go_on.set()
    assert {record["invoice_id"] for record in fake.records} == {"in_0", "in_1", "in_2"}


def test_a_close_waits_for_the_capture_that_is_being_read(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits a moment longer than its timeout. The extractor's result is in the file, and no thread is left."""
    monkeypatch.setattr("butter_middleware.pipeline.pipeline.STOPPING_SECONDS", 20)
    begun, go_on = threading.Event(), threading.Event()

    def extract(_response: CheckoutResponse) -> Any:
        begun.set()
        go_on.wait(60)
        return GOOD

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=path, drain_timeout=0)
    anyio.run(drive, ButterMiddleware(sends(start(), body(b"{}")), butter), http_scope())
    assert begun.wait(20)
    before = lookups()
    closer = threading.Thread(target=butter.close)
    closer.start()
    closer.join(0.5)
    assert closer.is_alive()
    go_on.set()
    closer.join(20)
    assert threads(before) == set()
    with existing(path) as store:
        counts = store.counts()
    assert (counts.captured, counts.pending) == (0, 1)


def test_a_hanging_extractor_delays_no_record(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Records are delivered while an extractor hangs, and a shutdown keeps its deadline."""
    release = threading.Event()
    route = CheckoutRoute("/checkout/{x}", "stripe", lambda _r: {} if release.wait(20) else None)
    butter = make_butter(route, drain_timeout=0.2)
    anyio.run(drive, ButterMiddleware(sends(start(), body(b"{}")), butter), http_scope())
    butter.record(checkout(1))
    until(lambda: len(fake.records) == 1, "the record")
    assert not butter.flush(0.2)
    begun = time.monotonic()
    butter.pipeline.shutdown()
    assert time.monotonic() - begun < 10
    release.set()


def test_a_full_memory_outbox_counts_and_logs_losses(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """Above its limit, the memory outbox refuses records. They are counted as lost and logged once at CRITICAL."""
    fake.respond_with(*[503] * 100)
    butter = make_butter(outbox=MemoryOutbox(3), drain_timeout=0.2)
    for number in range(5):
        butter.record(checkout(number))
    until(lambda: butter.status().lost == 2, "both are refused")
    critical = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(critical) == 1
    assert "OutboxFullError" in critical[0].getMessage()


def test_what_no_thread_takes_is_lost_and_counted_with_its_reason(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each thread of the store is closed at the moment of the checkout. It is answered."""

    def closed(*_given: object) -> None:
        raise OutboxClosedError

    butter = make_butter()
    monkeypatch.setattr(store_thread.StoreThread, "accept", closed)
    shop = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    assert [message["type"] for message in anyio.run(drive, shop, http_scope())][-1] == "http.response.body"
    butter.record(checkout(1))
    monkeypatch.undo()
    assert butter.status().lost == 2
    log_thread.settle()
    critical = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert critical
    assert all("OutboxClosedError" in message for message in critical)


def test_a_flush_does_not_wait_for_what_was_refused(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too much waits for the disk: the capture and the record are lost and counted."""
    monkeypatch.setattr(store_thread, "MOST_WAITING", 0)
    butter = make_butter()
    anyio.run(drive, ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter), http_scope())
    butter.record(checkout(1))
    assert butter.status().lost == 2
    assert butter.flush(20)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_its_own_worker(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The child has its own worker and none of the parent's records. The parent continues."""
    fake.respond_with("timeout")
    butter = make_butter(drain_timeout=0.1)
    butter.record(checkout(1))
    until(lambda: fake.requests == 1, "the parent's request")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            until(lambda: threads() == set(), "the end of the threads")
            assert butter.status().pending == 0
            butter.record(checkout(2))
            done = butter.flush(20) and [record["invoice_id"] for record in fake.records] == ["in_2"]
            os.write(writing, b"1" if done else b"0")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    os.waitpid(child, 0)
    assert butter.status().pending == 1


LOADING = """
import os, sys, time
from butter_middleware import Butter, CheckoutRoute, client_ip
from butter_middleware.pipeline import processes

processes.LOADING_SECONDS = 60.0
route = CheckoutRoute("/pay", "stripe", lambda response: None)
butter = Butter(client_ip=client_ip.direct(), routes=[route], username="a", password="s3cret-pass")
butter.pipeline.start()
while "httpx" not in sys.modules:
    time.sleep(0)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(20)
    import butter_middleware.delivery.http
    os._exit(0)
os._exit(os.waitpid(child, 0)[1] != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_the_http_client_is_loaded(tmp_path: Path) -> None:
    """The child can load it too. Otherwise it would inherit a locked import lock, which no thread releases."""
    done = subprocess.run(
        [sys.executable, "-c", LOADING], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_many_threads_share_one_butter(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Records from any thread all arrive, each once."""
    butter = make_butter()

    def buy(first: int) -> None:
        for number in range(50):
            butter.record(checkout(first * 50 + number))

    workers = [threading.Thread(target=buy, args=(first,)) for first in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert butter.flush(30)
    assert sorted(record["invoice_id"] for record in fake.records) == sorted(f"in_{n}" for n in range(400))
    status = butter.status()
    assert (status.delivered, status.pending, status.lost) == (400, 0, 0)
    assert status.last_delivery_at is not None


@pytest.mark.server
def test_a_hanging_name_lookup_keeps_no_process_alive() -> None:
    """The system's resolver may hang for half a minute. A deploy does not wait for it."""
    script = str(HERE / "servers" / "ending_shop.py")
    process = subprocess.Popen([sys.executable, script, "name"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ends\n", process.communicate()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said


HOLDER = """
import fcntl, sys, time
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("delivery", ["embedded", "external"])
def test_a_close_keeps_its_timeout_while_another_process_holds_the_file(
    make_butter: Callable[..., Butter], path: Path, delivery: str
) -> None:
    """The outbox has the rest of `drain_timeout`, or a second, to close."""
    butter = make_butter(outbox=path, drain_timeout=0.2, delivery=delivery)
    butter.record(checkout(1))
    assert butter.flush()
    with subprocess.Popen([sys.executable, "-c", HOLDER, f"{path}.lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        butter.record(checkout(2))
        begun = time.monotonic()
        butter.close()
        assert time.monotonic() - begun < 6.5
        holder.kill()


@pytest.mark.parametrize("delivery", ["embedded", "external"])
def test_it_may_be_closed_at_any_moment(make_butter: Callable[..., Butter], path: Path, delivery: str) -> None:
    """A checkout during a close starts the threads again. Neither waits forever, and nothing is lost."""
    butter = make_butter(outbox=path, delivery=delivery, drain_timeout=0)

    def buy(first: int) -> None:
        for number in range(first, first + 100):
            butter.record(checkout(number))

    buyers = [threading.Thread(target=buy, args=(first,), daemon=True) for first in (0, 1000)]
    for buyer in buyers:
        buyer.start()
    while any(buyer.is_alive() for buyer in buyers):
        butter.close()
    butter.close()

    def kept() -> int:
        with existing(path) as store:
            counts = store.counts()
        return counts.pending + counts.delivered

    until(lambda: kept() == 200, "all of them")
    assert butter.status().lost == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda pipeline: pipeline.flush(5),
        lambda pipeline: pipeline.finish_reading(5),
        lambda pipeline: pipeline.request(lambda _store: None),
        lambda pipeline: pipeline.ask(lambda _store: None, None),
        lambda pipeline: pipeline.look_again(),
        lambda pipeline: pipeline.look(),
        lambda pipeline: anyio.run(pipeline.wait_until_durable, Future()),
        *map(attrgetter, ["endpoint", "leads", "deliverer", "dead_threads", "faults"]),
    ],
)
def test_a_close_during_a_call_raises_no_error(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, use: Callable[[Pipeline], object]
) -> None:
    """The close may come between any two lines: an object found at first may be gone a moment later."""
    pipeline = make_butter(delivery="inline", inline_timeout=0.05).pipeline
    pipeline.start()
    looks = [pipeline.participant]
    first = property(lambda _pipeline: looks.pop() if looks else None)
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "participant", first, raising=False)
        use(pipeline)
    assert not looks


def test_a_checkout_during_a_close_starts_the_threads_once(
    make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """A close that waits for an extractor keeps the threads that a checkout started meanwhile."""
    asked, release = threading.Event(), threading.Event()

    def wait(_response: CheckoutResponse) -> None:
        asked.set()
        release.wait(20)

    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", wait), drain_timeout=0)
    anyio.run(drive, ButterMiddleware(sends(start(200), body(b"{}")), butter), http_scope("/checkout/1"))
    assert asked.wait(20)
    closing = threading.Thread(target=butter.close, daemon=True)
    closing.start()
    until(lambda: "butter-send" not in threads(), "the close waits for the extractor")
    butter.record(checkout(1))
    closing.join(20)
    butter.record(checkout(2))
    release.set()
    assert butter.flush()
    assert {record["invoice_id"] for record in fake.records} == {"in_1", "in_2"}

    def running() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name in THREADS)

    until(lambda: running() == ["butter-read", "butter-send", "butter-store"], "the reader that waited has ended")


def test_records_are_sent_after_an_extractor_called_close(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The close does not wait for the thread that it runs on."""
    closed = threading.Event()

    def close(_response: CheckoutResponse) -> None:
        if not closed.is_set():
            butter.close()
            closed.set()

    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", close), drain_timeout=0)
    anyio.run(drive, ButterMiddleware(sends(start(200), body(b"{}")), butter), http_scope("/checkout/1"))
    assert closed.wait(20)
    butter.record(checkout(1))
    assert butter.flush()
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]


def test_a_butter_that_starts_while_another_of_its_file_closes_loses_nothing(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a thread. The first ends it while the second needs it."""
    make_reader = ReaderThread.__init__
    first, second = make_butter(outbox=path, drain_timeout=0), make_butter(outbox=path)
    first.pipeline.start()
    assert first.flush()
    closing = threading.Thread(target=first.close, daemon=True)

    def make_while_it_closes(*arguments: Any, **options: Any) -> None:
        closing.start()
        until(lambda: "butter-send" not in threads() or not closing.is_alive(), "the other one ends its threads")
        closing.join(0.5)
        make_reader(*arguments, **options)

    monkeypatch.setattr(ReaderThread, "__init__", make_while_it_closes)
    second.record(checkout(1))
    closing.join(20)
    second.record(checkout(2))
    assert second.flush()
    assert second.status().lost == 0
    assert {record["invoice_id"] for record in fake.records} == {"in_1", "in_2"}


def test_two_butters_of_a_file_start_its_thread_once(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share it, and the first requests of both may come at the same moment, on two threads."""
    first, second = make_butter(outbox=path), make_butter(outbox=path)
    start_thread = log_thread.start
    starting = threading.Thread(target=second.pipeline.start, daemon=True)

    def start_while_the_other_one_starts(thread: threading.Thread) -> None:
        if thread.name == "butter-store" and starting.ident is None:
            starting.start()
            starting.join(0.5)
        start_thread(thread)

    monkeypatch.setattr(log_thread, "start", start_while_the_other_one_starts)
    for number, butter in enumerate((first, second)):
        butter.record(checkout(number))
        starting.join(20)
        assert butter.flush()
        assert (butter.pipeline.running, butter.status().faults) == (True, {})
    assert len(fake.records) == 2


def test_a_second_close_returns_when_all_is_delivered(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A process may end after the second close, and its records would be lost."""
    fake.delay = 0.5
    butter = make_butter()
    butter.record(checkout(1))
    closing = threading.Thread(target=butter.close, daemon=True)
    closing.start()
    until(lambda: butter.pipeline.participant is None, "the first close has begun")
    butter.close()
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]
    closing.join(20)


@pytest.mark.parametrize("durable", [True, False])
def test_a_checkout_during_a_close_sends_nothing_twice(
    make_butter: Callable[..., Butter], path: Path, *, durable: bool
) -> None:
    """Requests in flight are settled before the checkout's new threads send from the same outbox."""
    posted = list[str]()

    async def answer(request: httpx.Request) -> httpx.Response:
        posted.append(json.loads(request.content)["invoice_id"])
        if posted == ["in_1"]:
            await anyio.to_thread.run_sync(until, lambda: butter.pipeline.participant is None, "the close has begun")
            butter.record(checkout(2))
            await anyio.sleep(0.2)  # the new threads would send meanwhile
        return httpx.Response(200, json={"status": "ok"})

    butter = make_butter(transport=httpx.MockTransport(answer), outbox=path if durable else None)
    butter.record(checkout(1))
    until(lambda: posted == ["in_1"], "the first one is on its way")
    butter.close()
    assert butter.flush()
    assert posted == ["in_1", "in_2"]


def test_close_writes_captures_if_no_thread_can_start(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the interpreter, Python 3.12 starts no thread."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError

    monkeypatch.setattr("butter_middleware._utils.log_thread.start", refuse)
    butter = make_butter(outbox=path)
    anyio.run(drive, ButterMiddleware(sends(start(200), body(b"{}")), butter), http_scope("/checkout/1"))
    butter.record(checkout(1))
    butter.close()
    assert butter.status().lost == 0
    with existing(path) as store:
        assert (store.counts().captured, store.counts().pending) == (1, 1)


def test_a_waiting_flush_uses_no_processor_time(make_butter: Callable[..., Butter]) -> None:
    """While an extractor hangs, it sleeps until something changes."""
    asked, release = threading.Event(), threading.Event()

    def wait(_response: CheckoutResponse) -> None:
        asked.set()
        release.wait(20)

    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", wait), drain_timeout=0)
    anyio.run(drive, ButterMiddleware(sends(start(200), body(b"{}")), butter), http_scope("/checkout/1"))
    assert asked.wait(20)
    begun = time.thread_time()
    assert not butter.flush(1.0)
    assert time.thread_time() - begun < 0.1
    release.set()


def test_backoff_does_not_use_the_global_random_generator(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The app may have seeded it. It is unchanged, also after an outage."""
    fake.respond_with(*[503] * 20)
    butter = make_butter()
    before = random.getstate()
    butter.record(checkout(1))
    until(lambda: butter.status().endpoint == "open", "the outage is seen")
    assert random.getstate() == before


class Asked:
    """Butter. It counts its requests and answers with a given status."""

    def __init__(self, status: int) -> None:
        self.seen: list[tuple[str, str]] = []
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append((scope["method"], scope["path"]))
        await sends(start(self._status, [(b"content-type", b"application/json")]), body(b"{}"))(scope, receive, send)


WRONG = "a ping at the start was answered 401: Butter does not take the credentials."


@pytest.mark.parametrize(("status", "said"), [(401, True), (200, False), (403, False), (503, False)])
def test_wrong_credentials_are_logged_at_the_start(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, status: int, *, said: bool
) -> None:
    """The sending process pings once, so this is logged before the first checkout. Any other answer is not logged."""
    asked = Asked(status)
    with served(asked) as url:
        butter = make_butter(base_url=url, transport=None)
        with TestClient(ButterMiddleware(shop, butter)):
            until(lambda: len(asked.seen) == 1, "the ping")
            if said:
                until(lambda: WRONG in caplog.text, "the line")
        with TestClient(ButterMiddleware(shop, butter)):  # a second lifespan of the same process sends no ping
            butter.flush()
        butter.close()
    assert asked.seen == [("GET", "/")]
    assert (WRONG in caplog.text) is said
    critical = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.CRITICAL]
    assert len(critical) == said
    assert butter.status().endpoint in {"ok", "unknown"}  # only Butter's answers to records change it


@pytest.mark.timeout(60)
def test_a_flush_ends_with_the_last_record(make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is notified of each change, and does not depend on polling."""
    monkeypatch.setattr("butter_middleware.pipeline.participant.POLL_SECONDS", 3600.0)
    butter = make_butter()
    for number in range(10):
        butter.record(checkout(number))
        assert butter.flush(3600)


def test_a_lead_regained_before_its_loss_was_noticed_is_not_a_fault(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """An app is stopped and started at once. Records are sent again, and nothing is logged."""
    butter = make_butter()
    for number in range(20):
        butter.record(checkout(number))
        assert butter.flush()
        participant = butter.pipeline.participant
        assert participant is not None
        participant.sender.lose_lead()
        participant.sender.take_lead(None)
    butter.record(checkout(20))
    assert butter.flush()
    assert len(fake.records) == 21
    assert [entry.getMessage() for entry in caplog.records if entry.levelno == logging.CRITICAL] == []


def test_a_failed_ping_at_the_start_is_not_logged(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """An outage during a deploy is nothing new: nothing is logged, and the app starts."""
    butter = make_butter(base_url="http://127.0.0.1:9", transport=None)
    caplog.clear()
    with TestClient(ButterMiddleware(shop, butter)):
        butter.flush()
    butter.close()
    assert [entry.getMessage() for entry in caplog.records if entry.levelno > logging.INFO] == []


def test_tests_dry_runs_and_queues_send_no_ping(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A test transport gets records only. The web process of a queue and a dry run send no request."""
    asked = Asked(401)
    with served(asked) as url:
        for options in ({"dry_run": True}, {"outbox": Exit()}):
            butter = make_butter(base_url=url, transport=None, **options)
            with TestClient(ButterMiddleware(shop, butter)):
                butter.flush()
    with TestClient(ButterMiddleware(shop, make_butter())):
        pass
    assert (asked.seen, fake.requests) == ([], 0)


def test_a_dry_run_needs_no_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """No setting is missing, and nothing fails: a dry run reads, but does not store or send."""
    with Butter(client_ip=client_ip.direct(), routes=[ROUTE], dry_run=True) as butter:
        with TestClient(ButterMiddleware(shop, butter)):
            assert butter.flush()
        assert butter.status().faults == {}
    assert [entry.getMessage() for entry in caplog.records if entry.levelno > logging.INFO] == []
