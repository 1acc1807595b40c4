"""The locks beside the file: which events release them, which do not, and which processes see them."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until

from butter_middleware.outbox.sqlite.locks import LEAD, READERS, WRITE, Locks

OLD_RELEASE = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
for line in sys.stdin:
    what, byte = line.split()
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_UN if what == "unlock" else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(byte))
        print("true", flush=True)
    except OSError:
        print("false", flush=True)
"""
"""How a process of the last release takes its locks."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def locks(database: Path) -> Iterator[Locks]:
    locks = Locks(str(database))
    yield locks
    locks.close()


class OldProcess:
    """A process of the last release that executes commands."""

    def __init__(self, database: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OLD_RELEASE, f"{database}.lock"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> bool:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return bool(json.loads(self.process.stdout.readline()))

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def old(database: Path) -> Iterator[OldProcess]:
    old = OldProcess(database)
    yield old
    old.end()


@pytest.mark.parametrize("lock", [WRITE, LEAD])
def test_old_and_new_processes_exclude_each_other(locks: Locks, old: OldProcess, lock: int) -> None:
    """A process of the last release and one of this release never hold the same lock, in either order."""
    assert locks.take(lock)
    assert not old.ask(f"lock {lock}")
    locks.release(lock)
    assert old.ask(f"lock {lock}")
    assert not locks.take(lock)
    assert locks.holder(lock) == old.process.pid
    assert old.ask(f"unlock {lock}")
    assert locks.take(lock)


def test_old_processes_see_live_readers(locks: Locks, old: OldProcess, database: Path) -> None:
    """Any number of processes share the readers' lock. An old one cannot take it while one of them lives."""
    other = Locks(str(database))
    assert (locks.take(READERS), other.take(READERS)) == (True, True)
    locks.close()
    assert not old.ask(f"lock {READERS}")
    assert locks.has_readers()
    other.close()
    assert not locks.has_readers()
    assert old.ask(f"lock {READERS}")


def test_two_stores_of_one_process_exclude_each_other(locks: Locks, database: Path) -> None:
    """A lock belongs to a store, not to the process."""
    other = Locks(str(database))
    assert locks.take(WRITE)
    assert not other.take(WRITE)
    locks.release(WRITE)
    assert other.take(WRITE)
    other.close()


def test_a_backup_in_the_process_releases_no_lock(
    locks: Locks, old: OldProcess, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Other code of this process may open and close the files, such as a copy of the folder. The locks stay."""
    database.touch()
    for lock in (WRITE, LEAD):
        assert locks.take(lock)
    shutil.copytree(database.parent, tmp_path_factory.mktemp("backup") / "copy")
    database.with_name("butter.db.lock").open("rb").close()
    other = Locks(str(database))
    for lock in (WRITE, LEAD):
        assert not other.take(lock)
        assert not old.ask(f"lock {lock}")
        assert locks.has(lock)
    other.close()


def test_the_leaders_process_is_reported(locks: Locks, database: Path) -> None:
    """Asking for the holder takes no lock."""
    other = Locks(str(database))
    assert other.holder(LEAD) is None
    assert locks.take(LEAD)
    assert (locks.holder(LEAD), other.holder(LEAD), other.holder(WRITE)) == (os.getpid(), os.getpid(), None)
    lock = database.with_name("butter.db.lock")
    lock.write_text(lock.read_text().replace("pid:[", "pid:[1"))
    assert other.holder(LEAD) == 0  # the holder is in another container, where the number means another process
    locks.release(LEAD)
    assert other.holder(LEAD) is None
    other.close()


def test_a_removed_lock_file_is_noticed(locks: Locks, database: Path) -> None:
    """A cleanup job removed it. Then the lock on the new file counts, and the old lock is lost."""
    assert locks.take(LEAD)
    database.with_name("butter.db.lock").unlink()
    other = Locks(str(database))
    assert other.take(LEAD)
    assert not locks.take(LEAD)
    other.close()
    assert locks.take(LEAD)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_releases_and_keeps_nothing(locks: Locks, database: Path) -> None:
    """A forked child that closes its copies releases none of the parent's locks, and keeps none."""
    assert locks.take(LEAD)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        locks.forget()
        held = Locks(str(database)).take(LEAD)
        os.read(reading, 1)
        os._exit(held)
    os.close(reading)
    other = Locks(str(database))
    assert not other.take(LEAD)
    locks.close()
    until(lambda: other.take(LEAD), "the lead, although the child lives")
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    other.close()


def test_a_symbolic_link_in_place_of_the_lock_is_not_followed(locks: Locks, database: Path, tmp_path: Path) -> None:
    """The app's user may plant a link. A command that root runs must not create its target or change its owner."""
    database.touch()
    target = tmp_path / "of-root-only"
    database.with_name("butter.db.lock").symlink_to(target)
    with pytest.raises(OSError, match=r"symbolic links"):
        locks.take(WRITE)
    assert not target.exists()


def test_root_gives_a_new_lock_to_the_owner_of_the_database(locks: Locks, database: Path) -> None:
    """Root may create the lock file beside the app's database. The app must be able to use it. An old one is kept."""
    if os.geteuid():
        pytest.skip("another owner needs privileges")
    database.touch()
    os.chown(database, 65534, 65534)
    lock = database.with_name("butter.db.lock")
    assert locks.take(WRITE)
    assert (lock.stat().st_uid, stat.S_IMODE(lock.stat().st_mode)) == (65534, 0o600)
    locks.close()
    os.chown(lock, 0, 0)
    assert locks.take(WRITE)
    assert lock.stat().st_uid == 0


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the locks of systems other than Linux."""
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.mark.usefixtures("elsewhere")
def test_other_systems_have_a_file_for_each_lock(database: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without Linux's locks, each is a `flock` on its own file. They are independent, and other processes see them."""
    first, second = Locks(str(database)), Locks(str(database))
    assert (first.take(WRITE), second.take(LEAD)) == (True, True)
    assert (second.take(WRITE), first.take(LEAD)) == (False, False)
    assert (first.holder(LEAD), second.holder(WRITE)) == (os.getpid(), os.getpid())
    assert (first.take(READERS), first.has_readers()) == (False, True)
    shutil.copytree(database.parent, tmp_path_factory.mktemp("backup") / "copy")
    assert not second.take(WRITE)
    first.close()
    assert second.take(WRITE)
    second.close()
    assert sorted(entry.name for entry in database.parent.iterdir()) == ["butter.db.lead", "butter.db.lock"]
