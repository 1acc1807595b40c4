"""`butter-middleware check`: it finds each problem, and says how to fix it."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from outboxes import append, record
from processes import free_port
from shops import CREDENTIALS

from butter_middleware import SQLiteOutbox
from butter_middleware.cli import check as module
from butter_middleware.cli import cli
from butter_middleware.cli.check import _clock, _connected, _sqlite
from butter_middleware.cli.output import Mark
from butter_middleware.delivery.http import ssl_context
from butter_middleware.outbox import SQLiteStore
from butter_middleware.testing import FakeButter

SHOP = """
import os
from butter_middleware import Butter, CheckoutRoute, client_ip, extract

def own(response): return None

butter = Butter(
    username=os.environ["NAME"] or None, password=os.environ["PASSWORD"], base_url=os.environ["URL"],
    client_ip=client_ip.aws_alb(),
    outbox=os.environ["PATH_OF"], delivery=os.environ.get("DELIVERY", "embedded"),
    routes=[
        CheckoutRoute("/a", psp="stripe", extract=extract.stripe()),
        CheckoutRoute("/b", psp="adyen", extract=own),
        CheckoutRoute("/c", psp="adyen", extract=extract.json(invoice_id="i")),
        CheckoutRoute("/d", psp="adyen"),
    ],
)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Path]:
    """Write a shop with a good configuration where the command runs. Return its outbox's path."""
    path = tmp_path / "data" / "butter.db"
    path.parent.mkdir()
    (tmp_path / "shop_to_check.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(module, "LEAST_FREE", 0)
    monkeypatch.setattr("butter_middleware.outbox.sqlite.preflight._temporary_folders", set)
    monkeypatch.setattr("butter_middleware.outbox.sqlite.preflight.mounted", lambda: f"x {tmp_path} ext4 rw 0 0")
    for name, value in {
        "URL": url,
        "NAME": CREDENTIALS["username"],
        "PASSWORD": CREDENTIALS["password"],
        "PATH_OF": str(path),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("BUTTER_OUTBOX", "BUTTER_USERNAME", "BUTTER_PASSWORD", "BUTTER_ENVIRONMENT", "BUTTER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield path
    sys.modules.pop("shop_to_check", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments])


def found(*arguments: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return the state, detail and remedy of each line, by check."""
    checked: dict[str, list[tuple[str, str, str]]] = {}
    for line in json.loads(run(*arguments, "--json").stdout):
        checked.setdefault(line["check"], []).append((line["state"], line["detail"], line["remedy"]))
    return checked


def made(path: Path, use: Callable[[SQLiteStore], Any] = SQLiteStore.counts) -> None:
    store = SQLiteOutbox(path).store()
    store.open()
    use(store)
    store.close()


def test_all_is_well(shop: Path, fake: FakeButter) -> None:
    """Every line is ok. The file is not created, and Butter gets a ping but no record."""
    outcome = run("--app", "shop_to_check:butter")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.rstrip().endswith("All is well.")
    lines = found("--app", "shop_to_check:butter")
    assert {state for each in lines.values() for state, _detail, _remedy in each} == {"ok"}
    assert [detail for _state, detail, _remedy in lines["route"]] == [
        "POST /a: stripe, by extract.stripe",
        "POST /b: adyen, by shop_to_check.own",
        "POST /c: adyen, by extract.json",
        "POST /d: adyen, by annotate() alone",
    ]
    assert list(lines) == [
        *("app", "client_ip", "route", "routes", "sqlite", "disk", "outbox", "dns", "tls", "credentials", "clock"),
    ]
    assert list(shop.parent.iterdir()) == []
    assert (fake.requests, fake.records) == (2, [])


@pytest.mark.parametrize(
    ("around", "state", "said"),
    [
        ("", "warning", "has an app, and ButterMiddleware with this Butter is not around it"),
        ("app.add_middleware(ButterMiddleware, butter=butter)", "failed", "no route of the app answers POST /a"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_an_app_without_the_middleware_is_warned_of(tmp_path: Path, around: str, state: str, said: str) -> None:
    """If no app of the module uses the Butter, it captures nothing. If one does, its routes are compared."""
    app = f"from starlette.applications import Starlette\nfrom butter_middleware import ButterMiddleware\n{around}\n"
    app = app.replace("ButterMiddleware\n", "ButterMiddleware\napp = Starlette()\n", 1)
    (tmp_path / "shop_to_check.py").write_text(SHOP + app)
    lines = found("--app", "shop_to_check:butter")
    findings = lines["routes"] if state == "warning" else lines["route"]
    assert any(each[0] == state and said in each[1] for each in findings), findings


def test_an_app_that_only_appends_needs_a_sidecar_and_no_credentials(
    shop: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeButter
) -> None:
    """Nothing fails for the web processes. Two warnings ask for the sidecar and its credentials."""
    made(shop)
    monkeypatch.setenv("DELIVERY", "external")
    monkeypatch.setenv("NAME", "")
    lines = found("--app", "shop_to_check:butter")
    assert lines["app"][0][1].endswith("delivery='external'")
    ((state, _detail, remedy),) = lines["delivery"]
    assert (state, "butter-middleware deliver" in remedy) == ("warning", True)
    ((state, detail, remedy),) = lines["credentials"]
    assert (state, "no username" in detail, "as `deliver` runs" in remedy) == ("warning", True, True)
    outcome = run("--app", "shop_to_check:butter")
    assert (outcome.exit_code, "needs none. Run check again" in outcome.stdout) == (0, True)
    assert fake.requests == 0


def test_wrong_credentials_fail(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 is a failure with exit code 1. The line names the arguments to correct, and no secret."""
    monkeypatch.setenv("PASSWORD", "other-secret")
    outcome = run("--app", "shop_to_check:butter")
    assert outcome.exit_code == 1
    assert "127.0.0.1 answered 401. Check username and password" in outcome.stdout
    assert "1 failed, 0 warnings." in outcome.stdout
    assert "other-secret" not in outcome.output


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (403, "failed", "may not do this"),
        (429, "failed", "Try again in a minute"),
        (503, "failed", "records wait meanwhile"),
        (302, "failed", "credentials follow no redirect"),
    ],
)
def test_other_answers_are_reported(shop: Path, fake: FakeButter, answer: int, state: str, said: str) -> None:
    """The line has Butter's answer, and what to do."""
    fake.respond_with(answer)
    assert found("--app", "shop_to_check:butter")["credentials"][0][0] == state
    fake.respond_with(answer)
    assert said in run("--app", "shop_to_check:butter").stdout


def test_a_port_without_a_server(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no connection, this fails, and the checks that need one are left out."""
    monkeypatch.setenv("URL", f"http://127.0.0.1:{free_port()}")
    lines = found("--app", "shop_to_check:butter")
    assert lines["tls"][0][:2] == ("failed", lines["tls"][0][1])
    assert "no connection to 127.0.0.1" in lines["tls"][0][1]
    assert "butter-middleware sandbox" in lines["tls"][0][2]
    assert "credentials" not in lines


def test_a_name_without_address() -> None:
    """If the lookup of the host fails, the check `dns` fails, not the credentials."""
    (finding,) = _connected("butter.invalid", 443, secure=True)
    assert (finding.check, finding.state) == ("dns", Mark.FAILED)


def test_a_lookup_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer could take half a minute."""
    answers = threading.Event()
    monkeypatch.setattr("butter_middleware.cli.check.SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_host, **_type: answers.wait(60) and [])
    (finding,) = _connected("butter.invalid", 443, secure=True)
    answers.set()
    assert (finding.check, finding.state) == ("dns", "failed")
    assert "/etc/resolv.conf" in finding.remedy


@contextmanager
def secured(tmp_path: Path) -> Generator[int]:
    """Serve TLS with a self-signed certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _peer = listener.accept()
            with plain:
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """The line has the reason, and how to add a certificate authority."""
    with secured(tmp_path) as port:
        *_before, finding = _connected("localhost", port, secure=True)
    assert (finding.check, finding.state) == ("tls", Mark.FAILED)
    assert "self-signed certificate" in finding.detail
    assert "SSL_CERT_FILE" in finding.remedy


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificate_authorities_that_cannot_be_read(
    shop: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    """A wrong SSL_CERT_FILE is one of the findings, with its fix. It is not reported as a network error."""
    authorities = shop.parent / "authorities.pem"
    if content is not None:
        authorities.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    ssl_context.cache_clear()
    lines = found("--app", "shop_to_check:butter")
    ((state, detail, _remedy),) = lines["client"]
    assert state == "failed"
    assert "certificate authorities cannot be read" in detail
    assert "Set SSL_CERT_FILE to" in detail
    assert "credentials" not in lines


@pytest.mark.parametrize("proxy", ["nonsense://grace:sesame@10.0.0.1", "socks5://grace:sesame@10.0.0.1", "http://[::"])
def test_a_proxy_that_cannot_be_used(shop: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A proxy variable that httpx cannot use is a finding too. Its value is not shown."""
    monkeypatch.setitem(sys.modules, "socksio", None)  # the package for SOCKS is not installed
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("URL", "https://127.0.0.1:1")
    lines = found("--app", "shop_to_check:butter")
    ((state, detail, _remedy),) = lines["client"]
    assert state == "failed"
    assert "Write ALL_PROXY as" in detail
    assert "sesame" not in str(lines)


def test_a_certificate_about_to_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than two weeks give a warning."""
    with secured(tmp_path) as port:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        monkeypatch.setattr("butter_middleware.delivery.http.ssl_context", lambda: context)
        *_before, finding = _connected("localhost", port, secure=True)
    assert finding.state is Mark.WARNING
    assert "valid for 3 days" in finding.detail


@pytest.mark.parametrize(
    ("theirs", "state", "said"),
    [
        (1000.0, Mark.OK, "within 1 s"),
        (999.1, Mark.OK, "within 1 s"),
        (990.0, Mark.OK, "within 9 s"),
        (900.0, Mark.WARNING, "99 s ahead of Butter's"),
        (1100.0, Mark.WARNING, "98 s behind Butter's"),
    ],
)
def test_the_clocks_are_compared(theirs: float, state: Mark, said: str) -> None:
    """Butter's time is rounded down to a second, and the answer took two. More than half a minute is a warning."""
    finding = _clock(theirs, 1000.0, 1002.0)
    assert (finding.state, said in finding.detail) == (state, True)


@pytest.mark.parametrize(
    ("version", "state", "said"),
    [
        ((3, 23, 1), Mark.FAILED, "too old"),
        ((3, 24, 0), Mark.OK, "The outbox's own lock prevents this"),
        ((3, 40, 1), Mark.OK, "The outbox's own lock prevents this"),
        ((3, 51, 2), Mark.OK, "WAL-reset bug (3.7.0 to 3.51.2)"),
        ((3, 51, 3), Mark.OK, "is fixed"),
    ],
)
def test_sqlites_version_is_checked(version: tuple[int, int, int], state: Mark, said: str) -> None:
    """The line names the bug, and why it does not occur here."""
    finding = _sqlite(version)
    assert (finding.state, said in finding.detail) == (state, True)


# The app.


@pytest.mark.parametrize(
    ("change", "check", "state", "said"),
    [
        (("client_ip.aws_alb()", "None"), "app", "failed", "client_ip"),
        (("import os", "import os, absent_module"), "app", "failed", "the app needs absent_module"),
        (("routes=[", "routes=[] and ["), "routes", "failed", "no checkout is captured"),
        (("routes=[", "environment='staging', routes=["), "environment", "warning", "test mode"),
        (("routes=[", "dry_run=True, routes=["), "app", "warning", "dry_run"),
        (('outbox=os.environ["PATH_OF"],', ""), "outbox", "warning", "memory only"),
        (('os.environ["PATH_OF"]', "'/nowhere/butter.db'"), "app", "failed", "the directory '/nowhere' does not exist"),
    ],
)
def test_a_configuration_is_checked(
    shop: Path, tmp_path: Path, change: tuple[str, str], check: str, state: str, said: str
) -> None:
    """It reports an app that cannot start, captures nothing, or has no outbox on a disk."""
    (tmp_path / "shop_to_check.py").write_text(SHOP.replace(*change))
    lines = found("--app", "shop_to_check:butter", "--offline")
    assert lines[check][0][0] == state
    assert said in " ".join(lines[check][0])


QUEUE = """
class Queue:
    async def enqueue(self, record): ...
    def verify(self, signature): raise PermissionError
"""


def test_no_method_of_a_queue_of_ones_own_is_called(shop: Path, tmp_path: Path) -> None:
    """The check knows nothing of it: its `verify` may be for something else."""
    (tmp_path / "shop_to_check.py").write_text(QUEUE + SHOP.replace('os.environ["PATH_OF"]', "Queue()"))
    lines = found("--app", "shop_to_check:butter")
    assert lines["outbox"][0][:2] == ("ok", "a queue of your own (Queue), whose consumer delivers")


# The outbox.


def test_the_outboxs_content_is_checked(shop: Path) -> None:
    """A hold fails. Captures and records without a process that handles them give a warning."""

    def use(store: SQLiteStore) -> None:
        store.add([record(1)])
        append(store, 1)
        store.set_hold("401")

    made(shop, use)
    lines = found("--outbox", str(shop), "--offline")
    assert [state for state, _detail, _remedy in lines["outbox"]] == ["failed", "warning"]
    assert "Butter answered 401" in lines["outbox"][0][1]
    assert "`resume`" in lines["outbox"][0][2]
    assert "read by no process" in lines["delivery"][0][1]
    assert run("--outbox", str(shop), "--offline").exit_code == 1


def test_a_healthy_outbox(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty outbox that no process uses is ok. The path may come from the environment."""
    made(shop)
    monkeypatch.setenv("BUTTER_OUTBOX", str(shop))
    lines = found("--offline")
    assert [line[0][0] for line in lines.values()] == ["ok"] * 4
    assert "0 records to be sent, 0 delivered" in lines["outbox"][0][1]


def test_a_wrong_path_fails_and_makes_nothing(shop: Path) -> None:
    """A given path must exist."""
    lines = found("--outbox", str(shop), "--offline")
    assert (lines["outbox"][0][0], "there is no such file" in lines["outbox"][0][1]) == ("failed", True)
    assert list(shop.parent.iterdir()) == []


def test_a_path_that_names_no_file_is_a_finding(shop: Path) -> None:
    """An invalid path fails its own line. The other lines are there."""
    lines = found("--outbox", ":memory:", "--offline")
    assert (lines["outbox"][0][0], "names no file" in lines["outbox"][0][1]) == ("failed", True)
    assert "sqlite" in lines


def test_places_that_do_not_last_are_warned_of(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system and a full disk are named, with the fix."""
    made(shop)
    monkeypatch.setattr("butter_middleware.outbox.sqlite.preflight.mounted", lambda: "x / nfs4 rw 0 0")
    monkeypatch.setattr(module, "LEAST_FREE", 1 << 60)
    lines = found("--outbox", str(shop), "--offline")
    assert "network file system (nfs4)" in lines["outbox"][0][1]
    assert lines["disk"][0][0] == "warning"
    assert "is on nfs4" in lines["disk"][0][1]


@pytest.mark.usefixtures("shop")
def test_a_server_that_believes_every_peer_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """If uvicorn accepts the peer's address from any client, a strategy cannot verify the peer."""
    assert len(found("--app", "shop_to_check:butter", "--offline")["client_ip"]) == 1
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    state, detail, remedy = found("--app", "shop_to_check:butter", "--offline")["client_ip"][1]
    assert (state, detail[:21]) == ("warning", "FORWARDED_ALLOW_IPS=*")
    assert "--no-proxy-headers" in remedy


def test_the_owner_of_the_file_is_checked(shop: Path) -> None:
    """Root may do what the app may not. So a check by a user who does not own the file gives a warning."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made(shop)
    os.chown(shop, 1234, 1234)
    assert "belongs to user 1234, and you are 0" in found("--outbox", str(shop), "--offline")["outbox"][0][1]


# Without an app.


def test_without_an_app_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, shop: Path, url: str) -> None:
    """The credentials and the path come from the environment. Missing ones are named."""
    monkeypatch.setenv("BUTTER_BASE_URL", url)
    lines = found()
    assert lines["credentials"][0][:2] == ("failed", lines["credentials"][0][1])
    assert "no username: set BUTTER_USERNAME" in lines["credentials"][0][1]
    assert lines["outbox"][0][0] == "warning"
    monkeypatch.setenv("BUTTER_USERNAME", CREDENTIALS["username"])
    monkeypatch.setenv("BUTTER_PASSWORD", CREDENTIALS["password"])
    lines = found()
    assert lines["credentials"][0][0] == "ok"
    assert lines["environment"] == [
        ("warning", f"BUTTER_BASE_URL: records go to {url}, a sandbox, and not to Butter. Unset it in production.", "")
    ]
    monkeypatch.setenv("BUTTER_BASE_URL", "http://shop.example")
    assert "BUTTER_BASE_URL is http:// to shop.example" in found()["credentials"][0][1]
