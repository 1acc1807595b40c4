"""Checks whether a path is possible for an outbox, and whether it lasts. It does not create or open the database."""

import errno
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox.sqlite.database import is_in_use
from butter_middleware.outbox.sqlite.schema import Identity, refuse_foreign

_NETWORK: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs"),
        *("fuse.gcsfuse", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
    }
)
_LAYERS: Final = frozenset({"aufs", "overlay", "overlayfs"})
_MEMORY: Final = frozenset({"ramfs", "tmpfs"})
_FUNCTIONS: Final = {
    "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda",
    "FUNCTIONS_WORKER_RUNTIME": "Azure Functions",
    "K_SERVICE": "Cloud Run",
    "VERCEL": "Vercel",
}
_LASTING: Final = "Name a file on a disk that lasts (a volume, a host's own disk)."

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
"""The escapes of a space, a tab, a newline and a backslash in `/proc/mounts`."""
_HEADER_BYTES: Final = 72
_MAGIC: Final = b"SQLite format 3\x00"


def refuse_unusable(path: str) -> None:
    """Refuse a path at which a database cannot be created or written, or which is another kind of file.

    Raises:
        ConfigurationError: the text has the cause and the remedy.
    """
    for problem in _problems(path):
        msg = f"outbox={path!r}: {problem}"
        raise ConfigurationError(msg)


def _problems(path: str) -> Iterator[str]:
    folder = os.path.dirname(path)  # noqa: PTH120 - `path` is absolute text
    folder_mode = _mode(folder)
    if folder_mode is None and _is_hidden(folder):
        yield f"this process (user {os.geteuid()}) may not enter a directory above {folder!r}. Let this user enter it."
    elif folder_mode is None:
        yield f"the directory {folder!r} does not exist. Create it before the start."
    elif not stat.S_ISDIR(folder_mode):
        yield f"{folder!r} is not a directory. Name a file in a directory."
    elif not _may(folder, os.W_OK | os.X_OK):
        yield (
            f"this process (user {os.geteuid()}) may not write in {folder!r}: SQLite makes files beside the database. "
            "Let this user write there. Is it mounted read-only?"
        )
    for suffix, what in (("", "it"), ("-wal", "its -wal"), ("-shm", "its -shm"), (".lock", "its .lock")):
        mode = _mode(path + suffix)
        if mode is None:
            continue
        if not stat.S_ISREG(mode):
            yield f"{what} is not a regular file. Name a file in that directory."
        elif not _may(path + suffix, os.R_OK | os.W_OK):
            yield (f"this process (user {os.geteuid()}) may not read and write {what}. Was it made by another user?")
    # Not if it is in use: closing a descriptor of a database drops SQLite's locks on it in this process.
    if not is_in_use(path) and not _is_ours(path):
        yield "the file at this path is not a database. Name another file."


def _is_ours(path: str) -> bool:
    """Whether a file is an outbox, will be one, or was one.

    Raises:
        ConfigurationError: it is another program's database, or a newer version's.
    """
    try:
        with Path(path).open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return True  # not there yet, or its open reports the error
    # Our file has a lock file beside it. Then it is damaged, or its process was killed before the first checkpoint, and
    # opening it repairs that.
    has_lock = _mode(f"{path}.lock") is not None
    if header.startswith(_MAGIC) and len(header) == _HEADER_BYTES:
        version, application_id = struct.unpack_from(">I4xI", header, 60)
        if application_id or not has_lock:
            refuse_foreign(path, Identity(application_id, version))
        return True
    return has_lock or not header


def warnings(path: str, mounts: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield why a file at `path` would not last, or would not be safe.

    Args:
        path: Absolute, without symbolic links.
        mounts: The text of `/proc/mounts`. Empty if there is no such file.
        environ: The process's environment.
    """
    point, kind = mount(path, mounts)
    if kind in _NETWORK:
        yield (
            f"{path} is on a network file system ({kind}), where SQLite's write-ahead log and locks do "
            "not work between hosts: records can be lost. Use a local disk, or the PostgreSQL outbox for many machines."
        )
    elif kind in _LAYERS:
        yield f"{path} is in a container's own layer, which is deleted with the container. {_LASTING}"
    elif kind in _MEMORY:
        yield f"{path} is in memory ({kind}), which is lost when the host restarts. {_LASTING}"
    if any(path.startswith(f"{folder}/") for folder in _temporary_folders()):
        yield f"{path} is in a temporary folder, whose files may be deleted at any time. {_LASTING}"
    for variable, platform in _FUNCTIONS.items():
        if environ.get(variable):
            yield (
                f"this is {platform} ({variable} is set): the instance's disk is deleted with it, and nothing runs "
                "between requests. Call butter.flush() before each return, or use an outbox outside the instance."
            )
    if point == path:
        yield (
            f"only the file {path} is mounted, and not the -wal and -shm that SQLite keeps beside it: the newest "
            "records are lost with the container. Mount its directory."
        )


def _temporary_folders() -> set[str]:
    return {os.path.realpath(folder) for folder in ("/tmp", "/var/tmp", tempfile.gettempdir())}  # noqa: S108 - compared with


def mounted() -> str:
    """Return the text of `/proc/mounts`. Empty if there is no such file."""
    mounts = Path("/proc/self/mounts")
    return mounts.read_text(errors="surrogateescape") if mounts.exists() else ""


def mount(path: str, mounts: str) -> tuple[str, str]:
    """Return the longest mount point above a path (the last one mounted there), and the type of its file system."""
    longest, found = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[1])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(longest):
            longest, found = point, fields[2]
    return longest, found


def _mode(path: str) -> int | None:
    try:
        return Path(path).lstat().st_mode  # a link beside the database may lead anywhere
    except OSError:
        return None


def _is_hidden(path: str) -> bool:
    try:
        Path(path).lstat()
    except OSError as error:
        return error.errno == errno.EACCES
    return False


def _may(path: str, access: int) -> bool:
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)
