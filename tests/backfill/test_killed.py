"""A backfill in a separate process that is stopped or killed, and what Butter got of each line."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from processes import served, until
from shops import CREDENTIALS

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server

LINES = 240
CONCURRENCY = 4
COMMAND = [sys.executable, "-m", "butter_middleware", "backfill"]
WITH_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, sys.argv[1:])
"""
"""Runs a command like a login shell, so that the loss of its terminal is a SIGHUP."""
UNDER_NOHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, sys.argv[1:])
"""


def write(file: Path, count: int) -> None:
    rows = (f"shopper{number}@example.com,81.2.69.142,stripe,in_{number}\n" for number in range(count))
    file.write_text("email,ip,psp,invoice\n" + "".join(rows))


def environment(url: str) -> dict[str, str]:
    credentials = {f"BUTTER_{name.upper()}": value for name, value in CREDENTIALS.items()}
    return os.environ | credentials | {"BUTTER_BASE_URL": url}


@contextmanager
def sending(file: Path, url: str, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """Start the command in a new process group."""
    with subprocess.Popen(
        [*COMMAND, str(file), "--json", *arguments],
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(file: Path, url: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the command to its end."""
    with sending(file, url, *arguments) as process:
        output, errors = process.communicate(timeout=120)
        assert output, errors.decode()
        return process.returncode, json.loads(output)


@contextmanager
def held_after(fake: FakeButter, count: int) -> Generator[tuple[str, threading.Event]]:
    """Serve a Butter that stops answering after `count` records, until the event is set."""
    go = threading.Event()

    async def butter(scope: Scope, receive: Receive, send: Send) -> None:
        if len(fake.records) >= count:
            await anyio.to_thread.run_sync(go.wait, 60)
        await fake(scope, receive, send)

    with served(butter) as url:
        try:
            yield url, go
        finally:
            go.set()


def times(fake: FakeButter) -> Counter[str]:
    return Counter(record["invoice_id"] for record in fake.records)


EVERY = Counter({f"in_{number}": 1 for number in range(LINES)})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "year.csv", LINES)
    return tmp_path / "year.csv"


def test_a_line_in_flight_at_a_kill_is_uncertain(file: Path, fake: FakeButter) -> None:
    """At most `--concurrency` lines are uncertain. Each is named, and none is sent twice."""
    with served(fake) as url:
        with sending(file, url) as process:
            until(lambda: len(fake.records) >= LINES // 2, "half is accepted", 60)
            process.kill()
            process.communicate(timeout=20)
        code, found = run(file, url)
        uncertain: list[int] = found["uncertain_lines"]
        assert (code, found["ending"]) == (1 if uncertain else 0, "done")
        assert len(uncertain) == found["uncertain"] <= CONCURRENCY
        arrived = times(fake)
        assert set(arrived.values()) == {1}
        # The header is line 1.
        assert {f"in_{number - 2}" for number in uncertain} >= EVERY.keys() - arrived.keys()
        assert found["sent"] + found["uncertain"] == LINES
        # With the option it sends them. Each line has then arrived at least once.
        assert run(file, url, "--resend-uncertain")[1]["sent"] == LINES
    assert times(fake).keys() == EVERY.keys()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_between_two_lines(file: Path, fake: FakeButter, number: signal.Signals) -> None:
    """It stops between two lines and prints its summary. The same command sends the rest."""
    write(file, 150)
    with held_after(fake, 30) as (url, go):
        with sending(file, url) as process:
            until(lambda: len(fake.records) >= 30, "some lines are accepted")
            process.send_signal(number)
            go.set()
            output, _errors = process.communicate(timeout=30)
        assert process.returncode == 1
        found = json.loads(output)
        assert (found["ending"], found["uncertain"], found["sent"]) == ("stopped", 0, len(fake.records))
        assert run(file, url)[1]["sent"] == 150
    assert times(fake) == Counter({f"in_{number}": 1 for number in range(150)})


def test_nohup_survives_its_terminal(file: Path, fake: FakeButter) -> None:
    """If SIGHUP is ignored, as under nohup, it continues."""
    with served(fake) as url:
        command = [sys.executable, "-c", UNDER_NOHUP, *COMMAND, str(file)]
        with subprocess.Popen(command, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until(lambda: len(fake.records) >= LINES // 10, "some lines are accepted", 60)
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
    assert (process.returncode, times(fake)) == (0, EVERY)


def test_a_closed_terminal_stops_it(file: Path, fake: FakeButter) -> None:
    """It stops between two lines, so nothing is uncertain, although it can print nothing."""
    with held_after(fake, 50) as (url, go):
        master, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", WITH_A_TERMINAL, *COMMAND, str(file)],
            env=environment(url) | {"TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        ) as process:
            os.close(terminal)
            until(lambda: len(fake.records) >= 50, "some lines are accepted", 60)
            os.close(master)
            go.set()
            process.wait(timeout=30)
        accepted = len(fake.records)
        assert 50 <= accepted < LINES
        code, found = run(file, url)
        assert (code, found["uncertain"], found["sent_in_this_run"]) == (0, 0, LINES - accepted)
    assert times(fake) == EVERY


def test_a_slow_pipe_does_not_delay_its_end(tmp_path: Path, fake: FakeButter) -> None:
    """A line is sent as soon as it comes. A signal ends the command, although the pipe is open and silent."""
    with served(fake) as url:
        read, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        with subprocess.Popen(
            [*COMMAND, "-", "--json", "--progress", str(tmp_path / "year")],
            env=environment(url),
            stdin=read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            os.write(write_end, b"email,ip,psp,invoice\na@example.com,81.2.69.142,stripe,in_1\n")
            until(lambda: len(fake.records) == 1, "the line is accepted")
            process.terminate()
            output = process.communicate(timeout=20)[0]
        os.close(read)
        os.close(write_end)
    assert (json.loads(output)["ending"], json.loads(output)["sent"]) == ("stopped", 1)
