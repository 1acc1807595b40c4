"""Each exit code that a command's help names can be reached."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from outboxes import lock_held, open_files
from processes import until
from shops import CREDENTIALS
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, client_ip
from butter_middleware.cli import cli, demo
from butter_middleware.testing import FakeButter

PAID = '{"object": "checkout.session", "id": "cs_1", "status": "complete", "payment_status": "paid", "invoice": "in_1"}'
EMAIL = "customer_email=a@example.com"
NOBODY = "999999999"
"""An ID that no entry has."""


class Workdir:
    """A folder with an outbox, in which the commands run, and a `FakeButter`."""

    def __init__(self, path: Path, fake: FakeButter, url: str, patch: pytest.MonkeyPatch, database: str) -> None:
        self.path, self.fake, self.patch, self.database = path, fake, patch, database
        patch.chdir(path.parent)
        patch.setattr("butter_middleware.outbox.sqlite.database.PERSON_SECONDS", 0.2)
        patch.setattr("butter_middleware.cli.erase.SETTLING_SECONDS", 0.0)
        for name in ("BUTTER_APP", "BUTTER_ENVIRONMENT", "BUTTER_POSTGRES_DSN"):
            patch.delenv(name, raising=False)
        for name, value in (CREDENTIALS | {"base_url": url, "outbox": str(path)}).items():
            patch.setenv(f"BUTTER_{name.upper()}", value)
        Path("paid.json").write_text(PAID)
        Path("unpaid.json").write_text("{}")

    @contextmanager
    def shop(self) -> Generator[tuple[TestClient, Butter]]:
        """Run a shop whose extractor is broken. Its Butter makes the outbox, and delivers from it."""

        def broken(_response: object) -> None:
            raise ZeroDivisionError

        async def pay(_request: Request) -> JSONResponse:
            return JSONResponse({"paid": True})

        butter = Butter(
            client_ip=client_ip.direct(), outbox=self.path, routes=[CheckoutRoute("/pay", psp="stripe", extract=broken)]
        )
        app = Starlette(
            routes=[Route("/pay", pay, methods=["POST"])], middleware=[Middleware(ButterMiddleware, butter=butter)]
        )
        with TestClient(app, client=("81.2.69.142", 4711)) as client:
            yield client, butter
        butter.close()
        until(lambda: open_files() == 0, "the outbox is closed")

    def fill(self) -> None:
        """Put one dead record and one parked capture into the outbox."""
        self.fake.respond_with(422, 422)  # the ping at the start, and the record
        fields: dict[str, Any] = {"customer_email": "a@example.com", "ipv4_address": "81.2.69.142", "psp": "stripe"}
        with self.shop() as (client, butter):
            butter.record(Checkout(**fields, invoice_id="in_1"))
            client.post("/pay")
            assert butter.flush()

    def empty(self) -> None:
        """Create an empty outbox."""
        with self.shop():
            pass

    def run(self, *arguments: str) -> int:
        return CliRunner().invoke(cli, arguments).exit_code

    def process(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "butter_middleware", *arguments]
        return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, **options)

    def first(self, kind: str) -> str:
        """Return the ID of the first entry that waits."""
        listed = CliRunner().invoke(cli, [kind, "list"]).stdout
        return str(re.findall(r"^(\d+)", listed, re.MULTILINE)[0])


@pytest.fixture
def workdir(path: Path, fake: FakeButter, url: str, monkeypatch: pytest.MonkeyPatch) -> Workdir:
    return Workdir(path, fake, url, monkeypatch, "")


Reach = Callable[[Workdir, str], int]
"""Runs a command, given by its name, and returns its exit code."""


@dataclass(frozen=True)
class Case:
    """One way to an exit code."""

    command: str
    code: int
    reach: Reach


def run(*arguments: str, filled: bool | None = None, **environment: str) -> Reach:
    """Run in this process, with an outbox that is filled, empty, or missing."""

    def reach(workdir: Workdir, command: str) -> int:
        if filled is not None:
            workdir.fill() if filled else workdir.empty()
        for name, value in environment.items():
            workdir.patch.setenv(name, value)
        return workdir.run(*command.split(), *arguments)

    return reach


def shown(workdir: Workdir, command: str) -> int:
    """Run with the ID of an existing entry."""
    workdir.fill()
    return workdir.run(*command.split(), workdir.first(command.split(maxsplit=1)[0]))


def locked(*arguments: str) -> Reach:
    """Run while another process holds the outbox's lock."""

    def reach(workdir: Workdir, command: str) -> int:
        workdir.empty()
        with lock_held(workdir.path):
            return workdir.run(*command.split(), *arguments)

    return reach


def full(*arguments: str) -> Reach:
    """Run with standard output on a full disk."""

    def reach(workdir: Workdir, command: str) -> int:
        with open("/dev/full", "wb") as disk:  # noqa: PTH123 - a device
            line = [sys.executable, "-m", "butter_middleware", *command.split(), *arguments]
            return subprocess.run(line, stdout=disk, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode

    return reach


def wrong_demo(workdir: Workdir, command: str) -> int:
    workdir.patch.setattr(demo, "DELIVERY_SECONDS", 0.5)
    build = demo.shop
    workdir.patch.setattr(demo, "shop", lambda inbox: build(inbox, "another"))
    return workdir.run(command, "--once")


def stopped(*arguments: str, once: str) -> Reach:
    """Run until it prints `once`, then stop it by a signal."""

    def reach(workdir: Workdir, command: str) -> int:
        with workdir.process(*command.split(), *arguments, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            assert any(once in line for line in process.stdout)
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            return process.wait(60)

    return reach


def busy_port(workdir: Workdir, command: str) -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return workdir.run(command, "--port", str(taken.getsockname()[1]))


def delivered_by_another(workdir: Workdir, command: str) -> int:
    with workdir.shop(), workdir.process(command, stderr=subprocess.DEVNULL) as process:
        return process.wait(60)


def set_aside(workdir: Workdir, command: str) -> int:
    workdir.empty()
    Path(f"{workdir.path}.corrupt-1").touch()
    return workdir.run(command, "--email", "a@example.com", "--yes")


def migrated(workdir: Workdir, command: str) -> int:
    return workdir.run(*command.split(), "--dsn", workdir.database)


def worked(workdir: Workdir, command: str) -> int:
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    fields: dict[str, Any] = {"customer_email": "a@example.com", "ipv4_address": "81.2.69.142", "psp": "stripe"}
    with workdir.process(command, "--dsn", workdir.database, stderr=subprocess.DEVNULL) as process:
        butter = Butter(client_ip=client_ip.direct(), outbox=PostgresOutbox(workdir.database))
        butter.record(Checkout(**fields, invoice_id="in_1"))
        until(lambda: len(workdir.fake.records) == 1, "the worker sends", 40)
        butter.close()
        process.send_signal(signal.SIGTERM)
        return process.wait(60)


CASES = [
    Case("demo", 0, run("--once")),
    Case("demo", 1, wrong_demo),
    Case("demo", 3, full("--once")),
    Case("sandbox", 0, stopped("--port", "0", once="Ctrl-C ends it.")),
    Case("sandbox", 3, run("--host", "192.0.2.1", "--expose")),
    Case("sandbox", 4, busy_port),
    Case("trigger", 0, run()),
    Case("trigger", 1, run(BUTTER_PASSWORD="wrong")),
    Case("trigger", 3, run("--app", "nothing:here")),
    Case("explain", 0, run("paid.json", "--psp", "stripe", "--annotate", EMAIL)),
    Case("explain", 1, run("unpaid.json", "--psp", "stripe")),
    Case("explain", 3, run("paid.json", "--app", "nothing:here", "--path", "/pay")),
    Case("explain-ip", 0, run("--peer", "81.2.69.142")),
    Case("explain-ip", 1, run("--peer", "10.0.0.1", "--strategy", "direct")),
    Case("explain-ip", 3, run("--peer", "10.0.0.1", "--app", "nothing:here")),
    Case("check", 0, run("--offline", filled=False)),
    Case("check", 1, run("--offline", "--app", "nothing:here")),
    Case("check", 3, full("--offline")),
    Case("status", 0, run(filled=False)),
    Case("status", 1, run(filled=True)),
    Case("status", 3, run()),
    Case("status", 4, locked()),
    Case("info", 0, run()),
    Case("info", 1, run("--app", "nothing:here")),
    Case("info", 3, full()),
    *(
        case
        for kind in ("parked", "dead")
        for case in (
            Case(f"{kind} list", 0, run(filled=True)),
            Case(f"{kind} list", 3, run()),
            Case(f"{kind} list", 4, locked()),
            Case(f"{kind} show", 0, shown),
            Case(f"{kind} show", 1, run(NOBODY, filled=False)),
            Case(f"{kind} show", 3, run(NOBODY)),
            Case(f"{kind} show", 4, locked(NOBODY)),
            Case(f"{kind} retry", 0, shown),
            Case(f"{kind} retry", 1, run(NOBODY, filled=False)),
            Case(f"{kind} retry", 3, run("--all")),
            Case(f"{kind} retry", 4, locked("--all")),
            Case(f"{kind} drop", 0, run("--all", "--yes", filled=True)),
            Case(f"{kind} drop", 1, run(NOBODY, "--yes", filled=True)),
            Case(f"{kind} drop", 3, run("--all", "--yes")),
            Case(f"{kind} drop", 4, locked("--all", "--yes")),
        )
    ),
    Case("resume", 0, run(filled=False)),
    Case("resume", 3, run()),
    Case("resume", 4, locked()),
    Case("erase", 0, run("--email", "a@example.com", "--yes", filled=True)),
    Case("erase", 1, set_aside),
    Case("erase", 3, run("--email", "a@example.com", "--yes")),
    Case("erase", 4, locked("--email", "a@example.com", "--yes")),
    Case("deliver", 0, run(filled=False)),
    Case("deliver", 1, run(filled=True)),
    Case("deliver", 3, run()),
    Case("deliver", 4, delivered_by_another),
    Case("worker", 3, run()),
    Case("postgres schema", 0, run()),
    Case("postgres schema", 3, full()),
    Case("postgres migrate", 3, run()),
]
WITH_POSTGRES = [Case("worker", 0, worked), Case("postgres migrate", 0, migrated)]
ELSEWHERE = {"backfill"}
"""Commands whose codes are tested in test_backfill.py."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {case.code}")
def test_an_exit_code_is_reached(workdir: Workdir, case: Case) -> None:
    """A script can depend on the codes in the help."""
    assert case.reach(workdir, case.command) == case.code


@pytest.mark.postgres
@pytest.mark.parametrize("case", WITH_POSTGRES, ids=lambda case: f"{case.command} {case.code}")
def test_an_exit_code_is_reached_with_postgres(workdir: Workdir, case: Case, database: str) -> None:
    """With a database, the commands that need one end with 0."""
    workdir.database = database
    assert case.reach(workdir, case.command) == case.code


def leaves(command: click.Command, name: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield each command that is not a group, with its name."""
    if not isinstance(command, click.Group):
        yield " ".join(name), command
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        found = command.get_command(context, each)
        assert found is not None
        yield from leaves(found, (*name, each))


@pytest.mark.parametrize(
    ("name", "command"), list(leaves(cli)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_documented_exit_code_has_a_case(name: str, command: click.Command) -> None:
    """The help and the cases above name the same codes. A wrong option ends each command with 2."""
    assert CliRunner().invoke(cli, [*name.split(), "--no-such-option"]).exit_code == 2
    documented = {int(code) for code in re.findall(r"(?:: |; )(\d) ", str(dict(leaves(cli))[name].epilog))}
    reached = {2} | {case.code for case in CASES + WITH_POSTGRES if case.command == name}
    assert name in ELSEWHERE or documented == reached
