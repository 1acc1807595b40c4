"""`delivery="inline"`: Butter has the record before the last chunk. For hosts that freeze a process afterwards."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from asgi import JSON, body, drive, http_scope, sends, start
from mangum import Mangum
from outboxes import record
from processes import until
from shops import PAID, ROUTE, Held

from butter_middleware import (
    Butter,
    ButterMiddleware,
    CheckoutResponse,
    CheckoutRoute,
    ConfigurationError,
    MemoryOutbox,
    Record,
    SQLiteOutbox,
)
from butter_middleware._utils.asgi import Message
from butter_middleware._utils.futures import Backoff
from butter_middleware.outbox import SQLiteStore
from butter_middleware.pipeline import sender_thread, store_thread
from butter_middleware.pipeline.components import QUEUE_SECONDS
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])

Shop = Callable[..., Butter]
Serve = Callable[..., float]


class Queue:
    """A queue that may be slow, or away."""

    def __init__(self, seconds: float = 0.0, *, away: bool = False) -> None:
        self.records: list[Record] = []
        self._seconds = seconds
        self._away = away

    async def enqueue(self, record: Record) -> None:
        await anyio.sleep(self._seconds)
        if self._away:
            raise ConnectionRefusedError
        self.records.append(record)


@pytest.fixture
def serve(anyio_backend: str) -> Serve:
    """Serve one checkout in an event loop of this backend. Return for how many seconds the last chunk was held back."""
    numbers = iter(range(1000))

    def run(butter: Butter, paid: dict[str, Any] = PAID) -> float:
        content = json.dumps(paid | {"invoice": {"id": f"in_{next(numbers)}"}}).encode()
        app = ButterMiddleware(sends(start(), body(content)), butter)
        began = time.monotonic()
        seen = anyio.run(drive, app, http_scope(), backend=anyio_backend)
        assert seen[-1]["body"] == content
        return time.monotonic() - began

    return run


def test_the_record_is_with_butter_before_the_last_chunk_leaves(
    make_butter: Shop, fake: FakeButter, anyio_backend: str
) -> None:
    """The server gets the last chunk after Butter's answer."""
    butter = make_butter(delivery="inline", inline_timeout=20)
    records_at: list[int] = []

    async def main() -> None:
        async def send(message: Message) -> None:
            records_at.append(len(fake.records))

        app = ButterMiddleware(sends(start(), body(b'{"customer":', more_body=True), body(_rest())), butter)
        await app(http_scope(), _never, send)

    anyio.run(main, backend=anyio_backend)
    assert records_at == [0, 0, 1]
    assert butter.status().not_durable_in_time == 0


def _rest() -> bytes:
    return json.dumps(PAID).encode().removeprefix(b'{"customer":')


async def _never() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


def test_a_slow_butter_holds_back_a_response_until_its_deadline(
    make_butter: Shop, fake: FakeButter, serve: Serve
) -> None:
    """The response leaves at the deadline. The record is kept, counted, and arrives later."""
    held = Held(fake)
    butter = make_butter(delivery="inline", inline_timeout=0.1, transport=held)
    assert min(serve(butter), serve(butter)) < 1.0  # a busy machine may delay one of them
    assert (butter.status().not_durable_in_time, len(fake.records)) == (2, 0)
    held.answers.set()
    assert butter.flush(20)
    assert len(fake.records) == 2


@pytest.mark.parametrize(("answer", "endpoint"), [(503, "open"), (401, "hold"), (429, "paused")])
def test_a_failing_butter_holds_back_no_response(
    make_butter: Shop, fake: FakeButter, serve: Serve, answer: int, endpoint: str
) -> None:
    """Once only probes are sent, the record is kept and the response leaves at once. So does the first one."""
    fake.respond_with(*[answer] * 50)
    fake.delay = 0.05  # the first response then has to wait
    butter = make_butter(delivery="inline", inline_timeout=20, drain_timeout=0)
    assert serve(butter) < 10
    assert butter.status().endpoint == endpoint
    assert serve(butter) < 10
    until(lambda: butter.status().pending == 2, "both are kept")
    assert butter.status().not_durable_in_time == 0


def test_a_record_refused_during_a_pause_holds_back_no_response(
    make_butter: Shop, serve: Serve, anyio_backend: str
) -> None:
    """Both are on their way. The first one is answered 429, so the other is sent again only after the pause."""
    both = threading.Barrier(2)
    paused = threading.Event()

    async def answer(_request: httpx.Request) -> httpx.Response:
        if await asyncio.to_thread(both.wait, 20) == 0:
            return httpx.Response(429)
        await asyncio.to_thread(paused.wait, 20)
        return httpx.Response(403)

    butter = make_butter(delivery="inline", inline_timeout=30, drain_timeout=0, transport=httpx.MockTransport(answer))
    shoppers = [threading.Thread(target=serve, args=(butter,), daemon=True) for _ in range(2)]
    for shopper in shoppers:
        shopper.start()
    until(lambda: butter.status().endpoint == "paused", "the first answer")
    paused.set()
    for shopper in shoppers:
        shopper.join(20)
    assert not any(shopper.is_alive() for shopper in shoppers)
    assert butter.status().endpoint == "paused"


def test_a_failing_butter_holds_back_no_response_of_a_backlog(
    make_butter: Shop, fake: FakeButter, serve: Serve, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """One record is in flight, one is in the sender's memory, and the others are only in the store."""
    monkeypatch.setattr(sender_thread, "MOST_AHEAD", 1)
    fake.respond_with(*[401] * 50)
    held = Held(fake)
    butter = make_butter(delivery="inline", inline_timeout=30, senders=1, drain_timeout=0, transport=held)
    waited: list[float] = []
    shoppers = [threading.Thread(target=lambda: waited.append(serve(butter)), daemon=True) for _ in range(4)]
    for shopper in shoppers:
        shopper.start()
    until(lambda: butter.pipeline.participant is not None, "it runs")
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: len(participant._waiting) == 4, "four responses wait")
    held.answers.set()
    until(lambda: len(waited) == 4, "they are released")


@pytest.mark.parametrize("why", ["gated", "known", "parked", "raising"])
def test_a_capture_without_a_record_holds_back_no_response(
    make_butter: Shop, fake: FakeButter, serve: Serve, anyio_backend: str, why: str
) -> None:
    """A gate, a reload, a missing e-mail, a broken extractor: nothing will be sent, so the response leaves at once."""
    route = {
        "gated": ROUTE.__class__("/checkout/{cart_id}", "stripe", ROUTE.extract, when=lambda _response: False),
        "raising": ROUTE.__class__("/checkout/{cart_id}", "stripe", lambda response: response.json()["nothing"]),
    }.get(why, ROUTE)
    butter = make_butter(route, delivery="inline", inline_timeout=20)
    app = ButterMiddleware(sends(start(), body(b"{}" if why == "parked" else json.dumps(PAID).encode())), butter)
    for _ in range(2):
        began = time.monotonic()
        anyio.run(drive, app, http_scope(), backend=anyio_backend)
        assert time.monotonic() - began < 10
    assert len(fake.records) == (why == "known")
    assert butter.status().not_durable_in_time == 0


def test_a_new_record_with_a_known_one_holds_back_the_response(
    make_butter: Shop, fake: FakeButter, serve: Serve, anyio_backend: str
) -> None:
    """A response may list an earlier payment and the current one, which Butter does not have yet."""

    def extract(response: CheckoutResponse) -> list[dict[str, str]]:
        return [{"customer_email": "a@example.com", "invoice_id": name} for name in response.json()["paid"]]

    held = Held(fake)
    held.answers.set()
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extract)
    butter = make_butter(route, delivery="inline", inline_timeout=0.1, transport=held)
    serve(butter, {"paid": ["in_1"]})
    assert butter.flush(20)
    late = butter.status().not_durable_in_time
    held.answers.clear()
    serve(butter, {"paid": ["in_1", "in_2"]})
    held.answers.set()
    assert butter.status().not_durable_in_time == late + 1
    assert butter.flush(20)
    assert [sent["invoice_id"] for sent in fake.records] == ["in_1", "in_2"]


def test_a_refused_record_holds_back_no_response(make_butter: Shop, fake: FakeButter, serve: Serve) -> None:
    """The record is already lost, so the response has nothing to wait for."""
    fake.respond_with(*[503] * 50)
    butter = make_butter(delivery="inline", inline_timeout=20, outbox=MemoryOutbox(1), drain_timeout=0)
    serve(butter)
    until(lambda: butter.status().pending == 1, "the outbox is full")
    assert serve(butter) < 10
    until(lambda: butter.status().lost == 1, "the other is refused")
    assert (butter.status().lost, butter.status().not_durable_in_time) == (1, 0)


def test_two_butters_of_a_file_release_their_responses(
    make_butter: Shop, fake: FakeButter, serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the two sends, and both hold back responses. An answer is written at once although others may follow."""
    monkeypatch.setattr(store_thread, "LINGER_SECONDS", 3600.0)
    butters = [make_butter(delivery="inline", inline_timeout=30, outbox=path) for _ in range(2)]
    for _ in range(2):
        assert [serve(butter) < 20 for butter in butters] == [True, True]
    assert [butter.pipeline.leads for butter in butters] == [True, False]
    assert len(fake.records) == 4


def test_a_request_cancelled_while_it_waits_loses_no_record(
    make_butter: Shop, fake: FakeButter, anyio_backend: str
) -> None:
    """The client has disconnected and the server cancels the request. The record is already in the outbox."""
    held = Held(fake)
    butter = make_butter(delivery="inline", inline_timeout=30, transport=held)

    async def main() -> None:
        app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
        left: list[bool] = []

        async def request() -> None:
            await drive(app, http_scope())
            left.append(True)

        async with anyio.create_task_group() as server:
            server.start_soon(request)
            assert await anyio.to_thread.run_sync(held.asked.wait, 20)
            server.cancel_scope.cancel()
        assert left == []

    anyio.run(main, backend=anyio_backend)
    held.answers.set()
    assert butter.flush(20)
    assert len(fake.records) == 1


@pytest.mark.parametrize("why", ["lead", "erased", "replaced", "closed"])
def test_a_response_that_no_answer_can_reach_is_released(
    make_butter: Shop, fake: FakeButter, serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Another process leads, the record is erased, the file is replaced, or the app closes: the response leaves."""
    monkeypatch.setattr(sender_thread, "MOST_AHEAD", 1)  # the second record is only in the file
    fake.delay = 60
    options = {"delivery": "inline", "inline_timeout": 30, "outbox": path, "senders": 1, "drain_timeout": 0}
    butter, beside = make_butter(**options), make_butter(**options)
    butter.pipeline.add_records([record(100)])
    until(lambda: butter.status().pending == 1, "the first record")
    beside.pipeline.start()
    participant, other_one = butter.pipeline.participant, beside.pipeline.participant
    assert participant is not None
    assert other_one is not None
    until(lambda: participant.sender.delivery.in_flight == 1, "it is on its way")
    waited: list[float] = []
    shoppers = [
        threading.Thread(target=lambda its: waited.append(serve(its)), args=(its,), daemon=True)
        for its in (butter, butter, beside)
    ]
    for shopper in shoppers:
        shopper.start()
    until(lambda: (len(participant._waiting), len(other_one._waiting)) == (2, 1), "three responses wait")
    with closing(SQLiteOutbox(path).store()) as other:
        other.open()
        if why == "erased":
            other.write(lambda connection: connection.execute("DELETE FROM records").close())
        elif why == "replaced":
            for name in ("", "-wal", "-shm"):
                path.with_name(path.name + name).unlink(missing_ok=True)
        elif why == "closed":
            beside.close()
            until(lambda: len(waited) == 1, "its response")
            butter.close()
        else:

            def take_lead() -> bool:
                path.with_name("butter.db.lock").unlink(missing_ok=True)
                return other.lead()

            until(take_lead, "another process leads")
        for shopper in shoppers:
            shopper.join(20)
    assert len(waited) == 3
    assert not participant.is_awaited
    assert not other_one.is_awaited


def test_a_response_whose_capture_is_not_read_before_the_close_is_released(
    make_butter: Shop, fake: FakeButter, serve: Serve, anyio_backend: str
) -> None:
    """The extractor hangs, so no record is made."""
    asked, goes_on = threading.Event(), threading.Event()

    def extract(_response: CheckoutResponse) -> None:
        asked.set()
        goes_on.wait(20)

    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extract)
    butter = make_butter(route, delivery="inline", inline_timeout=30, drain_timeout=0)
    shopper = threading.Thread(target=serve, args=(butter,), daemon=True)
    shopper.start()
    assert asked.wait(20)
    butter.close()
    shopper.join(20)
    goes_on.set()
    assert not shopper.is_alive()


def test_a_close_releases_no_response_before_its_capture_is_kept(
    make_butter: Shop, serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    """The disk stalls, and another Butter of the file goes on. The response leaves once the capture is on the disk."""
    entered, goes_on = threading.Semaphore(0), threading.Semaphore(0)
    append = SQLiteStore.append

    def stall(store: SQLiteStore, captures: Any, **options: Any) -> Any:
        entered.release()
        assert goes_on.acquire(timeout=20)
        return append(store, captures, **options)

    monkeypatch.setattr(SQLiteStore, "append", stall)
    beside = make_butter(outbox=path, drain_timeout=0)
    butter = make_butter(delivery="inline", inline_timeout=30, outbox=path, drain_timeout=0)
    serve(beside)
    assert entered.acquire(timeout=20)
    shopper = threading.Thread(target=serve, args=(butter,), daemon=True)
    shopper.start()
    until(lambda: butter.pipeline.participant is not None, "it runs")
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: len(participant._unread) == 1, "the capture")
    (entry,) = participant._unread
    closing = threading.Thread(target=butter.close, daemon=True)
    closing.start()
    until(lambda: participant not in participant.thread.participants, "it has left")
    until(lambda: len(participant.thread._requests) > 0, "it waits for its end")
    goes_on.release()
    assert entered.acquire(timeout=20)
    assert entry.future is not None
    goes_on.release(2)
    shopper.join(20)
    closing.join(20)
    assert not shopper.is_alive()


def test_inline_with_a_queue_falls_back_to_it(make_butter: Shop, fake: FakeButter, serve: Serve) -> None:
    """Butter is tried first. A record that it does not accept in time goes to the queue, whose consumer delivers it."""
    queue = Queue()
    butter = make_butter(delivery="inline", inline_timeout=5, outbox=queue)
    serve(butter)
    assert (len(fake.records), len(queue.records)) == (1, 0)
    fake.respond_with(503)
    serve(butter)
    assert (len(fake.records), len(queue.records)) == (1, 1)
    serve(butter)  # for half a minute Butter is not tried first
    assert (len(fake.records), len(queue.records)) == (1, 2)
    assert butter.status().not_durable_in_time == 0


def test_before_response_with_a_queue_waits_for_the_queue(
    make_butter: Shop, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response waits a quarter second at most, and not at all if the queue is away."""
    quick, slow, away = Queue(), Queue(20.0), Queue(away=True)
    for queue, seconds, late in ((quick, 20.0, 0), (slow, QUEUE_SECONDS, 1), (away, 20.0, 0)):
        monkeypatch.setattr("butter_middleware.pipeline.components.QUEUE_SECONDS", seconds)
        butter = make_butter(outbox=queue, durability="before_response", drain_timeout=0)
        assert serve(butter) < 10
        assert butter.status().not_durable_in_time == late
    assert len(quick.records) == 1


def test_after_three_timeouts_no_response_waits_for_a_while(anyio_backend: str) -> None:
    """A Butter that hangs delays three checkouts by a second each, then none for half a minute."""
    now = [100.0]
    patience = Backoff(lambda: now[0])
    for well in (False, False, True, False, False):
        patience.ended(well=well)
        assert patience.left
    patience.ended(well=False)
    assert not patience.left
    now[0] += 30
    assert patience.left


@pytest.mark.parametrize("options", [{"delivery": "outside"}, {"inline_timeout": 0}, {"inline_timeout": 60}])
def test_a_wrong_mode_stops_the_start(make_butter: Shop, anyio_backend: str, options: dict[str, Any]) -> None:
    """An impossible option is refused where it is set."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        make_butter(**options)


EVENT = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/checkout/7",
    "rawQueryString": "",
    "headers": {"x-forwarded-for": "81.2.69.142", "host": "shop.example"},
    "requestContext": {
        "http": {"method": "POST", "path": "/checkout/7", "protocol": "HTTP/1.1", "sourceIp": "81.2.69.142"},
        "stage": "$default",
    },
    "body": "{}",
    "isBase64Encoded": False,
}


@pytest.mark.parametrize("lifespan", ["auto", "off"])
def test_a_lambda_function(make_butter: Shop, fake: FakeButter, anyio_backend: str, lifespan: Any) -> None:
    """With Mangum, each invocation delivers before it returns, with a lifespan or without."""
    butter = make_butter(delivery="inline", inline_timeout=20)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        for message in (start(headers=JSON), body(json.dumps(PAID | {"invoice": {"id": next(numbers)}}).encode())):
            await send(message)

    context: Any = None
    numbers = iter(["in_1", "in_2", "in_3"])
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    try:
        handler = Mangum(ButterMiddleware(app, butter), lifespan=lifespan)
        for invocation in (1, 2, 3):
            assert handler(EVENT, context)["statusCode"] == 200
            assert len(fake.records) == invocation
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_each_response_of_a_loop_is_woken(make_butter: Shop, fake: FakeButter, anyio_backend: str) -> None:
    """Responses leave when their records are sent, not at the deadline: one after the other, and several at once."""
    butter = make_butter(delivery="inline", inline_timeout=30)

    async def buy(number: int) -> None:
        content = json.dumps(PAID | {"invoice": {"id": f"in_{number}"}}).encode()
        await drive(ButterMiddleware(sends(start(), body(content)), butter), http_scope())

    async def main() -> None:
        with anyio.fail_after(20):
            for number in range(3):
                await buy(number)
            async with anyio.create_task_group() as tasks:
                for number in range(3, 9):
                    tasks.start_soon(buy, number)

    anyio.run(main, backend=anyio_backend)
    assert len(fake.records) == 9


def test_a_close_beside_a_fault_of_the_disk_releases_responses(
    make_butter: Shop, serve: Serve, tmp_path: Path, anyio_backend: str
) -> None:
    """The file's folder is away, and another Butter of the file goes on. No question is answered then."""
    folder = tmp_path / "data"
    folder.mkdir()
    asked, goes_on = threading.Event(), threading.Event()

    def extract(_response: CheckoutResponse) -> None:
        asked.set()
        goes_on.wait(40)

    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extract)
    beside = make_butter(outbox=folder / "butter.db", drain_timeout=0)
    beside.pipeline.start()
    butter = make_butter(route, delivery="inline", inline_timeout=30, outbox=folder / "butter.db", drain_timeout=0)
    shopper = threading.Thread(target=serve, args=(butter,), daemon=True)
    shopper.start()
    assert asked.wait(20)
    away = folder.rename(tmp_path / "away")
    butter.close()
    shopper.join(20)
    away.rename(folder)
    goes_on.set()
    assert not shopper.is_alive()
