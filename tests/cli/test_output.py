"""The parts that all commands share: masking, tables, JSON, errors in one line, and exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import IO

import click
import pytest
from click.testing import CliRunner
from terminal import COLUMNS, ROWS, on_terminal

from butter_middleware import ConfigurationError
from butter_middleware.cli import COMMANDS, cli
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import command
from butter_middleware.cli.output import Output
from butter_middleware.cli.text import duration, mask, moment


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("shopper@example.com", "s***@example.com"),
        ("to Ann <ann.lee+x@example.co.uk>, ok", "to Ann <a***@example.co.uk>, ok"),
        ('{"email":"ann@example.com"}', '{"email":"a***@example.com"}'),
        ("?email=ann%2Bx%40example.com&b=1", "?email=a***%40example.com&b=1"),
        ("e%3Dann%40example.com", "e***%40example.com"),
        ("käthe@bücher.example", "k***@bücher.example"),
        ("mailto:ann@example.com", "mailto:a***@example.com"),
        ("no @ here, @decorator", "no @ here, @decorator"),
        # IPv4
        ("81.2.69.142", "81.2.x.x"),
        ("from 81.2.69.142:4711, 172.32.0.1.", "from 81.2.x.x:4711, 172.32.x.x."),
        ("trusted=('10.0.0.0/8', '172.16.9.9', '127.0.0.1')", "trusted=('10.0.0.0/8', '172.16.9.9', '127.0.0.1')"),
        ("081.002.069.142 and 999.1.1.1", "081.002.x.x and 999.1.x.x"),
        ("SQLite 3.45.1, 1.2.3.4.5", "SQLite 3.45.1, 1.2.3.4.5"),
        # IPv6
        ("2001:db8::1", "2001:db8:x"),
        ("[::1]:8000, ::", "[::1]:8000, ::"),
        ("ip:2001:0db8:0:0:0:0:0:1: refused", "ip:2001:db8:x: refused"),
        ("[2001:db8::1]:443 and fe80::1%eth0.", "[2001:db8:x]:443 and fe80:0:x%eth0."),
        ("::ffff:81.2.69.142", "0:0:x:81.2.x.x"),
        ("12:30:45 00:1a:2b:3c:4d:5e", "12:30:45 00:1a:2b:3c:4d:5e"),
    ],
)
def test_addresses_are_masked(text: str, masked: str) -> None:
    """An e-mail address keeps its first letter and domain, an IP address at most its first half."""
    assert mask(text) == masked


def test_masking_a_long_body_is_fast() -> None:
    """A megabyte without a space is read once, not once per character."""
    started = time.process_time()
    for text in ("a" * 1_000_000, "1." * 500_000, "a:" * 500_000, "%20" * 300_000, "a@" * 500_000):
        mask(text)
    assert time.process_time() - started < 20


@contextmanager
def given(function: click.Command, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    monkeypatch.setattr(sys.modules[__name__], "_given", function, raising=False)
    monkeypatch.setitem(COMMANDS, "given", f"{__name__}:_given")
    yield


@command("table", reveal=True, ok="shown")
def table(output: Output) -> None:
    output.show(ROWS, output.table(ROWS, COLUMNS))


@command("fields", ok="shown")
def fields(output: Output) -> None:
    output.fields({"email": "ann@example.com", "nested": {"ann@example.com": ["81.2.69.142", 3]}})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner()


def test_a_table_without_a_terminal_is_plain_lines(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal there are no colours, borders, cut cells or control characters."""
    with given(table, monkeypatch):
        result = run.invoke(cli, ["given"])
    assert result.exit_code == 0
    assert result.stdout == (
        "Check         State   Detail            More\n"
        "dns           ok      a***@example.com  1.2\n"
        "clock [bold]  failed  81.2.x.x \\x1b[2J  -\n"
    )


def test_json_is_one_document_and_masked(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs get all keys, and numbers as numbers. Personal data is masked as for people."""
    with given(table, monkeypatch):
        rows = json.loads(run.invoke(cli, ["given", "--json"]).stdout)
        revealed = json.loads(run.invoke(cli, ["given", "--json", "--reveal"]).stdout)
    assert rows[0] == {"name": "dns", "state": "ok", "detail": "a***@example.com", "more": 1.25}
    assert revealed[0]["detail"] == "a.shopper@example.com"
    with given(fields, monkeypatch):
        found = json.loads(run.invoke(cli, ["given", "--json"]).stdout)
    assert found == {"email": "a***@example.com", "nested": {"a***@example.com": ["81.2.x.x", 3]}}


def test_fields_are_lines(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object has one line per field. Nested values are indented."""
    with given(fields, monkeypatch):
        lines = run.invoke(cli, ["given"]).stdout.splitlines()
    assert lines[:3] == ["email   a***@example.com", "nested  {", '          "a***@example.com": [']


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (
            ConfigurationError("outbox='x': no directory.\nCreate ann@example.com"),
            "outbox='x': no directory. Create",
            3,
        ),
        (Failure("another delivers", ExitCode.BUSY), "another delivers", 4),
    ],
)
def test_an_expected_error_is_one_line(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str, code: int
) -> None:
    """An error that a person can fix is on standard error, without a traceback, and has its exit code."""

    @click.command
    def failing() -> None:
        raise error

    with given(failing, monkeypatch):
        result = run.invoke(cli, ["given"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: {line}")
    assert result.stderr.count("\n") == 1
    assert "ann@" not in result.stderr


def test_a_bug_keeps_its_traceback(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is a bug, so the traceback is needed."""

    @click.command
    def failing() -> None:
        raise ZeroDivisionError

    with given(failing, monkeypatch):
        assert isinstance(run.invoke(cli, ["given"]).exception, ZeroDivisionError)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_the_exit_codes(run: CliRunner, name: str) -> None:
    """Scripts depend on them."""
    assert "Exit codes: 0 " in run.invoke(cli, [name, "--help"]).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_80_columns(run: CliRunner, name: str) -> None:
    """A longer example would be broken in the middle of an option."""
    text = run.invoke(cli, [name, "--help"], terminal_width=80).stdout
    assert max(map(len, text.splitlines())) <= 80


SHOW = "from terminal import *; output = Output(); output.show(ROWS, output.table(ROWS, COLUMNS))"


def test_a_table_on_a_terminal_has_colours() -> None:
    """A failed state is red and a good one green. Brackets are not markup, and escape sequences are not sent."""
    shown = on_terminal(SHOW)
    assert "\x1b[32mok" in shown
    assert re.search(r"\x1b\[1;31mfailed", shown)
    assert "clock [bold]" in shown
    assert "\x1b[2J" not in shown
    assert "a***@example.com" in shown


WIDE = """from terminal import *
row = {"day": "2026-11-24T08:00:00Z", "email": "a.shopper@example.com", "reason": "422 " + "Unprocessable Content " * 3}
row |= {f"id{number}": f"sub_{number}MowQVLkdIwHu7ixeRlqHVX" for number in range(2)}
output = Output(reveal=True); output.show([], output.table([row, row], {key: key.title() for key in row}))"""


@pytest.mark.parametrize("columns", [60, 80, 100, 110, 120, 150, 250])
def test_a_table_on_a_narrow_terminal_loses_nothing(columns: int) -> None:
    """Long cells are folded. If the terminal is too narrow, a row is shown field by field."""
    shown = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(WIDE, COLUMNS=str(columns)))
    assert max(map(len, shown.splitlines())) <= columns
    assert [shown.count(word) for word in ("2026-11-24T08:00:00Z", "a.shopper@example.com", "Content")] == [2, 2, 6]
    assert [shown.count(part) for part in ("sub_0MowQ", "sub_1MowQ", "X")] == [2, 2, 4]


def test_no_color_is_respected() -> None:
    """With NO_COLOR there is no colour on a terminal."""
    shown = on_terminal(SHOW, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)
    assert "failed" in shown


PROGRESS = """from butter_middleware.cli.output import Output
with Output().progress("Sending") as tell:
    tell(1, 4, 1, "1 of 4", ""); Output().note("Aside."); tell(3, 4, 3, "3 of 4", "next try in 9 s")"""


def test_progress_is_a_bar_on_a_terminal_and_lines_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar and the lines go to standard error, so that the result can be piped."""
    shown = on_terminal(PROGRESS)
    assert "Sending" in shown
    assert re.search(r"75%.*next try in 9 s", shown)
    assert "\x1b[2KAside.\r\n" in shown, "a separate line, in place of the bar"
    monkeypatch.setattr("butter_middleware.cli.output.LINE_SECONDS", 0.0)
    with Output(as_json=True).progress("Sending") as tell:
        tell(1, 4, 1, "1 of 4", "")
        tell(2, 5, 2, "2 of 5", "Butter is away")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"Sending: 1 of 4, 25 %\nSending: 2 of 5.*, 40 %, .*Butter is away\n", captured.err)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (900_000, "10 days")]
)
def test_durations_have_a_readable_unit(seconds: float, text: str) -> None:
    """The unit is the largest of which there are at least two."""
    assert duration(seconds) == text


def test_moments_are_utc() -> None:
    """A time is the same for all readers. A wrong clock does not raise."""
    assert moment(1_750_000_000.0) == "2025-06-15T15:06:40Z"
    assert moment(None) is None
    assert moment(1e300) is None


def test_a_closed_standard_error_does_not_change_the_exit_code() -> None:
    """From Python 3.14 on, standard error keeps text that it could not write. The exit code 0 stays 0."""
    code = (
        "import sys; sys.stderr = open(2, 'w', closefd=False); sys.stderr.write('x')\n"
        "from butter_middleware.__main__ import main; main()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=writer, check=False)
    os.close(writer)
    assert (done.returncode, b"deliver" in done.stdout) == (0, True)


def process(
    *arguments: str,
    out: int | IO[bytes],
    err: int | IO[bytes] = subprocess.PIPE,
    before: Callable[[], None] | None = None,
) -> tuple[int, bytes]:
    """Run the command line in a separate process. Return its exit code and its standard error."""
    command = [sys.executable, "-m", "butter_middleware", *arguments]
    done = subprocess.run(command, stdout=out, stderr=err, timeout=60, check=False, preexec_fn=before)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["dead", "--help"], ["explain-ip", "--peer", "81.2.69.142"]])
def test_an_unwritable_standard_output_ends_a_command_in_one_line(arguments: list[str]) -> None:
    """It may be a full disk, a closed pipe, a full non-blocking pipe, or a closed descriptor."""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        found = [process(*arguments, out=full), process(*arguments, out=writer)]
    os.close(writer)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    found.append(process(*arguments, out=writer))
    os.close(reader)
    os.close(writer)
    found.append(process(*arguments, out=subprocess.DEVNULL, before=lambda: os.close(1)))
    reasons = "No space left on device", "Broken pipe", "Resource temporarily unavailable", "Bad file descriptor"
    for done, said in zip(found, reasons, strict=True):
        line = f"Error: standard output cannot be written ({said}). What was done before stays done.\n"
        assert done == (3, line.encode())


def test_both_streams_on_a_full_disk() -> None:
    """No line can be written, but the exit code is right."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        assert process("--help", out=full, err=full)[0] == 3
        assert process("nothing", out=full, err=full)[0] == 2


def test_the_help_groups_the_commands_by_purpose(run: CliRunner) -> None:
    """Each command has a whole sentence."""
    text = run.invoke(cli, ["--help"]).stdout
    places = [text.index(f"\n{heading}:\n") for heading in ("Try", "Watch", "Fix", "Send")]
    assert places == sorted(places)
    assert "..." not in text.partition("Try:")[2]
    for name in COMMANDS:
        entry = re.search(rf"\n  {name} +(\S.*?)\n(?=  \S|\n)", text, re.DOTALL)
        assert entry is not None, name
        assert entry[1].endswith("."), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["staus"], "No such command 'staus'. Did you mean 'status'?"),
        (["parked", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["postgres", "xyz"], "No such command 'xyz'."),
        (["status", "--jsn"], "--json"),
    ],
)
def test_a_similar_name_is_suggested(run: CliRunner, arguments: list[str], said: str) -> None:
    """This applies to commands and to options."""
    found = run.invoke(cli, arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def completed(**environment: str) -> str:
    """Run the command like a shell's completion."""
    code = "import sys; sys.argv = ['butter-middleware']; from butter_middleware.__main__ import main; main()"
    environ = os.environ | environment
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False, env=environ)
    return done.stdout.decode()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    """docs/operations.md says how to set this up."""
    assert "butter-middleware" in completed(_BUTTER_MIDDLEWARE_COMPLETE=f"{shell}_source")
    if shell == "bash":
        words = {"COMP_WORDS": "butter-middleware dead li", "COMP_CWORD": "2"}
        assert completed(_BUTTER_MIDDLEWARE_COMPLETE="bash_complete", **words) == "plain,list\n"
