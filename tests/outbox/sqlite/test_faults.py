"""A full, broken, missing or foreign file: nothing is lost that memory can hold, and a person is told once."""

import logging
import os
import re
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from butter_middleware.outbox.sqlite.queue import MAX_WAITING
from outboxes import PERSONAL, bodies, capture, committers, invoices, record, result, settle_all
from processes import until

from butter_middleware import Butter, Checkout, SQLiteOutbox
from butter_middleware.errors import ConfigurationError, OutboxClosedError, OutboxFullError
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Parked, Settled, Settlement
from butter_middleware.testing import FakeButter

MIB = 1024**2
CHECKOUT = Checkout(ipv4_address="81.2.69.142", psp="stripe", customer_email="shopper@example.com", invoice_id="in_1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "butter.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., SQLiteOutbox]]:
    """Open an outbox on `path`; each is closed at the end."""
    made: list[SQLiteOutbox] = []

    def make(**options: Any) -> SQLiteOutbox:
        outbox = SQLiteOutbox(path, **options)
        outbox.open()
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.close(1.0)


@pytest.fixture(autouse=True)
def _nothing_personal_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "butter_middleware")
    yield
    lines = [logging.Formatter("%(message)s").format(record) for record in caplog.get_records("call")]
    assert [line for line in lines if any(word in line for word in PERSONAL)] == []


def criticals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


def mended(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    return lambda: "works again" in caplog.text


def pending(futures: "list[Future[None]]") -> int:
    return sum(not future.done() for future in futures)


def big(number: int) -> Any:
    """Return a capture of 50 KiB."""
    return capture(number, body=capture(number).body.ljust(50 * 1024))


def quiet(outbox: SQLiteOutbox) -> None:
    """Wait until the committer has nothing more to do but wait."""
    assert outbox._link is not None
    writer = outbox._link.committer._writer
    until(lambda: writer.starves and writer.feed_at > time.monotonic(), "the file is full")


# A file that is full.


def test_beyond_its_bound_captures_wait_and_arrive(
    opened: Callable[..., SQLiteOutbox], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a full file, what comes waits in memory, in its order, and moves in as reading makes room; said once."""
    outbox = opened(max_bytes=MIB)
    futures = [outbox.append(big(number)) for number in range(60)]
    quiet(outbox)
    until(lambda: 5 < pending(futures) < 55, "some are in the file, and it is said")
    assert path.stat().st_size <= MIB
    arrived: list[str] = []

    def read_some() -> bool:
        for stored in result(outbox.captures(4)):
            arrived.extend(bodies([stored]))
            result(outbox.resolve(stored.id, []))
        return len(arrived) == 60

    until(read_some, "sixty captures")
    assert arrived == [f"in_{number}" for number in range(60)]
    assert pending(futures) == 0
    until(mended(caplog), "the all-clear")
    assert len(criticals(caplog)) == 1
    assert "it is full" in criticals(caplog)[0]
    assert path.stat().st_size <= MIB


def test_a_full_file_still_takes_settlements(opened: Callable[..., SQLiteOutbox]) -> None:
    """A file full of captures does not stop a delivery from being written down, nor a record from being made."""
    outbox = opened(max_bytes=MIB)
    assert outbox.lead()
    result(outbox.add([record(number) for number in range(50)]))
    futures = [outbox.append(big(number)) for number in range(100)]
    quiet(outbox)
    assert settle_all(outbox, Settled.DELIVERED) == 50
    assert result(outbox.counts()).delivered == 50
    stored, other, *_rest = [*result(outbox.captures(10))]
    assert result(outbox.resolve(stored.id, [record(number) for number in range(100, 200)])) == 0
    result(outbox.resolve(other.id, Parked(ParkReason.NO_EMAIL, "x" * 100)))
    result(outbox.set_hold("401"))
    assert result(outbox.hold()) == "401"
    assert result(outbox.counts()).pending == 100
    assert pending(futures) > 0


def test_records_wait_for_room_too(opened: Callable[..., SQLiteOutbox]) -> None:
    """Records that were added to a full file arrive after captures made room."""
    outbox = opened(max_bytes=MIB)
    futures = [outbox.append(big(number)) for number in range(19)]
    quiet(outbox)
    added = outbox.add([record(number) for number in range(500)])
    assert outbox.lead()
    for _ in range(2):
        for stored in result(outbox.captures(100)):
            result(outbox.resolve(stored.id, []))
        until(lambda: pending(futures) == 0, "the captures")
    assert result(added) == 0
    assert len(result(outbox.claim(1000))) == 500


def test_closed_while_full_what_waited_is_told(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """What finds no room until the end fails with its reason; what is in the file stays."""
    outbox = opened(max_bytes=MIB)
    futures = [outbox.append(big(number)) for number in range(60)]
    quiet(outbox)
    outbox.close(0.2)
    ends = [type(future.exception(20)) for future in futures]
    kept = ends.count(type(None))
    assert ends == [type(None)] * kept + [OutboxClosedError] * (60 - kept)
    again = SQLiteOutbox(path)
    again.open()
    assert result(again.counts()).captured == kept
    again.close()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Give the folder a disk of its own of one MiB; the function that it gives remounts it with other options."""

    def mount(options: str, kind: str = "remount") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if kind == "remount":
            command = ["mount", "-o", f"remount,{options}", str(folder)]
        return not subprocess.run(command, check=False, capture_output=True).returncode

    if os.geteuid() or not mount("size=1m", "new"):
        pytest.skip("mounting a disk needs privileges")
    yield lambda options: None if mount(options) else pytest.fail(f"remount {options}")
    subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607 - as `mount`, found or skipped


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_outlived(
    opened: Callable[..., SQLiteOutbox], small_disk: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """On a disk that is full, where not even a DELETE works, everything waits, and goes on when there is room."""
    outbox = opened()
    futures = [outbox.append(big(number)) for number in range(40)]
    until(lambda: bool(criticals(caplog)), "the alarm")
    assert pending(futures) > 0
    small_disk("size=20m")
    for future in futures:
        result(future)
    until(mended(caplog), "the all-clear")
    assert len(criticals(caplog)) == 1
    assert bodies(result(outbox.captures(100))) == [f"in_{number}" for number in range(40)]


def test_a_disk_gone_read_only_is_outlived(
    opened: Callable[..., SQLiteOutbox], small_disk: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """On a disk that is remounted read-only after an error captures wait; what is read meanwhile waits or answers."""
    small_disk("size=20m")
    outbox = opened()
    result(outbox.append(capture(1)))
    outbox.close()
    small_disk("ro")
    again = opened()
    future = again.append(capture(2))
    until(lambda: bool(criticals(caplog)), "the alarm")
    assert not future.done()
    small_disk("rw")
    result(future)
    result(again.adopt())
    assert sorted(bodies(result(again.captures(10)))) == ["in_1", "in_2"]
    assert len(criticals(caplog)) == 1


def test_a_file_that_cannot_grow_is_outlived(
    opened: Callable[..., SQLiteOutbox], caplog: pytest.LogCaptureFixture
) -> None:
    """A write error in the midst of a transaction rolls it back; each capture is there once, when it works again."""
    outbox = opened()
    result(outbox.append(capture(0)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 1024, before[1]))
    try:
        futures = [outbox.append(big(number)) for number in range(1, 21)]
        until(lambda: bool(criticals(caplog)), "the alarm")
        assert pending(futures) > 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for future in futures:
        result(future)
    assert bodies(result(outbox.captures(100))) == [f"in_{number}" for number in range(21)]
    assert len(criticals(caplog)) == 1


# A file that is gone.


def test_a_folder_that_is_away_is_waited_for(
    opened: Callable[..., SQLiteOutbox], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the volume is gone captures wait in memory; when it is back they join what lies there."""
    outbox = opened()
    result(outbox.append(capture(0)))
    away = folder.rename(folder.with_name("away"))
    futures = [outbox.append(capture(number)) for number in range(1, 6)]
    until(lambda: bool(criticals(caplog)), "the alarm")
    assert pending(futures) == 5
    away.rename(folder)
    for future in futures:
        result(future)
    result(outbox.adopt())
    assert sorted(bodies(result(outbox.captures(100)))) == [f"in_{number}" for number in range(6)]
    until(mended(caplog), "the all-clear")
    assert criticals(caplog) == [
        f"outbox {folder}/butter.db: cannot be used (ENOENT). Trying again; what comes waits",
    ]


def test_a_folder_that_comes_late_is_waited_for(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """An outbox that is opened before its volume is there keeps what comes."""
    folder.rmdir()
    outbox = opened()
    future = outbox.append(capture(1))
    folder.mkdir()
    result(future)
    assert bodies(result(outbox.captures(1))) == ["in_1"]


def test_a_removed_file_is_begun_anew(
    opened: Callable[..., SQLiteOutbox], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that somebody removed is neither read nor written any more: its successor at the path is."""
    outbox = opened()
    result(outbox.append(capture(1)))
    path.unlink()
    assert result(outbox.counts()).captured == 0
    result(outbox.append(capture(2)))
    assert bodies(result(outbox.captures(10))) == ["in_2"]
    assert path.exists()
    assert [line for line in criticals(caplog) if "removed or replaced" in line] == criticals(caplog)
    outbox.close()
    assert result(opened().counts()).captured == 1


def test_a_restored_file_is_taken_up(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """A backup that is put in the place of the file is gone on with."""
    outbox = opened()
    result(outbox.add([record(1)]))
    outbox.close()
    backup = path.with_name("backup.db")
    backup.write_bytes(path.read_bytes())
    again = opened()
    result(again.add([record(2)]))
    backup.replace(path)
    result(again.append(capture(3)))
    assert bodies(result(again.captures(10))) == ["in_3"]
    assert again.lead()
    assert "in_1" in invoices(result(again.claim(10)))


def test_a_removed_lock_is_made_anew(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """A lock file that a cleaner removed is replaced, and the captures of its time are neither lost nor given twice."""
    outbox = opened()
    assert outbox.lead()
    for number in range(4):
        result(outbox.append(capture(number)))
    assert bodies(result(outbox.captures(2))) == ["in_0", "in_1"]
    lock = path.with_name("butter.db.lock")
    lock.unlink()

    def noticed() -> bool:
        result(outbox.set_hold(None))
        return lock.exists()

    until(noticed, "a new lock file")
    result(outbox.append(capture(4)))
    result(outbox.adopt())
    assert sorted(bodies(result(outbox.captures(10)))) == ["in_2", "in_3", "in_4"]
    result(outbox.add([record(1)]))
    assert invoices(result(outbox.claim(10))) == ["in_1"]


def test_a_capture_without_a_pile_is_adopted(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """A capture that went to the place of a process which others thought dead is found by the next look."""
    outbox = opened()
    result(outbox.append(capture(1)))
    outbox.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM piles")
    connection.commit()
    connection.close()
    again = opened()
    assert result(again.adopt()) == 1
    assert bodies(result(again.captures(10))) == ["in_1"]


# A file that is broken.


def wreck(file: Path, start: int) -> None:
    """Write garbage over a file, from a byte on."""
    with file.open("r+b") as opened_file:
        opened_file.seek(start)
        opened_file.write(b"\xa5" * (file.stat().st_size - start))


def aside(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if ".corrupt-" in entry.name)


@pytest.mark.parametrize("start", [0, 120], ids=["no database any more", "a header and garbage"])
def test_a_file_found_broken_is_set_aside(
    opened: Callable[..., SQLiteOutbox], path: Path, folder: Path, caplog: pytest.LogCaptureFixture, start: int
) -> None:
    """A file broken at the start is kept under a new name, a new one is begun, and the log says so once."""
    outbox = opened()
    result(outbox.add([record(1)]))
    outbox.close()
    wreck(path, start)
    broken = path.read_bytes()
    again = SQLiteOutbox(path)
    again.validate()
    again.open()
    assert result(again.add([record(2)])) == 0
    assert again.lead()
    assert invoices(result(again.claim(10))) == ["in_2"]
    again.close()
    (name,) = aside(folder)
    assert re.fullmatch(r"butter\.db\.corrupt-\d{8}T\d{6}Z", name)
    assert (folder / name).read_bytes() == broken
    assert len(criticals(caplog)) == 1
    assert "set aside" in criticals(caplog)[0]


def test_a_file_that_breaks_while_open_is_set_aside(
    opened: Callable[..., SQLiteOutbox], path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes after the break is in the new file; what was claimed from the old one can still be settled."""
    outbox = opened()
    assert outbox.lead()
    result(outbox.add([record(1)]))
    claimed = result(outbox.claim(1))
    for number in range(80):  # more than SQLite keeps in memory
        result(outbox.append(big(number)))
    given = result(outbox.captures(1))
    wreck(path, 100)
    wreck(path.with_name("butter.db-wal"), 32)

    def broken() -> bool:
        result(outbox.append(capture(1000)))
        result(outbox.captures(1))
        return bool(aside(folder))

    until(broken, "the file is set aside")
    assert result(outbox.resolve(given[0].id, [record(5)])) == 0
    assert outbox.lead()
    assert invoices(result(outbox.claim(10))) == ["in_5"]
    assert settle_all(outbox, Settled.DELIVERED) == 0
    assert claimed[0].id > 0
    result(outbox.append(capture(1001)))
    assert "in_1001" in bodies(result(outbox.captures(1000)))
    assert len([line for line in criticals(caplog) if "set aside" in line]) == 1


def test_breaks_of_one_second_have_names_of_their_own(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Two files set aside in one second keep both."""
    for _ in range(3):
        outbox = opened()
        result(outbox.add([record(1)]))
        outbox.close()
        wreck(path, 0)
    result(opened().counts())
    assert len(aside(path.parent)) == 3


def test_numbers_mean_nothing_in_the_next_file(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """A settlement that was meant for a record of the broken file touches none of its successor."""
    numbers: list[int] = []
    for number in range(2):
        outbox = opened()
        assert outbox.lead()
        result(outbox.add([record(number)]))
        numbers += [claimed.id for claimed in result(outbox.claim(1))]
        outbox.close()
        wreck(path, 0)
    assert abs(numbers[0] - numbers[1]) > 1000


# A file that is not ours.


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.commit()
    connection.close()


def make_newer(path: Path) -> None:
    outbox = SQLiteOutbox(path)
    outbox.open()
    result(outbox.add([record(1)]))
    outbox.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()


@pytest.mark.parametrize(
    ("make", "said"), [(make_foreign, "another program's database"), (make_newer, "newer version .*schema 1000")]
)
def test_a_file_that_is_not_ours_is_refused(
    path: Path, make: Callable[[Path], None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program's database, or a newer version's, is a mistake at the start, and is never written to."""
    make(path)
    before = path.read_bytes()
    outbox = SQLiteOutbox(path)
    with pytest.raises(ConfigurationError, match=said):
        outbox.validate()
    outbox.open()
    error = outbox.append(capture(1)).exception(20)
    assert isinstance(error, ConfigurationError)
    assert re.search(said, str(error))
    outbox.close()
    assert path.read_bytes() == before
    assert len(criticals(caplog)) == 1


# Memory has a bound too.


def test_the_queue_in_memory_is_bounded(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """While the file is away ten thousand operations wait; more are refused, but what settles still is taken."""
    outbox = opened()
    assert outbox.lead()
    result(outbox.add([record(0)]))
    (claimed,) = result(outbox.claim(1))
    away = folder.rename(folder.with_name("away"))
    futures = [outbox.append(capture(number)) for number in range(MAX_WAITING + 10)]
    refused = [future for future in futures if future.done()]
    assert len(refused) == 10
    assert all(isinstance(future.exception(), OutboxFullError) for future in refused)
    settled = outbox.settle([Settlement(claimed.id, Settled.DELIVERED)])
    assert not settled.done()
    away.rename(folder)
    result(settled)
    for future in futures[:MAX_WAITING]:
        result(future)
    counts = result(outbox.counts())
    assert (counts.captured, counts.delivered) == (MAX_WAITING, 1)
    result(outbox.append(capture(1)))


def test_what_only_reads_takes_no_capture_s_place(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """Health checks that ask in vain, and have gone since, are bounded by themselves; every capture finds its place."""
    outbox = opened()
    result(outbox.counts())
    away = folder.rename(folder.with_name("away"))
    asked = [outbox.counts() for _ in range(MAX_WAITING)]
    assert any(isinstance(future.exception(), OutboxFullError) for future in asked if future.done())
    for one in asked:
        one.cancel()
    futures = [outbox.append(capture(number)) for number in range(MAX_WAITING)]
    assert pending(futures) == MAX_WAITING
    away.rename(folder)
    for future in futures:
        result(future)
    assert result(outbox.counts()).captured == MAX_WAITING


def test_the_bytes_in_memory_are_bounded(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """Long bodies are bounded by their bytes: 128 MiB of them wait, no more."""
    folder.rmdir()
    outbox = opened()
    body = bytes(MIB)
    futures = [outbox.append(capture(number, body=body)) for number in range(130)]
    assert sum(future.done() for future in futures) == 2
    assert isinstance(futures[-1].exception(), OutboxFullError)
    assert not outbox.set_hold("401").done()


def test_what_the_queue_refuses_is_counted_as_lost(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record that neither the file nor the queue can take is counted in the status, and said once."""
    fake.respond_with(*[503] * 100)
    butter = make_butter(outbox=path, drain_timeout=0.2)
    butter.record(CHECKOUT)
    until(lambda: butter.status().pending == 1, "the record")
    away = folder.rename(folder.with_name("away"))
    for _ in range(MAX_WAITING + 20):
        butter.record(CHECKOUT)
    away.rename(folder)
    until(lambda: butter.status().skipped.get("duplicate", 0) >= MAX_WAITING - 20, "the queue is written")
    status = butter.status()
    assert 20 <= status.lost <= 40
    assert status.lost + status.skipped["duplicate"] == MAX_WAITING + 20
    assert len([line for line in criticals(caplog) if "a record is lost" in line]) == 1


# The end, in the midst of a fault.


def test_close_keeps_its_time_while_the_file_is_away(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """A stop does not wait for a volume that does not come back; what is lost by that is told."""
    outbox = opened()
    result(outbox.counts())
    folder.rename(folder.with_name("away"))
    future = outbox.append(capture(1))
    begun = time.monotonic()
    outbox.close(0.2)
    assert time.monotonic() - begun < 4
    assert isinstance(future.exception(20), OutboxClosedError)


def test_butter_stops_in_the_midst_of_a_fault(
    make_butter: Callable[..., Butter], path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Status, flush and close of an app whose volume is gone neither raise nor hang, and the threads end."""
    butter = make_butter(outbox=path, drain_timeout=0.2)
    assert butter.status().pending == 0  # not even started
    butter.record(CHECKOUT)
    assert butter.flush()
    folder.rename(folder.with_name("away"))
    assert not butter.flush(0.1)
    assert butter.status().delivered == 1
    butter.close()
    assert butter.status().delivered == 1
    assert committers() == 0
    assert len([line for line in criticals(caplog) if "cannot be used (ENOENT)" in line]) == 1


def test_what_one_outbox_left_behind_another_takes_on(opened: Callable[..., SQLiteOutbox], folder: Path) -> None:
    """Closed before its volume came, an outbox leaves its captures in the queue to the other one on the file."""
    folder.rmdir()
    first, second = opened(), opened()
    future = first.append(capture(1))
    first.close(0.1)
    assert not future.done()
    folder.mkdir()
    result(future)
    assert result(second.adopt()) == 0  # what is in the shared pile counts when it is given
    assert bodies(result(second.captures(10))) == ["in_1"]
