"""Our package and its peers with one app, in one interleaved run: the cost for a checkout, and the losses.

    python benchmarks/peers.py [--write docs/benchmarks.md] [--only bare memory sentry ...] [--rounds 5] [--seconds 10]

Three tables: a request's cost in the process, checkouts under uvicorn at a fixed rate, and how many of five checkouts
arrive if the shop is stopped or its recipient fails, including the shop's next start. Every shop is its own process,
and sends to a recipient on this machine. Peers are installed into the benchmark's own environment, and measured there.
"""

import argparse
import importlib.metadata
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from machine import machine
from openloop import Answer, check_out, checkout_id, listening, load
from peer_shops import KINDS, Kind
from recipient import Recipient, recipient
from written import table, write

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venvs" / "peers"
CHECKOUTS = 5
WARM_UP_SECONDS = 1.5
PATIENCE = 12.0
"""Seconds in which checkouts arrive after a start: longer than a peer collects a batch."""
EXIT_SECONDS = 30.0
LANES = 2
"""Shops at once, if only arrivals are counted."""
TICK = os.sysconf("SC_CLK_TCK")


# The environment with the peers.


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def provide(names: Sequence[str]) -> None:
    """Continue in the benchmark's own environment if peers are requested: other packages would change their behaviour.

    Sentry, for example, uses another compression if brotli is installed.
    """
    needed = {package for name in names for package in KINDS[name].packages}
    if not needed:
        return
    python = ENVIRONMENT / "bin" / "python"
    ready, project = ENVIRONMENT / "ready", HERE.parent / "pyproject.toml"
    fresh = ready.exists() and ready.stat().st_mtime >= project.stat().st_mtime
    if not fresh:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--upgrade"]
        for what in (["pip"], ["--editable", ".", "--group", "peers"]):
            subprocess.run([*pip, *what], check=True, cwd=HERE.parent)
        ready.touch()
    if not fresh or Path(sys.prefix) != ENVIRONMENT:
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the same command, where the peers are
    if lacking := sorted(package for package in needed if installed(package) is None):
        sys.exit(f"the group `peers` in pyproject.toml lacks {', '.join(lacking)}")


# The shops.


@dataclass(frozen=True)
class Setting:
    """The destination of a shop's records, and its settings."""

    name: str
    sink: str
    secret: str
    outbox: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PEERS_KIND": self.name,
            "PEERS_SINK": self.sink,
            "PEERS_SECRET": self.secret,
            "PEERS_OUTBOX": str(self.outbox),
        }


def a_secret() -> str:
    return "apt_" + secrets.token_hex(12)  # the form that Apitally requires. The others accept any.


SIDECAR = ("butter_middleware", "deliver", "--app", "peer_sidecar:app", "--follow")


def run(setting: Setting, *command: str) -> "subprocess.Popen[bytes]":
    """Start a module without output."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=HERE,
        env=setting.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def sidecar(setting: Setting) -> "list[subprocess.Popen[bytes]]":
    """Start the sidecar of a shop that does not send."""
    return [run(setting, *SIDECAR)] if KINDS[setting.name].sidecar else []


class Shop:
    """A shop under uvicorn, and its sidecar."""

    def __init__(self, setting: Setting) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        # Not with --fd: uvicorn takes such a socket for a Unix one and leaves Nagle's algorithm on, which sometimes
        # delays a body by 40 ms.
        command = ["uvicorn", "peer_shops:app", "--factory", "--port", str(self.port), "--no-access-log"]
        self._process = run(setting, *command, "--log-level", "error")
        self._processes = [self._process, *sidecar(setting)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def check_out(self) -> list[str]:
        """Check out `CHECKOUTS` times, one after the other. Return their IDs."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        checkouts = [checkout_id() for _ in range(CHECKOUTS)]
        for checkout in checkouts:
            assert check_out(connection, checkout)[0] == 200
        connection.close()
        return checkouts

    def wait(self) -> None:
        """Wait until it serves."""
        until(lambda: listening(self.port), EXIT_SECONDS)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()

    def stop(self, number: signal.Signals) -> None:
        """End it like a supervisor: with a signal, and by force if that does not help."""
        for process in self._processes:
            process.send_signal(number)
        for process in self._processes:
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def processor(self) -> float:
        """Return the CPU seconds of all its threads, without its sidecar."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def until(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (ready := done()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return ready


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


# A request in the process.


@dataclass
class Metered:
    """The cost of one shop's requests, in microseconds."""

    times: list[float] = field(default_factory=list[float])
    processor: list[float] = field(default_factory=list[float])


@contextmanager
def metered(setting: Setting) -> Generator[Callable[[int], dict[str, list[float]]]]:
    """Start a shop that measures itself. Give a function that runs so many requests in it."""
    process = subprocess.Popen(
        [sys.executable, HERE / "peer_shops.py", setting.name],
        env=setting.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def ask(requests: int) -> dict[str, list[float]]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{requests}\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        return {"times": answer["times"], "processor": [answer["processor"]]}

    beside = sidecar(setting)
    try:
        yield ask
    finally:
        process.kill()
        process.communicate()
        for each in beside:
            each.kill()
            each.wait()


def in_process(names: Sequence[str], rounds: int, requests: int, directory: Path) -> dict[str, Metered]:
    """Measure the shops in turn, in rounds."""
    found = {name: Metered() for name in names}
    with ExitStack() as stack, recipient() as sink:
        shops = {
            name: stack.enter_context(metered(Setting(name, sink.url, a_secret(), directory / f"{name}-meter.db")))
            for name in names
        }
        for ask in shops.values():
            ask(requests)  # a warm-up
        for _ in range(rounds):
            for name, ask in shops.items():
                answer = ask(requests)
                found[name].times += answer["times"]
                found[name].processor += answer["processor"]
    return found


def cost_table(found: dict[str, Metered]) -> str:
    base = statistics.median(next(iter(found.values())).times)
    rows = [
        [
            KINDS[name].title,
            f"{statistics.median(one.times):.0f}",
            f"{statistics.median(one.times) / base:.2f}",
            f"{quantile(one.times, 0.99):.0f}",
            f"{statistics.median(one.processor):.0f}",
        ]
        for name, one in found.items()
    ]
    return table(["", "p50, µs", "p50, x", "p99, µs", "processor, µs"], rows)


# Checkouts under uvicorn.


@dataclass
class Loaded:
    """The latencies of one shop in each round, in seconds, and its CPU seconds per checkout."""

    rounds: list[list[float]] = field(default_factory=list[list[float]])
    processor: list[float] = field(default_factory=list[float])
    arrived: int = 0

    @property
    def latencies(self) -> list[float]:
        return [latency for one in self.rounds for latency in one]


def under_load(names: Sequence[str], rounds: int, rate: float, seconds: float, directory: Path) -> dict[str, Loaded]:
    """Serve the shops in turn, in rounds."""
    found = {name: Loaded() for name in names}
    for number in range(rounds):
        for name in names:
            with recipient() as sink:
                setting = Setting(name, sink.url, a_secret(), directory / f"{name}-{number}.db")
                measure(setting, sink, rate, seconds, found[name])
    return found


def measure(setting: Setting, sink: Recipient, rate: float, seconds: float, into: Loaded) -> None:
    """Serve one shop at a fixed rate."""
    answers: list[Answer] = []
    with Shop(setting) as shop:
        shop.wait()
        load(shop.port, rate, WARM_UP_SECONDS, answers.append)
        if KINDS[setting.name].delivers:
            until(lambda: sink.count() >= len(answers), 2 * PATIENCE)
        warm, before = len(answers), shop.processor()
        load(shop.port, rate, seconds, answers.append)
        if KINDS[setting.name].delivers:
            until(lambda: sink.count() >= len(answers), 2 * PATIENCE)
        into.processor.append((shop.processor() - before) / (len(answers) - warm))
    assert all(answer.status == 200 for answer in answers)
    into.arrived += sink.count()
    into.rounds.append([answer.latency for answer in answers[warm:]])


def load_table(found: dict[str, Loaded], checkouts: int) -> str:
    base = next(iter(found.values()))
    rows = [
        [
            KINDS[name].title,
            f"{1000 * statistics.median(one.latencies):.2f}",
            f"{1000 * quantile(one.latencies, 0.99):.2f}",
            f"{statistics.median(ratios(one, base)):.2f}",
            f"{1000 * statistics.median(one.processor):.2f}",
            f"{100 * one.arrived / checkouts:.0f} %" if KINDS[name].delivers else "",
        ]
        for name, one in found.items()
    ]
    return table(["", "p50, ms", "p99, ms", "p99, x", "processor, ms", "arrived"], rows)


def ratios(one: Loaded, base: Loaded) -> Iterator[float]:
    """Yield each round's p99 relative to the bare app's in the same round, because the machine's load affects both."""
    for mine, bare in zip(one.rounds, base.rounds, strict=True):
        yield quantile(mine, 0.99) / quantile(bare, 0.99)


# What arrives.


@dataclass(frozen=True)
class Case:
    """An event for a shop and its recipient."""

    title: str
    number: signal.Signals | None
    """The signal that ends the shop after its checkouts. None: it continues until they have arrived."""
    fault: str = ""
    latency: float = 0.0
    repaired: bool = False
    """Whether the shop has wrong credentials until its next start."""


CASES = [
    Case("no stop", None),
    Case("SIGINT", signal.SIGINT),
    Case("SIGTERM", signal.SIGTERM),
    Case("SIGKILL", signal.SIGKILL),
    Case("slow (1.5 s), SIGTERM", signal.SIGTERM, latency=1.5),
    Case("503, SIGTERM", signal.SIGTERM, fault="503"),
    Case("401, then repaired", signal.SIGTERM, repaired=True),
]


def arrived(name: str, case: Case, directory: Path) -> int:
    """Check out, let the case happen, start the shop again without the fault, and count the arrivals."""
    secret = a_secret()
    with recipient(secret) as sink:
        outbox = directory / f"{secrets.token_hex(4)}.db"
        setting = Setting(name, sink.url, secret, outbox)
        sink.be(case.fault, case.latency)
        with Shop(Setting(name, sink.url, a_secret(), outbox) if case.repaired else setting) as shop:
            shop.wait()
            checkouts = shop.check_out()
            if case.number is None:
                until(lambda: sink.count() == CHECKOUTS, 2 * PATIENCE)
                return len(sink.seen().keys() & checkouts)
            if case.fault or case.repaired:
                time.sleep(PATIENCE / 2)  # so that each has its answer
            shop.stop(case.number)
        sink.be()
        with Shop(setting) as again:
            again.wait()
            until(lambda: sink.count() == CHECKOUTS, PATIENCE)
        return len(sink.seen().keys() & checkouts)


def losses(
    names: Sequence[str], cases: Sequence[Case], repeats: int, directory: Path
) -> dict[str, dict[str, list[int]]]:
    """Return how many arrived, by shop and case."""
    found: dict[str, dict[str, list[int]]] = {name: {case.title: [] for case in cases} for name in names}
    with ThreadPoolExecutor(LANES) as pool:
        jobs = [
            (name, case, pool.submit(arrived, name, case, directory))
            for _ in range(repeats)
            for case in cases
            for name in names
        ]
        for name, case, job in jobs:
            found[name][case.title].append(job.result())
    return found


def loss_table(found: dict[str, dict[str, list[int]]]) -> str:
    rows = [[KINDS[name].title, *map(counts, cases.values())] for name, cases in found.items()]
    return table(["", *next(iter(found.values()))], rows)


def counts(found: list[int]) -> str:
    """Return one number if all are the same."""
    return str(found[0]) if len(set(found)) == 1 else " ".join(map(str, sorted(found)))


# The report.


def versions(kinds: Sequence[Kind]) -> str:
    packages = ["starlette", "uvicorn", "httpx", *(package for kind in kinds for package in kind.packages)]
    return ", ".join(f"{package} {installed(package)}" for package in dict.fromkeys(packages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the tables stand between markers")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="SHOP", help=", ".join(KINDS))
    parser.add_argument("--tables", nargs="+", choices=["cost", "load", "loss"], default=["cost", "load", "loss"])
    parser.add_argument("--rounds", type=int, default=5, help="of cost and load")
    parser.add_argument("--requests", type=int, default=500, help="a round of cost")
    parser.add_argument("--rate", type=float, default=100.0, help="checkouts a second of load")
    parser.add_argument("--seconds", type=float, default=10.0, help="a round of load")
    parser.add_argument("--cases", nargs="+", choices=[case.title for case in CASES], metavar="CASE", help="of loss")
    parser.add_argument("--repeats", type=int, default=3, help="of each case of loss")
    options = parser.parse_args()
    names: list[str] = options.only
    provide(names)
    delivering = [name for name in names if KINDS[name].delivers]

    def tell(name: str, measured: str, said: str) -> None:
        text = f"{measured}\n\n{said}\n{machine()}; {versions([KINDS[name] for name in names])}."
        print(f"\n{text}", flush=True)
        if options.write:
            write(options.write, name, text)

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if "cost" in options.tables:
            found = in_process(names, options.rounds, options.requests, directory)
            tell("cost", cost_table(found), f"{options.rounds} rounds in turn of {options.requests} requests each.")
        if "load" in options.tables:
            loaded = under_load(names, options.rounds, options.rate, options.seconds, directory)
            checkouts = options.rounds * (int(options.rate * options.seconds) + int(options.rate * WARM_UP_SECONDS))
            said = f"{options.rounds} rounds in turn of {options.seconds:g} s each at {options.rate:g} checkouts/s."
            tell("load", load_table(loaded, checkouts), said)
        if "loss" in options.tables:
            cases = [case for case in CASES if options.cases is None or case.title in options.cases]
            lost = losses(delivering, cases, options.repeats, directory)
            said = f"Of {CHECKOUTS} checkouts; runs each: {options.repeats}, several numbers where they differ."
            tell("loss", loss_table(lost), said)


if __name__ == "__main__":
    main()
