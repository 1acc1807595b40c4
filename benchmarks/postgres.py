"""What the queue in PostgreSQL costs, beside the embedded outbox, in one run.

    python benchmarks/postgres.py [--seconds 3] [--pending 1000,10000,100000,1000000] [--only enqueue|send|growth]

Enqueue: one record after the other, until it is committed (fsync on). Send: a backlog leaves for a server that answers
after 100 ms, by 1, 2 and 4 workers of four records at once. Growth: the same queue with more and more pending records:
one enqueued, one job fetched and ended; and one fetched where each record has one of eight of procrastinate's locks.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from sink import Sink, sink

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from postgres_server import PostgresServer, why_not

from butter_middleware import Butter, Checkout, Record, SQLiteOutbox, client_ip
from butter_middleware.postgres import Names, PostgresOutbox
from butter_middleware.postgres.schema import migrate

LATENCY = 0.1
CONCURRENCY = 4
WORKERS = (1, 2, 4)
LOCKS = 8


def records(count: int) -> list[Record]:
    """Return records that are all different, in this run and others."""
    run = secrets.token_hex(4)
    checkouts = (
        Checkout(
            customer_email="shopper@example.com",
            ipv4_address="81.2.69.142",
            psp="stripe",
            invoice_id=f"in_{run}_{number}",
            charge_id=f"ch_{run}_{number}",
        )
        for number in range(count)
    )
    return [Record.of(checkout, time.time()) for checkout in checkouts]


def timed(step: Callable[[Record], object], seconds: float) -> list[float]:
    """Return how long each call took, for `seconds`, after a few to warm up."""
    some = records(20_000)
    for one in some[:20]:
        step(one)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    for one in some[20:]:
        began = time.perf_counter()
        if began > end:
            break
        step(one)
        latencies.append(time.perf_counter() - began)
    return latencies


def row(name: str, latencies: list[float]) -> None:
    """Print one line of a table of latencies."""
    ordered = sorted(latencies)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    print(f"{name:44} {p50:9.2f} {p99:9.2f} {len(ordered):8}", flush=True)


@contextmanager
def database(server: PostgresServer) -> Iterator[str]:
    """Give the DSN of a database with the queue in it."""
    name = f"bench_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}")
    try:
        migrate(server.dsn(name), Names())
        yield server.dsn(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def enqueuer(dsn: str) -> Iterator[Callable[[Record], None]]:
    """Give what enqueues one record on a connection that is open."""
    outbox = PostgresOutbox(dsn)
    with asyncio.Runner() as runner:
        yield lambda one: runner.run(outbox.enqueue(one))
        runner.run(outbox.aclose())


def enqueue_table(server: PostgresServer, seconds: float, directory: Path) -> None:
    """Print how long a record takes to be safe."""
    print(f"{'one record':44} {'p50 ms':>9} {'p99 ms':>9} {'of':>8}")
    embedded = SQLiteOutbox(directory / "embedded.db")
    embedded.open()
    embedded.counts().result()
    row("into the embedded outbox, a file", timed(lambda one: embedded.add([one]).result(), seconds))
    embedded.close()
    with database(server) as dsn:
        with enqueuer(dsn) as enqueue:
            row("into PostgreSQL, committed", timed(enqueue, seconds))
        outbox = PostgresOutbox(dsn)
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE orders (number text)")
            connection.commit()

            def order(one: Record) -> None:
                connection.execute("INSERT INTO orders VALUES (%s)", [one.key])

            def alone(one: Record) -> None:
                order(one)
                connection.commit()

            def together(one: Record) -> None:
                order(one)
                outbox.enqueue_in(connection, [one])
                connection.commit()

            row("an order alone, in a transaction", timed(alone, seconds))
            row("an order and its record, in one transaction", timed(together, seconds))


def rate(arrivals: list[float], at_once: int) -> float:
    """Return records a second: from the first to the last, less the first lot, which came at once."""
    return (len(arrivals) - at_once) / (max(arrivals) - min(arrivals))


def arrived(there: Sink, count: int) -> list[float]:
    """Wait for records; give when each of them came."""
    arrivals: list[float] = []
    while len(arrivals) < count:
        time.sleep(0.05)
        arrivals += there.arrivals()
    return arrivals


@contextmanager
def workers(dsn: str, there: Sink, count: int) -> Iterator[None]:
    """Run workers, each in a process of its own."""
    environment = os.environ | {
        "BUTTER_USERNAME": "u",
        "BUTTER_PASSWORD": secrets.token_hex(),
        "BUTTER_POSTGRES_DSN": dsn,
    }
    options = ["--base-url", there.url, "--concurrency", f"{CONCURRENCY}", "--slots", f"{CONCURRENCY * count}"]
    command = [sys.executable, "-m", "butter_middleware", "worker", *options]
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
        yield


def running(dsn: str) -> int:
    """Return how many workers run."""
    with psycopg.connect(dsn) as connection:
        (found,) = connection.execute("SELECT count(*) FROM butter.procrastinate_workers").fetchone() or (0,)
        return int(found)


def send_by_workers(server: PostgresServer, there: Sink, count: int, seconds: float) -> float:
    """Return how many records a second workers send."""
    number = int(seconds * count * CONCURRENCY / LATENCY)
    with database(server) as dsn, workers(dsn, there, count):
        while running(dsn) < count:
            time.sleep(0.1)
        fill(dsn, number)
        return rate(arrived(there, number), CONCURRENCY * count)


def send_embedded(there: Sink, senders: int, seconds: float, directory: Path) -> float:
    """Return how many records a second the embedded outbox sends."""
    number = int(seconds * senders / LATENCY)
    path = directory / f"{secrets.token_hex(4)}.db"
    outbox = SQLiteOutbox(path)
    outbox.open()
    outbox.add(records(number)).result()
    outbox.close()
    butter = Butter(
        username="u",
        password=secrets.token_hex(),
        client_ip=client_ip.direct(),
        outbox=path,
        base_url=there.url,
        senders=senders,
    )
    with butter:
        butter.collector.start()
        return rate(arrived(there, number), senders)


def send_table(server: PostgresServer, seconds: float, directory: Path) -> None:
    """Print how fast a backlog leaves for a server that takes its time."""
    print(f"\n{'to a server of 100 ms':44} {'at once':>9} {'per s':>9} {'of most':>8}")
    with sink(LATENCY) as there:
        for senders in (4, 8):
            found = send_embedded(there, senders, seconds, directory)
            print(f"{'the embedded outbox':44} {senders:9} {found:9,.0f} {found * LATENCY / senders:8.2f}", flush=True)
        for count in WORKERS:
            found, most = send_by_workers(server, there, count, seconds), CONCURRENCY * count
            print(f"{f'{count} workers':44} {most:9} {found:9,.0f} {found * LATENCY / most:8.2f}", flush=True)


FILL = """
SET session_replication_role = replica;  -- without a notification and an event for each
INSERT INTO butter.seen (key, record)
    SELECT md5(i::text || %(run)s), json_build_object('key', md5(i::text || %(run)s), 'captured_at', 0, 'payload',
        '{"customer_email": "shopper@example.com", "ipv4_address": "81.2.69.142", "psp": "stripe", "charge_id": "ch"}')
    FROM generate_series(1, %(count)s) AS i;
INSERT INTO butter.procrastinate_jobs (queue_name, task_name, args, lock)
    SELECT 'butter', 'butter:deliver', jsonb_build_object('key', md5(i::text || %(run)s)),
        CASE WHEN %(locks)s > 0 THEN 'lock' || i %% greatest(%(locks)s, 1) END
    FROM generate_series(1, %(count)s) AS i;
INSERT INTO butter.procrastinate_events (job_id, type)
    SELECT id, 'deferred' FROM butter.procrastinate_jobs;
SET session_replication_role = DEFAULT;
"""


def fill(dsn: str, count: int, locks: int = 0) -> None:
    """Put pending records into the queue."""
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor, autocommit=True) as connection:
        connection.execute(FILL.encode(), {"run": secrets.token_hex(4), "count": count, "locks": locks})
        connection.execute("ANALYZE")


def cycles(dsn: str, most: int) -> list[float]:
    """Return how long each job takes to be fetched and ended, without what stands between."""
    latencies: list[float] = []
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=butter") as connection:
        worker = connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()").fetchone()
        for _ in range(most):
            began = time.perf_counter()
            job = connection.execute("SELECT id FROM procrastinate_fetch_job_v2('{butter}', %s)", worker).fetchone()
            if job is None or job[0] is None:
                break
            connection.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', true)", job)
            latencies.append(time.perf_counter() - began)
    return latencies


def growth_table(server: PostgresServer, seconds: float, sizes: list[int]) -> None:
    """Print what one record costs among more and more that wait."""
    print(f"\n{'among pending records':44} {'p50 ms':>9} {'p99 ms':>9} {'of':>8}")
    for size in sizes:
        with database(server) as dsn:
            fill(dsn, size)
            with enqueuer(dsn) as enqueue:
                row(f"{size:9,}: one enqueued", timed(enqueue, seconds))
            row(f"{size:9,}: one fetched and ended", cycles(dsn, 500))
    for size in [size for size in sizes if size <= 10_000]:  # beyond that it takes minutes
        with database(server) as dsn:
            fill(dsn, size, LOCKS)
            row(f"{size:9,}: the same, with procrastinate's lock", cycles(dsn, 20))


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--pending", default="1000,10000,100000,1000000", help="how many records wait")
    parser.add_argument("--only", choices=["enqueue", "send", "growth"], help="one of the tables")
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    server = PostgresServer(fsync=True)
    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            print(f"{os.cpu_count()} cores, load {statistics.fmean(os.getloadavg()):.1f}\n")
            if options.only in {None, "enqueue"}:
                enqueue_table(server, options.seconds, Path(directory))
            if options.only in {None, "send"}:
                send_table(server, options.seconds, Path(directory))
            if options.only in {None, "growth"}:
                growth_table(server, options.seconds, [int(size) for size in options.pending.split(",")])
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
