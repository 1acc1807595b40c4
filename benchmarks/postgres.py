"""The cost of the queue in PostgreSQL, compared with the embedded outbox, in one run.

    python benchmarks/postgres.py [--write docs/benchmarks.md] [--tables enqueue send growth] [--seconds 3]
                                  [--pending 1000 10000 100000 1000000]

Enqueue: records one after the other, each until it is committed (with fsync). Send: 1, 2 and 4 workers, each of which
sends four records at once, send a backlog to a server that answers after 100 ms. Growth: the same queue with more and
more pending records. It measures how long it takes to enqueue one record, to fetch and end one job, and to do the
latter if each record has one of eight procrastinate locks.
"""

import argparse
import asyncio
import itertools
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import psycopg
from machine import machine
from outbox import appending
from outbox import fill as fill_file
from sink import Sink, sink
from written import table, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from postgres_server import PostgresServer, why_not

from butter_middleware import Butter, Checkout, Record, client_ip
from butter_middleware.postgres import Names, PostgresOutbox
from butter_middleware.postgres.schema import migrate

LATENCY = 0.1
CONCURRENCY = 4
SENDERS = (4, 8)
WORKERS = (1, 2, 4)
LOCKS = 8
WARM_UP = 20
CYCLES = 500


def records() -> Iterator[Record]:
    """Yield records that differ from all others, also of other runs."""
    run = secrets.token_hex(4)
    for number in itertools.count():
        checkout = Checkout(
            customer_email="shopper@example.com",
            ipv4_address="81.2.69.142",
            psp="stripe",
            invoice_id=f"in_{run}_{number}",
            charge_id=f"ch_{run}_{number}",
        )
        yield Record.of(checkout, time.time())


def timed(step: Callable[[Record], object], seconds: float) -> list[float]:
    """Return how long each call took, for `seconds`, after a few warm-up calls."""
    latencies: list[float] = []
    some = records()
    for one in itertools.islice(some, WARM_UP):
        step(one)
    end = time.perf_counter() + seconds
    for one in some:
        began = time.perf_counter()
        if began > end:
            break
        step(one)
        latencies.append(time.perf_counter() - began)
    return latencies


def row(name: str, latencies: list[float]) -> list[str]:
    """Return one line of a table of latencies."""
    ordered = sorted(latencies)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return [name, f"{p50:.2f}", f"{p99:.2f}", f"{len(ordered)}"]


LATENCIES = ("p50, ms", "p99, ms", "of")


@contextmanager
def database(server: PostgresServer) -> Generator[str]:
    """Give the DSN of a database with the queue."""
    name = f"bench_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name}")
    try:
        migrate(server.dsn(name), Names())
        yield server.dsn(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def enqueuer(dsn: str) -> Generator[Callable[[Record], None]]:
    """Give a function that enqueues one record on an open connection."""
    outbox = PostgresOutbox(dsn)
    with asyncio.Runner() as runner:
        yield lambda one: runner.run(outbox.enqueue(one))
        runner.run(outbox.aclose())


# How long enqueuing a record takes.


def enqueue_table(server: PostgresServer, seconds: float, directory: Path) -> str:
    with appending(directory / "embedded.db") as butter:
        add = butter.pipeline.add_records
        rows = [row("into the embedded outbox, a file", timed(lambda one: add([one]).result(), seconds))]
    with database(server) as dsn:
        with enqueuer(dsn) as enqueue:
            rows.append(row("into PostgreSQL, committed", timed(enqueue, seconds)))
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

            rows.append(row("an order alone, in a transaction", timed(alone, seconds)))
            rows.append(row("an order and its record, in one transaction", timed(together, seconds)))
    return table(["one record", *LATENCIES], rows)


# How fast a backlog is sent to a slow server.


def rate(arrivals: list[float], at_once: int) -> float:
    """Return records per second, from the first to the last, without the first ones, which came at once."""
    return (len(arrivals) - at_once) / (max(arrivals) - min(arrivals))


def arrived(there: Sink, number: int) -> list[float]:
    """Wait for records. Return when each of them came."""
    arrivals: list[float] = []
    while len(arrivals) < number:
        time.sleep(0.05)
        arrivals += there.arrivals()
    return arrivals


def processor(pids: Sequence[int]) -> float:
    """Return the CPU seconds of processes."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def workers(dsn: str, there: Sink, number: int) -> Generator[list[int]]:
    """Run workers, each in its own process. Give their process numbers."""
    environment = os.environ | {
        "BUTTER_USERNAME": "u",
        "BUTTER_PASSWORD": secrets.token_hex(),
        "BUTTER_POSTGRES_DSN": dsn,
    }
    options = ["--base-url", there.url, "--concurrency", f"{CONCURRENCY}", "--slots", f"{CONCURRENCY * number}"]
    command = [sys.executable, "-m", "butter_middleware", "worker", *options]
    with ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        for _ in range(number):
            process = stack.enter_context(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            processes.append(process)
        while running(dsn) < number:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.1)
        yield [process.pid for process in processes]


def running(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        (found,) = connection.execute("SELECT count(*) FROM butter.procrastinate_workers").fetchone() or (0,)
        return int(found)


def send_by_workers(server: PostgresServer, there: Sink, number: int, seconds: float) -> tuple[float, float]:
    """Return how many records per second workers send, and their CPU seconds per record."""
    pending = int(seconds * number * CONCURRENCY / LATENCY)
    with database(server) as dsn, workers(dsn, there, number) as pids:
        before = processor(pids)
        fill(dsn, pending - 1)
        with enqueuer(dsn) as enqueue:
            enqueue(next(records()))  # its notification wakes all workers at once, like an app's
        arrivals = arrived(there, pending)
        return rate(arrivals, CONCURRENCY * number), (processor(pids) - before) / pending


def send_embedded(there: Sink, senders: int, seconds: float, directory: Path) -> tuple[float, float]:
    """Return how many records per second the embedded outbox sends, and its CPU seconds per record."""
    pending = int(seconds * senders / LATENCY)
    path = directory / f"{secrets.token_hex(4)}.db"
    fill_file(path, list(itertools.islice(records(), pending)))
    butter = Butter(
        username="u",
        password=secrets.token_hex(),
        client_ip=client_ip.direct(),
        outbox=path,
        base_url=there.url,
        senders=senders,
    )
    with butter:
        before = processor([os.getpid()])
        butter.pipeline.start()
        arrivals = arrived(there, pending)
        return rate(arrivals, senders), (processor([os.getpid()]) - before) / pending


def send_table(server: PostgresServer, seconds: float, directory: Path) -> str:
    rows: list[list[str]] = []

    def add(name: str, most: int, measured: tuple[float, float]) -> None:
        found, core = measured
        rows.append([name, f"{most}", f"{found:.0f}", f"{found * LATENCY / most:.2f}", f"{1000 * core:.1f}"])

    with sink(LATENCY) as there:
        for senders in SENDERS:
            add("the embedded outbox", senders, send_embedded(there, senders, seconds, directory))
        for number in WORKERS:
            name = f"{number} worker{'s' * (number > 1)}"
            add(name, CONCURRENCY * number, send_by_workers(server, there, number, seconds))
    return table(["to a server of 100 ms", "at once", "records/s", "of most", "processor, ms"], rows)


# The cost of one record with more and more pending ones.

FILL = """
SET session_replication_role = replica;  -- without a notification and an event for each
INSERT INTO butter.seen (key, record)
    SELECT md5(i::text || %(run)s), json_build_object('key', md5(i::text || %(run)s), 'captured_at', 0, 'payload',
        '{"customer_email": "shopper@example.com", "ipv4_address": "81.2.69.142", "psp": "stripe", "charge_id": "ch"}')
    FROM generate_series(1, %(pending)s) AS i;
INSERT INTO butter.procrastinate_jobs (queue_name, task_name, args, lock)
    SELECT 'butter', 'butter:deliver', jsonb_build_object('key', md5(i::text || %(run)s)),
        CASE WHEN %(locks)s > 0 THEN 'lock' || i %% greatest(%(locks)s, 1) END
    FROM generate_series(1, %(pending)s) AS i;
INSERT INTO butter.procrastinate_events (job_id, type)
    SELECT id, 'deferred' FROM butter.procrastinate_jobs;
SET session_replication_role = DEFAULT;
"""


def fill(dsn: str, pending: int, locks: int = 0) -> None:
    """Put pending records into the queue."""
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor, autocommit=True) as connection:
        connection.execute(FILL.encode(), {"run": secrets.token_hex(4), "pending": pending, "locks": locks})
        connection.execute("ANALYZE")


def cycles(dsn: str, most: int) -> list[float]:
    """Return how long fetching and ending each job takes, without the time between."""
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


def growth_table(server: PostgresServer, seconds: float, sizes: Sequence[int]) -> str:
    rows: list[list[str]] = []
    for size in sizes:
        with database(server) as dsn:
            fill(dsn, size)
            with enqueuer(dsn) as enqueue:
                rows.append(row(f"{size:9,}: one enqueued", timed(enqueue, seconds)))
            rows.append(row(f"{size:9,}: one fetched and ended", cycles(dsn, CYCLES)))
    for size in sizes:
        with database(server) as dsn:
            fill(dsn, size, LOCKS)
            rows.append(row(f"{size:9,}: the same, with procrastinate's lock", cycles(dsn, WARM_UP)))
    return table(["among pending records", *LATENCIES], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the tables stand between markers")
    names = ["enqueue", "send", "growth"]
    parser.add_argument("--tables", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    sizes = [1000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--pending", nargs="+", type=int, default=sizes, metavar="RECORDS", help="how many wait")
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    server = PostgresServer(fsync=True)

    def tell(name: str, measured: str) -> None:
        ((version_of_server,),) = server.execute("SHOW server_version")
        versions = f"PostgreSQL {version_of_server}, procrastinate {version('procrastinate')}"
        said = f"{options.seconds:g} s each, fsync on.\n{machine()}; {versions}, psycopg {version('psycopg')}."
        print(f"\n{measured}\n\n{said}", flush=True)
        if options.write:
            write(options.write, f"queue {name}", f"{measured}\n\n{said}")

    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            if "enqueue" in options.tables:
                tell("enqueue", enqueue_table(server, options.seconds, Path(directory)))
            if "send" in options.tables:
                tell("send", send_table(server, options.seconds, Path(directory)))
            if "growth" in options.tables:
                tell("growth", growth_table(server, options.seconds, options.pending))
    finally:
        server.destroy()


if __name__ == "__main__":
    main()
