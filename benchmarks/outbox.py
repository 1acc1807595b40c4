"""How fast the SQLite outbox takes captures: one process and four on one file, beside a transaction for each insert.

    python benchmarks/outbox.py [--seconds 3] [--directory DIR]

A producer appends one capture, waits until it is on the disk, and appends the next.
"""

import argparse
import asyncio
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread

from butter_middleware.exchange import Capture
from butter_middleware.outbox import SQLiteOutbox

PRODUCERS = (1, 8, 32)
PROCESSES = (1, 4)
WARM_UP_SECONDS = 0.5


def capture() -> Capture:
    """Return a capture of the usual size: some 1.5 KB of body, 15 headers."""
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

    def row(self, name: str, processes: int, producers: int) -> str:
        """Return one line of the table."""
        ordered = sorted(self.latencies)
        p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        rate = len(ordered) / self.seconds
        return f"{name:24} {processes:9} {producers:9} {rate:10,.0f} {p50:9.2f} {p99:9.2f} {1000 * ordered[-1]:9.1f}"


HEADER = f"{'appends':24} {'processes':>9} {'producers':>9} {'per s':>10} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}"


def produce_in_tasks(outbox: SQLiteOutbox, producers: int, seconds: float) -> list[float]:
    """Append from tasks of one event loop, as a server's requests do."""
    latencies: list[float] = []

    async def producer(begin: float, end: float) -> None:
        one = capture()
        while (started := time.perf_counter()) < end:
            await asyncio.wrap_future(outbox.append(one))
            if started >= begin:
                latencies.append(time.perf_counter() - started)

    async def main() -> None:
        begin = time.perf_counter() + WARM_UP_SECONDS
        await asyncio.gather(*(producer(begin, begin + seconds) for _ in range(producers)))

    asyncio.run(main())
    return latencies


def produce_in_threads(append: Callable[[Capture], object], producers: int, seconds: float) -> list[float]:
    """Append from threads; `append` returns when the capture is on the disk."""
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
    outbox = SQLiteOutbox(path, max_bytes=64 * 1024**3)
    outbox.open()
    outbox.counts().result()
    try:
        return produce_in_tasks(outbox, producers, seconds)
    finally:
        outbox.close()


def append_threads(path: str, producers: int, seconds: float) -> list[float]:
    """Measure one process whose producers are threads."""
    outbox = SQLiteOutbox(path, max_bytes=64 * 1024**3)
    outbox.open()
    outbox.counts().result()
    try:
        return produce_in_threads(lambda one: outbox.append(one).result(), producers, seconds)
    finally:
        outbox.close()


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


Measure = Callable[[str, int, float], list[float]]


def run(measure: Measure, processes: int, producers: int, seconds: float, directory: Path) -> Result:
    """Run a measurement in as many processes on one new file; `producers` is each one's."""
    path = str(directory / f"{measure.__name__}-{processes}-{producers}.db")
    context = multiprocessing.get_context("fork")
    with context.Pool(processes) as pool:
        measured = pool.starmap(measure, [(path, producers, seconds)] * processes, chunksize=1)
    return Result([latency for mine in measured for latency in mine], seconds)


def append_table(seconds: float, directory: Path) -> None:
    """Print how fast captures are appended."""
    print(HEADER)
    measures: dict[str, tuple[Measure, tuple[int, ...]]] = {
        "outbox, tasks": (append_tasks, PROCESSES),
        "outbox, threads": (append_threads, PROCESSES),
        "transaction an insert": (append_naively, (1,)),
    }
    for name, (measure, counts) in measures.items():
        for processes in counts:
            for producers in PRODUCERS:
                result = run(measure, processes, producers, seconds, directory)
                print(result.row(name, processes, producers), flush=True)


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--directory", type=Path, default=None, help="where the files lie meanwhile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        print(f"Python's SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, {options.seconds:g} s each\n")
        append_table(options.seconds, Path(directory))


if __name__ == "__main__":
    main()
