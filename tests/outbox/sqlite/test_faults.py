"""A full, broken, missing or foreign file: the store tells the faults apart, and the pipeline survives them.

First what the store does by itself, then what an app sees of it.
"""

import errno
import logging
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import httpx
import pytest
from outboxes import (
    PERSONAL,
    append,
    bodies,
    capture,
    invoices,
    open_files,
    record,
    resolve,
    settle_all,
    unread,
)
from processes import until
from shops import SHOPPER, refusing_shop
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutResponse, CheckoutRoute, SQLiteOutbox
from butter_middleware.errors import ConfigurationError, OutboxBusyError, OutboxReplacedError
from butter_middleware.outbox import Parked, ParkReason, Settled, Settlement, SQLiteStore, Store
from butter_middleware.outbox.base import new_records
from butter_middleware.outbox.faults import Fault, fault_of
from butter_middleware.outbox.sqlite import database
from butter_middleware.outbox.sqlite.locks import LEAD, WRITE, Locks
from butter_middleware.pipeline import store_thread
from butter_middleware.testing import FakeButter

MIB = 1024**2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "butter.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., SQLiteStore]]:
    """Open a store on `path`. Each is closed at the end."""
    made: list[SQLiteStore] = []

    def make(*, give_up: Callable[[], bool] = lambda: False, **options: Any) -> SQLiteStore:
        store = SQLiteOutbox(path, **options).store(give_up=give_up)
        made.append(store)
        store.open()
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture(autouse=True)
def _nothing_personal_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "butter_middleware")
    yield
    lines = [logging.Formatter("%(message)s").format(record) for record in caplog.get_records("call")]
    assert [line for line in lines if any(word in line for word in PERSONAL)] == []


def criticals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


def fault(use: Callable[[], object]) -> Fault:
    """Return the kind of fault that a call raises."""
    with pytest.raises((sqlite3.Error, OSError)) as raised:
        use()
    return fault_of(raised.value)


def big(number: int) -> Any:
    """Return a capture of 50 KiB."""
    return capture(number, body=capture(number).body.ljust(50 * 1024))


def remove(path: Path) -> None:
    """Remove the file and its log, as a cleanup job does."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()


class Waits:
    """An extractor that waits until a test lets it go on."""

    def __init__(self) -> None:
        self.asked, self.goes_on = Event(), Event()

    def __call__(self, response: CheckoutResponse) -> dict[str, str]:
        self.asked.set()
        assert self.goes_on.wait(20)
        return {"customer_email": "a@example.com", "invoice_id": response.json()["invoice"]}


def fill(store: SQLiteStore) -> int:
    """Append captures until the file is full. Return how many fitted."""
    for number in range(100):
        try:
            store.append([big(number)])
        except sqlite3.OperationalError:
            return number
    raise AssertionError


# A full file.


def test_a_batch_above_the_limit_is_refused_as_a_whole(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """Nothing of it is stored. It is accepted once there is room."""
    store = opened(max_bytes=MIB)
    batch = [big(number) for number in range(12)]
    store.append(batch)
    assert fault(lambda: store.append(batch)) is Fault.FULL
    assert store.counts().captured == 12
    store.checkpoint(idle=True)
    assert path.stat().st_size <= MIB
    for stored in unread(store, 8):
        resolve(store, stored.id)
    store.append(batch[:8])
    assert store.counts().captured == 12


def test_a_full_file_accepts_settlements(opened: Callable[..., SQLiteStore]) -> None:
    """In a file full of captures, deliveries are still written down, and records are still made, which let it grow."""
    store = opened(max_bytes=MIB)
    store.add([record(number) for number in range(50)])
    fitted = fill(store)
    assert settle_all(store, Settled.DELIVERED) == 50
    first, second, third, *_rest = unread(store, 10)
    assert len(new_records(resolve(store, first.id, *(record(number) for number in range(100, 1100))).outcomes)) == 1000
    resolve(store, second.id, parked=Parked(ParkReason.NO_EMAIL, "x" * 100))
    assert store.mark_taken_over([third.id]) == []
    store.set_hold("401")
    counts = store.counts()
    assert (counts.captured, counts.pending, counts.delivered, counts.hold) == (fitted - 2, 1000, 50, "401")


def test_records_do_not_use_the_reserve(opened: Callable[..., SQLiteStore]) -> None:
    """Records made outside a request wait for room as captures do. The reserve is for writes that make room."""
    store = opened(max_bytes=MIB)
    fill(store)
    many = [record(number) for number in range(500)]
    assert fault(lambda: store.add(many)) is Fault.FULL
    for stored in unread(store):
        resolve(store, stored.id)
    assert len(new_records(store.add(many))) == 500


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Give the folder its own disk of one MiB. Return a function that remounts it with other options."""

    def mount(options: str, kind: str = "remount") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if kind == "remount":
            command = ["mount", "-o", f"remount,{options}", str(folder)]
        return not subprocess.run(command, check=False, capture_output=True).returncode

    if os.geteuid() or not mount("size=1m", "new"):
        pytest.skip("mounting a disk needs privileges")
    yield lambda options: None if mount(options) else pytest.fail(f"remount {options}")
    subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607 - as `mount`, found or skipped


def test_a_full_disk_is_reported_and_recovers(
    opened: Callable[..., SQLiteStore], small_disk: Callable[[str], None]
) -> None:
    """On a full disk nothing is half written, and the same call succeeds once there is room."""
    store = opened()
    batch = [big(number) for number in range(40)]
    assert fault(lambda: store.append(batch)) in {Fault.FULL, Fault.UNUSABLE}
    small_disk("size=20m")
    store.append(batch)
    assert bodies(unread(store)) == [f"in_{number}" for number in range(40)]


def test_a_log_that_a_full_disk_keeps_from_being_moved_is_not_a_fault(
    opened: Callable[..., SQLiteStore], path: Path, small_disk: Callable[[str], None]
) -> None:
    """Its content is safe, and it is moved when the file can grow."""
    small_disk("size=20m")
    store = opened()
    for number in range(database.IDLE_WRITES):
        store.append([big(number)])
    filler = path.with_name("filler")
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"x" * 20 * MIB)
    before = path.stat().st_size
    store.checkpoint(idle=True)
    assert store.counts().captured == database.IDLE_WRITES
    filler.unlink()
    store.checkpoint(idle=True)
    assert path.stat().st_size > before + MIB


def test_a_read_only_disk_is_reported_and_recovers(
    opened: Callable[..., SQLiteStore], small_disk: Callable[[str], None]
) -> None:
    """A disk error may mount it read-only. Writes fail until it is writable again."""
    small_disk("size=20m")
    store = opened()
    append(store, 1)
    store.close()
    small_disk("ro")
    assert fault(lambda: append(store, 2)) is Fault.UNUSABLE
    small_disk("rw")
    append(store, 2)
    assert bodies(unread(store)) == ["in_1", "in_2"]


def test_a_file_that_cannot_grow_is_reported_and_recovers(opened: Callable[..., SQLiteStore]) -> None:
    """A write error during a transaction rolls it back. Later each capture is there once."""
    store = opened()
    append(store, 0)
    batch = [big(number) for number in range(1, 21)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 1024, before[1]))
    try:
        assert fault(lambda: store.append(batch)) in {Fault.UNUSABLE, Fault.FULL}
        assert store.counts().captured == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store.append(batch)
    assert bodies(unread(store)) == [f"in_{number}" for number in range(21)]


# A missing file.


def test_a_missing_folder_is_reported_and_recovers(opened: Callable[..., SQLiteStore], folder: Path) -> None:
    """While the volume is away each call fails. When it is back, its content is used again."""
    store = opened()
    append(store, 0)
    away = folder.rename(folder.with_name("away"))
    for use in (lambda: append(store, 1), store.counts, lambda: store.due(1)):
        assert fault(use) is Fault.UNUSABLE
    away.rename(folder)
    append(store, 1)
    assert bodies(unread(store)) == ["in_0", "in_1"]


def test_a_folder_that_is_mounted_late_is_reported(path: Path, folder: Path) -> None:
    """A store that is opened before its volume is there fails, and opens later."""
    folder.rmdir()
    store = SQLiteOutbox(path).store()
    assert fault(store.open) is Fault.UNUSABLE
    folder.mkdir()
    store.open()
    append(store, 1)
    store.close()


@pytest.mark.parametrize("removed", [[""], ["-wal"], ["", "-wal", "-shm"]])
def test_a_removed_file_is_noticed_before_the_next_commit(
    opened: Callable[..., SQLiteStore], path: Path, caplog: pytest.LogCaptureFixture, removed: list[str]
) -> None:
    """Nothing is written to a removed file or log. This is logged once, and the store continues."""
    store = opened()
    append(store, 1)
    for suffix in removed:
        Path(f"{path}{suffix}").unlink()
    with pytest.raises(OutboxReplacedError):
        append(store, 2)
    assert list(unread(store)) == []
    numbers = append(store, 1, 2)
    assert bodies(store.load(numbers)) == ["in_1", "in_2"]
    assert [line for line in criticals(caplog) if "removed or replaced" in line] == criticals(caplog)
    assert len(criticals(caplog)) == 1
    store.close()
    assert opened().counts().captured == 2


def test_each_replacement_is_logged(
    opened: Callable[..., SQLiteStore], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system may give the new file the inode of an earlier one."""
    store = opened()
    for number in range(4):
        path.unlink()
        with pytest.raises(OutboxReplacedError):
            append(store, number)
        append(store, number)
    assert len([line for line in criticals(caplog) if "removed or replaced" in line]) == 4


def backed_up(opened: Callable[..., SQLiteStore], path: Path) -> tuple[SQLiteStore, Path]:
    """Return a store in use, and a backup of its file from before its second record."""
    store = opened()
    store.add([record(1)])
    store.close()
    backup = path.with_name("backup.db")
    backup.write_bytes(path.read_bytes())
    again = opened()
    again.add([record(2)])
    return again, backup


def test_a_restored_file_is_used(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """The store continues with a backup that replaces the file."""
    again, backup = backed_up(opened, path)
    backup.replace(path)
    with pytest.raises(OutboxReplacedError):
        append(again, 3)
    append(again, 3)
    assert bodies(unread(again)) == ["in_3"]
    assert invoices(again.due(10)) == ["in_1"]


def test_a_restored_file_is_used_while_another_program_has_the_old_one(
    opened: Callable[..., SQLiteStore], path: Path
) -> None:
    """That may be an sqlite3 shell. Its knowledge of the old log must not be used."""
    again, backup = backed_up(opened, path)
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
        "print(*db.execute('SELECT count(*) FROM records').fetchone(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "2\n"
        backup.replace(path)
        with pytest.raises(OutboxReplacedError):
            append(again, 3)
        append(again, 3)
        assert bodies(unread(again)) == ["in_3"]
        assert invoices(again.due(10)) == ["in_1"]
    again.close()
    assert opened().counts().captured == 1


def test_a_removed_lock_is_created_again(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """A cleanup job may remove the lock file. It is created before the next write, and the lead is taken again."""
    store = opened()
    assert store.lead()
    lock = path.with_name("butter.db.lock")
    lock.unlink()
    append(store, 1)
    assert lock.exists()
    assert not store.locks.has(LEAD)
    assert store.lead()


# A broken file.


def wreck(file: Path, start: int) -> None:
    """Write garbage over a file, from an offset on."""
    with file.open("r+b") as opened_file:
        opened_file.seek(start)
        opened_file.write(b"\xa5" * (file.stat().st_size - start))


def aside(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if ".corrupt-" in entry.name)


@pytest.mark.parametrize("start", [0, 120], ids=["no database any more", "a header and garbage"])
def test_a_file_found_broken_is_set_aside(
    opened: Callable[..., SQLiteStore], path: Path, folder: Path, caplog: pytest.LogCaptureFixture, start: int
) -> None:
    """It is kept under a new name and replaced by a new file. The log says so once."""
    store = opened()
    store.add([record(1)])
    store.close()
    wreck(path, start)
    broken = path.read_bytes()
    SQLiteOutbox(path).validate()
    again = opened()
    again.add([record(2)])
    assert invoices(again.due(10)) == ["in_2"]
    again.close()
    (name,) = aside(folder)
    assert re.fullmatch(r"butter\.db\.corrupt-\d{8}T\d{6}Z", name)
    assert (folder / name).read_bytes() == broken
    assert len(criticals(caplog)) == 1
    assert "set aside" in criticals(caplog)[0]
    assert again.alerts.raised == ["broken"]


def test_a_file_that_breaks_while_open_is_set_aside(
    opened: Callable[..., SQLiteStore], path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The call that finds it fails. The next one creates a new file and logs it. IDs of the old file have no effect."""
    store = opened()
    assert store.lead()
    store.add([record(1)])
    (pending,) = store.due(1)
    numbers = store.append([big(number) for number in range(80)])  # more than SQLite keeps in memory
    wreck(path, 100)
    wreck(path.with_name("butter.db-wal"), 32)
    assert fault(lambda: [unread(store), append(store, 1000)]) is Fault.CORRUPT
    with pytest.raises(OutboxReplacedError):
        append(store, 1000)
    assert [name for name in aside(folder) if not name.endswith(("-wal", "-shm"))] == [aside(folder)[0]]
    assert not resolve(store, numbers[0], record(5)).there
    store.settle([Settlement(pending.id, Settled.DELIVERED)])
    assert store.lead()
    append(store, 1001)
    assert bodies(unread(store)) == ["in_1001"]
    assert (store.counts().pending, store.counts().delivered) == (0, 0)
    assert len([line for line in criticals(caplog) if "set aside" in line]) == len(criticals(caplog)) == 1


def test_files_set_aside_in_one_second_have_different_names(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """All of them are kept."""
    for _ in range(3):
        store = opened()
        store.add([record(1)])
        store.close()
        wreck(path, 0)
    opened()
    assert len(aside(path.parent)) == 3


def test_ids_have_no_effect_in_the_next_file(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """A settlement for a record of the broken file must not settle a record of the next one."""
    numbers: list[int] = []
    for number in range(2):
        store = opened()
        numbers += [pending.id for pending in new_records(store.add([record(number)]))]
        store.close()
        wreck(path, 0)
    assert abs(numbers[0] - numbers[1]) > 1000


# A foreign file.


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.commit()
    connection.close()


def make_newer(path: Path) -> None:
    store = SQLiteOutbox(path).store()
    store.open()
    store.add([record(1)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()


@pytest.mark.parametrize(
    ("make", "said"), [(make_foreign, "another program's database"), (make_newer, "newer version .*schema 1000")]
)
def test_a_foreign_file_is_refused(path: Path, make: Callable[[Path], None], said: str) -> None:
    """Another program's database, or a newer version's, stops the start. It is never written to."""
    make(path)
    before = path.read_bytes()
    outbox = SQLiteOutbox(path)
    with pytest.raises(ConfigurationError, match=said):
        outbox.validate()
    store = outbox.store()
    for use in (store.open, lambda: append(store, 1), store.counts):
        with pytest.raises(ConfigurationError, match=said):
            use()
    store.close()
    assert path.read_bytes() == before


# A lock that another process does not release.


def test_a_wait_for_the_lock_ends_when_the_process_stops(
    opened: Callable[..., SQLiteStore], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop ends the wait after a second. Nothing was written, and the same call may be repeated."""
    monkeypatch.setattr(database, "GIVE_UP_SECONDS", 0.1)
    stopping: list[bool] = []
    store = opened(give_up=lambda: bool(stopping))
    other = Locks(str(path))
    assert other.take(WRITE)
    assert store.counts().captured == 0  # a read needs no lock
    stopping.append(True)
    with pytest.raises(OutboxBusyError, match=r"has held its write lock for \d+ seconds\. Is it stopped"):
        append(store, 1)
    assert not store.disconnect()
    other.close()
    append(store, 1)
    assert store.disconnect()


def test_a_close_waits_for_the_lock_only_for_its_timeout(
    opened: Callable[..., SQLiteStore], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the write lock. The store is closed all the same, and releases its own locks."""
    monkeypatch.setattr(database, "GIVE_UP_SECONDS", 0.1)
    store = opened()
    assert store.lead()
    other = Locks(str(path))
    assert other.take(WRITE)
    store.close()
    until(lambda: open_files() == 0, "the end of what other tests opened")
    assert other.take(LEAD)
    other.close()


# What an app sees.


def checkout(number: int) -> Checkout:
    return Checkout(
        ipv4_address="81.2.69.142", psp="stripe", customer_email="shopper@example.com", invoice_id=f"in_{number}"
    )


def sent(fake: FakeButter) -> list[str]:
    return sorted(record["invoice_id"] for record in fake.records)


def recovered(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    return lambda: "works again" in caplog.text


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_loses_nothing(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    small_disk: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk, even a DELETE fails. Everything waits, and continues once there is room."""
    butter = make_butter(outbox=path)
    butter.record(checkout(0))
    assert butter.flush()  # its answer is written too, before the filler takes the room
    assert sent(fake) == ["in_0"]
    filler = path.with_name("filler")
    filler.write_bytes(b"x" * (MIB - sum(entry.stat().st_blocks for entry in path.parent.iterdir()) * 512))
    for number in range(1, 400):
        butter.record(checkout(number))
    until(lambda: bool(criticals(caplog)), "the alarm")
    small_disk("size=20m")
    until(lambda: len(sent(fake)) == 400, "all of them")
    until(recovered(caplog), "the all-clear")
    assert len(criticals(caplog)) == 1
    assert butter.status().lost == 0


@pytest.mark.parametrize(("look_seconds", "alarms"), [(3600.0, 1), (0.0, 0)])
def test_a_disk_filled_by_the_log_loses_nothing(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    small_disk: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    look_seconds: float,
    alarms: int,
) -> None:
    """On a small disk the log is reused. If its size is checked, it leaves room for the file, so nothing is deleted.

    Otherwise the file may be unable to grow. What comes then waits until there is room.
    """
    monkeypatch.setattr(store_thread, "LOG_SECONDS", look_seconds)
    small_disk("size=2m")
    butter = make_butter(outbox=path)
    for number in range(100):
        butter.record(checkout(number))
        butter.flush(0.01)
    if alarms:
        small_disk("size=4m")
    until(lambda: len(sent(fake)) == 100, "all of them")
    until(lambda: butter.status().delivered == 100, "their answers are written")
    assert path.with_name("butter.db-wal").stat().st_size > MIB // 2
    assert min(len(criticals(caplog)), 1) == alarms
    assert butter.status().lost == 0


def test_a_read_only_disk_loses_nothing(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    small_disk: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A disk error may remount it read-only. Captures wait, and are delivered once it is writable."""
    small_disk("size=20m")
    butter = make_butter(outbox=path)
    butter.record(checkout(1))
    until(lambda: sent(fake) == ["in_1"], "the first")
    butter.close()
    again = make_butter(outbox=path)
    small_disk("ro")
    again.record(checkout(2))
    until(lambda: bool(criticals(caplog)), "the alarm")
    assert sent(fake) == ["in_1"]
    small_disk("rw")
    until(lambda: sent(fake) == ["in_1", "in_2"], "the second")
    assert len(criticals(caplog)) == 1
    assert again.status().lost == 0


@pytest.mark.parametrize("earlier", [[], ["content is broken"]])
def test_a_disk_that_stalls_is_logged(
    make_butter: Callable[..., Butter],
    opened: Callable[..., SQLiteStore],
    fake: FakeButter,
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    earlier: list[str],
) -> None:
    """A write that does not end blocks the store's thread. The thread that adds the next capture logs it once.

    An earlier fault that is still reported, such as a broken file, does not hide it.
    """
    assert store_thread.STALL_SECONDS == 5.0
    if earlier:
        opened().close()
        wreck(path, 120)
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    assert butter.flush()
    entered, ends = Event(), Event()
    add = SQLiteStore.add

    def stall(store: SQLiteStore, records: Any) -> Any:
        entered.set()
        assert ends.wait(20)
        return add(store, records)

    monkeypatch.setattr(SQLiteStore, "add", stall)
    butter.record(checkout(0))
    assert entered.wait(20)
    butter.record(checkout(1))
    assert len(criticals(caplog)) == len(earlier)
    monkeypatch.setattr(store_thread, "STALL_SECONDS", 0.0)
    for number in range(2, 5):
        butter.record(checkout(number))
    until(lambda: len(criticals(caplog)) > len(earlier), "the alarm")
    monkeypatch.setattr(store_thread, "STALL_SECONDS", 5.0)
    ends.set()
    until(lambda: len(sent(fake)) == 5, "all of them")
    until(recovered(caplog), "the all-clear")
    for line, text in zip(criticals(caplog), [*earlier, "more than 5 seconds"], strict=True):
        assert text in line
    assert butter.status().lost == 0


def test_a_volume_that_is_away_loses_nothing(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While it is away, checkouts wait in memory, and this is logged once. When it is back, all are delivered."""
    butter = make_butter(outbox=path)
    butter.record(checkout(0))
    until(lambda: sent(fake) == ["in_0"], "the first")
    away = folder.rename(folder.with_name("away"))
    for number in range(1, 6):
        butter.record(checkout(number))
    until(lambda: bool(criticals(caplog)), "the alarm")
    away.rename(folder)
    until(lambda: len(sent(fake)) == 6, "all of them")
    until(recovered(caplog), "the all-clear")
    assert len(criticals(caplog)) == 1
    assert "cannot be used (ENOENT)" in criticals(caplog)[0]
    assert butter.status().lost == 0


def test_captures_in_memory_are_written_to_the_next_file(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """If the file is removed while the app runs, captures that were not yet written reach Butter."""
    butter = make_butter(outbox=path)
    butter.record(checkout(1))
    until(lambda: sent(fake) == ["in_1"], "the first")
    remove(path)
    butter.record(checkout(2))
    until(lambda: sent(fake) == ["in_1", "in_2"], "both")


@pytest.mark.parametrize("by", ["a question", "the log of a full disk"])
def test_captures_in_memory_survive_their_file_whatever_notices_it(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The file is removed while captures are being read, and what notices it first is not a write."""
    extract, removed = Waits(), Event()

    def remove_and_ask(store: Store) -> None:
        remove(path)
        removed.set()
        store.counts()

    lead, checkpoint = SQLiteStore.lead, SQLiteStore.checkpoint

    def fail(_store: SQLiteStore) -> bool:
        monkeypatch.setattr(SQLiteStore, "lead", lead)
        monkeypatch.setattr(SQLiteStore, "checkpoint", notice)
        raise OSError(errno.ENOSPC, "")

    def notice(store: SQLiteStore, *, idle: bool) -> None:
        monkeypatch.setattr(SQLiteStore, "checkpoint", checkpoint)
        remove(path)
        removed.set()
        store._writes = database.IDLE_WRITES
        checkpoint(store, idle=idle)

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=path)
    shop = TestClient(ButterMiddleware(refusing_shop, butter))
    for name in ("0", "1"):
        shop.post(f"/checkout/{name}", headers={"x-forwarded-for": SHOPPER})
    until(lambda: butter.status().captured == 2, "both are in the file")
    assert extract.asked.wait(20)
    if by == "a question":
        butter.pipeline.ask(remove_and_ask, None, 20)
        assert removed.is_set()
    else:
        monkeypatch.setattr(SQLiteStore, "lead", fail)
        assert removed.wait(20)
    extract.goes_on.set()
    until(lambda: sent(fake) == ["in_0", "in_1"], "both")


def test_captures_in_memory_survive_their_file_if_one_record_of_several_notices_it(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of two records fails, so they are written one by one. The file is removed before the second."""
    extract, removed = Waits(), Event()

    add, adds = SQLiteStore.add, count()

    def add_or_fail(store: SQLiteStore, records: Any) -> Any:
        number = next(adds)
        if number == 0:
            raise ValueError
        if number == 2:
            remove(path)
            removed.set()
        return add(store, records)

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=path)
    TestClient(ButterMiddleware(refusing_shop, butter)).post("/checkout/0", headers={"x-forwarded-for": SHOPPER})
    assert extract.asked.wait(20)
    monkeypatch.setattr(SQLiteStore, "add", add_or_fail)
    butter.pipeline.ask(lambda _store: [butter.record(checkout(number)) for number in (1, 2)], None, 20)
    assert removed.wait(20)
    extract.goes_on.set()
    until(lambda: sent(fake) == ["in_0", "in_1", "in_2"], "all of them")
    assert butter.status().lost == 0


def test_what_was_read_survives_its_file_if_one_capture_of_several_notices_it(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same turn a result waits to be written. The next file gets its capture first, with another number."""
    goes_on, read, continues = Event(), Event(), Event()

    def extract(response: CheckoutResponse) -> dict[str, str]:
        invoice = response.json()["invoice"]
        if invoice == "in_1":
            read.set()  # so the result of in_0 waits
        assert goes_on.wait(20)
        return {"customer_email": "a@example.com", "invoice_id": invoice}

    append, appends = SQLiteStore.append, count()

    def append_or_fail(store: SQLiteStore, captures: Any, **options: Any) -> Any:
        number = next(appends)
        if number == 0:
            raise ValueError
        if number == 2:
            remove(path)
        return append(store, captures, **options)

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=path)
    shop = TestClient(ButterMiddleware(refusing_shop, butter))

    def post(*names: int) -> None:
        for name in names:
            shop.post(f"/checkout/{name}", headers={"x-forwarded-for": SHOPPER})

    post(0, 1)
    until(lambda: butter.status().captured == 2, "both are in the file")
    waiting = butter.pipeline.request(lambda _store: continues.wait(20))
    goes_on.set()
    assert read.wait(20)
    post(2, 3)
    monkeypatch.setattr(SQLiteStore, "append", append_or_fail)
    butter.flush(0)  # results are written at once
    continues.set()
    assert waiting.result(20)
    until(lambda: sent(fake) == ["in_0", "in_1", "in_2", "in_3"], "all of them")
    assert butter.status().lost == 0


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        (b"CREATE TABLE tokens", b"CREATE T\xff\xfeLE tokens"),  # SQLite quotes it in its error
        (b"shopper@example.com", b"shopp\xffr@example.com"),  # only Python checks it
    ],
    ids=["the schema", "a record"],
)
def test_a_file_with_invalid_text_is_set_aside(
    opened: Callable[..., SQLiteStore],
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    text: bytes,
    garbled: bytes,
) -> None:
    """The fault does not end by itself. Later checkouts reach Butter through a new file."""
    store = opened()
    store.add([record(1)])
    store.close()
    content = path.read_bytes()
    assert text in content
    path.write_bytes(content.replace(text, garbled))
    butter = make_butter(outbox=path)
    butter.record(checkout(2))
    until(lambda: sent(fake) == ["in_2"], "what came after it")
    assert len([name for name in aside(path.parent) if not name.endswith(("-wal", "-shm"))]) == 1


def test_records_in_flight_survive_their_file_and_a_fault_of_the_next(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records that the sender has loaded are added to the next file, even if its disk fails at first."""
    answers, faults = Event(), [OSError(errno.EIO, "")]

    class Slow(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await anyio.to_thread.run_sync(answers.wait)
            return await fake.transport().handle_async_request(request)

    def fail_once(self: SQLiteStore, records: Any) -> Any:
        if faults and len(records) > 1:  # those from memory
            raise faults.pop()
        return add(self, records)

    butter = make_butter(outbox=path, senders=1, transport=Slow())
    for number in range(5):
        butter.record(checkout(number))
    until(lambda: butter.status().pending == 5, "all are taken ahead")
    add: Callable[..., Any] = SQLiteStore.add
    monkeypatch.setattr(SQLiteStore, "add", fail_once)
    remove(path)
    butter.record(checkout(5))
    until(lambda: not faults, "the fault")
    answers.set()
    until(lambda: sorted(set(sent(fake))) == [f"in_{number}" for number in range(6)], "all")


def test_a_refused_record_is_counted_as_lost(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record that neither the file nor the memory can take is counted in the status, and logged once."""
    most = 1_000
    monkeypatch.setattr(store_thread, "MOST_WAITING", most)  # a tenth
    fake.respond_with(*[503] * 100)
    butter = make_butter(outbox=path, drain_timeout=0.2)
    butter.record(checkout(1))
    until(lambda: butter.status().pending == 1, "the record")
    away = folder.rename(folder.with_name("away"))
    butter.record(checkout(1))
    until(lambda: bool(criticals(caplog)), "the alarm")  # the failed batch is back in its queue, and takes up room
    for _ in range(most + 19):
        butter.record(checkout(1))
    away.rename(folder)

    def known() -> int:
        status = butter.status()
        return status.lost + status.skipped.get("duplicate", 0)

    until(lambda: known() == most + 20, "the memory is written")
    assert 20 <= butter.status().lost <= 40
    assert len([line for line in criticals(caplog) if "a record is lost" in line]) == 1


def test_the_bytes_in_memory_are_limited(
    make_butter: Callable[..., Butter],
    path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the file is away, long annotations count by their bytes. Records above the limit are counted as lost."""
    assert store_thread.MOST_BYTES == 128 * MIB
    monkeypatch.setattr(store_thread, "MOST_BYTES", 16 * MIB)
    butter = make_butter(outbox=path)
    butter.record(checkout(1))
    assert butter.flush()
    folder.rename(folder.with_name("away"))
    long = checkout(2).model_copy(update={"invoice_id": "x" * MIB})
    for _ in range(28):
        butter.record(long)
    until(lambda: butter.status().lost >= 1, "some do not fit")
    assert 12 <= butter.status().lost <= 20
    assert len([line for line in criticals(caplog) if "a record is lost" in line]) == 1


def test_butter_stops_during_a_fault(
    make_butter: Callable[..., Butter], path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The volume is gone: status, flush and close neither raise nor hang, and the file is closed."""
    butter = make_butter(outbox=path, drain_timeout=0.2)
    assert butter.status().pending == 0  # not even started
    butter.record(checkout(1))
    assert butter.flush()
    folder.rename(folder.with_name("away"))
    assert not butter.flush(0.1)
    assert butter.status().delivered == 1
    begun = time.monotonic()
    butter.close()
    assert time.monotonic() - begun < 4
    assert butter.status().delivered == 1
    until(lambda: open_files() == 0, "the file is closed")
    assert len([line for line in criticals(caplog) if "cannot be used (ENOENT)" in line]) == 1
