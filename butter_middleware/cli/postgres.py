"""`worker` and `postgres`: the queue that many machines share."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import click

from butter_middleware.butter import Butter
from butter_middleware.cli import CommandGroup
from butter_middleware.cli.failure import ExitCode, Failure, exit_codes
from butter_middleware.cli.options import (
    NumberRange,
    app_option,
    by_hand,
    command,
    default_option,
    load_aloud,
    load_extra,
    stop_signals,
)
from butter_middleware.cli.output import Output
from butter_middleware.client_ip import direct

_DSN: Final = "BUTTER_POSTGRES_DSN"
_dsn: Final = click.option("--dsn", envvar=_DSN, help=f"The database, postgresql://...; or {_DSN}.")
_schema: Final = default_option("--schema", "butter", str, "The schema that the queue is in.")
_engine: Final = click.option(
    "--procrastinate-schema",
    default="",
    help="The schema of a procrastinate that you already run. Without it, its tables are in --schema.",
)
_web: Final = click.option(
    "--web", multiple=True, metavar="ROLE", help="A role that may enqueue, and nothing else. Repeatable."
)
_workers: Final = click.option(
    "--worker", multiple=True, metavar="ROLE", help="A role that may read and write the queue, for workers. Repeatable."
)


@click.command("worker", epilog=exit_codes(ok="it was told to stop"))
@app_option
@_dsn
@_schema
@_engine
@default_option("--queue", "butter", str, "The queue's name.")
@click.option("--base-url", help="Where Butter is, or BUTTER_BASE_URL: for tests and sandboxes.")
@default_option("--concurrency", 4, click.IntRange(1, 32), "How many records this worker sends at once.")
@default_option("--slots", 8, click.IntRange(1, 64), "How many records all workers together send at once.")
@default_option(
    "--stop-timeout", 25.0, NumberRange(0, 600), "How many seconds records on their way may take after SIGTERM."
)
def worker_command(app: str | None, dsn: str | None, base_url: str | None, **options: Any) -> None:  # noqa: ANN401
    """Send what is in the queue to Butter, until SIGTERM.

    With --app, the credentials, environment and PostgresOutbox of your Butter are used. Name the worker's own role with
    --dsn. Without --app, the credentials are BUTTER_USERNAME and BUTTER_PASSWORD of the environment. You can run any
    number of workers. They share --slots.
    """
    _extra()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # otherwise one line for each failed connection
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    if app is not None:
        butter = load_aloud(app, Output())
        own = ("base_url", "queue", "schema") if isinstance(butter.outbox, PostgresOutbox) else ("base_url",)
        for name in own:
            if by_hand(name):
                msg = f"leave out --{name.replace('_', '-')}: the app that --app or BUTTER_APP names has its own."
                raise Failure(msg, ExitCode.USAGE)
    else:
        queue = PostgresOutbox(_needed(dsn), queue=options["queue"], schema=options["schema"])
        butter = Butter(client_ip=direct(), base_url=base_url, outbox=queue)
    asyncio.run(_work(butter, dsn, options))


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
    with stop_signals(lambda: loop.call_soon_threadsafe(worker.stop)):
        await worker.run()


def _extra() -> None:
    """Load the modules of the extra."""
    packages = {"procrastinate", "psycopg", "psycopg_pool"}
    try:
        load_extra("butter_middleware.postgres", "postgres", "the queue in PostgreSQL", packages)
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # psycopg's own error, which has no module name
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
    """Print the SQL for a database that does not have the queue yet, for people who apply SQL by themselves."""
    _extra()
    from butter_middleware.postgres import Names  # noqa: PLC0415 - an extra
    from butter_middleware.postgres.schema import fresh_sql  # noqa: PLC0415

    click.echo(fresh_sql(Names(schema, procrastinate_schema), web, worker))


@command("migrate", group=postgres_command, ok="the queue is up to date")
@_dsn
@_schema
@_engine
@_web
@_workers
def migrate_command(
    output: Output, dsn: str | None, schema: str, procrastinate_schema: str, web: Sequence[str], worker: Sequence[str]
) -> None:
    """Create or update the queue, and grant its use to roles. Run it as the owner of the schema.

    Creating it is one transaction. In an update, each step is one transaction, and the output names it.
    """
    _extra()
    from butter_middleware.postgres import Names  # noqa: PLC0415 - an extra
    from butter_middleware.postgres.schema import migrate  # noqa: PLC0415

    done = migrate(_needed(dsn), Names(schema, procrastinate_schema), web, worker)
    output.show({"done": done}, "; ".join(done))


def _needed(dsn: str | None) -> str:
    if not dsn:
        msg = f"no database: pass --dsn postgresql://..., or set {_DSN}."
        raise Failure(msg)
    return dsn
