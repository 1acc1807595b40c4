"""A real PostgreSQL for the tests: its own cluster on loopback, started, stopped, killed and moved."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from processes import free_port, until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""The paths of Debian, the newest version last."""


def binaries() -> Path | None:
    """Return where PostgreSQL's programs are, or None."""
    found = shutil.which("postgres")
    return Path(found).parent if found is not None else next(iter(reversed(BINARIES)), None)


def why_not() -> str:
    """Return why no server can be started here, or an empty string."""
    if binaries() is None:
        return "no PostgreSQL binaries: apt-get install postgresql"
    if os.getuid() == 0 and (_postgres_user() is None or shutil.which("setpriv") is None):
        return "PostgreSQL refuses to run as root, and there is no user postgres, or no setpriv"
    return ""


def _postgres_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class PostgresServer:
    """A cluster in its own folder under /tmp. PostgreSQL's user can read that, but not always pytest's folders."""

    def __init__(self, *, fsync: bool = False) -> None:
        bin_directory = binaries()
        assert bin_directory is not None
        self._bin = bin_directory
        self._user = _postgres_user() if os.getuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="butter-postgres-", dir="/tmp"))
        self.data = self._folder / "data"
        self.port = free_port()
        self._fsync = "on" if fsync else "off"
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync={self._fsync} -c max_connections=200"
        self._run(
            "pg_ctl", "-D", str(self.data), "-w", "-t", "60", "-l", str(self._folder / "log"), "-o", options, "start"
        )
        return self

    def stop(self, mode: str = "immediate") -> None:
        """Stop it. `immediate` is a crash."""
        # PostgreSQL checks once a minute if it missed the end of its last process.
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "180", "-m", mode, "stop")

    def signal(self, number: signal.Signals) -> None:
        """Signal the server and all its children."""
        main = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(main, number)
        if number == signal.SIGSTOP:  # no child is started after this
            until(lambda: "State:\tT" in Path(f"/proc/{main}/status").read_text(), "PostgreSQL stops")
        for pid in map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split()):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    def move(self) -> None:
        """Fail over: stop, and continue with a copy of the data on the same port."""
        self.stop("fast")
        other = self._folder / "other"
        subprocess.run([*self._as_user(), "cp", "-a", str(self.data), str(other)], check=True)
        self.data = other
        self.start()

    def destroy(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        import psycopg  # noqa: PLC0415 - an extra, and the oldest tests run without it

        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def wait(self) -> None:
        """Wait until it answers."""
        import psycopg  # noqa: PLC0415 - as above

        def answers() -> bool:
            try:
                return self.execute("SELECT 1") == [(1,)]
            except psycopg.OperationalError:
                return False

        until(answers, "PostgreSQL answers", 60)

    def _as_user(self) -> Sequence[str]:
        if self._user is None:
            return []
        return ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user(), str(self._bin / program), *arguments]
        done = subprocess.run(
            command,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        log = self._folder / "log"
        assert done.returncode == 0, done.stdout.decode() + (log.read_text() if log.exists() else "")
