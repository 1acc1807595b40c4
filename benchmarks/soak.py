"""A soak: a shop under load for a long time, while Butter falls ill and the shop's process dies, again and again.

    python benchmarks/soak.py --minutes 60 [--rate 200] [--sidecar] [--restart-every 300] [--write docs/benchmarks.md]

Checkouts start at a fixed rate. Butter is well, then ill in one way, then well, then ill in the next: 503, 401, slow
answers, connections that break, no answers, 429 with Retry-After, and records that are taken whose answer is lost. With
`--restart-every`, the process is killed and deployed anew in turn. With `--sidecar`, the shop only appends, a second
process delivers, and both share each other's fate. The exit code is 1 where a promise is broken:

- lost: a checkout answered 200 that has not arrived at the end. What a SIGKILL may take is in the README's table.
- twice: a checkout that arrived more than once, but for those on their way at a kill, and those whose answer was lost:
  Butter's API has no key by which it could know them again.
- harmed: a checkout that was not answered 200, but while no process served.
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
"""Seconds before a kill in which a record may have been on its way: the slowest answer, and its settlement."""
UNWRITTEN = 1.0
"""Seconds before a kill in which a capture may not be on the disk yet, where the response did not wait for it."""
STILL_SECONDS = 660.0
"""In which nothing arrives: the rest is lost. Twice the longest that a probe waits."""
GROWTH = 5.0
"""MiB that a process may need more in its last third than in its first, the first minute left out."""
LIFE_SECONDS = 240.0
"""That a process must have lived for its memory to be judged."""


@dataclass(frozen=True, slots=True)
class Sold:
    """A checkout that was answered."""

    checkout: str
    at: float
    """On the machine's monotonic clock, when the answer was whole."""
    status: int
    latency: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at one moment."""

    at: float
    butter: str
    answered: int
    """So far."""
    arrived: int
    resident: float
    """MiB of the process, and its sidecar."""
    outbox: float
    """MiB of the file."""
    life: int
    """Which of the processes, counted from 0."""

    @property
    def waiting(self) -> int:
        return max(0, self.answered - self.arrived)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without a process that serves."""

    begin: float
    end: float
    number: signal.Signals


@dataclass
class Journal:
    """Everything that a soak saw."""

    sold: list[Sold] = field(default_factory=list[Sold])
    samples: list[Sample] = field(default_factory=list[Sample])
    outages: list[Outage] = field(default_factory=list[Outage])
    spells: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """When Butter began to be how."""

    def note(self, answer: Answer) -> None:
        """Take an answer, from whatever thread."""
        outcome = answer.body.decode().rpartition("\n")[2].partition(" ")[0] if answer.status == 200 else ""
        self.sold.append(Sold(answer.checkout, time.monotonic(), answer.status, answer.latency, outcome))

    def answered(self) -> dict[str, Sold]:
        """Return the checkouts that were answered 200."""
        return {one.checkout: one for one in self.sold if one.status == 200}

    def butter(self, at: float) -> str:
        """Return how Butter was at a time, or that no process was there."""
        if any(outage.begin <= at <= outage.end for outage in self.outages):
            return DOWN
        return [name for since, name in self.spells if since <= at][-1]


class Deployment:
    """A shop's process, and where it only appends, the one beside it that delivers."""

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
        """Kill both, or have them end as a deploy does."""
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
    """A shop, its Butter, and what befalls them."""

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
        """Soak, then wait for the rest."""
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
        """End whatever still runs."""
        self._over.set()
        self._shop.end(signal.SIGKILL)

    def said(self) -> Counter[str]:
        """Return what the shop logged."""
        return Counter(self._log.read_text(errors="replace").splitlines())

    def _start(self, port: int | None = None) -> Deployment:
        return Deployment(self._environment, self._log, port, sidecar=self._options.sidecar)

    def _restart(self) -> None:
        """Kill the process or deploy it anew, in turn."""
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
    """What a soak shows."""

    journal: Journal
    seen: dict[str, list[float]]
    cut: dict[str, int]

    def lost(self) -> tuple[int, int]:
        """Return how many checkouts are lost: all, and those that no kill excuses."""
        lost = [one for checkout, one in self.journal.answered().items() if checkout not in self.seen]
        excused = [one for one in lost if one.outcome != "durable" and self._killed_after(one.at, UNWRITTEN)]
        return len(lost), len(lost) - len(excused)

    def twice(self) -> tuple[int, int, int]:
        """Return how many arrived more than once: whose answer was lost, on their way at a kill, and without excuse.

        Each lost answer, and each kill right after an arrival, excuses one more.
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
        """Return how many MiB each process that lived long enough needed more at its end than at its begin."""
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
        """The promises that are."""
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
        """Lay out what shoppers saw of each way that Butter was."""
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
        """Lay out some of the samples, evenly."""
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
    """Run one in a folder of its own."""
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
