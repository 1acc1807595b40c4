"""The command line, `butter-middleware`. Each command is loaded when it is asked for."""

from difflib import get_close_matches
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
"""By purpose and name: where the command is."""
COMMANDS: Final = {name: place for group in GROUPS.values() for name, place in group.items()}


class CommandGroup(click.Group):
    """Suggests the command that was meant, and shows whole summaries."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name, or say which name is near."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The commands are {', '.join(known)}."
            ctx.fail(f"there is no command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

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


class _Lazy(CommandGroup):
    """Loads a command with what it needs, such as a server, when it is run or its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        return resolve_name(COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def sections(self, ctx: click.Context) -> dict[str, list[str]]:  # noqa: ARG002 - as `CommandGroup`
        return {heading: list(group) for heading, group in GROUPS.items()}

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; an error of ours is one line, and no traceback."""
        try:
            return super().invoke(ctx)
        except ButterError as error:
            code = ExitCode.BUSY if isinstance(error, OutboxBusyError) else ExitCode.UNUSABLE
            raise Failure(str(error), code) from error


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="butter-middleware")
def cli() -> None:
    """Manage the evidence of your checkouts: see what was sent, fix what got stuck, send what is old."""
