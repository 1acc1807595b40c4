"""How fast the SQLite outbox stores captures, and how fast it sends a backlog of records.

    python benchmarks/outbox.py [--seconds 3] [--rounds 3] [--only append|drain|looks] [--directory DIR]
                                [--write docs/benchmarks.md]

Append: one process and four with one file, compared with a transaction for each insert and the disk's own `fdatasync`.
A producer appends one capture, waits until it is on the disk, and appends the next. Drain: to a server in another
process that answers at once or after 100 ms, compared with one httpx client that as many tasks share. Looks: the
queries of the store's thread on a file with 200,000 dead records and 100,000 captures (`--dead`, `--captured`).
"""

import argparse
import asyncio
import math
import multiprocessing
import os
import secrets
import sqlite3
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

import httpx
from machine import machine
from sink import Sink, sink
from written import publish, table

from butter_middleware import Butter, Checkout, client_ip
from butter_middleware._utils.futures import wait_at_most
from butter_middleware.models.checkout import Record
from butter_middleware.models.http import Capture
from butter_middleware.outbox import Settled, Settlement, SQLiteOutbox
from butter_middleware.outbox.base import new_records

PRODUCERS = (1, 8, 32)
PROCESSES = (1, 4)
SENDERS = (1, 4, 8)
LATENCIES = (0.0, 0.1)
WARM_UP_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
LOT = 5000
"""Rows in one transaction when a large file is made."""


def capture() -> Capture:
    """Return a capture of the usual size: a body of some 1.5 KB, 15 headers."""
    headers = [(f"x-header-{number}".encode(), b"some value of a usual length") for number in range(15)]
    return Capture(
        method="POST",
        path="/checkout/cart_1234",
        query_string=b"",
        headers=headers,
        client=("203.0.113.7", 50_000),
        status_code=200,
        response_headers=[(b"content-type", b"application/json"), (b"content-length", b"1500")],
        body=b'{"order": "' + b"x" * 1486 + b'"}',
        annotations={"customer_email": "shopper@example.com"},
        captured_at=time.time(),
    )


@dataclass(frozen=True)
class Result:
    """The latencies, in seconds, of all appends in `seconds`."""

    latencies: list[float]
    seconds: float

    def row(self, name: str, processes: int, producers: int) -> Sequence[str]:
        """Return one line of the table."""
        ordered = sorted(self.latencies) or [math.nan]
        p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        rate = len(self.latencies) / self.seconds
        return name, f"{processes}", f"{producers}", f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}"


HEADER = ["appends", "processes", "producers", "per s", "p50, ms", "p99, ms"]


@contextmanager
def appending(path: str | os.PathLike[str]) -> Generator[Butter]:
    """Give a `Butter` that only appends to a file, like web processes with a sidecar."""
    with Butter(
        client_ip=client_ip.direct(),
        outbox=SQLiteOutbox(path, max_bytes=64 * 1024**3),
        delivery="external",
        durability="before_response",
    ) as butter:
        butter.pipeline.start()
        butter.pipeline.request(lambda store: store.counts()).result()  # now the file is open
        yield butter


Append = Callable[[Capture], "Future[None]"]


def append_to(butter: Butter) -> Append:
    """Return a function that takes a capture and returns a future, which is done when the capture is on the disk."""

    def append(one: Capture) -> "Future[None]":
        future = butter.pipeline.capture(None, one)
        assert future is not None
        return future

    return append


def produce_in_tasks(append: Append, producers: int, seconds: float) -> list[float]:
    """Append from tasks of one event loop, and wait like a server's requests."""
    latencies: list[float] = []

    async def producer(begin: float, end: float) -> None:
        one = capture()
        while (started := time.perf_counter()) < end:
            await wait_at_most(append(one), PATIENCE_SECONDS)
            if started >= begin:
                latencies.append(time.perf_counter() - started)

    async def main() -> None:
        begin = time.perf_counter() + WARM_UP_SECONDS
        await asyncio.gather(*(producer(begin, begin + seconds) for _ in range(producers)))

    asyncio.run(main())
    return latencies


def produce_in_threads(append: Callable[[Capture], object], producers: int, seconds: float) -> list[float]:
    """Append from threads. `append` returns when the capture is on the disk."""
    latencies: list[list[float]] = [[] for _ in range(producers)]
    begin = time.perf_counter() + WARM_UP_SECONDS

    def producer(mine: list[float]) -> None:
        one = capture()
        while (started := time.perf_counter()) < begin + seconds:
            append(one)
            if started >= begin:
                mine.append(time.perf_counter() - started)

    threads = [Thread(target=producer, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [latency for mine in latencies for latency in mine]


def append_tasks(path: str, producers: int, seconds: float) -> list[float]:
    """Measure one process whose producers are tasks."""
    with appending(path) as butter:
        return produce_in_tasks(append_to(butter), producers, seconds)


def append_threads(path: str, producers: int, seconds: float) -> list[float]:
    """Measure one process whose producers are threads."""
    with appending(path) as butter:
        append = append_to(butter)
        return produce_in_threads(lambda one: append(one).result(), producers, seconds)


def append_naively(path: str, producers: int, seconds: float) -> list[float]:
    """Measure a transaction for each insert, at the same durability."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS captures (id INTEGER PRIMARY KEY, head TEXT, body BLOB)")
    lock = Lock()

    def append(one: Capture) -> None:
        row = (one.head(), one.body)
        with lock:
            connection.execute("INSERT INTO captures (head, body) VALUES (?, ?)", row)

    try:
        return produce_in_threads(append, producers, seconds)
    finally:
        connection.close()


def write_and_sync(path: str, producers: int, seconds: float) -> list[float]:
    """Measure the disk itself: write a page at the end of a file, and fdatasync."""
    del producers  # one after the other
    latencies: list[float] = []
    with open(path, "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor is needed
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            latencies.append(time.perf_counter() - started)
    return latencies


Measure = Callable[[str, int, float], list[float]]


def run(measure: Measure, processes: int, producers: int, seconds: float, directory: Path) -> Result:
    """Run a measurement in several processes with one new file. `producers` is for each process."""
    path = str(directory / f"{measure.__name__}-{processes}-{producers}.db")
    context = multiprocessing.get_context("fork")
    with context.Pool(processes) as pool:
        measured = pool.starmap(measure, [(path, producers, seconds)] * processes, chunksize=1)
    return Result([latency for mine in measured for latency in mine], seconds)


def append_table(seconds: float, directory: Path) -> str:
    """Measure how fast captures are appended."""
    measures: dict[str, tuple[Measure, tuple[int, ...], tuple[int, ...]]] = {
        "the disk's fdatasync": (write_and_sync, (1,), (1,)),
        "outbox, tasks": (append_tasks, PROCESSES, PRODUCERS),
        "outbox, threads": (append_threads, PROCESSES, PRODUCERS),
        "transaction an insert": (append_naively, (1,), PRODUCERS),
    }
    rows = [
        run(measure, processes, producers, seconds, directory).row(name, processes, producers)
        for name, (measure, counts, numbers) in measures.items()
        for processes in counts
        for producers in numbers
    ]
    return f"{table(HEADER, rows)}\n\n{seconds:g} s each, SQLite {sqlite3.sqlite_version}.\n{machine()}."


def records(count: int) -> list[Record]:
    """Return records that are all different."""
    checkouts = (
        Checkout(
            customer_email="shopper@example.com",
            ipv4_address="81.2.69.142",
            psp="stripe",
            invoice_id=f"in_{number}",
            charge_id=f"ch_{number}",
        )
        for number in range(count)
    )
    return [Record.of(checkout, time.time()) for checkout in checkouts]


def fill(path: str | os.PathLike[str], given: Sequence[Record]) -> None:
    """Put due records into an outbox."""
    store = SQLiteOutbox(path).store()
    store.open()
    store.add(given)
    store.close()


def drain_ours(sink: Sink, senders: int, count: int, directory: Path) -> list[float]:
    """Send a backlog with the package. Return when each record arrived."""
    path = directory / f"drain-{secrets.token_hex(4)}.db"
    fill(path, records(count))
    butter = Butter(
        username="u",
        password=secrets.token_hex(),
        client_ip=client_ip.direct(),
        outbox=path,
        base_url=sink.url,
        senders=senders,
    )
    arrivals: list[float] = []
    with butter:
        butter.pipeline.start()
        while len(arrivals) < count:
            time.sleep(0.05)
            arrivals += sink.arrivals()
    return arrivals


def drain_httpx(sink: Sink, concurrency: int, count: int, _directory: Path) -> list[float]:
    """Post the same records with one httpx client that all tasks share. Return when each arrived."""
    waiting = iter(records(count))

    async def sender(http: httpx.AsyncClient) -> None:
        for record in waiting:
            headers = {"Content-Type": "application/json"}
            response = await http.post(f"{sink.url}/v1/analytics", content=record.payload.encode(), headers=headers)
            response.raise_for_status()

    async def main() -> None:
        async with httpx.AsyncClient(auth=httpx.BasicAuth("u", secrets.token_hex())) as http:
            await asyncio.gather(*(sender(http) for _ in range(concurrency)))

    asyncio.run(main())
    return sink.arrivals()


def rate(arrivals: list[float], concurrency: int) -> float:
    """Return records per second, from the first to the last, without the first ones, which came at once."""
    return (len(arrivals) - concurrency) / (max(arrivals) - min(arrivals))


Drain = Callable[[Sink, int, int, Path], list[float]]


def drain_table(seconds: float, rounds: int, directory: Path) -> str:
    """Measure how fast a backlog is sent, compared with httpx. All in turn, `rounds` times."""
    raw, ours = "one httpx client", "ours"
    cases: list[tuple[str, Drain, float, int]] = [
        (name, drain, latency, concurrency)
        for latency in LATENCIES
        for name, drain, concurrencies in ((ours, drain_ours, SENDERS), (raw, drain_httpx, (*SENDERS, 32)))
        for concurrency in concurrencies
    ]
    rates: dict[tuple[str, float, int], list[float]] = {}
    with ExitStack() as stack:
        sinks = {latency: stack.enter_context(sink(latency)) for latency in LATENCIES}
        for _ in range(rounds):
            for name, drain, latency, concurrency in cases:
                most = concurrency / latency if latency else 1000
                count = max(3 * concurrency, int(seconds * most))
                found = rate(drain(sinks[latency], concurrency, count, directory), concurrency)
                rates.setdefault((name, latency, concurrency), []).append(found)
    medians = {key: statistics.median(found) for key, found in rates.items()}
    rows: list[Sequence[str]] = []
    for (name, latency, concurrency), found in medians.items():
        reached = f"{found * latency / concurrency:.2f}" if latency else ""
        share = f"{found / medians[raw, latency, 32]:.2f}"
        rows.append((name, f"{1000 * latency:g}", f"{concurrency}", f"{found:,.0f}", reached, share))
    head = ["drain", "latency, ms", "at once", "per s", "of most", "of httpx at 32"]
    return f"{table(head, rows)}\n\n{rounds} rounds in turn.\n{machine()}."


def looks_table(dead: int, captured: int, directory: Path) -> str:
    """Return how long queries on a large file take."""
    store = SQLiteOutbox(directory / "looks.db").store()
    store.open()
    given = records(dead)
    for start in range(0, dead, LOT):
        added = new_records(store.add(given[start : start + LOT]))
        store.settle([Settlement(pending.id, Settled.DEAD, reason="422") for pending in added])
    one = capture()
    for start in range(0, captured, LOT):
        store.append([one] * min(LOT, captured - start))
    store.checkpoint(idle=True)
    looks: dict[str, Callable[[], object]] = {
        "counts": store.counts,
        "counted": store.counted,
        "next_due": store.next_due,
        "due": lambda: store.due(256),
        "changed": store.changed,
    }
    rows: list[tuple[str, str, str]] = []
    for name, look in looks.items():
        seconds = [timeit.timeit(look, number=1) for _ in range(200)]
        rows.append((name, f"{1e6 * statistics.median(seconds):.0f}", f"{1e6 * max(seconds):.0f}"))
    store.close()
    head = [f"{dead:,} dead, {captured:,} captured", "median, us", "longest, us"]
    return f"{table(head, rows)}\n\n{machine()}."


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the drain's measurements")
    parser.add_argument("--only", choices=["append", "drain", "looks"], help="one of the tables")
    parser.add_argument("--dead", type=int, default=200_000, help="records in the table of looks")
    parser.add_argument("--captured", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, default=None, help="where the files lie meanwhile")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the tables stand between markers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        if options.only in {None, "append"}:
            publish(options.write, "append", append_table(options.seconds, Path(directory)))
        if options.only in {None, "drain"}:
            publish(options.write, "drain", drain_table(options.seconds, options.rounds, Path(directory)))
        if options.only == "looks":
            print(looks_table(options.dead, options.captured, Path(directory)))


if __name__ == "__main__":
    main()
