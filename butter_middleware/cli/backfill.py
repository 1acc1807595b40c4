"""`butter-middleware backfill`: the checkouts of the past, out of a file."""

import asyncio
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from click.exceptions import Exit

from butter_middleware import config
from butter_middleware.backfill import guard
from butter_middleware.backfill.columns import FIELDS, Columns
from butter_middleware.backfill.engine import Ending, Engine
from butter_middleware.backfill.job import PATIENCE, DryRun, Job, destination, dry_run
from butter_middleware.backfill.journal import Journal
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import STDIN, Source
from butter_middleware.cli import backfill_report as report
from butter_middleware.cli.failure import EXIT_CODES, ExitCode, Failure, failure_of
from butter_middleware.cli.output import Output, duration, output_options
from butter_middleware.errors import ButterError
from butter_middleware.pipeline import components

LOOK_EVERY: Final = 256
"""Lines of a dry run."""
_UNFIT: Final = frozenset({Ending.HELD, Ending.UNREADABLE, Ending.UNWRITABLE})
"""Endings after which a person has to mend something."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    file: str
    mapped: Sequence[str]
    values: Sequence[str]
    dry_run: bool
    rate: float | None
    concurrency: int
    rejects: Path | None
    progress: Path | None
    encoding: str
    resend_uncertain: bool
    reread: bool
    same_account: bool


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value:
            message = f"{text!r} is no FIELD=VALUE. The fields are {', '.join(FIELDS)}."
            raise click.BadParameter(message, param_hint=option)
        pairs[name.strip()] = value
    return pairs


@click.command(epilog=EXIT_CODES)
@click.argument("file")
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column or key gives a field, where its name does not say it. Of JSON also a JMESPath expression. "
    "Again for each field.",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="FIELD=VALUE",
    help="One value for all lines, such as psp=stripe. Again for each field.",
)
@click.option("--dry-run", is_flag=True, help="Check every line, show what would be sent, send nothing.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Records a second at most.  [default: as many as Butter takes]",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 8), default=4, show_default=True, help="Records on their way at once."
)
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where lines that are no record go, with the reason.  [default: FILE.rejects.csv or .jsonl]",
)
@click.option(
    "--progress",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where is noted what became of each line. Needed with '-'.  [default: FILE.butter-progress]",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Such as cp1252, of files that Excel saved.")
@click.option(
    "--resend-uncertain",
    is_flag=True,
    help="Send again what was on its way when a run was killed. Butter may have some of it twice then.",
)
@click.option(
    "--reread", is_flag=True, help="Read a file that has changed from its beginning; what was sent is not sent again."
)
@click.option("--same-account", is_flag=True, help="Go on under another username of the same account.")
@output_options(reveal=True)
def backfill(output: Output, /, **given: Any) -> None:  # noqa: ANN401 - `Options`
    """Send the checkouts of the past to Butter, from FILE: CSV with a header, or JSON lines; '-' is standard input.

    Every record has the shopper's e-mail (customer_email) and IPv4 address (ipv4_address), the PSP (psp), and at least
    one of invoice_id, subscription_id, charge_id and transaction_id. Columns of such names, or of usual ones like
    "Email" and "IP address", are found by themselves. The credentials are those of the app: BUTTER_USERNAME and
    BUTTER_PASSWORD, or files that BUTTER_USERNAME_FILE and BUTTER_PASSWORD_FILE name.

    \b
    First look, then send:
      butter-middleware backfill year.csv --set psp=stripe --dry-run
      butter-middleware backfill year.csv --set psp=stripe

    It can be stopped at any time with Ctrl-C, or killed. The same command goes on where it was: what Butter has
    accepted is not sent again.
    """  # noqa: D301 - click's mark
    options = Options(**given)
    columns = Columns(
        _pairs(options.mapped, "--map"),
        _pairs(options.values, "--set"),
        staging=config.environment(None) == "staging",
    )
    if options.dry_run:
        raise Exit(_rehearse(output, options, columns))
    if options.file == STDIN and options.progress is None:
        message = "standard input has no name: say with --progress where to note what was sent, such as --progress year"
        raise click.UsageError(message)
    if not guard.is_possible():
        raise Exit(_send(output, options, columns, None))
    code = guard.guarded(lambda life: _exit_code(lambda: _send(output, options, columns, life)))
    if code < 0:
        message = (
            f"the process that sends was killed ({signal.Signals(-code).name}). The same command goes on where it was; "
            f"up to {options.concurrency} lines that were on their way are uncertain, and it names them."
        )
        raise Failure(message, ExitCode.ATTENTION)
    raise Exit(code)


def _exit_code(run: Callable[[], int]) -> int:
    """Return what a command ends with, its error shown."""
    try:
        return run()
    except ButterError as error:
        failure: click.ClickException = failure_of(error)
    except click.ClickException as error:
        failure = error
    failure.show()
    return failure.exit_code


@contextmanager
def _source(options: Options, columns: Columns) -> Generator[Source]:
    with Source(options.file, encoding=options.encoding) as source:
        if source.form == "csv":
            columns.check_header(source.columns)
        yield source


def _rehearse(output: Output, options: Options, columns: Columns) -> int:
    with _source(options, columns) as source, ExitStack() as stack:
        rejects = None
        if options.rejects is not None:
            rejects = Rejects(options.rejects, source.form, source.columns, source.delimiter)
            stack.callback(rejects.close)
        found = DryRun()
        with output.progress("checked, bytes", source.size or 0) as look:
            for number, found in enumerate(dry_run(source, columns, rejects)):
                if not number % LOOK_EVERY:
                    look(found.totals.offset, source.size or found.totals.offset)
            look(found.totals.offset, source.size or found.totals.offset)
        mapped = columns.mapped(source.columns or found.keys)
    if output.as_json:
        fields = report.document("dry_run", found.totals, would_send=found.totals.admitted, sample=found.sample)
        output.result(fields | {"columns": mapped, "strength": dict(found.strength)}, "")
    else:
        report.tell_rehearsal(output, found, mapped, columns.constants)
    return ExitCode.ATTENTION if found.totals.rejected or not found.totals.admitted else ExitCode.OK


class _Stop:
    """What a signal does that asks a run to stop: to the engine, or before there is one, at once."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.engine is None:
            raise KeyboardInterrupt
        self.engine.stop()


def _send(output: Output, options: Options, columns: Columns, life: int | None) -> int:
    environment, base_url = config.environment(None), config.base_url(None)
    for name in ("username", "password"):
        if config.credential(name, None) is None:
            variable = f"BUTTER_{name.upper()}"
            message = f"no {name}: set {variable}, or {variable}_FILE to a mounted secret. A --dry-run needs none."
            raise Failure(message)
    make_client = components.client(base_url, None, None, None, needed=True)
    progress = options.progress or Path(f"{options.file}.butter-progress")
    prefix = progress if options.file == STDIN else options.file
    with guard.handling(stop := _Stop()), _source(options, columns) as source:
        job = Job(
            source,
            columns,
            destination(base_url, environment, config.credential("username", None) or ""),
            progress,
            options.rejects or Path(f"{prefix}.rejects.{source.form}"),
            reread=options.reread,
            resend_uncertain=options.resend_uncertain,
            same_account=options.same_account,
        )
        wait = f"another process is sending this file. Waiting up to {duration(PATIENCE)} for its end."
        with job.opened(lambda: output.note(wait)) as journal:
            with report.shown(output, source.size) as display:
                engine = stop.engine = Engine(
                    journal,
                    make_client,
                    concurrency=options.concurrency,
                    rate=options.rate,
                    say=lambda text: display.say(f"{time.strftime('%H:%M:%S')} {text}"),
                )
                ending = asyncio.run(_run(engine, display, life))
            uncertain = journal.uncertain_lines() if journal.failure is None else []
        return _tell(output, job, journal, ending, engine, uncertain)


async def _run(engine: Engine, display: report.Display, life: int | None) -> Ending:
    if life is not None:
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(life)
            engine.stop()

        loop.add_reader(life, orphaned)
    return await engine.run(display.look)


def _tell(output: Output, job: Job, journal: Journal, ending: Ending, engine: Engine, uncertain: Sequence[int]) -> int:
    totals, rejects = journal.totals, str(job.rejects)
    if output.as_json:
        files = {"rejects_file": rejects, "progress_file": str(job.journal), "uncertain_lines": uncertain}
        output.result(report.document(ending, totals, sent_in_this_run=engine.progress.delivered, **files), "")
    else:
        report.tell(output, ending, totals, uncertain, rejects)
    if ending in _UNFIT:
        reason = str(journal.fault if ending is Ending.UNREADABLE else engine.remedy).rstrip(".")
        message = f"{reason}. Mend it: the same command then goes on where it stopped."
        raise Failure(message)
    attention = ending is not Ending.DONE or totals.rejected or totals.dead or totals.uncertain
    return ExitCode.ATTENTION if attention else ExitCode.OK
