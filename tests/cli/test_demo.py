"""`butter-middleware demo` and `trigger`, a newcomer's first commands."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from processes import free_port, listening
from shops import CREDENTIALS
from terminal import plain, run_on_terminal

from butter_middleware.cli import cli
from butter_middleware.cli import demo as module
from butter_middleware.cli.demo import Shopper
from butter_middleware.sandbox import server
from butter_middleware.testing import FakeButter

DEMO = [sys.executable, "-m", "butter_middleware", "demo"]


def once(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["demo", "--once", *arguments])


def test_both_sides_of_the_demo_agree() -> None:
    """Five checkouts, one of them a reload, give four records. Each has the address that the proxy saw."""
    document = json.loads(once("--json").stdout)
    assert (document["checkouts"], document["records"], document["agree"]) == (5, 4, True)
    assert [row["ipv4_address"] for row in document["rows"]] == [
        "81.2.69.142",
        "89.160.20.112",
        "175.16.199.37",
        "216.160.83.56",
    ]
    found = once()
    assert found.exit_code == 0
    assert found.stdout.endswith("5 checkouts, one of them a reload; 4 records. They agree.\n")


def test_the_demo_ignores_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is the same behind a company's proxy."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    assert once().exit_code == 0


def test_a_demo_without_a_free_port_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have no loopback, or every port may be taken."""

    def listen(_host: str, _port: int) -> None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(server, "listen", listen)
    for command in (["demo", "--once"], ["demo"]):
        found = CliRunner().invoke(cli, command)
        assert (found.exit_code, found.stdout) == (3, "")
        said = "Error: the demo cannot listen at any port of 127.0.0.1 (Cannot assign requested address)."
        assert found.stderr == f"{said} Free a port, then run it again.\n"


@pytest.mark.parametrize("columns", [80, 120])
def test_the_demo_fits_into_a_terminal(columns: int) -> None:
    """No line of its table is broken."""
    shown = plain(run_on_terminal([*DEMO, "--once"], COLUMNS=str(columns)))
    assert max(map(len, shown.splitlines())) <= columns
    assert re.search(r"\nada@example.com +81.2.69.142 +in_cart-1 +81.2.69.142 +in_cart-1 +ok\r?\n", shown)


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_runs_until_a_signal(number: signal.Signals) -> None:
    """It prints the inbox's URL. Ctrl-C, which goes to the whole group, ends it with 0."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C ends it." not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        (inbox,) = re.findall(r"The inbox: +http://127.0.0.1:([0-9]+)", said)
        assert listening(int(inbox))
        (curl,) = re.findall(r"(  curl .*?)\n\n", said, re.DOTALL)
        assert json.loads(subprocess.check_output(["/bin/sh", "-c", curl], timeout=20)) == {
            "status": "paid",
            "invoice": "in_cart-9",
        }
        os.killpg(process.pid, number)
        assert process.wait(30) == 0
        assert "Ended" in process.stdout.read()
    assert not listening(int(inbox))


def another_address(patch: pytest.MonkeyPatch) -> None:
    """Make the proxy see another address than the shopper's."""
    patch.setattr(module, "SHOPPERS", [Shopper("cart-1", "ada@example.com", "9.9.9.9, 81.2.69.142")])


def wrong_credentials(patch: pytest.MonkeyPatch) -> None:
    build = module.shop
    patch.setattr(module, "shop", lambda inbox: build(inbox, "another-merchant"))
    patch.setattr(module, "DELIVERY_SECONDS", 1.0)


def a_checkout_that_fails(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "SHOPPERS", [Shopper("", "ada@example.com", "81.2.69.142")])


@pytest.mark.parametrize(
    ("change", "says"),
    [(another_address, "failed"), (wrong_credentials, "They differ."), (a_checkout_that_fails, "404 Not Found")],
)
def test_the_demo_fails_if_the_sides_differ(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], says: str
) -> None:
    """A demo that cannot fail proves nothing. One that fails ends with 1."""
    change(monkeypatch)
    found = once()
    assert found.exit_code == 1, found.output
    assert says in found.output


# One test record.


@pytest.fixture
def trigger(monkeypatch: pytest.MonkeyPatch, url: str) -> Callable[..., Result]:
    """Run the command in the environment of a shop with Butter's credentials."""
    for name, value in (CREDENTIALS | {"base_url": url}).items():
        monkeypatch.setenv(f"BUTTER_{name.upper()}", value)
    for name in ("BUTTER_APP", "BUTTER_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **options: CliRunner().invoke(cli, ["trigger", *arguments], **options)


def test_one_record_arrives(trigger: Callable[..., Result], fake: FakeButter) -> None:
    """Butter accepts the record. It is not of a real person, and each record has another ID."""
    document = json.loads(trigger("--json").stdout)
    assert (document["accepted"], document["answer"]) == (True, "200")
    found = trigger()
    assert found.exit_code == 0
    assert found.stdout.startswith("Accepted by the sandbox at http://127.0.0.1:")
    first, second = fake.records
    assert first == document["record"]
    assert first["customer_email"] == "test@example.com"
    assert first["invoice_id"] != second["invoice_id"]


def test_it_goes_where_the_app_sends(
    trigger: Callable[..., Result], fake: FakeButter, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials and the URL are the app's. Its outbox is not created."""
    (tmp_path / "shop_to_trigger.py").write_text(
        "from butter_middleware import Butter, client_ip\n"
        f"butter = Butter(client_ip=client_ip.direct(), base_url={url!r}, outbox='butter.db',\n"
        f"    username={CREDENTIALS['username']!r}, password={CREDENTIALS['password']!r})\n"
        f"dry = Butter(client_ip=client_ip.direct(), base_url={url!r}, dry_run=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("BUTTER_PASSWORD", "another")
    try:
        assert trigger("--app", "shop_to_trigger:butter").exit_code == 0
        dry = trigger("--app", "shop_to_trigger:dry")
    finally:
        sys.modules.pop("shop_to_trigger", None)
    assert len(fake.records) == 1
    assert not Path("butter.db").exists()
    assert dry.exit_code == 3
    assert "dry_run=True" in dry.stderr


@pytest.mark.parametrize("name", ["username", "password"])
def test_without_credentials_it_names_them(
    trigger: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The error names the variables and `--app`, and no argument of `Butter`."""
    variable = f"BUTTER_{name.upper()}"
    monkeypatch.delenv(variable)
    found = trigger()
    assert found.exit_code == 3
    assert found.stderr == (
        f"Error: no {name}: set {variable}, or {variable}_FILE to a mounted secret, or name your Butter: "
        "--app shop.main:butter.\n"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"BUTTER_PASSWORD": "wrong"}, "401. Check username and password"),
        ({"BUTTER_BASE_URL": f"http://127.0.0.1:{free_port()}"}, "Is it running? Start it: butter-middleware sandbox."),
    ],
)
def test_a_refused_record_is_explained(
    trigger: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    """It says what to do, and the exit code is 1."""
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    found = trigger()
    assert found.exit_code == 1
    assert says in found.stdout
    document = json.loads(trigger("--json").stdout)
    assert document["accepted"] is False
    assert document["remedy"] in says or document["remedy"].startswith("Check username and password")


def test_it_asks_before_it_sends_to_production(trigger: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal it needs --yes. The answer no sends nothing. For staging there is no question."""
    asked: list[str] = []

    async def post(self: Any, record: Any) -> Any:
        asked.append(str(record))
        raise ZeroDivisionError

    monkeypatch.setattr("butter_middleware.delivery.http.ButterClient.post", post)
    monkeypatch.delenv("BUTTER_BASE_URL")
    assert trigger().exit_code == 2
    monkeypatch.setattr("butter_middleware.cli.output.is_interactive", lambda: True)
    found = trigger(input="n\n")
    assert found.exit_code == 1
    assert "Send a test record to Butter production (api.disputes.services.butterpayments.com)?" in found.stderr
    assert asked == []
    assert isinstance(trigger(input="y\n").exception, ZeroDivisionError)
    assert isinstance(trigger("--yes").exception, ZeroDivisionError)
    monkeypatch.setenv("BUTTER_ENVIRONMENT", "staging")
    assert isinstance(trigger().exception, ZeroDivisionError)
    assert len(asked) == 3
