"""The benchmarks run: each with its smallest parameters. The numbers are printed and its own checks pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import why_not

from butter_middleware import client_ip

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.server


def run(name: str, *arguments: str, directory: Path) -> str:
    """Run a benchmark and return what it prints."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TMPDIR": str(directory)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_overhead(tmp_path: Path) -> None:
    """Each app has a line in the table."""
    output = run("overhead", "--rounds", "1", "--requests", "5", directory=tmp_path)
    for name in ("bare app", "pass-through", "ours, unmatched", "ours, matched", "BaseHTTPMiddleware"):
        assert re.search(rf"^\| {name} +\| +\d+\.\d", output, re.MULTILINE), output


def test_appends(tmp_path: Path) -> None:
    """Each way of appending has a line for every number of processes and producers."""
    output = run("outbox", "--only", "append", "--seconds", "0.2", directory=tmp_path)
    assert len(re.findall(r"^\| outbox, (?:tasks|threads) +\| +[14] \| +(?:1|8|32) \| +\d", output, re.MULTILINE)) == 12


def test_drains(tmp_path: Path) -> None:
    """Each number of senders has a line, next to one httpx client, at both latencies."""
    output = run("outbox", "--only", "drain", "--seconds", "0.05", "--rounds", "1", directory=tmp_path)
    assert len(re.findall(r"^\| ours +\| +(?:0|100) \| +[148] \| +\d", output, re.MULTILINE)) == 6
    assert len(re.findall(r"^\| one httpx client \| +(?:0|100) \| +(?:1|4|8|32) \| +\d", output, re.MULTILINE)) == 8


def test_looks(tmp_path: Path) -> None:
    """Each query of a large file has a line."""
    output = run("outbox", "--only", "looks", "--dead", "20", "--captured", "10", directory=tmp_path)
    looks = re.findall(r"^\| (?:counts|counted|next_due|due|changed) +\| +\d+ \| +\d+ \|$", output, re.MULTILINE)
    assert len(looks) == 5


def test_corrupt(tmp_path: Path) -> None:
    """Each kind of damage is done once, and no checkout fails or is missing."""
    output = run("corrupt", "--rounds", "6", directory=tmp_path)
    assert "240 checkouts, 0 failed, 0 missing" in output


def test_backlog(tmp_path: Path) -> None:
    """Checkouts are timed without a backlog and with two."""
    arguments = ("--rounds", "1", "--seconds", "0.2", "--rate", "20", "--pending", "200")
    output = run("backlog", *arguments, directory=tmp_path)
    assert len(re.findall(r"^\| (?:no )?backlog.* +\d+\.\d+ \| +\d+ \|$", output, re.MULTILINE)) == 3


@pytest.mark.postgres
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_postgres(tmp_path: Path) -> None:
    """Each table has its lines: what a record costs, how fast a backlog is sent, and how both grow."""
    document = tmp_path / "benchmarks.md"
    places = "".join(
        f"<!-- measured: queue {name} -->\n<!-- end: queue {name} -->\n" for name in ("enqueue", "send", "growth")
    )
    document.write_text(places)
    output = run("postgres", "--seconds", "0.2", "--pending", "10", "100", "--write", str(document), directory=tmp_path)
    assert len(re.findall(r"^\| (?:into|an order).* \| +\d+\.\d+ \| +\d+\.\d+ \| +\d+ \|$", output, re.MULTILINE)) == 4
    senders = r"^\| (?:the embedded outbox|[124] workers?) +\| +\d+ \| +[1-9]\d* \| +\d\.\d+ \| +\d+\.\d \|$"
    assert len(re.findall(senders, output, re.MULTILINE)) == 5
    assert len(re.findall(r"^\| +100?: .* \| +\d+\.\d+ \| +\d+\.\d+ \| +[1-9]\d* \|$", output, re.MULTILINE)) == 6
    lines = [line for line in output.splitlines() if line.startswith("|")]
    assert [line for line in lines if line not in document.read_text()] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_crash(tmp_path: Path, workers: str) -> None:
    """Two kills in each mode, of a shop and of a worker: checkouts are answered, and nothing durable is lost."""
    output = run("crash", "--rounds", "2", "--workers", workers, directory=tmp_path)
    assert output.count(f"{workers} worker(s): kept") == 2
    assert len(re.findall(r"rounds \(kills\) +2$", output, re.MULTILINE)) == 2
    assert re.search(r"checkouts answered 200 +[1-9]", output)


def test_peers(tmp_path: Path) -> None:
    """Each shop has a line in each table, checkouts reach the recipients, and the document's other text is kept."""
    document = tmp_path / "benchmarks.md"
    document.write_text("before\n<!-- measured: cost -->\nold\n<!-- end: cost -->\nafter\n")
    least = ("--rounds", "1", "--requests", "5", "--rate", "20", "--seconds", "0.2", "--repeats", "1")
    output = run("peers", "--only", "bare", "after", "sentry", "--cases", "SIGTERM", *least, directory=tmp_path)
    assert re.search(r"^\| bare app +\| +\d+ \| +1\.00 \|", output, re.MULTILINE), output
    for name in ("ours, SQLite, after_response", "Sentry"):
        assert re.search(rf"^\| {name} +\| +\d+ \| +\d+\.\d+ \| +\d+ \| +\d+ \|$", output, re.MULTILINE), output
        assert re.search(rf"^\| {name} +\|(?: +\d+\.\d+ \|){{4}} +100 % \|$", output, re.MULTILINE), output
    assert re.search(r"^\| ours, SQLite, after_response +\| +5 \|$", output, re.MULTILINE), output
    run("peers", "--only", "bare", "--tables", "cost", *least, "--write", str(document), directory=tmp_path)
    written = document.read_text()
    assert re.fullmatch(r"before\n<!-- measured: cost -->\n\n\| .*\n\n<!-- end: cost -->\nafter\n", written, re.DOTALL)
    assert "old" not in written
    assert "bare app" in written


@pytest.mark.parametrize("delivery", [[], ["--sidecar"]], ids=["embedded", "sidecar"])
def test_soak(tmp_path: Path, delivery: list[str]) -> None:
    """Through an outage, wrong credentials, a kill and a deploy, every answered checkout arrives."""
    arguments = ("--minutes", "0.15", "--rate", "20", "--well-seconds", "2", "--ill-seconds", "1")
    output = run("soak", *arguments, *delivery, "--restart-every", "2.5", directory=tmp_path)
    assert re.search(r"^\| kills, deploys +\| +[1-9]\d*, [1-9]\d* \|$", output, re.MULTILINE), output
    assert re.search(r"^\| checkouts answered 200 +\| +[1-9]\d* \|$", output, re.MULTILINE), output
    assert re.search(r"^\| verdict +\| +kept \|$", output, re.MULTILINE), output


def test_backfill(tmp_path: Path) -> None:
    """Killed and resumed, it accepts or names each line once. Its rate is next to the outbox's."""
    output = run("backfill", "--lines", "300", "--drained", "300", directory=tmp_path)
    assert re.search(r"^backfill [\d,]+/s, a backlog's drain [\d,]+/s: \d", output, re.MULTILINE), output
    assert output.endswith("kept\n")


def test_mutation(tmp_path: Path) -> None:
    """Two mutants of the routes are tested once each: killed, or shown with their change."""
    least = ("--only", "capture/routes.py", "--tests", "tests/capture/test_routes.py", "--mutants", "2")
    kept = ("--reach", str(tmp_path / "reach.json"), "--results", str(tmp_path / "mutants.jsonl"))
    output = run("mutation", *least, *kept, directory=tmp_path)
    assert re.search(r"^2\. butter_middleware/capture/routes\.py:\d+ [a-z ]+: ", output, re.MULTILINE), output
    assert re.search(r"^\| all +\| +2 \| +[0-2] \| +\d+ % \|$", output, re.MULTILINE), output
    survivors = output.split("% |\n")[-1]
    assert output.count(": SURVIVED") == len(re.findall(r"^butter_middleware/\S+:\d+ ", survivors, re.MULTILINE))
    assert "seconds" in (tmp_path / "reach.json").read_text()
    again = run("mutation", *least, *kept, directory=tmp_path)
    assert again.partition("Seed")[0] == output.partition("Seed")[0]
    assert (tmp_path / "mutants.jsonl").read_text().count("\n") == 2, "each was tried once"


def test_spoofing(tmp_path: Path) -> None:
    """No preset uses the shopper's own text, and none misses the shopper because of it."""
    output = run("spoofing", "--requests", "100", directory=tmp_path)
    rows = re.findall(r"^(\S.*?) +(\d+) +(\d+) +\d+\.\d$", output, re.MULTILINE)
    presets = {name.partition("(")[0] for name, _wrong, _missing in rows}
    assert presets >= {name for name in client_ip.__all__ if name.islower()} - {"explain"}
    assert {(wrong, missing) for _name, wrong, missing in rows} == {("0", "0")}


def test_interleaved(tmp_path: Path) -> None:
    """Concurrent checkouts do not mix, on both loops."""
    output = run("interleaved", "--checkouts", "200", "--at-once", "50", directory=tmp_path)
    assert len(re.findall(r"^(?:asyncio|trio) +0 +0 +0 +\d", output, re.MULTILINE)) == 2
