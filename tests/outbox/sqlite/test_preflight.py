"""Where an outbox can be, and which places do not last: checked at the start, without creating a file."""

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st

from butter_middleware import Butter, SQLiteOutbox, client_ip
from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox.sqlite.preflight import warnings

TMP = "/tmp"  # noqa: S108 - it is warned of
DISK = "/dev/vda1 / ext4 rw,relatime 0 0\n"


def missing_folder(folder: Path) -> Path:
    return folder / "nowhere" / "butter.db"


def a_folder(folder: Path) -> Path:
    (folder / "butter.db").mkdir()
    return folder / "butter.db"


def in_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "butter.db"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "butter.db")
    return folder / "butter.db"


def a_socket(folder: Path) -> Path:
    path = folder / "butter.db"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def a_lock_that_is_a_folder(folder: Path) -> Path:
    (folder / "butter.db.lock").mkdir()
    return folder / "butter.db"


def a_log_that_is_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "butter.db-wal")
    return folder / "butter.db"


def a_lock_that_is_a_link(folder: Path) -> Path:
    (folder / "butter.db.lock").symlink_to(folder / "elsewhere")
    return folder / "butter.db"


def a_device(_folder: Path) -> Path:
    return Path("/dev/null")


def a_text(folder: Path) -> Path:
    (folder / "butter.db").write_text("dear diary, " * 100)
    return folder / "butter.db"


def a_link_to_nowhere(folder: Path) -> Path:
    (folder / "butter.db").symlink_to(folder / "nowhere" / "butter.db")
    return folder / "butter.db"


def other_database(folder: Path) -> Path:
    connection = sqlite3.connect(folder / "butter.db")
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    return folder / "butter.db"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing_folder, "the directory .*nowhere.*does not exist. Create it"),
        (a_link_to_nowhere, "the directory .*nowhere.*does not exist"),
        (a_folder, "it is not a regular file"),
        (in_a_file, "is not a directory"),
        (a_pipe, "it is not a regular file"),
        (a_socket, "it is not a regular file"),
        (a_device, "it is not a regular file"),
        (a_lock_that_is_a_folder, r"its \.lock is not a regular file"),
        (a_lock_that_is_a_link, r"its \.lock is not a regular file"),
        (a_log_that_is_a_pipe, "its -wal is not a regular file"),
        (a_text, "is not a database"),
        (other_database, "another program's database"),
    ],
)
def test_an_unusable_path_stops_the_start(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    """`Butter` raises the reason when it is built, and leaves everything unchanged."""
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigurationError, match=said):
        Butter(username="merchant", password="s3cret-pass", client_ip=client_ip.TrustedHops(1), outbox=path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("mode", "said"), [(0o755, "write in"), (0o700, "enter a directory above")])
def test_a_folder_of_another_user_stops_the_start(mode: int, said: str) -> None:
    """The error names the user's number. A child process without privileges shows this."""
    if os.geteuid():
        pytest.skip("becoming another user needs privileges")
    with tempfile.TemporaryDirectory() as folder:  # because `tmp_path` is in a folder that is closed to others
        data = Path(folder) / "data"
        data.mkdir()
        Path(folder).chmod(mode)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
            try:
                warned = repr(SQLiteOutbox(data / "butter.db").validate())
            except ConfigurationError as error:
                warned = str(error)
            os.write(writing, warned.encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
    warned = os.read(reading, 10_000).decode()
    os.close(reading)
    assert f"this process (user 65534) may not {said} '{data}'" in warned


def test_a_good_path_is_left_unchanged(tmp_path: Path) -> None:
    """`validate` creates nothing at a new path, and changes nothing in an outbox."""
    path = tmp_path / "butter.db"
    outbox = SQLiteOutbox(path)
    outbox.validate()
    assert list(tmp_path.iterdir()) == []
    store = outbox.store()
    store.open()
    store.close()
    before = {entry: entry.read_bytes() for entry in tmp_path.iterdir()}
    outbox.validate()
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_validate_may_run_while_the_file_is_open(tmp_path: Path) -> None:
    """For a second `Butter` on an open file it reads nothing from the file: that would release SQLite's locks."""
    outbox = SQLiteOutbox(tmp_path / "butter.db")
    store = outbox.store()
    store.open()
    SQLiteOutbox(outbox.path).validate()
    # To leave WAL mode a process must be alone with the file. SQLite's locks tell it.
    alone = f"import sqlite3; sqlite3.connect({outbox.path!r}, timeout=0).execute('PRAGMA journal_mode = DELETE')"
    refused = subprocess.run([sys.executable, "-c", alone], capture_output=True, check=False)
    assert b"database is locked" in refused.stderr
    store.close()


@pytest.mark.parametrize(
    ("path", "mounts", "said"),
    [
        ("/var/lib/shop/butter.db", DISK, []),
        ("/var/lib/shop/butter.db", "", []),
        # The deepest mount point counts. Of two at one point, the later counts.
        ("/mnt/shop/butter.db", DISK + "nas:/x /mnt nfs4 rw 0 0\n", ["network file system (nfs4)"]),
        ("/mnt/shop/butter.db", "nas:/x /mnt nfs rw 0 0\n" + DISK, ["network file system (nfs)"]),
        ("/mnt/shop/butter.db", DISK + "nas:/x /mnt nfs rw 0 0\n/dev/sdb /mnt/shop xfs rw 0 0\n", []),
        ("/mnt/butter.db", DISK + "auto /mnt autofs rw 0 0\nnas:/x /mnt cifs rw 0 0\n", ["network file system (cifs)"]),
        ("/mnt/butter.db", DISK + "bucket /mnt fuse.s3fs rw 0 0\n", ["network file system (fuse.s3fs)"]),
        ("/mntx/butter.db", DISK + "nas:/x /mnt nfs rw 0 0\n", []),
        # Unusual names, as the kernel writes them.
        ("/my disk/butter.db", DISK + "nas:/x /my\\040disk nfs rw 0 0\n", ["network file system (nfs)"]),
        ("/läden/butter.db", DISK + "nas:/x /läden nfs rw 0 0\n", ["network file system (nfs)"]),
        # Removed with the container, at the host's next start, or sooner.
        ("/app/butter.db", "overlay / overlay rw 0 0\n", ["container's own layer"]),
        ("/data/butter.db", "overlay / overlay rw 0 0\n/dev/sdb /data ext4 rw 0 0\n", []),
        ("/run/butter.db", DISK + "tmpfs /run tmpfs rw 0 0\n", ["in memory (tmpfs)"]),
        (f"{TMP}/butter.db", DISK, ["temporary folder"]),
        (f"{TMP}/butter.db", DISK + f"tmpfs {TMP} tmpfs rw 0 0\n", ["in memory", "temporary folder"]),
        (f"{TMP}files/butter.db", DISK, []),
        # Only the file is mounted into a container: SQLite's other files are not in the volume.
        ("/data/butter.db", "overlay / overlay rw 0 0\n/dev/sdb /data/butter.db ext4 rw 0 0\n", ["only the file"]),
        (
            "/data/butter.db",
            DISK + "/dev/sdb /data ext4 rw 0 0\n/dev/sdb /data/butter.db ext4 rw 0 0\n",
            ["only the file"],
        ),
        ("/my disk/butter.db", DISK + "/dev/sdb /my\\040disk/butter.db ext4 rw 0 0\n", ["only the file"]),
        ("/data/butter.db", DISK + "nas:/x /data/butter.db nfs rw 0 0\n", ["network file system", "only the file"]),
        ("/data/butter.db", "overlay / overlay rw 0 0\n/dev/sdb /data/butter.db.lock ext4 rw 0 0\n", ["own layer"]),
    ],
)
def test_a_place_that_does_not_last_causes_a_warning(path: str, mounts: str, said: list[str]) -> None:
    """The warning depends on the file system and names the fix. A disk causes none."""
    found = list(warnings(path, mounts, {}))
    assert len(found) == len(said)
    for text, part in zip(found, said, strict=True):
        assert part in text
        assert path in text


@pytest.mark.parametrize(
    ("variable", "platform"),
    [("AWS_LAMBDA_FUNCTION_NAME", "AWS Lambda"), ("K_SERVICE", "Cloud Run"), ("VERCEL", "Vercel")],
)
def test_a_function_is_warned_to_flush(variable: str, platform: str) -> None:
    """The sandbox of a function runs nothing between requests. The warning names the remedy."""
    (text,) = warnings("/data/butter.db", DISK, {variable: "1"})
    assert platform in text
    assert "flush()" in text
    assert list(warnings("/data/butter.db", DISK, {variable: ""})) == []


FIELD = st.text("/\\0129aä", max_size=8)


@settings(max_examples=tries(50), deadline=None)
@given(st.lists(st.lists(FIELD, max_size=5)))
def test_any_mount_table_is_accepted(table: list[list[str]]) -> None:
    """An unexpected table of mounts stops no start."""
    list(warnings("/data/butter.db", "\n".join(" ".join(fields) for fields in table), {}))
