"""The command line, `butter-middleware`. Each command is loaded when it is used."""

from collections import UserDict
from pkgutil import resolve_name
from typing import Any, Final

import click

from butter_middleware.cli.failure import EXIT_CODES, ExitCode, Failure
from butter_middleware.errors import ButterError, OutboxBusyError

GROUPS: Final[dict[str, dict[str, str]]] = {
    "Try": {
        "demo": "butter_middleware.cli.demo:demo",
        "sandbox": "butter_middleware.cli.sandbox:sandbox",
        "trigger": "butter_middleware.cli.trigger:trigger",
        "explain": "butter_middleware.cli.explain:explain",
        "explain-ip": "butter_middleware.cli.explain_ip:explain_ip",
    },
    "Watch": {
        "check": "butter_middleware.cli.check:check",
        "status": "butter_middleware.cli.status:status",
        "info": "butter_middleware.cli.info:info",
    },
    "Fix": {
        "parked": "butter_middleware.cli.queue:parked",
        "dead": "butter_middleware.cli.queue:dead",
        "resume": "butter_middleware.cli.status:resume",
        "erase": "butter_middleware.cli.erase:erase",
    },
    "Send": {
        "deliver": "butter_middleware.cli.deliver:deliver",
        "backfill": "butter_middleware.cli.backfill:backfill",
        "worker": "butter_middleware.cli.postgres:worker_command",
        "postgres": "butter_middleware.cli.postgres:postgres_command",
    },
}
"""The modules of the commands, by purpose and name."""


class _Lazy(UserDict[str, Any]):
    """Loads a command and its dependencies, such as a server, when it is run or its help is shown."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a click.Command
        return resolve_name(super().__getitem__(name))


COMMANDS: Final = _Lazy({name: place for group in GROUPS.values() for name, place in group.items()})


class CommandGroup(click.Group):
    """Shows summaries without cutting them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the first sentence of their help. click would cut it."""
        for heading, names in self.sections(ctx).items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            summaries = [(name, command.get_short_help_str(limit=1000)) for name, command in commands if command]
            with formatter.section(heading):
                formatter.write_dl([(name, f"{summary.removesuffix('.')}.") for name, summary in summaries])

    def sections(self, ctx: click.Context) -> dict[str, list[str]]:
        """Return the commands by heading."""
        return {"Commands": self.list_commands(ctx)}


class _Root(CommandGroup):
    """Groups the commands by purpose, and shows an error of this package as one line."""

    def sections(self, ctx: click.Context) -> dict[str, list[str]]:  # noqa: ARG002 - as `CommandGroup`
        return {heading: list(group) for heading, group in GROUPS.items()}

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command. An error of this package is shown as one line, without a traceback."""
        try:
            return super().invoke(ctx)
        except ButterError as error:
            code = ExitCode.BUSY if isinstance(error, OutboxBusyError) else ExitCode.UNUSABLE
            raise Failure(str(error), code) from error


@click.group(cls=_Root, commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="butter-middleware")
def cli() -> None:
    """Manage the evidence of your checkouts: see what was sent, fix what got stuck, send what is old."""
