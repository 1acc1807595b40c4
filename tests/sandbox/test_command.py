"""`butter-middleware sandbox` as a real process: what it refuses, what it prints, and how it ends."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import httpx
import pytest
from click.testing import CliRunner
from processes import free_port, until

from butter_middleware.cli import cli

ANY = ("any", "thing")
GOOD = {"customer_email": "ada@example.com", "ipv4_address": "81.2.69.142", "psp": "stripe", "invoice_id": "in_1"}


class Process:
    """The command in a separate process."""

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "butter_middleware", "sandbox", "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1"},
        )
        self.said = ""

    @property
    def url(self) -> str:
        assert self.process.stdout is not None
        while not (match := re.search(r"The inbox: +(http://\S+)", self.said)):
            line = self.process.stdout.readline()
            assert line, self.end()
            self.said += line
        return match[1]

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal. Return the exit code, the output and the errors."""
        if number is not None:
            self.process.send_signal(number)
        # Not communicate(), which skips what readline() has read ahead.
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        watchdog = threading.Timer(30, self.process.kill)
        watchdog.start()
        self.said += self.process.stdout.read()
        err = self.process.stderr.read()
        watchdog.cancel()
        return self.process.wait(), self.said, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Process(*arguments, **options))


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "say it twice: --host 0.0.0.0 --expose"),
        (["--host", "::"], "say it twice"),
        (["--host", "desk.example"], "say it twice"),
        (["--host", ""], "say it twice"),
        (["--expose"], "--expose alone changes nothing"),
        (["--expose", "--host", "127.0.0.2"], "--expose alone changes nothing"),
        (["--username", "a"], "--username and --password go together"),
        (["--password", "a"], "--username and --password go together"),
        (["--port", "65536"], "65536 is not in the range"),
        (["--keep", "0"], "0 is not in the range"),
    ],
)
def test_invalid_options_are_refused(arguments: list[str], says: str) -> None:
    """The error says what to write instead, and no port is opened."""
    result = CliRunner().invoke(cli, ["sandbox", *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


def test_without_the_extra_it_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its help works without the server."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "butter_middleware.sandbox.server", raising=False)
    assert CliRunner().invoke(cli, ["sandbox", "--help"]).exit_code == 0
    result = CliRunner().invoke(cli, ["sandbox"])
    assert result.exit_code == 3
    assert "pip install 'butter-middleware[sandbox]'" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "192.0.2.1", "--expose"], "cannot listen at 192.0.2.1"),
        (["--host", "no.such.host.invalid", "--expose"], "cannot listen at no.such.host.invalid"),
        (["--host", "192.168..1", "--expose"], "cannot listen at 192.168..1, port 8025 (not a name of a host)"),
    ],
)
def test_an_address_it_cannot_listen_at(arguments: list[str], says: str) -> None:
    """The address is of another machine, or the name is invalid."""
    result = CliRunner().invoke(cli, ["sandbox", *arguments])
    assert result.exit_code == 3
    assert says in result.output
    assert "--host 127.0.0.1" in result.output


def test_a_port_in_use() -> None:
    """The error proposes another port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(cli, ["sandbox", "--port", str(port)])
    assert result.exit_code == 4
    assert f"port {port} is in use" in result.output
    assert f"butter-middleware sandbox --port {port + 1}" in result.output


def test_a_server_that_cannot_serve_ends_it(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It ends with one line, although the port was free."""

    async def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_server", fail)
    result = CliRunner().invoke(cli, ["sandbox", "--port", "0"])
    assert result.exit_code == 3
    assert "server failed (OSError: [Errno 24] Too many open files)" in result.output
    assert "Traceback" not in result.output + capfd.readouterr().err


def test_help_says_what_it_is_for() -> None:
    """The list of commands has it too."""
    assert "BUTTER_BASE_URL" in CliRunner().invoke(cli, ["sandbox", "--help"]).output
    assert "sandbox" in CliRunner().invoke(cli, ["--help"]).output


# A real process


@pytest.mark.server
def test_two_on_one_port(start: Start) -> None:
    """The user may have forgotten the first one in another window."""
    port = free_port()
    assert start(port=port).url == f"http://127.0.0.1:{port}"
    code, out, err = start(port=port).end()
    assert (code, out) == (4, "")
    assert "in use" in err
    assert "Traceback" not in err


@pytest.mark.server
def test_it_prints_what_to_set(start: Start) -> None:
    """It prints lines to paste into the shop's shell, but never a password of the user."""
    process = start()
    url = process.url
    code, out, err = process.end(signal.SIGTERM)
    assert f"export BUTTER_BASE_URL={url}\n" in out
    assert "export BUTTER_USERNAME=sandbox BUTTER_PASSWORD=sandbox" in out
    assert "export BUTTER_ENVIRONMENT=staging" in out
    assert (code, err) == (0, "")

    process = start("--username", "mer chant", "--password", "s3cret")
    assert httpx.get(process.url, auth=("mer chant", "s3cret")).status_code == 200
    _code, out, err = process.end(signal.SIGTERM)
    assert "export BUTTER_USERNAME='mer chant' BUTTER_PASSWORD=..." in out
    assert "s3cret" not in out + err


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_despite_open_connections(start: Start, number: signal.Signals) -> None:
    """Streams, a slow answer and a silent connection do not delay it."""
    process = start()
    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=process.url))
        for _page in range(3):
            page = stack.enter_context(http.stream("GET", "/api/events"))
            lines = page.iter_lines()
            assert next(lines) == "retry: 1000"
        http.put("/api/answer", json={"answer": "slow"})
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(process.url).port or 0)))
        silent.send(b"POST /v1/analytics HTTP/1.1\r\n")
        slow = threading.Thread(target=lambda: httpx.post(f"{process.url}/v1/analytics", json=GOOD, auth=ANY))
        slow.start()
        until(lambda: http.get("/api/records").json()["arrived"] == 1, "the slow request")
        code, out, err = process.end(number)
        slow.join()
    assert (code, err) == (0, "")
    assert out.endswith("Stopped. Arrived: 1.\n")


@pytest.mark.server
def test_a_frozen_page_does_not_delay_its_end(start: Start) -> None:
    """A browser can freeze a page. The command still ends in time, without an error."""
    process = start()
    url = httpx.URL(process.url)
    with httpx.Client(base_url=url, auth=ANY) as http, socket.socket() as page:
        for number in range(150):  # more than the buffers of both ends take
            record = GOOD | {"invoice_id": f"in_{number}", "user_agent": "x" * 50_000}
            assert http.post("/v1/analytics", json=record).status_code == 200
        page.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        page.settimeout(10)
        page.connect(("127.0.0.1", url.port or 0))
        page.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"event: records" not in received:
            received += page.recv(1024)
        code, out, err = process.end(signal.SIGTERM)
    assert (code, err) == (0, "")
    assert out.endswith("Stopped. Arrived: 150.\n")


@pytest.mark.server
def test_reset_breaks_the_connection(start: Start) -> None:
    """TCP's RST comes before a byte of an answer. The record that was on its way is shown."""
    url = httpx.URL(start().url)
    httpx.put(url.join("/api/answer"), json={"answer": "reset"})
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=10) as connection:
        body = json.dumps(GOOD)
        head = f"POST /v1/analytics HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    (entry,) = httpx.get(url.join("/api/records")).json()["records"]
    assert (entry["outcome"], entry["status"], entry["record"]) == ("refused", None, GOOD)
    httpx.put(url.join("/api/answer"), json={"answer": "contract"})
    assert httpx.post(url.join("/v1/analytics"), json=GOOD, auth=ANY).status_code == 200


@pytest.mark.server
def test_a_test_record_is_reset_too(start: Start) -> None:
    """The page's connection breaks, and the sandbox continues."""
    url = httpx.URL(start().url)
    httpx.put(url.join("/api/answer"), json={"answer": "reset"})
    with pytest.raises(httpx.ReadError):
        httpx.post(url.join("/api/test"))
    (entry,) = httpx.get(url.join("/api/records")).json()["records"]
    assert (entry["outcome"], entry["record"]["customer_email"]) == ("refused", "test@example.com")


@pytest.mark.server
def test_an_exposed_sandbox_warns(start: Start) -> None:
    """The page still has this machine's own address."""
    process = start("--host", "0.0.0.0", "--expose")
    assert httpx.get(f"{process.url}/api/records").status_code == 200
    code, _out, err = process.end(signal.SIGINT)
    assert code == 0
    assert "Exposed: everyone who reaches port" in err


@pytest.mark.server
def test_a_record_on_its_way_at_the_stop_is_answered(start: Start) -> None:
    """A client that posts while it stops gets an answer or no connection."""
    process = start()
    outcomes: list[Any] = []

    def post_on() -> None:
        with httpx.Client(base_url=process.url, auth=ANY) as http:
            while True:
                try:
                    outcomes.append(http.post("/v1/analytics", json=GOOD).status_code)
                except httpx.HTTPError as error:
                    outcomes.append(error)
                    return

    thread = threading.Thread(target=post_on)
    thread.start()
    until(lambda: len(outcomes) > 20, "posts")
    code, _out, err = process.end(signal.SIGTERM)
    thread.join()
    assert (code, err) == (0, "")
    assert set(outcomes[:-1]) == {200}
