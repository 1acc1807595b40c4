"""Opens an outbox's file for the command line, beside the app's processes.

The app's processes create and update the file, and set a broken one aside. The command line does not: it uses the file
as it is, and holds the write lock for moments only.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox.sqlite import preflight
from butter_middleware.outbox.sqlite.outbox import SQLiteOutbox
from butter_middleware.outbox.sqlite.store import SQLiteStore


@contextmanager
def existing(path: str | os.PathLike[str]) -> Generator[SQLiteStore]:
    """Give the open store of an existing file.

    Raises:
        ConfigurationError: at the start: there is no outbox of this version. The text has the cause and the remedy.
        OutboxBusyError: another process holds the write lock for too long.
        OutboxBrokenError: at any time: the file cannot be read or written, or was replaced meanwhile.
    """
    found = os.path.realpath(path)
    refuse_absent(found)
    preflight.refuse_unusable(found)
    store = SQLiteStore(SQLiteOutbox(found), by_person=True)
    try:
        with store.explaining():
            store.open()
        yield store
    finally:
        store.close()


def refuse_absent(path: str) -> None:
    """Refuse a path without a file.

    Raises:
        ConfigurationError: the file is not there (the text names the outboxes beside it), or this user may not read
            its folder.
    """
    file = Path(path)
    try:
        file.stat()
    except PermissionError:
        msg = (
            f"outbox={path!r}: this process (user {os.geteuid()}) may not look into its directory. Run this as the "
            "app's user."
        )
        raise ConfigurationError(msg) from None
    except OSError:
        pass
    else:
        return
    with suppress(OSError):
        others = sorted(lock.name.removesuffix(".lock") for lock in file.parent.glob("*.lock"))
        found = [name for name in others if (file.parent / name).exists()]
        if found:
            msg = f"outbox={path!r}: there is no such file. In that directory there is {', '.join(found[:5])}."
            raise ConfigurationError(msg)
    msg = (
        f"outbox={path!r}: there is no such file. Name the file in Butter(outbox=...); a relative path begins in the "
        "directory in which the app starts. The app creates the file at its first start or checkout."
    )
    raise ConfigurationError(msg)
