"""Repeated kill -9: is every checkout that was answered with 200 delivered, and how many are delivered twice?

    python benchmarks/crash.py --rounds 100 [--durability before_response|after_response|both] [--workers 1|2|4]

A round is one SIGKILL at a random moment, while buyers check out at a real uvicorn with an SQLite outbox. With one
worker the whole process group dies, and a new shop starts with the same file. With several, one worker dies: in turn
the leader and a random one. In each third round the leader is stopped for a moment first (SIGSTOP, SIGCONT). At the end
a last shop drains each file. Each answer has the shop's state when its last chunk left: `durable`, `late`
(`durability_timeout` was over first) or `unwaited` (after_response), the time, and its process.

The exit code is 1 if a checkout is lost that was durable, or that left long before its process died.
"""

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import count
from math import inf
from pathlib import Path
from typing import Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from processes import free_port, listening, served, until

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.outbox import SQLiteStore
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import LEAD, Locks
from butter_middleware.testing import FakeButter

USERNAME, PASSWORD = "merchant", secrets.token_hex()
LANES = 2
"""Shops at once, each with its own file."""
BUYERS = 6
"""The buyers of each shop."""
LONGEST_LIFE = 1.5
"""A shop is killed after at most these seconds."""
INSTANTS = (0.005, 0.02, 0.1, 1.0)
"""Seconds before the kill. A checkout that left before the last of them must not be lost in any mode."""
AT_ONCE = 0.005
"""Seconds that a process may live after the signal."""


# The shop, which uvicorn runs in the processes that are killed.

outcome: ContextVar[str] = ContextVar("outcome", default="unwaited")


def watch(butter: Butter) -> None:
    """Note for the request whether its capture was on the disk in time."""
    wait = butter.pipeline.wait_until_durable

    async def watched(future: "Future[None]") -> None:
        await wait(future)
        outcome.set("durable" if future.done() and future.exception() is None else "late")

    butter.pipeline.wait_until_durable = watched  # type: ignore[method-assign]  # of this one object


class Stamp:
    """Wraps the middleware. Ends each answer with the outcome, the time of its last chunk, and the process."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"content-length"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                mark = f"\n{outcome.get()} {time.monotonic()} {os.getpid()}"
                message = {**message, "body": message.get("body", b"") + mark.encode()}
            await send(message)

        await self.app(scope, receive, stamped if scope["type"] == "http" else send)


def shop() -> ASGIApp:
    """Build the shop, configured by the environment like a deployed one."""

    async def checkout(request: Request) -> JSONResponse:
        return JSONResponse({"email": "shopper@example.com", "invoice": request.path_params["invoice"]})

    butter = Butter(
        base_url=os.environ["CRASH_BUTTER"],
        client_ip=client_ip.TrustedHops(1),
        outbox=os.environ["CRASH_OUTBOX"],
        durability="before_response" if os.environ["CRASH_DURABILITY"] == "before_response" else "after_response",
        delivery="external" if os.environ.get("CRASH_SIDECAR") else "embedded",
        routes=[
            CheckoutRoute(
                "/checkout/{invoice}",
                psp="stripe",
                extract=extract.json(customer_email="email", invoice_id="invoice"),
            )
        ],
    )
    watch(butter)
    app = Starlette(routes=[Route("/checkout/{invoice}", checkout, methods=["POST"])])
    return Stamp(ButterMiddleware(app, butter))


# The campaign.


class Shop:
    """A shop's processes, in their own group."""

    def __init__(
        self,
        environment: dict[str, str],
        workers: int,
        log: Path,
        port: int | None = None,
        kills: list[tuple[int, float, float]] | None = None,
    ) -> None:
        self.port = port or free_port()
        self._workers = workers
        self._kills = [] if kills is None else kills
        command = ["uvicorn", "crash:shop", "--factory", "--port", f"{self.port}", "--workers", f"{workers}"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command, "--no-access-log", "--log-level", "error"],
                cwd=Path(__file__).parent,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._log = log

    def __enter__(self) -> Self:
        until(lambda: self._dead or listening(self.port), "the shop listens", 60)
        if self._dead:
            raise RuntimeError(self._log.read_text())
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process of the server. With several workers, it is the supervisor's."""
        return self._process.pid

    @property
    def _dead(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the whole group."""
        if not self._dead:
            workers = self._living() if self._workers > 1 else [self._process.pid]
            os.killpg(self._process.pid, signal.SIGKILL)
            self._kills += [(pid, time.monotonic(), 0.0) for pid in workers]
            self._process.wait()

    def kill_worker(self, outbox: Path, *, leader: bool, stopped_for: float) -> None:
        """Kill one worker. The supervisor starts another one. First the leader is stopped for `stopped_for` seconds."""
        until(lambda: len(self._living()) == self._workers, "all workers live", 60)
        living = self._living()
        leading = [pid for pid in living if pid == delivers(outbox)]
        for pid in leading if stopped_for else []:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stopped_for)
            os.kill(pid, signal.SIGCONT)
        killed = random.choice((leading if leader else []) or living)
        os.kill(killed, signal.SIGKILL)
        self._kills.append((killed, time.monotonic(), stopped_for if leading else 0.0))

    def stop(self) -> None:
        """Stop it like a deploy."""
        self._process.terminate()
        self._process.wait(timeout=60)

    def _living(self) -> list[int]:
        found: list[int] = []
        for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue  # it died meanwhile
            if b"spawn_main" in command:
                found.append(int(pid))
        return found


def delivers(outbox: Path) -> int | None:
    """Return the process that sends from a file."""
    locks = Locks(str(outbox))
    try:
        return locks.holder(LEAD)
    finally:
        locks.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """A checkout with a complete answer 200."""

    invoice: str
    outcome: str
    left_at: float
    """When the last chunk left the middleware, by the machine's monotonic clock."""
    process: int


@dataclass(frozen=True, slots=True)
class Round:
    """The answers of one round, and all kills of its lane, including later ones."""

    kills: list[tuple[int, float, float]]
    """The process, the time, and the seconds for which the leader was stopped before."""
    answers: list[Answer] = field(default_factory=list[Answer])

    def age(self, answer: Answer) -> float:
        """Return the seconds from an answer's last chunk to the kill of its process. Infinite if it was never killed.

        The seconds for which the leader was stopped do not count: it wrote nothing, and may have held the write lock.
        """
        return min(
            (
                max(0.0, at - stopped_for - answer.left_at)
                for process, at, stopped_for in self.kills
                if process == answer.process and at > answer.left_at - AT_ONCE
            ),
            default=inf,
        )


def buy(port: int, buyer: str, over: threading.Event, answers: list[Answer]) -> None:
    """Check out repeatedly, over connections that break."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    for number in count():
        if over.wait(random.uniform(0, 0.01)):
            break
        invoice = f"{buyer}-{number}"
        try:
            shopper = f"81.2.69.{random.randrange(1, 255)}"
            connection.request("POST", f"/checkout/{invoice}", headers={"X-Forwarded-For": shopper})
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            connection.close()
            continue
        if response.status == 200:
            outcome, left_at, process = body.decode().rpartition("\n")[2].split()
            answers.append(Answer(invoice, outcome, float(left_at), int(process)))
    connection.close()


class Lane:
    """A file, and the shops that use it one after the other."""

    def __init__(self, name: str, directory: Path, butter: str, durability: str, workers: int) -> None:
        self._name = name
        self._file = directory / f"{name}.db"
        self._log = directory / f"{name}.log"
        self._environment = {
            "BUTTER_USERNAME": USERNAME,
            "BUTTER_PASSWORD": PASSWORD,
            "CRASH_BUTTER": butter,
            "CRASH_OUTBOX": str(self._file),
            "CRASH_DURABILITY": durability,
        }
        self._workers = workers
        self._shop: Shop | None = None
        self._kills: list[tuple[int, float, float]] = []

    def round(self, number: int) -> Round:
        """Let buyers check out, and kill meanwhile."""
        bought, over = Round(self._kills), threading.Event()
        shop = self._shop or self._started().__enter__()
        names = [f"in-{self._name}-{number}-{buyer}" for buyer in range(BUYERS)]
        buyers = [
            threading.Thread(target=buy, args=(shop.port, name, over, bought.answers), daemon=True) for name in names
        ]
        for buyer in buyers:
            buyer.start()
        time.sleep(random.uniform(0, LONGEST_LIFE))
        if self._workers == 1:
            shop.kill()
        else:
            self._shop = shop
            turn = number // LANES
            stopped_for = random.uniform(0.1, LONGEST_LIFE) if turn % 3 == 2 else 0.0
            shop.kill_worker(self._file, leader=turn % 2 == 0, stopped_for=stopped_for)
            time.sleep(random.uniform(0, LONGEST_LIFE))  # the others continue to sell
        over.set()
        for buyer in buyers:
            buyer.join()
        return bought

    def _started(self) -> Shop:
        return Shop(self._environment, self._workers, self._log, kills=self._kills)

    def drain(self) -> str:
        """Let a last shop deliver the rest. Return what cannot be delivered."""
        self.kill()
        with self._started() as last:
            until(self._file.exists, f"{self._file.name} is made")
            with existing(self._file) as store:
                until(lambda: _empty(store), f"{self._file.name} is drained", 300)
                counts = store.counts()
            last.stop()
        return f"{counts.dead} dead, {counts.parked} parked" if counts.dead or counts.parked else ""

    def said(self) -> list[str]:
        """Return the log of the shops without the correct warning about a temporary file."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if "is in a temporary folder" not in line]

    def kill(self) -> None:
        """End all processes that still run."""
        if self._shop is not None:
            self._shop.kill()
            self._shop = None


def _empty(store: SQLiteStore) -> bool:
    time.sleep(0.1)
    counts = store.counts()
    return not (counts.captured or counts.pending)


@dataclass(frozen=True)
class Outcome:
    """The results of a campaign."""

    durability: str
    workers: int
    rounds: list[Round]
    arrived: Counter[str]

    def lost(self, outcome: str) -> list[float]:
        """Return the lost answers of an outcome, as the seconds from their last chunk to the kill."""
        return [
            one.age(answer)
            for one in self.rounds
            for answer in one.answers
            if answer.outcome == outcome and answer.invoice not in self.arrived
        ]

    @property
    def broken(self) -> bool:
        """Whether a promise is broken."""
        others = self.lost("late") + self.lost("unwaited")
        return bool(self.lost("durable")) or any(age > INSTANTS[-1] for age in others)

    def table(self) -> str:
        """Return all numbers, one in each line."""
        answers = [answer for one in self.rounds for answer in one.answers]
        known = {answer.invoice for answer in answers}
        outcomes = Counter(answer.outcome for answer in answers)
        again = [times - 1 for times in self.arrived.values() if times > 1]
        rows: list[tuple[str, object]] = [
            ("rounds (kills)", len(self.rounds)),
            ("checkouts answered 200", len(answers)),
            ("records arrived", len(self.arrived)),
            ("  of checkouts never answered", len(self.arrived.keys() - known)),
            ("arrived more than once", f"{len(again)} ({sum(again)} extra posts)"),
        ]
        for outcome in sorted(outcomes):
            lost = self.lost(outcome)
            rows += [(f"answered {outcome}", outcomes[outcome]), ("  of these lost", len(lost))]
            if lost:
                within = ", ".join(f"{sum(age <= most for age in lost)} in {1000 * most:g} ms" for most in INSTANTS)
                rows.append(("  left before the kill", f"{within}; the oldest {1000 * max(lost):.1f} ms"))
        return "\n".join(f"  {name:<32}{value}" for name, value in rows)


def campaign(durability: str, workers: int, rounds: int, directory: Path) -> Outcome:
    """Run rounds in all lanes at once, drain, and count."""
    fake = FakeButter(username=USERNAME, password=PASSWORD)
    rounds_run: list[Round] = []
    with served(fake) as butter, ExitStack() as stack:
        lanes = [Lane(f"{durability}-{number}", directory, butter, durability, workers) for number in range(LANES)]
        for lane in lanes:
            stack.callback(lane.kill)

        def run(lane: Lane, first: int) -> None:
            for number in range(first, rounds, LANES):
                one = lane.round(number)
                rounds_run.append(one)
                print(
                    f"{durability} round {number}: {len(one.answers)} answered, {len(fake.records)} arrived", flush=True
                )

        with ThreadPoolExecutor(LANES) as pool:
            for done in [pool.submit(run, lane, first) for first, lane in enumerate(lanes)]:
                done.result()
            for stuck in filter(None, pool.map(Lane.drain, lanes)):
                print(f"not deliverable: {stuck}")
        for line, times in Counter(line for lane in lanes for line in lane.said()).most_common(20):
            print(f"the shops said {times} times: {line}")
    return Outcome(durability, workers, rounds_run, Counter(record["invoice_id"] for record in fake.records))


def main() -> None:
    """Parse the arguments, run the campaigns, print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--durability", choices=["before_response", "after_response", "both"], default="both")
    parser.add_argument("--workers", type=int, choices=[1, 2, 4], default=1)
    options = parser.parse_args()
    modes = ["before_response", "after_response"] if options.durability == "both" else [options.durability]
    outcomes: list[Outcome] = []
    for durability in modes:
        with tempfile.TemporaryDirectory() as directory:
            outcomes.append(campaign(durability, options.workers, options.rounds, Path(directory)))
    for found in outcomes:
        print(f"\n{found.durability}, {found.workers} worker(s): {'BROKEN' if found.broken else 'kept'}")
        print(found.table())
    sys.exit(any(found.broken for found in outcomes))


if __name__ == "__main__":
    main()
