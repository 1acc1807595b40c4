"""The cost of a draining backlog for the checkouts of its process: their latency with and without one, in turn.

    python benchmarks/backlog.py [--seconds 5] [--rounds 3] [--rate 100] [--pending 20000]
                                 [--write docs/benchmarks.md]

A real uvicorn serves a FastAPI checkout at a steady rate (`openloop`). Its outbox is empty, or has a backlog for a
server that answers at once, or after 100 ms.
"""

import argparse
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from machine import machine
from openloop import Answer, listening, load
from outbox import fill, records
from sink import Sink, sink
from written import publish, table

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Case:
    name: str
    pending: int
    latency: float


@dataclass(frozen=True)
class Run:
    """One run of a shop: the latencies of its checkouts, in seconds, and how fast its backlog was sent."""

    latencies: list[float]
    drained: float

    def quantile(self, share: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * share)]


def shop() -> FastAPI:
    """Build the shop for uvicorn, configured by the environment."""
    butter = Butter(
        client_ip=client_ip.TrustedHops(1),
        outbox=os.environ["BACKLOG_OUTBOX"],
        base_url=os.environ["BACKLOG_BUTTER"],
        routes=[
            CheckoutRoute(
                "/checkout/{invoice}",
                psp="stripe",
                extract=extract.json(customer_email="email", invoice_id="invoice"),
            )
        ],
    )
    app = FastAPI()
    app.add_middleware(ButterMiddleware, butter=butter)

    @app.post("/checkout/{invoice}")
    async def checkout(invoice: str) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction] - FastAPI uses it
        return {"invoice": invoice, "email": "shopper@example.com"}

    return app


@contextmanager
def serving(path: Path, butter: str) -> Generator[int]:
    """Run the shop under uvicorn. Give its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    # Not with --fd, which leaves Nagle's algorithm on: it sometimes delays a body by 40 ms.
    command = ["uvicorn", "backlog:shop", "--factory", "--port", str(port), "--no-access-log", "--log-level", "error"]
    credentials = {"BUTTER_USERNAME": "u", "BUTTER_PASSWORD": secrets.token_hex()}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=Path(__file__).parent,
        env=os.environ | credentials | {"BACKLOG_OUTBOX": str(path), "BACKLOG_BUTTER": butter},
        stderr=subprocess.DEVNULL,
    )
    try:
        while not listening(port):
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def check_out(port: int, rate: float, seconds: float) -> list[float]:
    """Check out at a steady rate. Return how long each checkout took, in seconds."""
    answers: list[Answer] = []
    load(port, rate, seconds, answers.append)
    assert all(answer.status == 200 for answer in answers)
    return [answer.latency for answer in answers]


def run(case: Case, butter: Sink, filled: Path, rate: float, seconds: float) -> Run:
    """Run one case: warm up, wait until records are sent, measure."""
    path = filled.with_name(f"{secrets.token_hex(4)}.db")
    if case.pending:
        shutil.copy(filled, path)
    butter.arrivals()
    with serving(path, butter.url) as port:
        check_out(port, rate, WARM_UP_SECONDS)
        while not butter.arrivals():  # until then the HTTP client is imported
            time.sleep(0.05)
        begin = time.monotonic()
        latencies = check_out(port, rate, seconds)
        return Run(latencies, len(butter.arrivals()) / (time.monotonic() - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0, help="checkouts a second")
    parser.add_argument("--pending", type=int, default=20_000, help="records of the backlog")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the table stands between markers")
    options = parser.parse_args()
    cases = [
        Case("no backlog", 0, 0.0),
        Case("backlog, answers at once", options.pending, 0.0),
        Case("backlog, answers in 100 ms", options.pending, 0.1),
    ]
    runs: dict[Case, list[Run]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as directory, sink(0.0) as at_once, sink(0.1) as later:
        filled = Path(directory) / "filled.db"
        fill(filled, records(options.pending))
        for _ in range(options.rounds):
            for case in cases:
                butter = later if case.latency else at_once
                runs[case].append(run(case, butter, filled, options.rate, options.seconds))
    alone, rows = runs[cases[0]], list[Sequence[str]]()
    for case, found in runs.items():
        pooled = Run(
            [latency for one in found for latency in one.latencies], statistics.fmean(r.drained for r in found)
        )
        ratio = statistics.median(
            one.quantile(0.99) / base.quantile(0.99) for one, base in zip(found, alone, strict=True)
        )
        p50, p99, most = (1000 * pooled.quantile(share) for share in (0.5, 0.99, 1 - 1e-9))
        rows.append((case.name, f"{p50:.2f}", f"{p99:.2f}", f"{most:.1f}", f"{ratio:.2f}", f"{pooled.drained:.0f}"))
    head = ["checkouts beside", "p50, ms", "p99, ms", "max, ms", "p99, x", "drained/s"]
    measured = (
        f"{options.rounds} rounds in turn of {options.seconds:g} s at {options.rate:g} checkouts/s; "
        f"{options.pending} records pending."
    )
    publish(options.write, "backlog", f"{table(head, rows)}\n\n{measured}\n{machine()}.")


if __name__ == "__main__":
    main()
