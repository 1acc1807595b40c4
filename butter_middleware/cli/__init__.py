"""The command line, `butter-middleware`. Each command is loaded when it is asked for."""

from importlib import import_module
from typing import Final

import click

COMMANDS: Final[dict[str, tuple[str, str]]] = {}
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


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="butter-middleware")
def cli() -> None:
    """Look after the evidence of your checkouts: see what was sent, mend what got stuck, send what is old."""
