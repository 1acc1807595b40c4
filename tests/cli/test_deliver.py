"""Web processes that only append, and a sidecar that reads and sends: started, stopped, killed, replaced."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from click.testing import CliRunner, Result
from outboxes import append, lock_held, open_files, record, resolve
from processes import HERE, Shop, misbehaving, numbered, until
from shops import CREDENTIALS, PAID
from terminal import on_terminal

from butter_middleware import Butter, ButterMiddleware, ConfigurationError, SQLiteOutbox
from butter_middleware.cli import cli
from butter_middleware.cli.options import SAME_SECONDS
from butter_middleware.delivery.http import ssl_context
from butter_middleware.models.partial import Part
from butter_middleware.outbox import SQLiteStore
from butter_middleware.pipeline.pipeline import Pipeline
from butter_middleware.testing import FakeButter

USER = {"BUTTER_USERNAME": CREDENTIALS["username"], "BUTTER_PASSWORD": CREDENTIALS["password"]}


class Sidecar:
    """`deliver` in a separate process, with the tests' shop. It is killed at the end, if it still runs."""

    def __init__(self, url: str, path: Path, *arguments: str, **environment: str) -> None:
        self.errors = self._told = b""
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "butter_middleware",
                "deliver",
                *(arguments or ("--app", "shop:butter", "--follow")),
            ],
            cwd=HERE / "servers",
            env=os.environ | {"SHOP_BUTTER": url, "SHOP_OUTBOX": str(path), "SHOP_DELIVERY": "external"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        with self.process.stderr as errors, self.process.stdout as told:
            for line in errors:
                self.errors += line
            self._told = told.read()

    def prints(self, text: str) -> Self:
        until(lambda: text.encode() in self.errors or self.process.poll() is not None, f"it prints {text}", 40)
        assert text.encode() in self.errors, self.errors.decode()
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(40)
        self._thread.join()
        return code

    @property
    def output(self) -> str:
        return self._told.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()


def arrived(fake: FakeButter) -> list[str]:
    return sorted(found["invoice_id"] for found in fake.records)


def external(url: str, path: Path, server: str = "uvicorn") -> Shop:
    return Shop(server, url, SHOP_OUTBOX=str(path), SHOP_DELIVERY="external")


def stored(path: Path) -> dict[str, Any]:
    found = CliRunner().invoke(cli, ["status", "--json", "--outbox", str(path)])
    status: dict[str, Any] = json.loads(found.stdout)
    assert found.exit_code == (1 if status["attention"] else 0), found.output
    return status


@contextmanager
def outbox(path: Path) -> Generator[SQLiteStore]:
    """Open an outbox like another process."""
    store = SQLiteOutbox(path).store()
    store.open()
    yield store
    store.close()


# The web processes.


def threads(but: Collection[threading.Thread]) -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("butter-") and thread not in but}


def buy(butter: Butter) -> None:
    anyio.run(drive, ButterMiddleware(sends(start(), body(json.dumps(PAID).encode())), butter), http_scope())


def test_a_web_process_only_appends(make_butter: Callable[..., Butter], fake: FakeButter, path: Path) -> None:
    """It has no thread that reads or sends, and needs no credentials. All waits in the file for another process."""
    earlier = threading.enumerate()  # a thread of an earlier test may still hang
    butter = make_butter(outbox=path, delivery="external", username=None, password=None)
    buy(butter)
    assert butter.flush()
    assert threads(earlier) <= {"butter-store", "butter-say"}
    status = butter.status()
    assert (status.captured, status.pending, status.lost, status.endpoint) == (1, 0, 0, "external")
    assert status.coverage.ratio is None
    butter.close()
    until(lambda: open_files() == 0, "the end of what other tests opened")
    assert [stored(path)[name] for name in ("captured", "unread", "readers")] == [1, 1, 0]
    assert fake.requests == 0


@pytest.mark.parametrize("options", [{}, {"outbox": None}])
def test_a_web_process_that_only_appends_needs_a_file(
    make_butter: Callable[..., Butter], options: dict[str, Any]
) -> None:
    """Other processes cannot read memory. So the start fails, and the error names what to set."""
    with pytest.raises(ConfigurationError, match="set outbox= to the path of an SQLite file"):
        make_butter(delivery="external", **options)


def test_a_queue_is_refused_because_its_consumer_delivers(make_butter: Callable[..., Butter]) -> None:
    """If the merchant has a queue, its consumer sends, and a sidecar has nothing to do."""

    class Queue:
        async def enqueue(self, record: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="its consumer delivers"):
        make_butter(delivery="external", outbox=Queue())


def test_before_response_waits_for_the_disk_only(make_butter: Callable[..., Butter], path: Path) -> None:
    """The last chunk waits until the capture is on the disk, as in a process that delivers."""
    butter = make_butter(outbox=path, delivery="external", durability="before_response", durability_timeout=10)
    buy(butter)
    status = butter.status()
    assert (status.captured, status.not_durable_in_time, stored(path)["captured"]) == (1, 0, 1)


def test_a_file_without_a_process_that_delivers_is_reported(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While no process delivers, the log has one CRITICAL line, and the health route reports it too."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.ALONE_SECONDS", 0.0)
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEAD_SECONDS", 0.01)
    butter = make_butter(outbox=path, delivery="external")
    for _each in range(4):
        buy(butter)
        assert butter.flush()
    until(lambda: "no process delivers" in caplog.text, "the alarm")
    health = anyio.run(butter.pipeline.reporter.health)
    assert [reason.code for reason in health.reasons] == ["no_deliverer"]
    assert caplog.text.count("no process delivers") == 1
    with outbox(path) as other:
        assert other.lead()
        until(lambda: anyio.run(butter.pipeline.reporter.health).reasons == (), "the other one is seen")


@pytest.mark.server
def test_a_sidecar_reads_and_sends_what_living_processes_append(fake: FakeButter, url: str, path: Path) -> None:
    """Started before the shop, it waits for the file. Each record arrives once, within seconds."""
    with Sidecar(url, path) as sidecar:
        sidecar.prints("is not there yet")
        with external(url, path, "uvicorn two workers") as shop:
            for invoice in numbered(5):
                assert shop.checkout(invoice)[0] == 200
            until(lambda: arrived(fake) == numbered(5), "five records")
            took: list[float] = []
            for invoice in ("in_8", "in_9"):  # the quicker one counts, because the machine may be busy
                began = time.monotonic()
                assert shop.checkout(invoice)[0] == 200
                until(lambda: invoice in arrived(fake), "one more")  # noqa: B023 - it is called at once
                took.append(time.monotonic() - began)
            assert min(took) < 5
            assert sidecar.end() == 0
            assert b"Stopping" in sidecar.errors
            assert shop.checkout("in_a")[0] == 200
            assert "in_a" not in arrived(fake)
            with Sidecar(url, path) as second:
                until(lambda: "in_a" in arrived(fake), "what came between the two")
                assert second.end() == 0
    assert arrived(fake) == sorted([*numbered(5), "in_8", "in_9", "in_a"])


@pytest.mark.server
def test_captures_of_a_killed_shop_are_sent(fake: FakeButter, url: str, path: Path) -> None:
    """The sidecar sends the captures that were on the disk when the web process was killed."""
    with external(url, path) as shop:
        for invoice in numbered(5):
            assert shop.checkout(invoice)[0] == 200
        until(lambda: stored(path)["captured"] == 5, "five on the disk")
        shop.kill()
    assert fake.records == []
    with Sidecar(url, path, "--app", "shop:butter") as once:
        assert once.wait() == 0, once.errors.decode()
        assert "Delivered 5 records." in once.output
    assert arrived(fake) == numbered(5)


@pytest.mark.server
def test_a_second_sidecar_takes_over(fake: FakeButter, url: str, path: Path) -> None:
    """A second one waits, and names the first. When the first is killed it takes over, and nothing is lost.

    If the first had not written an answer yet, that record is sent again.
    """
    with external(url, path) as shop:
        assert shop.checkout("in_0")[0] == 200
        with Sidecar(url, path) as first:
            first.prints("Delivering from")
            with Sidecar(url, path) as second:
                second.prints(f"process {first.process.pid} delivers from")
                until(lambda: arrived(fake) == ["in_0"], "the first record")
                first.end(signal.SIGKILL)
                for invoice in numbered(5)[1:]:
                    assert shop.checkout(invoice)[0] == 200
                second.prints("Delivering from")
                until(lambda: set(arrived(fake)) == set(numbered(5)), "all records")
                assert second.end() == 0


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_settles_the_records_in_flight(fake: FakeButter, url: str, path: Path, number: signal.Signals) -> None:
    """The signal comes during slow answers. What was sent is not sent again. The rest waits for the next sidecar."""
    filled(path, 40)
    fake.delay = 0.5
    with Sidecar(url, path) as first:
        until(lambda: len(fake.records) >= 4, "some records")
        first.process.send_signal(number)
        assert first.end() == 0, "twice at once, as `timeout` does it, is once"
    sent = len(fake.records)
    assert sent < 40
    assert stored(path)["delivered"] == sent
    fake.delay = 0.0
    with Sidecar(url, path, "--app", "shop:butter") as once:
        assert once.wait() == 0
    assert arrived(fake) == sorted(f"in_{number}" for number in range(40))


@pytest.mark.server
def test_a_second_signal_ends_it_at_once(path: Path) -> None:
    """A person who does not want to wait for an answer sends the signal again."""
    filled(path, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(40)
        with Sidecar(f"http://127.0.0.1:{silent.getsockname()[1]}", path) as sidecar:
            ping, on_its_way = sorted([silent.accept()[0], silent.accept()[0]], key=lambda one: one.recv(1))
            with ping, on_its_way:
                assert (ping.recv(1), on_its_way.recv(1)) == (b"E", b"O")  # of GET and POST
                sidecar.process.send_signal(signal.SIGTERM)
                sidecar.prints("Stopping")
                began = time.monotonic()
                until(lambda: time.monotonic() - began > SAME_SECONDS, "more than a moment")
                assert sidecar.end() == -signal.SIGTERM
    assert stored(path)["pending"] == 1


@pytest.mark.server
def test_a_killed_sidecar_loses_nothing(fake: FakeButter, url: str, path: Path) -> None:
    """It is killed several times while checkouts come. Each arrives, and only those in flight arrive twice.

    Four are in flight, and four more if their answers are just being written.
    """
    fake.delay = 0.05
    kills, number = 3, 0
    with external(url, path) as shop:
        for _kill in range(kills):
            with Sidecar(url, path) as sidecar:
                before = len(fake.records)
                for _each in range(8):
                    assert shop.checkout(f"in_{number}")[0] == 200
                    number += 1
                until(lambda before=before: len(fake.records) > before, "it sends")  # type: ignore[misc]
                sidecar.end(signal.SIGKILL)
        with Sidecar(url, path, "--app", "shop:butter") as once:
            assert once.wait() == 0, once.errors.decode()
    assert sorted(set(arrived(fake))) == sorted(f"in_{each}" for each in range(number))
    assert len(fake.records) - number <= 8 * kills


# Other processes.


@pytest.mark.server
def test_an_app_that_delivers_keeps_its_records(fake: FakeButter, url: str, path: Path) -> None:
    """If an app delivers itself, `deliver` names its process, ends with 4, and takes nothing from it."""
    with Shop("uvicorn", url, SHOP_OUTBOX=str(path)) as shop:
        assert shop.checkout("in_0")[0] == 200
        until(lambda: arrived(fake) == ["in_0"], "the app delivers")
        for arguments in (("--app", "shop:butter"), ("--outbox", str(path))):
            with Sidecar(url, path, *arguments, SHOP_DELIVERY="embedded", **USER) as once:
                assert once.wait() == 4
                assert f"process {shop.process.pid} delivers from" in once.errors.decode()
        assert shop.checkout("in_1")[0] == 200
        until(lambda: arrived(fake) == numbered(2), "the app goes on")


@pytest.mark.server
def test_a_sidecar_works_without_a_reader_of_its_output(fake: FakeButter, url: str, path: Path) -> None:
    """The reader of its standard error has ended. It still sends, and a signal ends it with 0."""
    filled(path, 2)
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "butter_middleware", "deliver", "--outbox", str(path), "--follow"],
        env=os.environ | {"BUTTER_BASE_URL": url} | USER,
        stderr=writer,
    ) as sidecar:
        os.close(writer)
        until(lambda: arrived(fake) == numbered(2) or sidecar.poll() is not None, "the records", 40)
        sidecar.send_signal(signal.SIGTERM)
        assert (arrived(fake), sidecar.wait(40)) == (numbered(2), 0)


# Without the app.


def filled(path: Path, records: int, captures: int = 0) -> None:
    with outbox(path) as store:
        store.add([record(number) for number in range(records)])
        append(store, *range(captures))


@pytest.fixture
def run(path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `deliver --outbox` in this process, with the credentials of the environment."""
    monkeypatch.setattr("butter_middleware.config.BASE_URL", url)
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BUTTER_OUTBOX", raising=False)
    return lambda *arguments: CliRunner().invoke(cli, ["deliver", "--outbox", str(path), *arguments])


def test_records_are_sent_without_the_app(run: Callable[..., Result], fake: FakeButter, path: Path) -> None:
    """With credentials only, existing records are sent. It ends with 0 and the counts."""
    filled(path, 3)
    found = run("--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["delivered"] == 3
    assert arrived(fake) == numbered(3)
    assert run().stdout == "Delivered 0 records.\n"


def test_captures_need_the_app(run: Callable[..., Result], fake: FakeButter, path: Path) -> None:
    """Without extractors, captures stay. It says so before and after, and ends with 1."""
    filled(path, 1, captures=2)
    found = run()
    assert found.exit_code == 1
    assert "Delivered 1 record. 2 captures are still to be read." in found.stdout
    assert "add --app shop.main:butter" in found.stderr
    assert stored(path)["captured"] == 2
    assert arrived(fake) == ["in_0"]


def test_parts_are_not_expired_without_the_app(run: Callable[..., Result], path: Path) -> None:
    """Only the app knows how long a part waits for the other."""
    with outbox(path) as store:
        (found,) = append(store, 1)
        resolve(store, found, part=Part("join:1", shopper=True, fields={}, captured_at=1.0))
    assert run().exit_code == 0
    assert stored(path)["parts"] == 1


@pytest.mark.parametrize(
    ("answers", "patience", "said"),
    [
        ([401] * 50, "HOLD_SECONDS", "`check` says why"),
        ([503] * 50, "PATIENCE_SECONDS", "Butter does not answer"),
        ([429] * 50, "PATIENCE_SECONDS", "Butter asks for a pause"),
    ],
)
def test_it_does_not_wait_for_days(
    run: Callable[..., Result],
    fake: FakeButter,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int],
    patience: str,
    said: str,
) -> None:
    """If Butter is away or refuses, it ends with 1 and says what to do. All records stay in the file."""
    monkeypatch.setattr(f"butter_middleware.cli.deliver.{patience}", 0.5)
    filled(path, 8)
    fake.respond_with(*answers)
    found = run()
    assert (found.exit_code, said in found.stdout) == (1, True), found.output
    assert "8 records are still to be sent" in found.stdout
    assert stored(path)["pending"] == 8


def test_consecutive_pauses_count_as_one(
    run: Callable[..., Result], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pauses Butter seems to work for a moment, but accepts nothing."""
    monkeypatch.setattr("butter_middleware.cli.deliver.PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr("butter_middleware.delivery.circuit_breaker.THROTTLED_SECONDS", 0.1)
    filled(path, 2)
    fake.respond_with(*[429] * 100)
    found = run()
    assert (found.exit_code, "Butter asks for a pause" in found.stdout) == (1, True), found.output
    assert fake.requests > 2


def test_a_locked_file_ends_it_after_a_wait(
    run: Callable[..., Result], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes the lock during a drain. It ends with 4 and one line. All records stay in the file."""
    monkeypatch.setattr("butter_middleware.cli.deliver.DRAIN_SECONDS", 0.2)
    monkeypatch.setattr("butter_middleware.cli.deliver.PATIENCE_SECONDS", 1.0)
    filled(path, 1)
    fake.respond_with(*[409] * 50)
    close = Pipeline.close
    with ExitStack() as lock:
        holds = threading.Event()

        def hold() -> None:
            until(lambda: fake.requests > 0, "the first answer", 40)
            lock.enter_context(lock_held(path))
            holds.set()

        def release_and_close(pipeline: Pipeline) -> None:
            assert holds.wait(40)
            lock.close()
            close(pipeline)

        monkeypatch.setattr(Pipeline, "close", release_and_close)  # closing would wait for it
        thread = threading.Thread(target=hold)
        thread.start()
        found = run()
        thread.join()
    assert (found.exit_code, "the outbox is busy" in found.stderr) == (4, True), found.output
    assert found.stdout == ""
    assert stored(path)["pending"] == 1


STOPPED_SHOP = """
import os, signal
from butter_middleware import Butter, client_ip

butter = Butter(client_ip=client_ip.direct(), outbox="butter.db")
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_stop_before_it_began_is_a_failure(fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes while the app is imported. Nothing is sent, and the output says so, also as JSON."""
    filled(path, 1)
    path.rename(path.with_name("butter.db"))
    path.with_name("stopped_shop.py").write_text(STOPPED_SHOP)
    monkeypatch.chdir(path.parent)
    monkeypatch.syspath_prepend(path.parent)
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    for options in ([], ["--json"]):
        monkeypatch.delitem(sys.modules, "stopped_shop", raising=False)
        found = CliRunner().invoke(cli, ["deliver", "--app", "stopped_shop:butter", *options])
        assert (found.exit_code, "it was told to stop before it began" in found.stdout) == (1, True), found.output
        assert not options or json.loads(found.stdout)["pending"] == 1
    assert fake.requests == 0


def test_a_log_line_comes_above_the_bar(fake: FakeButter, url: str, path: Path) -> None:
    """On a terminal, log lines come above the bar, and the result comes last."""
    filled(path, 6)
    fake.respond_with(422)
    fake.delay = 0.5  # so that the bar is visible
    code = f"from butter_middleware.cli import cli; cli(['deliver', '--outbox', {str(path)!r}])"
    shown = on_terminal(code, BUTTER_BASE_URL=url, **USER)
    assert re.search(r"\x1b\[2K[-\d]+ [:,\d]+ ERROR butter: a record is dead", shown)
    assert "5 of 5" in shown
    assert shown.endswith("Delivered 5 records. This needs you: 1 dead (`dead list`).\r\n")


def test_a_retry_that_is_due_soon_is_done(run: Callable[..., Result], fake: FakeButter, path: Path) -> None:
    """It waits for a record whose retry is soon."""
    filled(path, 1)
    fake.respond_with(409)
    found = run("--json")
    assert json.loads(found.stdout)["delivered"] == 1


@pytest.mark.parametrize(("name", "said"), [("BUTTER_USERNAME", "no username"), ("BUTTER_PASSWORD", "no password")])
def test_credentials_are_needed(
    run: Callable[..., Result], path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """Without credentials it does not begin."""
    filled(path, 1)
    monkeypatch.delenv(name)
    found = run()
    assert (found.exit_code, said in found.stderr) == (3, True)


def test_a_client_is_needed(
    run: Callable[..., Result], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong SSL_CERT_FILE ends it with the fix. After a correction, the same command sends the record."""
    filled(path, 1)
    ssl_context.cache_clear()
    with monkeypatch.context() as wrong:
        wrong.setenv("SSL_CERT_FILE", str(path))
        found = run()
    assert (found.exit_code, "Set SSL_CERT_FILE to" in found.stderr) == (3, True)
    assert run().exit_code == 0
    assert len(fake.records) == 1


@pytest.mark.server
def test_a_sidecar_without_an_http_client_ends_at_once(path: Path) -> None:
    """A wrong SSL_CERT_FILE is an error with its fix. It does not wait for the outbox's file first."""
    with Sidecar("https://127.0.0.1:1", path, SSL_CERT_FILE=str(path)) as sidecar:
        assert sidecar.wait() == 3
        assert "Set SSL_CERT_FILE to a file of certificates" in sidecar.errors.decode()
        assert b"Waiting for it" not in sidecar.errors


@pytest.mark.server
def test_credentials_are_checked_before_the_file(path: Path) -> None:
    """A sidecar that can never send does not wait for the app to create the file."""
    with Sidecar("http://127.0.0.1:1", path, SHOP_BARE="1") as sidecar:
        assert sidecar.wait() == 3
        assert "no username" in sidecar.errors.decode()
        assert b"Waiting for it" not in sidecar.errors


def test_a_wrong_path_is_an_error(run: Callable[..., Result], path: Path) -> None:
    """No file is created, also not with --follow."""
    for arguments in ((), ("--follow",)):
        found = run(*arguments)
        assert (found.exit_code, "there is no such file" in found.stderr) == (3, True)
    assert list(path.parent.iterdir()) == []


def test_a_sidecar_has_no_json_output(run: Callable[..., Result], path: Path) -> None:
    """A command that does not end has no result. The error names another command for programs."""
    filled(path, 1)
    found = run("--follow", "--json")
    assert (found.exit_code, "`status --json`" in found.stderr) == (2, True)


def test_outbox_and_app_exclude_each_other(run: Callable[..., Result], path: Path) -> None:
    """--outbox with --app is refused, because it could be another file."""
    filled(path, 1)
    assert run("--app", "shop:butter").exit_code == 2


@pytest.mark.server
def test_a_bad_extractor_parks_and_the_next_one_sends(fake: FakeButter, url: str, path: Path) -> None:
    """If the sidecar's extractor fails, the capture is parked. The next start, with the fix, sends it."""
    with external(url, path) as shop:
        assert shop.checkout("in_0")[0] == 200
        until(lambda: stored(path)["captured"] == 1, "one on the disk")
    with Sidecar(url, path, "--app", "shop:butter", SHOP_EXTRACTOR="raises") as broken:
        assert broken.wait() == 1
        assert "This needs you: 1 parked (`parked list`)." in broken.output
    with Sidecar(url, path, "--app", "shop:butter") as fixed:
        assert fixed.wait() == 0
        assert "Delivered 1 record." in fixed.output
    assert arrived(fake) == ["in_0"]


@pytest.mark.server
def test_a_sidecar_survives_an_outage(path: Path) -> None:
    """A sidecar waits during an outage, and SIGTERM still ends it."""
    filled(path, 1)
    asked: list[socket.socket] = []
    with misbehaving(asked.append) as nobody, Sidecar(nobody, path) as sidecar:
        until(lambda: len(asked) > 1, "the ping at its start, and the record", 40)
        sidecar.prints("Delivering from")
        assert sidecar.process.poll() is None
        assert sidecar.end() == 0
    assert stored(path)["pending"] == 1
