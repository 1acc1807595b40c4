"""`worker`, and `postgres`: the queue that many machines share."""

import asyncio
import logging
import signal
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Final

import click

from butter_middleware.butter import Butter
from butter_middleware.cli import CommandGroup
from butter_middleware.cli.deliver import SAME_SECONDS
from butter_middleware.cli.failure import ExitCode, Failure, exit_codes
from butter_middleware.cli.options import app_option, by_hand, load
from butter_middleware.cli.output import Output, output_options
from butter_middleware.client_ip import direct

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DSN: Final = "BUTTER_POSTGRES_DSN"
_dsn: Final = click.option("--dsn", envvar=_DSN, help=f"The database, postgresql://...; or {_DSN}.")
_schema: Final = click.option("--schema", default="butter", show_default=True, help="The schema that the queue is in.")
_engine: Final = click.option(
    "--procrastinate-schema",
    default="",
    help="The schema of a procrastinate that you run anyway. Without it, its tables are in --schema.",
)
_web: Final = click.option(
    "--web", multiple=True, metavar="ROLE", help="A role that may enqueue, and nothing else. Repeatable."
)
_workers: Final = click.option(
    "--worker", multiple=True, metavar="ROLE", help="A role that may work the queue. Repeatable."
)


@click.command("worker", epilog=exit_codes(ok="it was told to stop"))
@app_option
@_dsn
@_schema
@_engine
@click.option("--queue", default="butter", show_default=True, help="The queue's name.")
@click.option("--base-url", help="Where Butter is, or BUTTER_BASE_URL: for tests and sandboxes.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 32),
    default=4,
    show_default=True,
    help="How many records this worker sends at once.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="How many records all workers together send at once.",
)
@click.option(
    "--stop-timeout",
    type=click.FloatRange(0, 600),
    default=25.0,
    show_default=True,
    help="How many seconds records on their way may take after SIGTERM.",
)
def worker_command(app: str | None, dsn: str | None, base_url: str | None, **options: Any) -> None:  # noqa: ANN401
    """Send what is in the queue to Butter, until SIGTERM.

    With --app: your Butter's credentials, environment and PostgresOutbox are used; name the worker's own role by --dsn.
    Without: BUTTER_USERNAME and BUTTER_PASSWORD of the environment. Run as many as you like: they share --slots.
    """
    _extra()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # one line each time that PostgreSQL is not there
    logging.getLogger("httpx").setLevel(logging.WARNING)
    butter = _bare(_needed(dsn), base_url, options) if app is None else _of_app(app)
    asyncio.run(_work(butter, dsn, options))


def _of_app(app: str) -> Butter:
    """Return the Butter of an app, which says by itself what the command line would say differently.

    Raises:
        Failure: the command line says it too, or this Butter sends nothing.
    """
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    said: list[str] = []
    butter = load(app, said)
    for text in said:
        Output().note(text)
    if butter.dry_run:
        msg = f"--app {app}: this Butter sends nothing: dry_run=True. Take that out."
        raise Failure(msg)
    own = ("base_url", "queue", "schema") if isinstance(butter.outbox, PostgresOutbox) else ("base_url",)
    for name in own:
        if by_hand(name):
            msg = f"leave out --{name.replace('_', '-')}: the app that --app or BUTTER_APP names has its own."
            raise Failure(msg, ExitCode.USAGE)
    return butter


def _bare(dsn: str, base_url: str | None, options: dict[str, Any]) -> Butter:
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    queue = PostgresOutbox(dsn, queue=options["queue"], schema=options["schema"])
    return Butter(client_ip=direct(), base_url=base_url, outbox=queue)


async def _work(butter: Butter, dsn: str | None, options: dict[str, Any]) -> None:
    from butter_middleware.postgres import Names, Pace, PostgresOutbox, Worker  # noqa: PLC0415 - an extra

    queue = butter.outbox
    names = Names(options["schema"], options["procrastinate_schema"], options["queue"])
    if isinstance(queue, PostgresOutbox):
        names = replace(names, schema=queue.names.schema, queue=queue.names.queue)
        dsn = dsn or queue.dsn
    pace = Pace(options["concurrency"], options["slots"], options["stop_timeout"])
    worker = Worker(_needed(dsn), names, butter.delivery, pace)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        """Stop; a second signal ends the process at once, but within a moment it is the first, told twice."""
        worker.stop()
        for number in _SIGNALS:
            loop.call_later(SAME_SECONDS, signal.signal, number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    await worker.run()


def _extra() -> None:
    """Load what the extra brings.

    Raises:
        Failure: it is not installed, or psycopg finds no libpq; the remedy.
    """
    try:
        import_module("butter_middleware.postgres")
    except ModuleNotFoundError as error:
        if error.name not in {"procrastinate", "psycopg", "psycopg_pool"}:
            raise
        msg = "the queue in PostgreSQL is an extra. Run: pip install 'butter-middleware[postgres]'"
        raise Failure(msg) from error
    except ImportError as error:  # psycopg's own, which has no module's name
        msg = f"psycopg cannot be used ({error}). Install the system's libpq, or run: pip install 'psycopg[binary]'"
        raise Failure(msg) from error


@click.group("postgres", cls=CommandGroup, epilog=exit_codes(ok="done"))
def postgres_command() -> None:
    """Set up the queue in PostgreSQL that many machines share."""


@postgres_command.command("schema", epilog=exit_codes(ok="printed"))
@_schema
@_engine
@_web
@_workers
def schema_command(schema: str, procrastinate_schema: str, web: Sequence[str], worker: Sequence[str]) -> None:
    """Print the SQL for a database that has none of it, for those who apply SQL by themselves."""
    _extra()
    from butter_middleware.postgres import Names  # noqa: PLC0415 - an extra
    from butter_middleware.postgres.schema import fresh_sql  # noqa: PLC0415

    click.echo(fresh_sql(Names(schema, procrastinate_schema), web, worker))


@postgres_command.command("migrate", epilog=exit_codes(ok="the queue is up to date"))
@output_options()
@_dsn
@_schema
@_engine
@_web
@_workers
def migrate_command(
    output: Output, dsn: str | None, schema: str, procrastinate_schema: str, web: Sequence[str], worker: Sequence[str]
) -> None:
    """Make the queue, or bring it up to date, as its owner; and grant its use to roles.

    Making it is one transaction. Of an update each step is one, and is named.
    """
    _extra()
    from butter_middleware.postgres import Names  # noqa: PLC0415 - an extra
    from butter_middleware.postgres.schema import migrate  # noqa: PLC0415

    done = migrate(_needed(dsn), Names(schema, procrastinate_schema), web, worker)
    output.result({"done": done}, "; ".join(done))


def _needed(dsn: str | None) -> str:
    if not dsn:
        msg = f"no database: pass --dsn postgresql://..., or set {_DSN}."
        raise Failure(msg)
    return dsn
