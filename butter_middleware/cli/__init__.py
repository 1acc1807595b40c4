"""The command line, `butter-middleware`. Each command is loaded when it is asked for."""

from importlib import import_module
from typing import Any, Final

import click

from butter_middleware.cli.failure import EXIT_CODES, failure_of
from butter_middleware.errors import ButterError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "sandbox": ("butter_middleware.cli.sandbox", "sandbox"),
    "check": ("butter_middleware.cli.check", "check"),
    "deliver": ("butter_middleware.cli.deliver", "deliver"),
    "status": ("butter_middleware.cli.status", "status"),
    "parked": ("butter_middleware.cli.queue", "parked"),
    "dead": ("butter_middleware.cli.queue", "dead"),
    "resume": ("butter_middleware.cli.status", "resume"),
    "erase": ("butter_middleware.cli.erase", "erase"),
    "postgres": ("butter_middleware.cli.postgres", "postgres_command"),
    "worker": ("butter_middleware.cli.postgres", "worker_command"),
    "backfill": ("butter_middleware.cli.backfill", "backfill"),
    "explain": ("butter_middleware.cli.explain", "explain"),
    "explain-ip": ("butter_middleware.cli.explain_ip", "explain_ip"),
}
"""By name: the module and the name of the command in it."""


class _Lazy(click.Group):
    """Loads a command with what it needs, such as a server, when it is run or its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; an error of ours is one line, and no traceback."""
        try:
            return super().invoke(ctx)
        except ButterError as error:
            raise failure_of(error) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="butter-middleware")
def cli() -> None:
    """Look after the evidence of your checkouts: see what was sent, mend what got stuck, send what is old."""
