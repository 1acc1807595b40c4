"""The worker of the queue: its concurrency, the jobs that it recovers, and how it ends."""

import asyncio
import logging
import os
import re
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest
from postgres_server import PostgresServer
from processes import HERE, until
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from queues import Shop, arrived, enqueue, queued, record, rows, work
from shops import CREDENTIALS

from butter_middleware import Butter
from butter_middleware.postgres import Names, Pace, PostgresOutbox, Worker, blueprint
from butter_middleware.postgres.connector import PatientConnector
from butter_middleware.postgres.slots import Slots
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.postgres


class Counting(httpx.AsyncBaseTransport):
    """Counts requests in flight. It answers none until `wanted` are in flight, so a slow worker does not matter."""

    def __init__(self, inner: httpx.AsyncBaseTransport, wanted: int) -> None:
        self._inner = inner
        self._wanted = wanted
        self._reached = asyncio.Event()
        self._now = 0
        self.most = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._now += 1
        self.most = max(self.most, self._now)
        if self.most >= self._wanted:
            self._reached.set()
        try:
            await self._reached.wait()
            return await self._inner.handle_async_request(request)
        finally:
            self._now -= 1


class Held(httpx.AsyncBaseTransport):
    """Holds Butter's answers back until `go` is set."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.asked = 0
        self.go = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await self.go.wait()
        return await self._inner.handle_async_request(request)


@asynccontextmanager
async def working(butter: Butter, dsn: str, pace: Pace | None = None) -> AsyncGenerator[Worker]:
    """Run a worker, and stop it at the end."""
    worker = Worker(dsn, Names(), butter.delivery, pace)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(40):
            await running


async def wait_for(done: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(until, done, what, 40)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def begin() -> None:
        await main()

    asyncio.run(begin())


# Concurrency.


def test_slots_are_shared_and_released(postgres: PostgresServer, database: str) -> None:
    """Two workers never hold more than all slots. If a connection is cut, another worker can take its slots at once."""

    async def main() -> None:
        one, other = (Slots(database, "slots", 3) for _ in range(2))
        assert (await one.hold(2), await other.hold(2)) == (2, 1)
        assert (await one.hold(4), await other.hold(4)) == (2, 1)
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 GROUP BY pid "
            "HAVING count(*) = 2"
        )
        await wait_for(lambda: locks(database) == 1, "the locks of the cut connection are free")
        assert await other.hold(4) == 3
        assert await one.hold(2) == 0
        await other.give_up()
        await wait_for(lambda: locks(database) == 0, "PostgreSQL has seen the end of the other connection")
        assert await one.hold(2) == 2
        await one.give_up()

    run(main)


def test_slots_of_a_lost_machine_are_free_within_a_minute(postgres: PostgresServer, database: str) -> None:
    """A lost machine does not close its connection. Both sides use keepalives, and options of the DSN win."""

    async def main() -> None:
        slots = Slots(f"{database}?keepalives_idle=7", "slots", 1)
        assert await slots.hold(1) == 1
        connection = slots._connection
        assert connection is not None
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        cursor = await connection.execute("SELECT current_setting(unnest(%s::text[]))", [list(names)])
        assert [value for (value,) in await cursor.fetchall()] == ["30", "10", "3", "30000"]
        with socket.socket(fileno=os.dup(connection.fileno())) as ours:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            assert [ours.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [7, 10, 3, 30_000]
        await slots.give_up()

    run(main)


def locks(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2")[0][0])


def test_butter_sees_the_same_concurrency_with_any_number_of_workers(
    database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """Three workers with a concurrency of four share four slots. Four requests are in flight, and all are sent."""
    fake.delay = 0.05
    counting = Counting(fake.transport(), 4)
    butter = make_butter(transport=counting)
    enqueue(PostgresOutbox(database), *map(record, range(40)))
    pace = Pace(concurrency=4, slots=4)

    async def main() -> None:
        async with (
            working(butter, database, pace),
            working(butter, database, pace),
            working(butter, database, pace),
        ):
            await wait_for(lambda: len(fake.records) >= 40, "all records")

    run(main)
    assert len(arrived(fake)) == 40
    assert counting.most == 4


# When Butter refuses everything.


def asked_more_than(fake: FakeButter, times: int) -> bool:
    return fake.requests > times


@pytest.mark.parametrize(("status", "dead"), [(401, 0), (403, 0), (422, 4)])
def test_a_hold_outlasts_the_worker(database: str, fake: FakeButter, make_butter: Shop, status: int, dead: int) -> None:
    """Each start probes with one record, whose attempts do not go up. All are sent once Butter accepts one."""
    refusing = FakeButter(**CREDENTIALS, delay=0.2)
    refusing.respond_with(*[status] * 100)
    enqueue(PostgresOutbox(database), *map(record, range(40)))
    hold = "SELECT reason LIKE '{}%' FROM butter.holds"
    charges = "SELECT sum(attempts), count(*) FILTER (WHERE reason IS NOT NULL) FROM butter.seen"
    work(make_butter(transport=refusing.transport()), database, lambda: bool(rows(database, hold.format(status))))
    assert refusing.requests <= 12
    charged = rows(database, charges)
    asked = refusing.requests
    for start in (1, 2):
        work(
            make_butter(transport=refusing.transport()), database, partial(asked_more_than, refusing, asked + start - 1)
        )
        assert refusing.requests == asked + start
    assert rows(database, charges) == charged
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs WHERE status = 'failed'") == [(dead,)]
    rows(database, "UPDATE butter.procrastinate_jobs SET scheduled_at = NULL")
    work(make_butter(), database, lambda: len(fake.records) == 40 - dead)
    assert rows(database, "SELECT * FROM butter.holds") == []


class Firewall(httpx.AsyncBaseTransport):
    """Breaks each connection that sends a certain record."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.broken = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if b'"in_0"' in request.content:
            self.broken += 1
            raise httpx.ReadError(repr(self), request=request)
        return await self._inner.handle_async_request(request)


def test_a_record_that_a_firewall_stops_each_time_stops_no_other(
    database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """Its job is the oldest one, but the next probe is another job."""
    outbox, firewall = PostgresOutbox(database), Firewall(fake.transport())
    enqueue(outbox, record(0))

    def is_sent() -> bool:
        if firewall.broken >= 5 and queued(database) == 1 and not fake.records:
            enqueue(outbox, record(1))
        return arrived(fake) == ["in_1"]

    work(make_butter(transport=firewall), database, is_sent)
    assert rows(database, "SELECT record IS NULL, attempts FROM butter.seen ORDER BY record") == [(False, 0), (True, 0)]


# Recovered jobs.


@pytest.mark.parametrize(
    ("worker", "started"),
    [
        ("INSERT INTO butter.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')", "0"),
        ("INSERT INTO butter.procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour')", "10 minutes"),
        ("SELECT NULL::bigint AS id", "0"),
    ],
    ids=["killed", "unknown to its live worker", "unregistered"],
)
def test_a_job_without_a_worker_is_recovered(
    database: str, fake: FakeButter, make_butter: Shop, worker: str, started: str
) -> None:
    """The worker was killed, or PostgreSQL's answer with the job did not reach it."""
    enqueue(PostgresOutbox(database), record(1))
    if worker.startswith("INSERT"):
        worker += " RETURNING id"
    rows(
        database,
        f"WITH worker AS ({worker}) UPDATE butter.procrastinate_jobs SET status = 'doing', "  # noqa: S608 - as above
        "worker_id = (SELECT id FROM worker)",
    )
    rows(database, f"UPDATE butter.procrastinate_events SET at = now() - interval '{started}'")  # noqa: S608
    work(make_butter(), database, lambda: len(fake.records) == 1)
    assert queued(database) == 0


def test_a_job_that_a_person_aborted_is_not_recovered(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """Its worker died before it saw the request to abort."""
    enqueue(PostgresOutbox(database), record(1))
    rows(database, "UPDATE butter.procrastinate_jobs SET status = 'doing', abort_requested = true")
    work(
        make_butter(),
        database,
        lambda: rows(database, "SELECT status::text FROM butter.procrastinate_jobs") == [("failed",)],
    )
    assert fake.records == []


def test_a_job_that_another_worker_recovered_is_not_recovered_again(
    database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """Both workers saw at the same moment that the job has no live worker. It must not be sent twice."""
    enqueue(PostgresOutbox(database), record(1), record(2))
    rows(database, "UPDATE butter.procrastinate_jobs SET status = 'doing'")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    async def main() -> None:
        with psycopg.connect(database, options="-c search_path=public,butter") as other:
            job = "UPDATE procrastinate_jobs SET status = %s, attempts = attempts + 1, worker_id = %s WHERE id = 1"
            other.execute(job, ("todo", None))
            worker = (
                "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour') RETURNING id"
            )
            other.execute(job.replace("+ 1", "+ 0"), ("doing", (other.execute(worker).fetchone() or [0])[0]))
            async with working(make_butter(), database):
                await wait_for(lambda: bool(rows(database, waiting)), "this worker saw both, and waits for the other")
                other.commit()
                await wait_for(lambda: "in_2" in arrived(fake), "the other job")

    run(main)
    assert arrived(fake) == ["in_2"]
    assert rows(database, "SELECT id, status::text FROM butter.procrastinate_jobs") == [(1, "doing")]


def test_a_person_sees_the_dead_records_and_sends_them_again(
    database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """docs/postgres.md has the statements. They show the jobs and Butter's answers, and retry the dead ones."""
    show, again = re.findall(r"```sql\n(.*?)```", (HERE.parent / "docs" / "postgres.md").read_text(), re.DOTALL)
    states, dead, holds = show.split(";")[1:-1]
    refusing = FakeButter(**CREDENTIALS)
    refusing.respond_with(422)
    enqueue(PostgresOutbox(database), record(1))
    work(make_butter(transport=refusing.transport()), database, lambda: ("failed", 1) in rows(database, states))
    assert rows(database, states) == [("failed", 1)]
    assert rows(database, dead) == [(1, "422")]
    assert rows(database, holds) == []
    rows(database, again)
    work(make_butter(), database, lambda: len(fake.records) == 1)
    assert rows(database, states) == []


def test_a_clock_that_was_ahead_strands_nothing(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """A worker's clock was days ahead of PostgreSQL's when it set a retry. No backoff is that long."""
    enqueue(PostgresOutbox(database), record(1), record(2))
    later = "UPDATE butter.procrastinate_jobs SET scheduled_at = now() + interval '{}' WHERE id = {}"
    rows(database, later.format("2 days", 1))
    rows(database, later.format("1 hour", 2))
    work(make_butter(), database, lambda: queued(database) == 1)
    assert arrived(fake) == ["in_1"]


def test_a_delivery_before_a_kill_is_not_sent_again(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The worker was killed after it wrote Butter's answer to `seen`, and before the job's end."""
    enqueue(PostgresOutbox(database), record(1))
    rows(database, "UPDATE butter.seen SET record = NULL, delivered_at = now()")
    work(make_butter(), database, lambda: queued(database) == 0)
    assert fake.records == []


def delivered(dsn: str) -> int:
    return int(rows(dsn, "SELECT count(*) FROM butter.seen WHERE delivered_at IS NOT NULL")[0][0])


def test_a_crash_of_postgresql_undoes_no_delivery(
    postgres: PostgresServer, database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """Only this commit of a worker waits for the disk. The crash comes as soon as others can see the delivery."""
    enqueue(PostgresOutbox(database), *map(record, range(5)))
    sent: list[int] = []

    async def main() -> None:
        async with working(make_butter(), database, Pace(concurrency=1, stop_seconds=0.2)):
            await wait_for(lambda: delivered(database) > 0, "a delivery that others see")
            sent.append(await asyncio.to_thread(delivered, database))
            await asyncio.to_thread(postgres.stop)

    try:
        run(main)
    finally:
        postgres.start()
        postgres.wait()
    assert delivered(database) >= sent[0]


def test_old_keys_are_deleted(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The record was delivered more than a week ago, or a person deleted the job."""
    enqueue(PostgresOutbox(database), *map(record, range(4)))
    old = "UPDATE butter.seen SET record = NULL, delivered_at = now() - interval '8 days'"
    rows(database, f"{old} WHERE key = '{record(0).key}'")
    rows(database, f"DELETE FROM butter.procrastinate_jobs WHERE args->>'key' = '{record(1).key}'")  # noqa: S608
    wanted = sorted([(record(2).key,), (record(3).key,)])
    kept = "SELECT key FROM butter.seen ORDER BY key"
    work(make_butter(), database, lambda: len(fake.records) == 2 and rows(database, kept) == wanted)
    assert arrived(fake) == ["in_2", "in_3"]


def test_a_key_that_an_order_enqueues_again_is_not_deleted(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The key is a week old and about to be deleted while the order's transaction is open. The record is sent."""
    old = "INSERT INTO butter.seen (key, delivered_at) VALUES ('{}', now() - interval '8 days')"
    rows(database, old.format(record(1).key))
    forgetting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE%'"

    async def main() -> None:
        with psycopg.connect(database) as shop:
            PostgresOutbox(database).enqueue_in(shop, [record(1)])
            async with working(make_butter(), database):
                await wait_for(lambda: rows(database, forgetting) == [(1,)], "the forgetting waits for the order")
                shop.commit()
                await wait_for(lambda: queued(database) == 0, "the job's end")

    run(main)
    assert arrived(fake) == ["in_1"]


# How it ends.


def test_a_stop_finishes_the_records_in_flight(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The stop comes while records are being sent. They arrive once, and no other is begun."""
    held = Held(fake.transport())
    enqueue(PostgresOutbox(database), *map(record, range(8)))
    doing = "SELECT count(*) FROM butter.procrastinate_jobs WHERE status = 'doing'"

    async def main() -> None:
        async with working(make_butter(transport=held), database, Pace(concurrency=2)) as worker:
            await wait_for(lambda: held.asked == 2, "records on their way")
            worker.stop()
            held.go.set()

    run(main)
    assert len(fake.records) == 2
    assert (queued(database), rows(database, doing)) == (6, [(0,)])


def test_a_stop_waits_no_longer_than_its_limit(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """If Butter does not answer, the request is cancelled, and the record stays in the queue."""
    fake.delay = 60.0
    enqueue(PostgresOutbox(database), record(1))

    async def main() -> None:
        async with working(make_butter(), database, Pace(stop_seconds=0.2)):
            await wait_for(lambda: fake.requests == 1, "a record on its way")

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 20
    assert rows(database, "SELECT status::text FROM butter.procrastinate_jobs") == [("todo",)]


def test_a_stop_while_postgresql_is_away_ends(
    postgres: PostgresServer, database: str, fake: FakeButter, make_butter: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker cannot write the result, but it ends. The job is recovered later."""
    caplog.set_level(logging.CRITICAL, "psycopg")
    enqueue(PostgresOutbox(database), record(1))
    held = Held(fake.transport())

    async def main() -> None:
        async with working(make_butter(transport=held), database, Pace(stop_seconds=0.5)):
            await wait_for(lambda: held.asked == 1, "a record on its way")
            await asyncio.to_thread(postgres.stop)
            held.go.set()

    try:
        run(main)
    finally:
        postgres.start()
        postgres.wait()
    # "todo", if the crash undid the fetch of the job.
    left = rows(database, "SELECT status::text FROM butter.procrastinate_jobs")
    assert left in ([("doing",)], [("todo",)])
    rows(database, "UPDATE butter.procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
    work(make_butter(), database, lambda: queued(database) == 0)
    assert set(arrived(fake)) == {"in_1"}


def test_a_stop_while_postgresql_is_frozen_ends(
    postgres: PostgresServer, database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """No connection is cut, but PostgreSQL does not answer. The worker ends, and its job is recovered later."""
    enqueue(PostgresOutbox(database), record(1))
    fake.delay = 0.5

    async def main() -> None:
        async with working(make_butter(), database, Pace(stop_seconds=0.2)):
            await wait_for(lambda: fake.requests == 1, "a record on its way")
            postgres.signal(signal.SIGSTOP)

    try:
        run(main)
    finally:
        postgres.signal(signal.SIGCONT)
    rows(database, "UPDATE butter.procrastinate_workers SET last_heartbeat = now() - interval '1 minute'")
    work(make_butter(), database, lambda: queued(database) == 0)
    assert set(arrived(fake)) == {"in_1"}


# What it logs.


@pytest.mark.parametrize(
    ("done", "says"),
    [
        ("DROP SCHEMA butter CASCADE", "postgres migrate --worker ROLE"),
        ("ALTER DATABASE {name} ALLOW_CONNECTIONS false", "PostgreSQL is away (connection"),
    ],
    ids=["no schema", "away"],
)
def test_a_worker_that_cannot_work_logs_why(
    postgres: PostgresServer, database: str, make_butter: Shop, caplog: pytest.LogCaptureFixture, done: str, says: str
) -> None:
    """It keeps trying, because a person may fix it. The log must say what to fix."""
    name = database.rpartition("/")[2]
    postgres.execute(done.format(name=name), name if "SCHEMA" in done else "postgres")

    async def main() -> None:
        async with working(make_butter(), database, Pace(stop_seconds=0.2)):
            await wait_for(lambda: says in caplog.text, "the reason")

    run(main)
    assert caplog.text.count("PostgreSQL is away") <= 1


def test_a_query_that_is_always_cancelled_is_given_up(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """A `statement_timeout` cancels it each time. That is logged, and the next query works."""

    async def main() -> None:
        connector = PatientConnector(f"{database}?options=-c%20statement_timeout%3D50", Names(), 1)
        await connector.open_async()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(ConnectorException):
                    await connector.execute_query_async("SELECT pg_sleep(60)")
                await connector.execute_query_async("SELECT 1")
        finally:
            await connector.close_async()

    run(main)
    assert caplog.text.count("canceling statement due to statement timeout); the worker tries again") == 1


# The merchant's own procrastinate.


def test_the_task_in_the_merchants_own_app(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The merchant's workers send, and handle Butter's answers in the same way."""
    enqueue(PostgresOutbox(database), record(1), record(2))
    fake.respond_with(200, 422)
    kwargs: dict[str, Any] = {"options": "-c search_path=butter"}

    async def main() -> None:
        app = App(connector=PsycopgConnector(conninfo=database, kwargs=kwargs))
        app.add_tasks_from(blueprint(make_butter().delivery), namespace="butter")
        async with app.open_async():
            await app.run_worker_async(queues=["butter"], wait=False, install_signal_handlers=False)

    run(main)
    assert rows(database, "SELECT count(*) FROM butter.seen WHERE delivered_at IS NOT NULL") == [(1,)]
    statuses = "SELECT status::text FROM butter.procrastinate_jobs ORDER BY 1"
    assert rows(database, statuses) == [("failed",), ("succeeded",)]
