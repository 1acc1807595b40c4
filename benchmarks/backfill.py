"""A backfill of many lines that is killed halfway: its memory, its rate, and how often each line was accepted.

    python benchmarks/backfill.py [--lines 100000] [--no-kill] [--concurrency 4] [--drained 10000]

A real uvicorn serves a fake Butter from this process. The command is killed with SIGKILL after half of the lines, and
run again. It is run once more on the finished file, to measure the time for known lines. Its rate is compared with that
of a backlog in the embedded outbox, to the same server.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from json import loads
from pathlib import Path
from typing import Any

from outbox import fill, records

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from processes import served

from butter_middleware import Butter, client_ip
from butter_middleware.testing import FakeButter

USERNAME, PASSWORD = "merchant", secrets.token_hex()
LOOK_SECONDS = 0.02


def write(path: Path, count: int) -> None:
    """Write a shop's year. Every line is another checkout."""
    with path.open("w", encoding="utf-8") as file:
        file.write("Order,Email,IP address,Invoice ID,Charge ID,Note\n")
        for number in range(count):
            address = f"81.2.{number // 250 % 250}.{number % 250 + 1}"
            file.write(f'{number},shopper{number}@example.com,{address},in_{number},ch_{number},"paid, thanks"\n')


def resident(process: int) -> float:
    """Return a process's memory in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


@dataclass
class Run:
    """The result of one run of the command."""

    sent: int
    seconds: float
    code: int
    document: dict[str, Any]
    memory: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """The accepted lines so far, and the command's memory then."""


def run(url: str, file: Path, fake: FakeButter, options: argparse.Namespace, kill_at: int | None) -> Run:
    """Run the command to its end, or kill it after `kill_at` accepted lines."""
    command = [sys.executable, "-m", "butter_middleware", "backfill", file.name, "--set", "psp=stripe", "--json"]
    command += ["--concurrency", str(options.concurrency)]
    before, began = len(fake.records), time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=file.parent,
        env=os.environ | {"BUTTER_BASE_URL": url, "BUTTER_USERNAME": USERNAME, "BUTTER_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    found = Run(0, 0, 0, {})
    step = max(1, options.lines // 10)
    first_at = 0.0
    while process.poll() is None:
        time.sleep(LOOK_SECONDS)
        accepted = len(fake.records)
        first_at = first_at or (time.monotonic() if accepted > before else 0.0)
        if accepted >= before + step // 10 and (not found.memory or accepted // step > found.memory[-1][0] // step):
            try:
                found.memory.append((accepted, resident(process.pid)))
            except (OSError, IndexError):
                continue  # it has just ended
        if kill_at is not None and accepted >= kill_at:
            process.kill()
            break
    found.seconds = time.monotonic() - (first_at or began)
    output = process.communicate()[0]
    found.sent, found.code = len(fake.records) - before, process.returncode
    found.document = loads(output) if output.strip() else {}
    return found


def drain_rate(url: str, directory: Path, fake: FakeButter, concurrency: int, count: int) -> float:
    """Return how fast the embedded outbox sends a backlog to the same server."""
    path = directory / "drain.db"
    fill(path, records(count))
    fake.records.clear()
    options: dict[str, Any] = {"base_url": url, "senders": concurrency, "outbox": path, "client_ip": client_ip.direct()}
    with Butter(username=USERNAME, password=PASSWORD, **options) as butter:
        butter.pipeline.start()
        while not fake.records:
            time.sleep(LOOK_SECONDS)
        began = time.monotonic()
        while len(fake.records) < count:
            time.sleep(LOOK_SECONDS)
        return count / (time.monotonic() - began)


def tell_memory(name: str, one: Run) -> None:
    points = ", ".join(f"{size:.0f} MB at {accepted:,}" for accepted, size in one.memory)
    print(f"{name:10} {one.sent:9,} accepted  {one.sent / one.seconds:7,.0f}/s  exit {one.code:3}  memory {points}")


def check(accepted: Iterable[str], lines: int, uncertain: list[int], concurrency: int) -> bool:
    """Print how often the lines were accepted. Return whether this is as promised."""
    times = Counter(accepted)
    numbers = {f"in_{number}": number + 2 for number in range(lines)}  # the header is line 1
    missing = [numbers[name] for name in numbers.keys() - times.keys()]
    twice = [name for name, count in times.items() if count > 1]
    print(
        f"{lines - len(missing) - len(twice):,} of {lines:,} lines accepted exactly once, {len(twice)} more than once"
    )
    print(f"uncertain: lines {uncertain or 'none'}; of these not accepted: {sorted(missing) or 'none'}")
    return not twice and set(missing) <= set(uncertain) and len(uncertain) <= concurrency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--kill", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--drained", type=int, default=10_000, help="records of the backlog, for comparison")
    parser.add_argument("--directory", type=Path, default=None, help="where the files lie meanwhile")
    options = parser.parse_args()
    fake = FakeButter(username=USERNAME, password=PASSWORD)
    with tempfile.TemporaryDirectory(dir=options.directory) as name, served(fake) as url:
        file = Path(name) / "year.csv"
        write(file, options.lines)
        runs = [run(url, file, fake, options, options.lines // 2 if options.kill else None)]
        tell_memory("first run", runs[0])
        if options.kill:
            runs.append(run(url, file, fake, options, None))
            tell_memory("resumed", runs[1])
        again = run(url, file, fake, options, None)
        print(f"all known  {again.sent} sent in {again.seconds:.1f} s, of {again.document['read']:,} lines")
        journal = (Path(name) / "year.csv.butter-progress").stat().st_size
        print(f"file {file.stat().st_size / 1e6:.1f} MB, journal {journal / 1e6:.1f} MB")
        accepted = [record["invoice_id"] for record in fake.records]
        kept = check(accepted, options.lines, runs[-1].document["uncertain_lines"], options.concurrency)
        rate = sum(one.sent for one in runs) / sum(one.seconds for one in runs)
        drained = drain_rate(url, Path(name), fake, options.concurrency, options.drained)
    print(f"backfill {rate:,.0f}/s, a backlog's drain {drained:,.0f}/s: {rate / drained:.2f}")
    print("kept" if kept else "BROKEN")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
