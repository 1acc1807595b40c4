"""How a command fails: one clear line on standard error, and a documented exit code."""

import io
import os
import sys
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Any, Final, TextIO

import click

from butter_middleware.cli.text import mask, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    """Done, and nothing needs you."""
    ATTENTION = 1
    """Done, and something needs you: a check failed, an entry was not there, records are left."""
    USAGE = 2
    """The command line is wrong. It is click's own code."""
    UNUSABLE = 3
    """The configuration, the app, the outbox or standard output cannot be used. What was done before stays done."""
    BUSY = 4
    """Another process does this already, or holds what is needed. What was done before stays done."""


LOCKED: Final = "another process holds the outbox's lock"
"""The meaning of `busy` for a command that opens the outbox."""


def exit_codes(*, ok: str, attention: str = "", busy: str = "") -> str:
    """Return a command's `epilog`: its exit codes and their meaning."""
    meanings = {
        ExitCode.OK: ok,
        ExitCode.ATTENTION: attention,
        ExitCode.USAGE: "the command line is wrong",
        ExitCode.UNUSABLE: "the configuration, the app, the outbox or standard output cannot be used",
        ExitCode.BUSY: busy,
    }
    return f"Exit codes: {'; '.join(f'{int(code)} {text}' for code, text in meanings.items() if text)}."


EXIT_CODES: Final = exit_codes(
    ok="done, nothing needs you",
    attention="done, something needs you",
    busy="another process is doing this already, or holds what is needed",
)
"""The exit codes of the command line as a whole."""


class Failure(click.ClickException):
    """Ends a command with one line on standard error. The text has the cause and the remedy."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.UNUSABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it in one line, masked."""
        text = " ".join(mask(self.format_message()).split())
        click.echo(printable(f"Error: {text}", sys.stderr), file=file, err=True)


class _Stream(io.FileIO):
    """A standard stream of the process. After its first failure, further output is dropped.

    Otherwise Python would try again at its exit, print a traceback, and end with its own exit code.
    """

    is_result = False

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, or end the command if this is standard output."""
        try:
            return os.write(self.fileno(), data)  # FileIO.write returns None if a non-blocking pipe is full
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not self.is_result:
                return memoryview(data).nbytes
            msg = f"standard output cannot be written ({error.strerror}). What was done before stays done."
            raise Failure(msg) from error


def guard_streams() -> None:
    """Let a full or closed standard output end a command with one line. Standard error never ends a command."""
    sys.stdout = _guarded(sys.stdout, is_result=True)
    sys.stderr = _guarded(sys.stderr, is_result=False)


def _guarded(stream: TextIO | None, *, is_result: bool) -> TextIO:
    """Return a guarded stream. A terminal stays as it is."""
    if stream is not None and stream.isatty():
        return stream
    # A stream that was closed at the start must not be written: another file may have its number now.
    raw = _Stream(os.open(os.devnull, os.O_RDONLY) if stream is None else stream.fileno(), "w", closefd=False)
    raw.is_result = is_result
    encoding, errors = ("utf-8", None) if stream is None else (stream.encoding, stream.errors)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=not is_result)
