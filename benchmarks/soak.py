"""A soak: a shop under load for a long time, while Butter fails and the shop's process dies repeatedly.

    python benchmarks/soak.py --minutes 60 [--rate 200] [--sidecar] [--restart-every 300] [--write docs/benchmarks.md]

Checkouts start at a fixed rate. Butter works, then fails in one way, works again, then fails in the next way: 503, 401,
slow answers, connections that break, no answers, 429 with Retry-After, and accepted records whose answer is lost. With
`--restart-every`, the process is killed and deployed again in turn. With `--sidecar`, the shop only appends, a second
process delivers, and both are killed together. The exit code is 1 if a promise is broken:

- lost: a checkout that was answered with 200 and has not arrived at the end. The README's table shows what a SIGKILL
  may lose.
- twice: a checkout that arrived more than once, except for those on their way at a kill, and those whose answer was
  lost: Butter's API has no key to recognise them.
- harmed: a checkout that was not answered with 200, except while no process served.
- grown: the process, with its sidecar, needs more and more memory.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import crash
from machine import machine
from openloop import Answer, load
from recipient import USERNAME, Recipient, recipient
from written import table, write

SECRET = crash.PASSWORD
ILLNESSES = {
    "503": ("503", 0.0),
    "401": ("401", 0.0),
    "slow, 2 s": ("", 2.0),
    "reset": ("reset", 0.0),
    "no answer": ("hang", 0.0),
    "429": ("429", 0.0),
    "answer lost": ("cut", 0.0),
}
WELL = "well"
DOWN = "no process"
SAMPLE_SECONDS = 5.0
AT_A_KILL = 3.0
"""Seconds before a kill in which a record may be on its way: the slowest answer, and its settlement."""
UNWRITTEN = 1.0
"""Seconds before a kill in which a capture may not be on the disk yet, if the response did not wait for it."""
STILL_SECONDS = 660.0
"""If nothing arrives for this time, the rest is lost. Twice the longest wait for a probe."""
GROWTH = 5.0
"""The most MiB that a process's memory may grow from its first third to its last, without the first minute."""
LIFE_SECONDS = 240.0
"""The least lifetime of a process for a judgement of its memory."""


@dataclass(frozen=True, slots=True)
class Sold:
    """A checkout that was answered."""

    checkout: str
    at: float
    """When the answer was complete, by the machine's monotonic clock."""
    status: int
    latency: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment."""

    at: float
    butter: str
    answered: int
    """The number so far."""
    arrived: int
    resident: float
    """MiB of the process, and its sidecar."""
    outbox: float
    """MiB of the file."""
    life: int
    """The number of the process, from 0."""

    @property
    def waiting(self) -> int:
        return max(0, self.answered - self.arrived)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no process serves."""

    begin: float
    end: float
    number: signal.Signals


@dataclass
class Journal:
    """All observations of a soak."""

    sold: list[Sold] = field(default_factory=list[Sold])
    samples: list[Sample] = field(default_factory=list[Sample])
    outages: list[Outage] = field(default_factory=list[Outage])
    spells: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """The times of Butter's states."""

    def note(self, answer: Answer) -> None:
        """Take an answer, from any thread."""
        outcome = answer.body.decode().rpartition("\n")[2].partition(" ")[0] if answer.status == 200 else ""
        self.sold.append(Sold(answer.checkout, time.monotonic(), answer.status, answer.latency, outcome))

    def answered(self) -> dict[str, Sold]:
        """Return the checkouts that were answered with 200."""
        return {one.checkout: one for one in self.sold if one.status == 200}

    def butter(self, at: float) -> str:
        """Return Butter's state at a time, or that no process served."""
        if any(outage.begin <= at <= outage.end for outage in self.outages):
            return DOWN
        return [name for since, name in self.spells if since <= at][-1]


class Deployment:
    """A shop's process and, if it only appends, the sidecar that delivers."""

    def __init__(self, environment: dict[str, str], log: Path, port: int | None = None, *, sidecar: bool) -> None:
        self._shop = crash.Shop(environment, 1, log, port).__enter__()
        self.port = self._shop.port
        self._sidecar = self._deliver(environment, log) if sidecar else None

    @property
    def resident(self) -> float:
        """MiB of both."""
        pids = [self._shop.pid, *([self._sidecar.pid] if self._sidecar else [])]
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * 4096 / 2**20

    def end(self, number: signal.Signals) -> None:
        """Kill both, or end them like a deploy."""
        if self._sidecar is not None:
            self._sidecar.send_signal(number)
        if number is signal.SIGKILL:
            self._shop.kill()
        else:
            self._shop.stop()
        if self._sidecar is not None:
            self._sidecar.wait(timeout=60)

    @staticmethod
    def _deliver(environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        command = ["butter_middleware", "deliver", "--app", "soak_sidecar:app", "--follow"]
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=Path(__file__).parent,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
            )


class Soak:
    """A shop, its Butter, and their faults."""

    def __init__(self, options: argparse.Namespace, directory: Path, butter: Recipient) -> None:
        self.journal = Journal()
        self._options = options
        self._butter = butter
        self._file = directory / "soak.db"
        self._log = directory / "soak.log"
        self._environment = {
            "BUTTER_USERNAME": USERNAME,
            "BUTTER_PASSWORD": SECRET,
            "CRASH_BUTTER": butter.url,
            "CRASH_OUTBOX": str(self._file),
            "CRASH_DURABILITY": options.durability,
            "CRASH_SIDECAR": "yes" if options.sidecar else "",
        }
        self._lives = 0
        self._over = threading.Event()
        self._shop = self._start()
        self._port = self._shop.port

    def run(self) -> None:
        """Run the soak, then wait for the rest."""
        seconds = 60.0 * self._options.minutes
        selling = threading.Thread(target=load, args=(self._port, self._options.rate, seconds, self.journal.note))
        falling_ill = threading.Thread(target=self._fall_ill)
        begin = time.monotonic()
        self._be(WELL)
        selling.start()
        falling_ill.start()
        restarts = self._options.restart_every
        while selling.is_alive():
            selling.join(SAMPLE_SECONDS)
            self._sample()
            if restarts and time.monotonic() - begin > restarts * (len(self.journal.outages) + 1):
                self._restart()
        self._over.set()
        falling_ill.join()
        self._be(WELL)
        self._wait_for_the_rest()
        self._shop.end(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes that still run."""
        self._over.set()
        self._shop.end(signal.SIGKILL)

    def said(self) -> Counter[str]:
        """Return the shop's log."""
        return Counter(self._log.read_text(errors="replace").splitlines())

    def _start(self, port: int | None = None) -> Deployment:
        return Deployment(self._environment, self._log, port, sidecar=self._options.sidecar)

    def _restart(self) -> None:
        """Kill the process or deploy it again, in turn."""
        number = signal.SIGTERM if len(self.journal.outages) % 2 else signal.SIGKILL
        begin = time.monotonic()
        self._shop.end(number)
        self._shop = self._start(self._port)
        self._lives += 1
        self.journal.outages.append(Outage(begin, time.monotonic(), number))

    def _wait_for_the_rest(self) -> None:
        known = self.journal.answered().keys()
        arrived, moved = 0, time.monotonic()
        while (seen := self._butter.seen().keys()) & known != known and time.monotonic() - moved < STILL_SECONDS:
            if len(seen) != arrived:
                arrived, moved = len(seen), time.monotonic()
            time.sleep(SAMPLE_SECONDS)
            self._sample()

    def _fall_ill(self) -> None:
        for name in cycle(ILLNESSES):
            if self._over.wait(self._options.well_seconds):
                return
            self._be(name)
            if self._over.wait(self._options.ill_seconds):
                return
            self._be(WELL)

    def _be(self, name: str) -> None:
        self._butter.be(*ILLNESSES.get(name, ("", 0.0)))
        self.journal.spells.append((time.monotonic(), name))

    def _sample(self) -> None:
        files = [path for path in (self._file, Path(f"{self._file}-wal")) if path.exists()]
        sample = Sample(
            at=time.monotonic(),
            butter=self.journal.spells[-1][1],
            answered=sum(one.status == 200 for one in self.journal.sold),
            arrived=self._butter.count(),
            resident=self._shop.resident,
            outbox=sum(path.stat().st_size for path in files) / 2**20,
            life=self._lives,
        )
        self.journal.samples.append(sample)
        elapsed = sample.at - self.journal.samples[0].at
        print(
            f"{elapsed:6.0f} s  {sample.butter:<12}{sample.answered:>9} answered{sample.arrived:>9} arrived"
            f"{sample.waiting:>7} waiting{sample.resident:>8.1f} MiB{sample.outbox:>8.1f} MiB on disk",
            flush=True,
        )


# The verdict.


@dataclass(frozen=True)
class Verdict:
    """The results of a soak."""

    journal: Journal
    seen: dict[str, list[float]]
    cut: dict[str, int]

    def lost(self) -> tuple[int, int]:
        """Return how many checkouts are lost: all, and those that no kill explains."""
        lost = [one for checkout, one in self.journal.answered().items() if checkout not in self.seen]
        excused = [one for one in lost if one.outcome != "durable" and self._killed_after(one.at, UNWRITTEN)]
        return len(lost), len(lost) - len(excused)

    def twice(self) -> tuple[int, int, int]:
        """Return how many arrived more than once: with a lost answer, on their way at a kill, and for no known reason.

        Each lost answer, and each kill right after an arrival, explains one more.
        """
        again = {checkout: times for checkout, times in self.seen.items() if len(times) > 1}
        excused = [
            checkout
            for checkout, times in again.items()
            if len(times) - 1 <= self.cut.get(checkout, 0) + sum(self._killed_after(at, AT_A_KILL) for at in times[:-1])
        ]
        cut = sum(checkout in self.cut for checkout in excused)
        return cut, len(excused) - cut, len(again) - len(excused)

    def harmed(self) -> tuple[int, int]:
        """Return how many checkouts failed: while no process served, and otherwise."""
        failed = [one for one in self.journal.sold if one.status != 200]
        down = [one for one in failed if any(o.begin <= one.at <= o.end + 1 for o in self.journal.outages)]
        return len(down), len(failed) - len(down)

    def growth(self) -> list[float]:
        """Return the memory growth in MiB of each process that lived long enough."""
        return [found for life in range(self.journal.samples[-1].life + 1) if (found := self._growth(life)) is not None]

    def _growth(self, life: int) -> float | None:
        samples = [sample for sample in self.journal.samples if sample.life == life]
        settled = [sample.resident for sample in samples if sample.at - samples[0].at > 60]
        if not samples or samples[-1].at - samples[0].at < LIFE_SECONDS:
            return None
        third = len(settled) // 3
        return statistics.median(settled[-third:]) - statistics.median(settled[:third])

    def _killed_after(self, at: float, seconds: float) -> bool:
        kills = [outage.begin for outage in self.journal.outages if outage.number is signal.SIGKILL]
        return any(at - 0.1 <= kill <= at + seconds for kill in kills)

    @property
    def broken(self) -> list[str]:
        """The broken promises."""
        found = {
            "lost": self.lost()[1],
            "twice": self.twice()[2],
            "harmed": self.harmed()[1],
            "grown": sum(growth > GROWTH for growth in self.growth()),
        }
        return [name for name, times in found.items() if times]

    def summary(self) -> str:
        answered = self.journal.answered()
        kills = sum(outage.number is signal.SIGKILL for outage in self.journal.outages)
        lost, twice, harmed = self.lost(), self.twice(), self.harmed()
        growth = ", ".join(f"{found:+.1f}" for found in self.growth())
        rows = [
            ["checkouts answered 200", f"{len(answered)}"],
            ["of these on the disk before the answer", f"{sum(one.outcome == 'durable' for one in answered.values())}"],
            ["arrived", f"{len(self.seen)}"],
            ["lost", f"{lost[0]}"],
            ["of these not excused by a kill", f"{lost[1]}"],
            ["arrived more than once, their answer lost", f"{twice[0]} of {len(self.cut)}"],
            ["arrived more than once, on their way at a kill", f"{twice[1]}"],
            ["arrived more than once, otherwise", f"{twice[2]}"],
            ["kills, deploys", f"{kills}, {len(self.journal.outages) - kills}"],
            ["checkouts that failed while no process served", f"{harmed[0]}"],
            ["checkouts that failed otherwise", f"{harmed[1]}"],
            ["memory, each life's last third to its first, MiB", growth or "too short to say"],
            ["verdict", f"broken: {', '.join(self.broken)}" if self.broken else "kept"],
        ]
        return table(["", ""], rows)

    def by_spell(self) -> str:
        """Return a table of the latencies in each state of Butter."""
        latencies: dict[str, list[float]] = {}
        for one in self.journal.sold:
            if one.status == 200:
                latencies.setdefault(self.journal.butter(one.at - one.latency), []).append(one.latency)
        rows = [
            [
                name,
                f"{len(found)}",
                f"{1000 * statistics.median(found):.1f}",
                f"{1000 * sorted(found)[int(len(found) * 0.99)]:.1f}",
            ]
            for name, found in latencies.items()
        ]
        return table(["Butter", "checkouts", "p50, ms", "p99, ms"], rows)

    def over_time(self, rows: int) -> str:
        """Return a table of some samples at equal distances."""
        samples = self.journal.samples
        step = max(1, len(samples) // rows)
        return table(
            ["minute", "Butter", "answered", "arrived", "waiting", "memory, MiB", "outbox, MiB"],
            [
                [
                    f"{(sample.at - samples[0].at) / 60:.1f}",
                    sample.butter,
                    f"{sample.answered}",
                    f"{sample.arrived}",
                    f"{sample.waiting}",
                    f"{sample.resident:.1f}",
                    f"{sample.outbox:.1f}",
                ]
                for sample in [*samples[::step], samples[-1]]
            ],
        )


def soak(options: argparse.Namespace) -> Verdict:
    """Run a soak in its own folder."""
    with tempfile.TemporaryDirectory() as directory, recipient(SECRET) as butter:
        one = Soak(options, Path(directory), butter)
        try:
            one.run()
        finally:
            one.kill()
        for line, times in one.said().most_common(20):
            print(f"the shop said {times} times: {line}")
        return Verdict(one.journal, butter.seen(), butter.cut())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=200.0, help="checkouts a second")
    parser.add_argument("--durability", choices=["before_response", "after_response"], default="before_response")
    parser.add_argument("--sidecar", action="store_true", help="deliver in a process of its own")
    parser.add_argument("--well-seconds", type=float, default=40.0, help="between two illnesses of Butter's")
    parser.add_argument("--ill-seconds", type=float, default=20.0)
    parser.add_argument("--restart-every", type=float, default=0.0, metavar="SECONDS", help="0: never")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the tables stand between markers")
    options = parser.parse_args(arguments)
    verdict = soak(options)
    said = (
        f"{options.minutes:g} minutes at {options.rate:g} checkouts/s, {options.durability}, delivered by "
        f"{'a sidecar' if options.sidecar else 'the process itself'}; "
        f"Butter {options.ill_seconds:g} s ill after each {options.well_seconds:g} s well.\n{machine()}."
    )
    text = f"{verdict.over_time(31)}\n\n{verdict.by_spell()}\n\n{verdict.summary()}\n\n{said}"
    print(text)
    if options.write:
        write(options.write, "soak", text)
    sys.exit(bool(verdict.broken))


if __name__ == "__main__":
    main()
