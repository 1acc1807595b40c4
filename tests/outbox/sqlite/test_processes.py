"""Several processes on one file: killed, stopped, forked, and at once."""

import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from outboxes import bodies, capture, invoices, record, result
from processes import HERE, Shop, served, until
from shops import PAID

from butter_middleware import Butter, ButterMiddleware, SQLiteOutbox
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server
TABLES = ["captures", "records", "tombstones"]


class User:
    """Another process with the outbox, which does what it is told; killed at the end, if not before."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "servers" / "outbox_user.py"), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.hear()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            until(lambda: b"State:\tT" in Path(f"/proc/{self.process.pid}/status").read_bytes(), "the process stops")

    def kill(self) -> list[Any]:
        """Kill it as the kernel does when memory is short; give what it still had told."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        output = self.process.stdout.read()
        self.process.stdout.close()
        self.process.stdin.close()
        return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith(b"\n")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.returncode is None:
            self.kill()


def numbered(first: int, last: int) -> list[str]:
    return [f"in_{number}" for number in range(first, last)]


# Killed.


def test_captures_of_a_killed_process_are_adopted(outbox: SQLiteOutbox, path: Path) -> None:
    """A living process keeps its captures for itself; when it is killed another one takes them over."""
    with User(path) as user:
        user.ask("open")
        user.ask("append 0 5")
        assert result(outbox.adopt()) == 0
        assert result(outbox.captures(10)) == []
        user.kill()
        assert result(outbox.adopt()) == 5
        assert bodies(result(outbox.captures(10))) == numbered(0, 5)


def test_what_a_killed_process_had_captured_is_delivered(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """The next start reads what was captured before the kill, and delivers it."""
    with User(path) as user:
        user.ask("open")
        user.ask("append 0 5")
        user.kill()
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: butter.status().delivered == 5, "five records")
    assert sorted(sent["invoice_id"] for sent in fake.records) == numbered(0, 5)
    assert butter.status().lost == 0


def test_no_acknowledged_capture_is_lost(outbox: SQLiteOutbox, path: Path) -> None:
    """Processes that are killed in the midst of writing lose nothing that they had acknowledged."""
    acknowledged: list[int] = []
    for round_number in range(2):
        users = [User(path) for _ in range(2)]
        for number, user in enumerate(users):
            user.ask("open")
            user.tell(f"flood {100_000 * (2 * round_number + number + 1)}")
        for user in users:
            acknowledged += [user.hear() for _ in range(20)]
        for user in users:
            acknowledged += user.kill()
    result(outbox.adopt())
    there = bodies(result(outbox.captures(100_000)))
    assert len(set(there)) == len(there)
    assert {f"in_{number}" for number in acknowledged} <= set(there)
    # What was on its way to be acknowledged: one in each process.
    assert len(there) - len(acknowledged) <= 4


def test_the_lead_passes_within_a_second(make_butter: Callable[..., Butter], fake: FakeButter, path: Path) -> None:
    """One process delivers; when it is killed another one takes over, within about a second."""
    with User(path) as user:
        user.ask("open")
        assert user.ask("lead") is True
        user.ask("add 0 3")
        butter = make_butter(outbox=path)
        butter.pipeline.start()
        assert not butter.flush(0.7)
        assert fake.records == []
        user.kill()
        begun = time.monotonic()
        until(lambda: len(fake.records) == 3, "three records")
        assert time.monotonic() - begun < 2.0


def test_a_claim_dies_with_its_process(outbox: SQLiteOutbox, path: Path) -> None:
    """What the killed leader had claimed is claimed by the next one."""
    with User(path) as user:
        user.ask("open")
        user.ask("add 0 3")
        assert user.ask("lead")
        assert user.ask("claim") == numbered(0, 3)
        assert not outbox.lead()
        user.kill()
    assert outbox.lead()
    assert invoices(result(outbox.claim(10))) == numbered(0, 3)


def test_the_lead_is_one_after_the_lock_was_removed(outbox: SQLiteOutbox, path: Path) -> None:
    """When a cleaner has removed the lock file both processes come to the new one: still one delivers."""
    lock = path.with_name("butter.db.lock")
    with User(path) as user:
        user.ask("open")
        assert outbox.lead()
        assert user.ask("lead") is False
        lock.unlink()

        def both_noticed() -> bool:
            result(outbox.set_hold(None))
            user.ask("add 0 1")
            inode = lock.stat().st_ino if lock.exists() else 0
            return all(inode in open_files(pid) for pid in (os.getpid(), user.process.pid))

        until(both_noticed, "both use the new lock file")
        assert [outbox.lead(), user.ask("lead")] in ([True, False], [False, True])


def open_files(pid: int) -> set[int]:
    return {entry.stat().st_ino for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()}


# Stopped.


def test_a_stopped_holder_of_the_lock_stops_nobody(
    outbox: SQLiteOutbox, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the lock's holder is stopped captures wait in memory, reads go on, the log says so; all are there after."""
    result(outbox.append(capture(0)))
    with User(path) as user:
        assert user.ask("lock") is True
        user.signal(signal.SIGSTOP)
        futures = [outbox.append(capture(number)) for number in range(1, 10)]
        until(lambda: "Is it stopped?" in caplog.text, "the alarm")
        assert [future.done() for future in futures] == [False] * 9
        user.signal(signal.SIGCONT)
        user.ask("unlock")
        for future in futures:
            result(future)
    assert bodies(result(outbox.captures(100))) == numbered(0, 10)
    until(lambda: "works again (lock is over)" in caplog.text, "the all-clear")
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1


def test_a_killed_holder_of_the_lock_frees_it(outbox: SQLiteOutbox, path: Path) -> None:
    """The kernel frees the lock of a process that was killed while it was stopped."""
    result(outbox.counts())
    with User(path) as user:
        assert user.ask("lock") is True
        user.signal(signal.SIGSTOP)
        future = outbox.append(capture(1))
        user.kill()
        result(future)


@pytest.mark.parametrize(("durability", "least"), [("after_response", 0.0), ("before_response", 0.025)])
def test_a_checkout_is_answered_while_the_lock_is_held(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, durability: str, least: float
) -> None:
    """A stopped process delays a response by 25 ms at most, which is counted; its record is delivered afterwards."""
    butter = make_butter(outbox=path, durability=durability)
    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    butter.pipeline.start()
    butter.status()
    with User(path) as user:
        until(lambda: user.ask("lock"), "the lock")
        user.signal(signal.SIGSTOP)
        begun = time.monotonic()
        messages = anyio.run(drive, app, http_scope())
        took = time.monotonic() - begun
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        assert least <= took < 1.0
        assert butter.status().not_durable_in_time == (durability == "before_response")
        assert fake.records == []
        user.signal(signal.SIGCONT)
        user.ask("unlock")
        until(lambda: len(fake.records) == 1, "the record")
    assert butter.status().lost == 0


def test_before_response_is_on_disk_when_the_last_chunk_leaves(make_butter: Callable[..., Butter], path: Path) -> None:
    """When the server gets the last chunk the capture is in the file, for any other process to see."""
    butter = make_butter(outbox=path, durability="before_response")
    seen: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            seen.append(count(path))

    async def receive() -> Any:
        return {"type": "http.request"}

    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    butter.pipeline.start()
    butter.status()
    anyio.run(app, http_scope(), receive, send)
    assert seen == [1]
    assert butter.status().skipped == {}


def count(path: Path) -> int:
    """Count what is in the file, whatever state it is in, as another process sees it."""
    tables = " + ".join(f"(SELECT count(*) FROM {name})" for name in TABLES)  # noqa: S608 - constants
    code = f"import sqlite3; print(sqlite3.connect({str(path)!r}).execute({f'SELECT {tables}'!r}).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


# At once.


def test_processes_that_add_the_same_records_add_them_once(outbox: SQLiteOutbox, path: Path) -> None:
    """The same checkouts from three processes at once are one record each."""
    with User(path) as first, User(path) as second:
        for user in (first, second):
            user.ask("open")
            user.tell("add 0 200")
        known = result(outbox.add([record(number) for number in range(200)])) + first.hear() + second.hear()
    assert known == 400
    assert result(outbox.counts()).pending == 200


def test_the_same_checkout_from_two_workers_is_one_post(path: Path) -> None:
    """A shopper who reloads the confirmation page, served by whichever worker, is one record at Butter."""
    fake = FakeButter(username="merchant", password="s3cret-pass")
    with (
        served(fake) as url,
        Shop("uvicorn two workers", url, SHOP_OUTBOX=str(path)) as shop,
        ThreadPoolExecutor(8) as shoppers,
    ):
        answers = list(shoppers.map(shop.checkout, ["in_1"] * 40 + ["in_2"]))
        assert [status for status, _headers, _body in answers] == [200] * 41
        until(lambda: len(fake.records) >= 2, "the records")
        shop.stop()
    assert sorted(sent["invoice_id"] for sent in fake.records) == ["in_1", "in_2"]
    assert fake.requests == 2


# Forked.


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_midst_of_writing_harms_neither(outbox: SQLiteOutbox, path: Path) -> None:
    """Parent and children go on with the file, each with a connection and locks of its own, and lose nothing."""
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            result(outbox.append(capture(len(written))))
            written.append(0)

    writer = threading.Thread(target=write)
    writer.start()
    children = [fork(partial(use_in_child, outbox, number)) for number in range(1, 4)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    writer.join()
    result(outbox.adopt())
    there = bodies(result(outbox.captures(100_000)))
    assert sorted(there) == sorted([*numbered(0, len(written)), *numbered(1001, 1004)])
    outbox.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def use_in_child(outbox: SQLiteOutbox, number: int) -> None:
    assert isinstance(outbox.append(capture(0)).exception(), Exception)
    outbox.abandon()
    outbox.open()
    result(outbox.append(capture(1000 + number)))
    assert bodies(result(outbox.captures(10))) == [f"in_{1000 + number}"]
    assert outbox.lead() in (True, False)
    outbox.close()


def fork(run: Callable[[], object]) -> int:
    """Run a function in a forked child, which ends with 0 if it did not raise."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:  # noqa: BLE001 - the exit code tells
            os._exit(1)
        os._exit(0)
    return child


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_does_not_use_it_takes_nothing(outbox: SQLiteOutbox) -> None:
    """A forked child that ends without using the outbox drops none of the parent's locks."""
    assert outbox.lead()
    result(outbox.append(capture(1)))
    assert os.waitpid(fork(lambda: None), 0)[1] == 0
    assert outbox.lead()
    result(outbox.append(capture(2)))
    assert bodies(result(outbox.captures(10))) == ["in_1", "in_2"]
