"""Days of outage in a moment: the delivery with a simulated clock, against a scripted Butter."""

import asyncio
import itertools
import json
import logging
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import SHOPPER

from butter_middleware import Checkout, Record
from butter_middleware.delivery.circuit_breaker import BreakerState, CircuitBreaker
from butter_middleware.delivery.clients import QueueClient
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.outbox import MemoryStore, Pending, Settled, Settlement
from butter_middleware.telemetry.dispatcher import EventDispatcher

DAY = 86_400.0
OK = Answer(AnswerKind.DELIVERED, 200)
DOWN = Answer(AnswerKind.UNAVAILABLE, 503)
ANSWERS = {
    200: OK,
    401: Answer(AnswerKind.UNAUTHORIZED, 401),
    403: Answer(AnswerKind.REFUSED, 403),
    400: Answer(AnswerKind.REJECTED, 400),
    409: Answer(AnswerKind.BUSY, 409),
    422: Answer(AnswerKind.INVALID, 422),
    429: Answer(AnswerKind.THROTTLED, 429),
    500: Answer(AnswerKind.FAILED, 500),
    503: DOWN,
}


def record(number: int, captured_at: float = 0.0) -> Record:
    payload = {"psp": "stripe", "invoice_id": f"in_{number}", "ipv4_address": "81.2.69.142"}
    return Record(f"key-{number}", json.dumps(payload), captured_at)


@dataclass
class StoreBacklog:
    """The part of a store that `Delivery.run` uses, on one thread."""

    store: MemoryStore
    settled: Counter[str]
    held: set[int] = field(default_factory=set[int])

    def take(self) -> Pending | None:
        for pending in self.store.due(1, self.held):
            self.held.add(pending.id)
            return pending
        return None

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self.store.settle(settlements)
        self.held.difference_update(settlement.id for settlement in settlements)
        self.settled.update(settlement.settled for settlement in settlements)

    def put_back(self) -> None: ...

    def keep_hold(self, reason: str | None) -> None:
        self.store.set_hold(reason)


@dataclass
class World:
    """A clock that moves when all tasks wait, a scripted Butter, and its record of requests."""

    answer: Callable[["World", str], Answer]
    now: float = 1_000_000.0
    posts: list[str] = field(default_factory=list[str])
    pings: int = 0
    settled: Counter[str] = field(default_factory=Counter[str])
    concurrency: list[int] = field(default_factory=list[int])
    """How many posts were in flight when each began, including itself."""
    at_once: int = 0
    stride: float = 0.0
    """The minimum step of the clock in seconds. A late poll changes nothing, and days pass sooner."""
    ping_answer: Callable[["World"], Answer] = lambda _world: OK

    def clock(self) -> float:
        return self.now

    async def post(self, record: Record) -> Answer:
        self.at_once += 1
        self.concurrency.append(self.at_once)
        try:
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        invoice = json.loads(record.payload)["invoice_id"]
        self.posts.append(invoice)
        return self.answer(self, invoice)

    async def ping(self) -> Answer:
        self.pings += 1
        return self.ping_answer(self)

    async def aclose(self) -> None: ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        for _round in range(20):
            if event.is_set():
                return
            await asyncio.sleep(0)
        self.now += max(seconds, self.stride)

    def delivery(self, senders: int = 4) -> Delivery:
        events = EventDispatcher(self.clock)
        breaker = CircuitBreaker(
            senders, self.clock, self.clock, events.emit, uniform=lambda low, high: (low + high) / 2
        )
        delivery = Delivery(
            lambda: self, clock=self.clock, monotonic=self.clock, wait=self.wait, emit=events.emit, breaker=breaker
        )
        delivery._pace = self.no_pace  # type: ignore[method-assign]  # the gaps are real time
        return delivery

    async def no_pace(self) -> None: ...

    def run(self, store: MemoryStore, until: Callable[[], bool], delivery: Delivery | None = None) -> Delivery:
        """Deliver until a condition holds."""
        used = delivery or self.delivery()
        if (hold := store.counts().hold) is not None:
            used.resume_hold(hold)
        backlog = StoreBacklog(store, self.settled)

        async def main() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(used.run, backlog)
                while not until():  # noqa: ASYNC110 - the condition is the outbox's, which has no event
                    await asyncio.sleep(0)
                group.cancel_scope.cancel()

        asyncio.run(main())
        return used

    def outbox(self, numbers: Iterable[int], limit: int = 200_000) -> MemoryStore:
        store = MemoryStore(limit, self.clock)
        store.add([record(number, self.now) for number in numbers])
        return store


def done(outbox: MemoryStore) -> Callable[[], bool]:
    return lambda: outbox.counts().pending == 0


def test_an_outage_of_three_days_costs_few_probes_and_no_record() -> None:
    """72 h of outage with 20,000 pending: some 870 probes, constant memory, no attempts. Then all are delivered."""
    world = World(lambda world, _invoice: DOWN if world.now < 1_000_000 + 3 * DAY else OK)
    world.stride = 60.0
    outbox = world.outbox(range(20_000))
    delivery = world.delivery()
    world.run(outbox, lambda: world.now >= 1_000_000 + 2.4 * DAY, delivery)
    tracemalloc.start()  # tracing makes Python several times slower
    world.run(outbox, lambda: world.now >= 1_000_000 + 2.9 * DAY, delivery)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    probes = len(world.posts)
    assert 800 < probes < 900
    assert grown < 1_000_000
    assert set(world.settled) == {Settled.RELEASED}
    world.run(outbox, done(outbox), delivery)
    counts = outbox.counts()
    assert (counts.delivered, counts.dead) == (20_000, 0)
    assert Counter(world.posts[-20_000:]).most_common(1)[0][1] == 1


def test_the_breaker_opens_and_ramps_up() -> None:
    """Five failures in a row stop the sending. After a good probe the concurrency doubles step by step."""
    world = World(lambda world, _invoice: DOWN if world.now < 1_000_010 else OK)
    outbox = world.outbox(range(40))
    delivery = world.run(outbox, lambda: world.now > 1_000_000)
    assert delivery.ill
    assert len(world.posts) < 10
    begun = len(world.concurrency)
    world.run(outbox, done(outbox), delivery)
    assert world.posts[8] == "in_4"  # the failed ones are behind the others
    ramp = world.concurrency[begun:]
    assert (ramp[:3], max(ramp)) == ([1, 1, 1], 4)
    assert delivery.breaker.state is BreakerState.OK


def test_wrong_credentials_hold_everything_and_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """401 for a thousand pending, fixed after a day: one alert, no dead record, few probes, all delivered."""
    repaired = 1_000_000 + DAY
    wrong = ANSWERS[401]
    world = World(lambda world, _invoice: wrong if world.now < repaired else OK)
    world.ping_answer = lambda world: wrong if world.now < repaired else OK
    world.stride = 30.0
    outbox = world.outbox(range(1000))
    world.run(outbox, done(outbox))
    counts = outbox.counts()
    assert (counts.delivered, counts.dead) == (1000, 0)
    alerts = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert len(alerts) == 1
    assert "check username, password and environment" in alerts[0].getMessage()
    assert len(world.posts) - 1000 <= 4
    assert 250 < world.pings < 350


def test_a_hold_survives_a_restart() -> None:
    """A new process continues the hold. It pings before it sends, and ends the hold when that works."""
    wrong = ANSWERS[401]
    world = World(lambda _world, _invoice: wrong)
    world.ping_answer = lambda _world: wrong
    outbox = world.outbox(range(3))
    first = world.run(outbox, lambda: outbox.counts().hold is not None)
    assert first.breaker.state is BreakerState.HOLD
    outbox = _reopened(outbox)
    posts = len(world.posts)
    second = world.run(outbox, lambda: world.pings > 3)
    assert second.breaker.state is BreakerState.HOLD
    assert len(world.posts) == posts
    world.ping_answer, world.answer = (lambda _world: OK), (lambda _world, _invoice: OK)
    world.run(outbox, done(outbox))
    assert outbox.counts().hold is None


def test_an_operator_ends_a_hold() -> None:
    """If it is ended in the outbox, a probe follows within seconds. If the probe fails, the hold continues."""
    wrong = ANSWERS[401]
    world = World(lambda _world, _invoice: wrong)
    outbox = world.outbox(range(3))
    probed: list[float] = []
    ended: list[int] = []

    def ping(world: World) -> Answer:
        probed.append(world.now)
        return wrong if len(ended) < 2 else OK

    def until() -> bool:
        """End it twice, each time during a pause of minutes. The second time its cause is fixed."""
        if len(ended) < 2 and probed and world.now - probed[-1] > 60 and outbox.counts().hold is not None:
            ended.append(len(probed))
            if len(ended) == 2:
                world.answer = lambda _world, _invoice: OK
            outbox.set_hold(None)
            delivery.end_hold()
            begun.append(world.now)
        return done(outbox)() or world.now > 1_000_000 + DAY

    begun: list[float] = []
    world.ping_answer = ping
    delivery = world.delivery()
    world.run(outbox, until, delivery)
    assert len(ended) == 2
    assert all(probed[number] - at <= 6 for number, at in zip(ended, begun, strict=True))
    assert outbox.counts().delivered == 3
    assert outbox.counts().hold is None


def _reopened(store: MemoryStore) -> MemoryStore:
    """Return a store as a new process finds it."""
    fresh = MemoryStore(clock=store._clock)
    fresh.add([entry.record for entry in store._pending.values()])
    fresh.set_hold(store.counts().hold)
    return fresh


@pytest.mark.parametrize("status", [422, 500, 400, 403])
def test_only_bad_records_become_dead(status: int) -> None:
    """Every 50th record is refused. Only those become dead, and there is no hold."""
    poison = {f"in_{number}" for number in range(0, 1000, 50)}
    world = World(lambda _world, invoice: ANSWERS[status] if invoice in poison else OK)
    world.stride = 30.0
    outbox = world.outbox(range(1000))
    sold = 1000

    def over() -> bool:
        # The shop has a checkout every ten minutes: others are accepted while a suspect waits.
        nonlocal sold
        counts = outbox.counts()
        if world.now >= 1_000_000 + 600 * (sold - 1000) and counts.dead < len(poison):
            outbox.add([record(sold, world.now)])
            sold += 1
        return counts.dead == len(poison) and not counts.pending

    delivery = world.run(outbox, over)
    counts = outbox.counts()
    assert counts.dead == len(poison)
    assert counts.delivered >= 1000 - len(poison)
    assert outbox.counts().hold is None
    assert delivery.breaker.state is BreakerState.OK
    tries = Counter(invoice for invoice in world.posts if invoice in poison)
    least = {422: 1, 500: 12, 400: 3, 403: 3}[status]
    assert min(tries.values()) >= least


REDIRECT = Answer(AnswerKind.REDIRECTED, 302)
BROKEN = Answer(AnswerKind.INTERRUPTED, detail="ReadError")


@pytest.mark.parametrize("bad", [DOWN, BROKEN, REDIRECT], ids=lambda answer: answer.code)
def test_a_record_that_a_firewall_blocks_stops_no_other(bad: Answer) -> None:
    """It looks like an outage, and no record becomes dead. Other records are probes too, and one of them ends it."""
    world = World(lambda _world, invoice: bad if invoice == "in_0" else OK)
    outbox = world.outbox(range(1))
    delivery = world.run(outbox, lambda: world.now > 1_000_000 + 3600)
    assert delivery.ill
    sold = 1

    def over() -> bool:
        nonlocal sold
        if world.now >= 1_003_600 + 600 * sold and sold <= 10:
            outbox.add([record(sold, world.now)])
            sold += 1
        return sold > 10 and outbox.counts().pending == 1

    world.run(outbox, over, delivery)
    assert world.now < 1_003_600 + 6000 + 700
    assert (outbox.counts().delivered, outbox.counts().dead) == (10, 0)


@pytest.mark.parametrize("bad", [DOWN, BROKEN], ids=lambda answer: answer.code)
def test_a_blocked_record_is_rarely_sent_while_others_get_through(bad: Answer) -> None:
    """If only Butter's answer is lost, each try sends the record once more."""
    world = World(lambda _world, invoice: bad if invoice == "in_0" else OK)
    outbox = world.outbox(range(1000))
    world.run(outbox, lambda: outbox.counts().pending == 1)
    assert world.posts.count("in_0") == 2
    world.run(outbox, lambda: world.now > 1_000_000 + 3600)
    assert world.posts.count("in_0") < 125
    assert outbox.counts().dead == 0


@pytest.mark.parametrize(("status", "limit"), [(422, 4), (400, 0), (403, 0), (401, 0)])
def test_if_all_are_refused_it_is_our_fault(status: int, limit: int) -> None:
    """After a bad deploy or with a wrong account everything is refused: a hold, and almost no record becomes dead."""
    world = World(lambda _world, _invoice: ANSWERS[status])
    world.stride = 30.0
    outbox = world.outbox(range(100))
    delivery = world.run(outbox, lambda: world.now > 1_000_000 + DAY)
    assert delivery.breaker.state is BreakerState.HOLD
    assert outbox.counts().dead <= limit
    world.answer = lambda _world, _invoice: OK
    world.run(outbox, done(outbox), delivery)
    assert outbox.counts().delivered >= 100 - limit


def test_if_all_fail_it_is_the_systems_fault() -> None:
    """500 for everything is an outage: the breaker opens and no record becomes dead."""
    world = World(lambda world, _invoice: ANSWERS[500] if world.now < 1_000_000 + 2 * DAY else OK)
    world.stride = 30.0
    outbox = world.outbox(range(100))
    world.run(outbox, done(outbox))
    assert outbox.counts().delivered == 100
    assert len(world.posts) < 100 + 2 * 300


@pytest.mark.parametrize("status", [500, 400, 403])
def test_a_lone_suspect_never_becomes_dead(status: int) -> None:
    """No other record shows where the fault is. The record is kept, and sent when Butter works again."""
    world = World(lambda world, _invoice: ANSWERS[status] if world.now < 1_000_000 + 5 * DAY else OK)
    world.stride = 300.0
    outbox = world.outbox([1])
    world.run(outbox, done(outbox))
    assert outbox.counts().delivered == 1


def test_foreign_answers_cause_a_hold() -> None:
    """Three answers in a row that are not JSON objects come from a captive portal. Nothing more is sent to it."""
    world = World(lambda _world, _invoice: Answer(AnswerKind.IMPOSTOR, 200))
    outbox = world.outbox(range(100))
    delivery = world.run(outbox, lambda: outbox.counts().hold is not None)
    assert delivery.breaker.state is BreakerState.HOLD
    assert len(world.posts) <= 6
    assert outbox.counts().pending == 100


def test_a_throttle_pauses_and_halves() -> None:
    """429 stops everything for Retry-After. Then half the concurrency is used."""
    throttled = Answer(AnswerKind.THROTTLED, 429, 90.0)
    world = World(lambda world, _invoice: throttled if world.now < 1_000_050 else OK)
    outbox = world.outbox(range(20))
    delivery = world.run(outbox, lambda: world.now >= 1_000_090)
    assert len(world.posts) == 4
    begun = len(world.concurrency)
    world.run(outbox, done(outbox), delivery)
    assert outbox.counts().delivered == 20
    assert max(world.concurrency[begun : begun + 4]) == 2


def test_an_untrusted_certificate_is_probed_slowly(caplog: pytest.LogCaptureFixture) -> None:
    """TLS verification is never switched off: an alert at once, and a probe every five minutes."""
    world = World(lambda _world, _invoice: Answer(AnswerKind.UNTRUSTED))
    world.stride = 30.0
    outbox = world.outbox([1, 2])
    world.run(outbox, lambda: world.now > 1_000_000 + 3600)
    assert len(world.posts) <= 16
    assert sum(r.levelno == logging.CRITICAL for r in caplog.records) == 1


def test_a_busy_record_is_tried_again_later() -> None:
    """409 and the like are about one record: it waits, the others are sent."""
    world = World(lambda world, invoice: ANSWERS[409] if invoice == "in_0" and world.now < 1_000_100 else OK)
    outbox = world.outbox(range(10))
    world.run(outbox, done(outbox))
    assert world.settled == {Settled.DELIVERED: 10, Settled.RETRY: world.posts.count("in_0") - 1}


@pytest.mark.parametrize(
    ("used", "gaps"),
    [
        (0.0005, [0.002, 0.002]),
        (0.0015, [0.003, 0.003, 0.003, 0.003]),
        (0.005, [0.005] * 8),
        (0.5, [0.1] * 8),
    ],
)
def test_sending_leaves_the_interpreter_to_the_app(
    used: float, gaps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each use of the processor, sending pauses for as long: 2 ms at least, 100 ms at most."""
    slept: list[float] = []
    thread_time, sleep = [100.0], asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            slept.append(round(seconds, 6))
        await sleep(0)

    def answer(_world: World, _invoice: str) -> Answer:
        thread_time[0] += used
        return OK

    monkeypatch.setattr(time, "thread_time", lambda: thread_time[0])
    monkeypatch.setattr(asyncio, "sleep", note)
    world = World(answer)
    delivery = world.delivery(senders=1)
    del delivery._pace
    outbox = world.outbox(range(9))
    world.run(outbox, done(outbox), delivery)
    assert slept == gaps


def test_a_client_that_raises_is_an_outage() -> None:
    """A merchant's own client may raise: nothing is lost, and the loop continues."""

    def answer(world: World, _invoice: str) -> Answer:
        if world.now < 1_000_020:
            raise RuntimeError
        return OK

    world = World(answer)
    outbox = world.outbox(range(10))
    world.run(outbox, done(outbox))
    assert outbox.counts().delivered == 10


def test_a_client_may_raise_a_cancelled_error() -> None:
    """A future or a pool that it shares was cancelled, not the delivery. Other records are sent, each once."""
    cancelled: list[str] = []

    def answer(_world: World, invoice: str) -> Answer:
        if invoice in {"in_1", "in_2"} and invoice not in cancelled:
            cancelled.append(invoice)
            raise asyncio.CancelledError
        return OK

    world = World(answer)
    outbox = world.outbox(range(4))
    rounds = itertools.count()
    world.run(outbox, lambda: done(outbox)() or next(rounds) > 10_000)
    assert Counter(world.posts) == {"in_0": 1, "in_1": 2, "in_2": 2, "in_3": 1}
    assert world.settled[Settled.DELIVERED] == 4


@pytest.mark.parametrize("during", ["take", "ping"])
def test_a_pause_stops_a_record_that_is_about_to_be_sent(during: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause comes while a record is taken or during a ping. Once nothing is in flight, nothing is sent."""
    world = World(lambda _world, _invoice: OK)
    outbox = world.outbox([1])
    delivery = world.delivery()
    take = StoreBacklog.take

    def pausing_take(backlog: StoreBacklog) -> Pending | None:
        if during == "take":
            delivery.pause()
        return take(backlog)

    def ping(_world: World) -> Answer:
        delivery.pause()
        return OK

    monkeypatch.setattr(StoreBacklog, "take", pausing_take)
    if during == "ping":
        outbox.set_hold("401")
        world.ping_answer = ping
    stop = world.now + 60
    world.run(outbox, lambda: world.now > stop, delivery)
    assert (delivery.in_flight, world.posts) == (0, [])
    monkeypatch.undo()
    delivery.resume()
    world.ping_answer = lambda _world: OK
    world.run(outbox, done(outbox), delivery)
    assert world.posts == ["in_1"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 30), st.lists(st.sampled_from(sorted(ANSWERS)), max_size=6), max_size=31),
    st.integers(1, 8),
)
def test_with_any_answers_of_butter_nothing_is_lost(script: dict[int, list[int]], senders: int) -> None:
    """Added = delivered + pending + dead at any time, and all are settled once Butter works."""
    left = {f"in_{number}": list(statuses) for number, statuses in script.items()}
    world = World(lambda _world, invoice: ANSWERS[left[invoice].pop(0)] if left.get(invoice) else OK)
    outbox = world.outbox(range(31))

    def over() -> bool:
        counts = outbox.counts()
        assert counts.delivered + counts.pending + counts.dead == 31
        return counts.pending == 0

    world.run(outbox, over, world.delivery(senders))
    assert max(world.concurrency) <= senders
    accepted = Counter(world.posts)
    assert len(accepted) == 31


# Merchants' own queues.


class Queue:
    """A queue that takes records as text, or is away."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.away = 0

    async def enqueue(self, record: Record) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionError
        self.texts.append(record.to_json())


def test_a_queue_that_is_away_gets_the_record_later() -> None:
    """A queue that raises is tried again. The record waits in memory."""
    queue = Queue()
    queue.away = 3
    world = World(lambda _world, _invoice: OK)
    outbox = world.outbox([1])
    delivery = Delivery(
        lambda: QueueClient(queue), clock=world.clock, monotonic=world.clock, wait=world.wait, senders=1
    )
    world.run(outbox, done(outbox), delivery)
    assert [Record.from_json(text).key for text in queue.texts] == ["key-1"]


def test_a_plain_enqueue_function_takes_a_record_once() -> None:
    """If `enqueue` is not a coroutine function, nothing is awaited: it took the record, or it raised."""

    class Plain:
        tries = 0

        def enqueue(self, _record: Record) -> None:
            self.tries += 1
            if self.tries == 1:
                raise ConnectionError

    queue: Any = Plain()
    client = QueueClient(queue)
    answers = [asyncio.run(client.post(record(1))).kind for _try in range(2)]
    assert answers == [AnswerKind.UNREACHABLE, AnswerKind.DELIVERED]


def test_a_consumer_delivers_one_record() -> None:
    """`Delivery.deliver` sends one record, and returns its settlement."""
    world = World(lambda _world, _invoice: OK)
    delivery = world.delivery()
    assert asyncio.run(delivery.deliver(record(1))).settled is Settled.DELIVERED
    world.answer = lambda _world, _invoice: ANSWERS[422]
    assert asyncio.run(delivery.deliver(record(2))).settled is Settled.DEAD
    world.answer = lambda _world, _invoice: ANSWERS[500]
    doubtful = asyncio.run(delivery.deliver(record(3)))
    assert (doubtful.settled, doubtful.due_at > world.now) == (Settled.RETRY, True)
    assert doubtful.key == record(3).key
    world.answer = lambda _world, _invoice: DOWN
    for _failure in range(5):
        assert asyncio.run(delivery.deliver(record(4))).settled is Settled.RELEASED
    sent = len(world.posts)
    later = asyncio.run(delivery.deliver(record(4)))
    assert (later.settled, later.due_at > world.now, len(world.posts)) == (Settled.RELEASED, True, sent)


def test_a_consumer_of_several_at_once_gets_the_settlement_of_each() -> None:
    """Some may be suspects until another is accepted. None is left to a later answer."""
    world = World(lambda _world, invoice: OK if invoice in {"in_2", "in_4"} else ANSWERS[500])
    delivery = world.delivery()

    async def deliver() -> list[Settlement]:
        return await asyncio.gather(*(delivery.deliver(record(number)) for number in range(1, 5)))

    found = asyncio.run(deliver())
    assert [one.key for one in found] == [record(number).key for number in range(1, 5)]
    assert [one.settled for one in found] == [Settled.RETRY, Settled.DELIVERED] * 2


@pytest.mark.parametrize(
    ("status", "state"), [(500, BreakerState.OPEN), (400, BreakerState.HOLD), (403, BreakerState.HOLD)]
)
def test_a_consumer_stops_if_all_records_are_refused(status: int, state: BreakerState) -> None:
    """Five different records and none accepted: the fault is not theirs. Five tries of one record prove nothing."""
    world = World(lambda _world, invoice: OK if invoice == "in_0" else ANSWERS[status])
    delivery = world.delivery()

    def deliver(*numbers: int) -> list[Settled]:
        return [asyncio.run(delivery.deliver(record(number))).settled for number in numbers]

    assert set(deliver(1, 2, 3, 4, 1, 2, 3, 4)) == {Settled.RETRY}
    assert deliver(0, 5, 6, 7, 8) == [Settled.DELIVERED, *[Settled.RETRY] * 4]
    assert delivery.breaker.state is BreakerState.OK
    assert deliver(9) == [Settled.RELEASED]
    assert delivery.breaker.state is state


@pytest.mark.parametrize("kept", [None, "422"])
def test_after_a_restart_a_hold_of_invalid_records_makes_no_more_dead(kept: str | None) -> None:
    """Four become dead before the fault is known to be ours. The next process knows it."""
    world = World(lambda _world, _invoice: ANSWERS[422])
    delivery = world.delivery()
    if kept is not None:
        delivery.resume_hold(kept)
    settled = asyncio.run(delivery.deliver(record(1))).settled
    assert settled is (Settled.DEAD if kept is None else Settled.RELEASED)
    assert (delivery.breaker.hold_reason, delivery.ill) == (kept, kept is not None)


def test_butter_passes_records_to_a_queue(make_butter: Callable[..., Any]) -> None:
    """Any object with `enqueue` may be the outbox of a Butter."""
    queue = Queue()
    butter = make_butter(outbox=queue)
    butter.record(Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"))
    assert butter.flush()
    assert len(queue.texts) == 1


def test_a_wake_up_of_a_closing_loop_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's thread wakes the delivery at any time. The loop may close after the check."""
    world = World(lambda _world, _invoice: OK)
    store = world.outbox([1])
    delivery = world.run(store, lambda: store.counts().pending == 0)
    monkeypatch.setattr(asyncio.BaseEventLoop, "is_closed", lambda _loop: False)
    delivery.end_hold()
    delivery.resume()
    assert world.posts == ["in_1"]
