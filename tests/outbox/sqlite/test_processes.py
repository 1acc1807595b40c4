"""Several processes on one file: killed, stopped, forked, and at once."""

import gc
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import anyio
import httpx
import pytest
from asgi import body, drive, http_scope, sends, start
from outboxes import append, bodies, invoices, known, record, unread
from processes import HERE, Shop, served, until
from shops import PAID

from butter_middleware import Butter, ButterMiddleware, Checkout, SQLiteOutbox
from butter_middleware.errors import OutboxReplacedError
from butter_middleware.outbox import SQLiteStore, Store
from butter_middleware.outbox.sqlite import database
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import LEAD, WRITE, Locks
from butter_middleware.pipeline import store_thread
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server
TABLES = ["captures", "records", "tombstones"]


class User:
    """Another process with the outbox that executes commands. It is killed at the end of the test at the latest."""

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
        """Kill it as the kernel does when memory is short. Return the rest of its output."""
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteOutbox(path).store()
    store.open()
    yield store
    store.close()


def numbered(first: int, last: int) -> list[str]:
    return [f"in_{number}" for number in range(first, last)]


# Killed.


def test_captures_of_a_killed_process_are_there(store: SQLiteStore, path: Path) -> None:
    """A living process has time to read its own captures. Once it is killed, all of them are there."""
    with User(path) as user:
        user.ask("open")
        user.ask("append 0 5")
        assert list(store.unread(10, below=0)) == []
        user.kill()
        assert bodies(unread(store)) == numbered(0, 5)


def test_captures_of_a_killed_process_are_delivered_by_the_leader(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """A running leader reads the captures of a killed process within seconds, and delivers them."""
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: butter.status().pending == 0, "the start")
    with User(path) as user:
        user.ask("open")
        user.ask("append 0 5")
        user.kill()
    until(lambda: butter.status().delivered == 5, "five records")
    assert sorted(sent["invoice_id"] for sent in fake.records) == numbered(0, 5)


def test_captures_of_a_killed_process_are_delivered_by_the_next_start(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """The next start reads captures from before the kill, and delivers them."""
    with User(path) as user:
        user.ask("open")
        user.ask("append 0 5")
        user.kill()
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: butter.status().delivered == 5, "five records")
    assert sorted(sent["invoice_id"] for sent in fake.records) == numbered(0, 5)
    assert butter.status().lost == 0


def test_no_acknowledged_capture_is_lost(store: SQLiteStore, path: Path) -> None:
    """Processes that are killed while they write lose no acknowledged capture."""
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
    there = bodies(unread(store))
    assert len(set(there)) == len(there) == store.counts().captured
    assert {f"in_{number}" for number in acknowledged} <= set(there)
    # Each process may have one capture that was written and not yet acknowledged.
    assert len(there) - len(acknowledged) <= 4


def test_the_lead_passes_within_a_second(make_butter: Callable[..., Butter], fake: FakeButter, path: Path) -> None:
    """One process delivers. When it is killed, another one takes over within about a second."""
    took: list[float] = []
    for turn in (1, 2):  # a busy machine may delay one of them
        file = path.with_name(f"{turn}.db")
        with User(file) as user:
            user.ask("open")
            assert user.ask("lead") is True
            user.ask("add 0 3")
            butter = make_butter(outbox=file)
            butter.pipeline.start()
            assert not butter.flush(0.7)
            assert len(fake.records) == 3 * (turn - 1)
            user.kill()
            begun = time.monotonic()
            until(lambda: len(fake.records) == 3 * turn, "three records")  # noqa: B023 - it is called at once
            took.append(time.monotonic() - begun)
    assert min(took) < 2.0


def test_records_in_flight_are_due_again(store: SQLiteStore, path: Path) -> None:
    """The records that a killed leader was sending are due for the next one."""
    with User(path) as user:
        user.ask("open")
        user.ask("add 0 3")
        assert user.ask("lead")
        assert user.ask("due") == numbered(0, 3)
        assert not store.lead()
        assert store.locks.holder(LEAD) == user.process.pid
        user.kill()
    assert store.lead()
    assert invoices(store.due(10)) == numbered(0, 3)


def test_one_process_leads_after_the_lock_was_removed(store: SQLiteStore, path: Path) -> None:
    """A cleanup job removed the lock file. Both processes use the new one, and still only one delivers."""
    with User(path) as user:
        user.ask("open")
        assert store.lead()
        assert user.ask("lead") is False
        path.with_name("butter.db.lock").unlink()
        assert user.ask("lead") is True
        assert not store.lead()
        append(store, 1)
        assert user.ask("append 2 3")
        assert bodies(unread(store)) == ["in_1", "in_2"]


# Other code in the process.


def test_a_backup_in_the_process_keeps_the_locks(
    store: SQLiteStore, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Copying the folder opens and closes each file. The locks stay, and no other process writes or leads."""
    assert store.lead()
    assert store.locks.take(WRITE)
    shutil.copytree(path.parent, tmp_path_factory.mktemp("backup") / "copy")
    with User(path) as user:
        assert user.ask("lead") is False
        assert user.ask("lock") is False
        store.locks.release(WRITE)
        assert user.ask("lock") is True
        user.ask("unlock")


def test_a_log_that_another_process_made_is_left_unchanged(
    store: SQLiteStore, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a backup SQLite's own locks are gone: others delete the log that this store has open, and make a new one.

    The store notices it before the next commit. It neither writes to the old log nor moves it over later writes.
    """
    append(store, 0)
    shutil.copytree(path.parent, tmp_path_factory.mktemp("backup") / "copy")
    with User(path) as user:
        user.ask("open")
        user.ask("append 1 2")
        user.ask("close")
        assert not path.with_name("butter.db-wal").exists()
        user.ask("open")
        user.ask("append 2 3")
        user.kill()
    with pytest.raises(OutboxReplacedError):
        append(store, 3)
    append(store, 3)
    assert bodies(unread(store)) == numbered(0, 4)
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Stopped.


def test_a_stopped_holder_of_the_lock_blocks_no_reads(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write waits and this is logged, while reads work. Later everything is written."""
    monkeypatch.setattr("butter_middleware.outbox.sqlite.database.LOCK_ALARM_SECONDS", 0.2)
    append(store, 0)
    with User(path) as user, ThreadPoolExecutor(1) as writer:
        assert user.ask("lock") is True
        user.signal(signal.SIGSTOP)
        assert store.counts().captured == 1
        writing = writer.submit(append, store, 1)
        until(lambda: "Is it stopped?" in caplog.text, "the alarm")
        assert not writing.done()
        user.signal(signal.SIGCONT)
        user.ask("unlock")
        writing.result(20)
    assert bodies(unread(store)) == numbered(0, 2)
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1


def test_a_stopped_holder_of_the_lock_blocks_no_checkout(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkouts wait in memory and this is logged, and not that the disk stalls. All are delivered later."""
    assert database.LOCK_ALARM_SECONDS < store_thread.STALL_SECONDS
    butter = make_butter(outbox=path)
    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    butter.pipeline.start()
    butter.status()
    with User(path) as user:
        until(lambda: user.ask("lock"), "the lock")
        user.signal(signal.SIGSTOP)
        until(lambda: bool(anyio.run(drive, app, http_scope())) and "Is it stopped?" in caplog.text, "the alarm")
        assert fake.records == []
        user.signal(signal.SIGCONT)
        user.ask("unlock")
        until(lambda: len(fake.records) == 1, "the record")
    until(lambda: "works again (lock is over)" in caplog.text, "the all-clear")
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1


def test_a_write_after_a_wait_for_the_lock_is_not_called_stalled(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waited for the lock is being written, and has waited for long. The lock was the cause, and not the disk."""
    monkeypatch.setattr(database, "LOCK_ALARM_SECONDS", 0.1)
    transact, entered, ends = database._transact, threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], Any]) -> Any:
        entered.set()
        assert ends.wait(20)
        return transact(connection, change)

    butter = make_butter(outbox=path)
    butter.pipeline.start()
    assert butter.flush()
    with User(path) as user:
        until(lambda: user.ask("lock"), "the lock")
        butter.record(checkout(0))
        until(lambda: "Is it stopped?" in caplog.text, "the alarm")
        butter.record(checkout(1))
        monkeypatch.setattr(database, "_transact", slow)
        user.ask("unlock")
        assert entered.wait(20)
        with monkeypatch.context() as context:
            context.setattr(store_thread, "STALL_SECONDS", 0.0)
            butter.record(checkout(2))
        ends.set()
        until(lambda: len(fake.records) == 3, "the records")
    until(lambda: "works again (lock is over)" in caplog.text, "the all-clear")
    assert sum(record.levelno == logging.CRITICAL for record in caplog.records) == 1


def test_a_killed_holder_of_the_lock_frees_it(store: SQLiteStore, path: Path) -> None:
    """The kernel releases the lock of a process that was killed while it was stopped."""
    with User(path) as user, ThreadPoolExecutor(1) as writer:
        assert user.ask("lock") is True
        user.signal(signal.SIGSTOP)
        writing = writer.submit(append, store, 1)
        user.kill()
        writing.result(20)


@pytest.mark.parametrize(
    ("durability", "least", "options"),
    [
        ("after_response", 0.0, {}),
        ("before_response", 0.025, {}),
        ("before_response", 0.4, {"durability_timeout": 0.4}),
    ],
)
def test_a_checkout_is_answered_while_the_lock_is_held(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    durability: str,
    least: float,
    options: dict[str, Any],
) -> None:
    """A stopped process delays a response by 25 ms, or by `durability_timeout`, and the response is counted.

    Its record is delivered afterwards.
    """
    butter = make_butter(outbox=path, durability=durability, **options)
    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    butter.pipeline.start()
    butter.status()
    with User(path) as user:
        until(lambda: user.ask("lock"), "the lock")
        user.signal(signal.SIGSTOP)
        took: list[float] = []
        for _twice in range(2):  # a busy machine may delay one of them
            begun = time.monotonic()
            messages = anyio.run(drive, app, http_scope())
            took.append(time.monotonic() - begun)
            assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        assert least <= min(took) < 1.0
        assert butter.status().not_durable_in_time == 2 * (durability == "before_response")
        assert fake.records == []
        user.signal(signal.SIGCONT)
        user.ask("unlock")
        until(lambda: len(fake.records) == 1, "the record")
    assert butter.status().lost == 0


def test_a_count_of_late_writes_survives_the_process(
    make_butter: Callable[..., Butter], store: SQLiteStore, path: Path
) -> None:
    """It is in the file as soon as the disk accepts it. A later kill does not undo it, and every process reports it."""
    butter = make_butter(outbox=path, durability="before_response")
    app = ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter)
    butter.pipeline.start()
    assert butter.status().not_durable_in_time == 0
    with User(path) as user:
        until(lambda: user.ask("lock"), "the lock")
        for _twice in range(2):
            anyio.run(drive, app, http_scope())
        assert butter.status().not_durable_in_time == 2  # before it is in the file
        user.ask("unlock")
        until(lambda: store.counted().get(("not_durable_in_time", "", "disk")) == 2, "the count")
    assert make_butter(outbox=path).status().not_durable_in_time == 0  # that process has not opened the file
    other = make_butter(outbox=path)
    other.pipeline.start()
    until(lambda: other.status().not_durable_in_time == 2, "the count, in another process")
    assert butter.status().not_durable_in_time == 2


def test_before_response_is_on_disk_when_the_last_chunk_leaves(make_butter: Callable[..., Butter], path: Path) -> None:
    """When the server gets the last chunk, the capture is in the file, for any other process to see."""
    butter = make_butter(outbox=path, durability="before_response", durability_timeout=10)
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
    """Count all rows in the file, as another process sees them."""
    tables = " + ".join(f"(SELECT count(*) FROM {name})" for name in TABLES)  # noqa: S608 - constants
    code = f"import sqlite3; print(sqlite3.connect({str(path)!r}).execute({f'SELECT {tables}'!r}).fetchone()[0])"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


# At once.


def test_processes_that_add_the_same_records_add_them_once(store: SQLiteStore, path: Path) -> None:
    """The same checkouts from three processes at once are one record each."""
    with User(path) as first, User(path) as second:
        for user in (first, second):
            user.ask("open")
            user.tell("add 0 200")
        duplicates = known(store.add([record(number) for number in range(200)])) + first.hear() + second.hear()
    assert duplicates == 400
    assert store.counts().pending == 200


def test_the_same_checkout_from_two_workers_is_sent_once(path: Path) -> None:
    """A shopper reloads the confirmation page, and another worker may serve it. Butter gets one record."""
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
    assert (len(fake.records), fake.rejected) == (2, 0)


# Forked.


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_between_two_transactions_lose_nothing(store: SQLiteStore, path: Path) -> None:
    """Parent and children continue with the file, each with its own connection and locks."""
    assert store.lead()
    children: list[int] = []
    for number in range(1, 4):
        append(store, number)
        assert store.disconnect()
        children.append(fork(partial(use_in_child, store, path, number)))
        append(store, 100 + number)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert sorted(bodies(unread(store))) == sorted([*numbered(1, 4), *numbered(101, 104), *numbered(1001, 1004)])
    assert store.lead()
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def use_in_child(inherited: SQLiteStore, path: Path, number: int) -> None:
    inherited.forget()
    store = SQLiteOutbox(path).store()
    store.open()
    append(store, 1000 + number)
    assert f"in_{1000 + number}" in bodies(unread(store))
    assert not store.lead()
    store.close()


def test_a_child_never_closes_a_connection_of_the_parent(path: Path) -> None:
    """A child that was forked during a transaction ends, and leaves the file and its log unchanged."""
    code = f"""
import os, sys, time
sys.path[:0] = {sys.path!r}
from outboxes import append
from butter_middleware import SQLiteOutbox
store = SQLiteOutbox({str(path)!r}).store()
store.open()
append(store, 1)
parent = os.getpid()
if os.fork() == 0:
    store.forget()
    deadline = time.monotonic() + 20
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.01)
    sys.exit()
os.kill(parent, 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert path.with_name("butter.db-wal").stat().st_size > 0
    store = SQLiteOutbox(path).store()
    store.open()
    assert bodies(unread(store)) == ["in_1"]
    store.close()


def fork(run: Callable[[], object]) -> int:
    """Run a function in a forked child, which ends with 0 if nothing was raised."""
    child = os.fork()
    if child == 0:
        try:
            run()
        except BaseException:  # noqa: BLE001 - the exit code tells
            os._exit(1)
        os._exit(0)
    return child


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_does_not_use_the_store_releases_nothing(store: SQLiteStore) -> None:
    """A forked child that ends without using the store releases none of the parent's locks."""
    assert store.lead()
    append(store, 1)
    assert os.waitpid(fork(lambda: None), 0)[1] == 0
    assert store.locks.has(LEAD)
    append(store, 2)
    assert bodies(unread(store)) == ["in_1", "in_2"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_during_checkouts_lose_nothing(make_butter: Callable[..., Butter], fake: FakeButter, path: Path) -> None:
    """A process that serves checkouts and forks continues, and so do its children. Each checkout is delivered once."""
    butter = make_butter(outbox=path)
    paid = PAID | {"invoice": {"id": "in_4"}}
    app = ButterMiddleware(sends(start(), body(json.dumps(paid).encode())), butter)
    children: list[int] = []
    for number in range(1, 4):
        butter.record(checkout(number))
        children.append(fork(partial(serve_in_child, butter, 1000 + number)))
    anyio.run(drive, app, http_scope())
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    until(lambda: butter.status().pending == 0 and butter.status().delivered >= 4, "what the parent has")
    assert butter.status().lost == 0
    assert {sent["invoice_id"] for sent in fake.records} >= {"in_1", "in_2", "in_3", "in_4"}
    assert len({sent["invoice_id"] for sent in fake.records}) == len(fake.records)
    butter.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_forks_at_once_lose_nothing(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two forking threads has the file closed for its child, which then uses it."""
    for module in ("butter_middleware.pipeline.processes", "butter_middleware.outbox.sqlite.database"):
        monkeypatch.setattr(f"{module}.FORK_SECONDS", 20.0)
    butter = make_butter(outbox=path, delivery="external")
    butter.record(checkout(0))
    assert butter.flush()
    together, ended = threading.Barrier(2), list[int]()

    def fork_some(first: int) -> None:
        for number in range(first, first + 5):
            together.wait(20)
            child = fork(partial(serve_in_child, butter, number))
            ended.append(os.waitpid(child, 0)[1])

    forkers = [threading.Thread(target=fork_some, args=(first,), daemon=True) for first in (1, 11)]
    for forker in forkers:
        forker.start()
    for forker in forkers:
        forker.join(60)
    assert ended == [0] * 10
    with existing(path) as store:
        assert store.counts().pending == 11


def serve_in_child(butter: Butter, number: int) -> None:
    butter.record(checkout(number))
    butter.flush(5.0)  # False if another process leads and is slow
    assert butter.status().lost == 0
    butter.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which files a process has open")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_during_a_transaction_does_not_use_the_file(
    make_butter: Callable[..., Butter], path: Path
) -> None:
    """A disk that hangs delays a fork only for a moment. The child then keeps its checkouts in memory."""
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    with standing_still(butter):
        children, took = forked(partial(serve_without_the_file, butter, path, times_open(path)))
        assert took < FORK_TAKES
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    butter.record(checkout(1))
    assert butter.flush()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which files a process has open")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("again", [False, True])
def test_a_child_forked_during_a_close_does_not_use_the_file(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """The file is open until the closing thread has ended, even if the next start already has a thread."""
    butter = make_butter(outbox=path, drain_timeout=0.1)
    butter.pipeline.start()
    participant = butter.pipeline.participant
    assert participant is not None
    with standing_still(butter):
        closing = threading.Thread(target=butter.close)
        closing.start()
        until(lambda: participant.thread.stopping, "the close ends the thread")
        if again:
            butter.pipeline.start()
        child = fork(lambda: serve_without_the_file(butter, path, times_open(path)))
        assert os.waitpid(child, 0)[1] == 0
    closing.join()
    for module in ("butter_middleware.pipeline.processes", "butter_middleware.outbox.sqlite.database"):
        monkeypatch.setattr(f"{module}.FORK_SECONDS", 20.0)
    assert os.waitpid(fork(partial(serve_in_child, butter, 1)), 0)[1] == 0
    butter.record(checkout(2))
    assert butter.flush()
    with existing(path) as store:
        assert store.counts().delivered == 2


@contextmanager
def standing_still(butter: Butter) -> Generator[None]:
    """Let the disk hang meanwhile."""
    over, standing = threading.Event(), threading.Event()

    def stand_still(_store: Store) -> None:
        standing.set()
        over.wait(20)

    disk = threading.Thread(target=butter.pipeline.ask, args=(stand_still, None, 20))
    disk.start()
    assert standing.wait(20)
    yield
    over.set()
    disk.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_without_the_file_drains_its_memory(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """It has no backlog on a disk. Its records are sent before it ends."""
    under_way, goes_on = threading.Event(), threading.Event()

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            under_way.set()
            await anyio.to_thread.run_sync(goes_on.wait, 20)
            return await fake.transport().handle_async_request(request)

    butter = make_butter(outbox=path, senders=1, transport=Slow())
    butter.pipeline.start()

    def end() -> None:
        butter.record(checkout(1))
        assert under_way.wait(20)
        butter.record(checkout(2))
        threading.Timer(0.5, goes_on.set).start()  # not earlier: only records sent by the drain count
        butter.pipeline.shutdown()
        assert len(fake.records) == 2

    with standing_still(butter):
        child = fork(end)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_no_other_process(make_butter: Callable[..., Butter], path: Path) -> None:
    """While another process holds the write lock, a fork in an endpoint takes only a moment."""
    butter = make_butter(outbox=path)
    butter.record(checkout(1))
    assert butter.flush()
    other = Locks(str(path))
    until(lambda: other.take(WRITE), "the lock")
    children, took = forked(lambda: None)
    assert took < FORK_TAKES
    other.close()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    butter.record(checkout(2))
    assert butter.flush()


FORK_TAKES = 0.6
"""Seconds: it waits for 50 ms, and the machine may be busy."""


def forked(run: Callable[[], object]) -> tuple[list[int], float]:
    """Run a function in two forked children. Return them, and how long the quicker fork took."""
    moments = [time.monotonic()]
    children: list[int] = []
    for _twice in range(2):
        children.append(fork(run))
        moments.append(time.monotonic())
    return children, min(later - earlier for earlier, later in pairwise(moments))


def serve_without_the_file(butter: Butter, path: Path, inherited: int) -> None:
    butter.record(checkout(2))
    assert butter.flush(20)
    assert (butter.status().delivered, butter.status().lost) == (1, 0)
    gc.collect()  # it may run at any moment: the parent's connection is in a cycle
    assert times_open(path) == inherited


def times_open(path: Path) -> int:
    """Count the open descriptors of a file."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of the listing itself
            found += descriptor.readlink() == path
    return found


def checkout(number: int) -> Checkout:
    return Checkout(
        ipv4_address="81.2.69.142", psp="stripe", customer_email="shopper@example.com", invoice_id=f"in_{number}"
    )
