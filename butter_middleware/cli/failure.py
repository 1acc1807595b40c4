"""How a command fails: one clear line on standard error, and an exit code that means something."""

import sys
from enum import IntEnum
from typing import IO, Any, Final

import click

from butter_middleware.cli.output import mask, printable
from butter_middleware.errors import ButterError, OutboxBusyError


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    """Done, and nothing needs you."""
    ATTENTION = 1
    """Done, and something needs you: a check failed, an entry was not there, records are left."""
    USAGE = 2
    """The command line is wrong; click's own."""
    UNUSABLE = 3
    """The configuration, the app or the outbox cannot be used. What was done before stays done."""
    BUSY = 4
    """Another process does this already, or holds what is needed. What was done before stays done."""


EXIT_CODES: Final = (
    "Exit codes: 0 done, nothing needs you; 1 done, something needs you; 2 the command line is wrong; "
    "3 the configuration, the app or the outbox cannot be used; 4 another process is doing this already."
)
"""For a command's `epilog`."""


class Failure(click.ClickException):
    """Ends a command with one line on standard error. The text says what is wrong and the remedy."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.UNUSABLE) -> None:
        super().__init__(message)
        self.code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """What the command ends with."""
        return self.code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it, masked, in one line."""
        text = " ".join(mask(self.format_message()).split())
        click.echo(printable(f"Error: {text}", sys.stderr), file=file, err=True)


def failure_of(error: ButterError) -> Failure:
    """Return how a command ends that meets an error of ours."""
    return Failure(str(error), ExitCode.BUSY if isinstance(error, OutboxBusyError) else ExitCode.UNUSABLE)
