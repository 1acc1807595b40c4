"""`butter-middleware backfill`: sends past checkouts from a file."""

import asyncio
import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import RenderableType

from butter_middleware import config
from butter_middleware.backfill.columns import FIELDS, Columns
from butter_middleware.backfill.engine import Ending, Engine
from butter_middleware.backfill.intake import Intake, Totals
from butter_middleware.backfill.journal import Journal, State, destination
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import STDIN, Source
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import NumberRange, command, default_option, field_values, stop_signals
from butter_middleware.cli.output import Output, Row, Tell
from butter_middleware.cli.text import counted, duration
from butter_middleware.delivery.circuit_breaker import BreakerState
from butter_middleware.outbox.faults import describe
from butter_middleware.pipeline import components
from butter_middleware.reader.evidence import ids_of

SAMPLE: Final = 3
"""The number of records that a dry run shows."""
_STATES: Final = {
    BreakerState.OPEN: "Butter does not answer",
    BreakerState.HALF_OPEN: "Butter does not answer; trying one line",
    BreakerState.PAUSED: "Butter asks for a pause (429)",
    BreakerState.HOLD: "Butter takes nothing",
}


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    file: str
    mapped: Sequence[str]
    values: Sequence[str]
    dry_run: bool
    yes: bool
    rate: float | None
    concurrency: int
    rejects: Path | None
    progress: Path | None
    encoding: str
    resend_uncertain: bool
    same_account: bool

    @contextmanager
    def source(self, columns: Columns) -> Generator[Source]:
        """Open the input and check its header."""
        with closing(Source(self.file, encoding=self.encoding)) as source:
            if source.form == "csv":
                columns.check_header(source.columns)
            yield source


@command(
    "backfill",
    reveal=True,
    ok="every line was sent, now or earlier",
    attention="rejected or uncertain lines, one ID with different people, or it was stopped before the end",
    busy="another process is sending this file",
)
@click.argument("file")
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column or key gives a field, if its name does not say it. For JSON also a JMESPath expression. "
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
@click.option("--yes", is_flag=True, help="Do not ask before records go to production.")
@click.option(
    "--rate",
    type=NumberRange(0, min_open=True),
    metavar="N",
    help="Records a second at most.  [default: as many as Butter takes]",
)
@default_option("--concurrency", 4, click.IntRange(1, 8), "Records on their way at once.")
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where lines that cannot be sent go, with the reason.  [default: FILE.rejects.csv or .jsonl]",
)
@click.option(
    "--progress",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file that notes what became of each line. Needed with '-'.  [default: FILE.butter-progress]",
)
@default_option("--encoding", "utf-8", str, "Such as cp1252, of files that Excel saved.")
@click.option(
    "--resend-uncertain",
    is_flag=True,
    help="Send again the lines that were on their way when a run was killed. Butter may then have some of them twice.",
)
@click.option("--same-account", is_flag=True, help="Continue with another username of the same account.")
def backfill(output: Output, **given: Any) -> ExitCode:  # noqa: ANN401 - `Options`
    """Send past checkouts to Butter, from FILE: CSV with a header, or JSON lines; '-' is standard input.

    Every record has the shopper's e-mail (customer_email) and IPv4 address (ipv4_address), the PSP (psp), and at least
    one of invoice_id, subscription_id, charge_id and transaction_id. Columns with these names, or with usual names such
    as "Email" and "IP address", are found automatically. The credentials are those of the app: BUTTER_USERNAME and
    BUTTER_PASSWORD, or files that BUTTER_USERNAME_FILE and BUTTER_PASSWORD_FILE name.

    \b
    Check first, then send:
      butter-middleware backfill year.csv --set psp=stripe --dry-run
      butter-middleware backfill year.csv --set psp=stripe

    You can stop it at any time with Ctrl-C, or kill it. To send the rest, run the same command again: what Butter has
    accepted is not sent again.
    """  # noqa: D301 - click's mark
    options = Options(**given)
    columns = Columns(
        field_values(options.mapped, "--map", FIELDS),
        field_values(options.values, "--set", FIELDS),
        staging=config.environment(None) == "staging",
    )
    if options.file == STDIN and options.progress is None and not options.dry_run:
        message = "standard input has no name: say with --progress where to note what was sent, such as --progress year"
        raise click.UsageError(message)
    try:
        return (_dry_run if options.dry_run else _send)(output, options, columns)
    except (OSError, sqlite3.Error) as error:
        message = (
            f"the journal, the file of rejects or a temporary file cannot be written ({describe(error)}). Make room, "
            "or repair the disk. Then run the same command."
        )
        raise Failure(message) from error


# A dry run.


def _dry_run(output: Output, options: Options, columns: Columns) -> ExitCode:
    found: Counter[str] = Counter()
    sample: list[Mapping[str, str]] = []
    with options.source(columns) as source, closing(Journal(None)) as journal:
        rejects = Rejects(options.rejects, source.form, source.columns, source.delimiter)
        intake = Intake(source, columns, journal, rejects)
        with closing(rejects), output.progress("backfill") as tell:
            for waiting in intake:
                found[ids_of(waiting.record)] += 1
                if len(sample) < SAMPLE:
                    sample.append(json.loads(waiting.record.payload))
                _tell_checked(tell, intake)
        mapped = columns.mapped(intake.names)
    totals = intake.totals
    document = _document("dry_run", totals, would_send=totals.waiting, sample=sample)
    document |= {"columns": mapped, "strength": dict(found)}
    origins: list[Row] = [{"field": name, "from": column} for name, column in mapped.items()]
    origins += [{"field": name, "from": f"the value {value!r}"} for name, value in columns.constants.items()]
    parts: list[RenderableType] = ["No column is a field of a record."]
    if origins:
        parts = [output.table(origins, {"field": "Field", "from": "From"})]
    if sample:
        shown = dict.fromkeys(name for payload in sample for name in payload)
        parts += ["\nThe first records:", output.table(sample, {name: name for name in shown})]
    parts.append(f"\n{totals.waiting:,} would be sent, of {totals.read:,} lines")
    parts += [f"  {count:,} with {ids}" for ids, count in found.most_common()]
    parts += _left_out(totals)
    if totals.rejected:
        parts += [f"{totals.rejected:,} would be rejected:", *_reasons(totals)]
    output.show(document, *parts, "Nothing was sent.")
    return ExitCode.ATTENTION if totals.rejected or totals.strangers or not totals.waiting else ExitCode.OK


def _tell_checked(tell: Tell, intake: Intake) -> None:
    totals = intake.totals
    tell(totals.offset, intake.source.size, totals.read, f"{totals.read:,} checked", "")


# A run.


def _send(output: Output, options: Options, columns: Columns) -> ExitCode:
    environment, base_url = config.environment(None), config.base_url(None)
    make_client = components.client(base_url)
    account = destination(base_url, environment, config.credential("username", None) or "")
    progress = options.progress or Path(f"{options.file}.butter-progress")
    with options.source(columns) as source, closing(Journal(progress)) as journal:
        journal.agree(account, columns.ids_from(source.columns), same_account=options.same_account)
        if options.resend_uncertain:
            journal.mark_all(State.UNCERTAIN, State.WAITING)
        asks = environment == "production" and not config.is_sandbox(base_url) and not options.yes
        if asks and sys.stdin.isatty() and sys.stderr.isatty() and not _confirmed(output, options, columns, journal):
            output.show({"ending": "declined"}, "Nothing was sent.")
            return ExitCode.ATTENTION
        path = options.rejects or Path(f"{progress if options.file == STDIN else options.file}.rejects.{source.form}")
        place = str(path.absolute())
        rejects = Rejects(path, source.form, source.columns, source.delimiter, known=journal.rejects_size(place))
        journal.keep_rejects_size(place, None)
        with closing(rejects):
            intake = Intake(source, columns, journal, rejects)
            engine = Engine(
                intake,
                make_client,
                concurrency=options.concurrency,
                rate=options.rate,
                say=lambda text: output.note(f"{time.strftime('%H:%M:%S')} {text}"),
            )
            with stop_signals(engine.stop, again_ends=False), output.progress("backfill") as tell:
                ending = asyncio.run(engine.run(lambda: _tell_sent(tell, intake, engine)))
        if ending is not Ending.UNWRITABLE:
            journal.keep_rejects_size(place, rejects.size)
        return _finish(output, intake.totals, ending, engine.remedy, journal, path)


def _confirmed(output: Output, options: Options, columns: Columns, journal: Journal) -> bool:
    """Ask the person at the terminal, with the number of records."""
    with options.source(columns) as source:
        if source.size is None:
            return click.confirm(f"Send the records of {options.file} to Butter production?", err=True)
        intake = Intake(source, columns, journal)
        with output.progress("backfill") as tell:
            for _waiting in intake:
                _tell_checked(tell, intake)
    count = intake.totals.waiting
    return not count or click.confirm(f"Send {counted(count, 'record')} to Butter production?", err=True)


def _tell_sent(tell: Tell, intake: Intake, engine: Engine) -> None:
    totals = intake.totals
    text = f"{totals.sent:,} sent" + (f", {totals.rejected:,} rejected" if totals.rejected else "")
    breaker = engine.delivery.breaker
    why = "stopping: waiting for what is on its way" if engine.stopping else _STATES.get(breaker.state, "")
    wait = breaker.seconds_to_wait()
    if not engine.stopping and why and wait >= 1:
        why += f"; next try in {duration(wait)}"
    tell(engine.offset, intake.source.size, totals.sent - totals.sent_before, text, why)


def _finish(output: Output, totals: Totals, ending: Ending, remedy: str, journal: Journal, rejects: Path) -> ExitCode:
    uncertain = journal.uncertain_lines()
    files = {"rejects_file": str(rejects), "progress_file": str(journal.path), "uncertain_lines": uncertain}
    earlier = f", {totals.sent_before:,} of them in an earlier run" if totals.sent_before else ""
    of_lines = f"of {counted(totals.read, 'line')} read"
    parts = [f"{totals.sent:,} sent{earlier}, {of_lines}", *_left_out(totals)]
    if totals.waiting:
        named = _named(totals.waiting_lines, totals.waiting)
        parts.append(f"{totals.waiting:,} waiting: read, and not sent yet. {named}")
    if totals.broken_off:
        parts.append(
            f"{counted(totals.broken_off, 'time')} a post broke off without an answer, and the line was tried again: "
            "Butter may have it twice"
        )
    if totals.rejected:
        parts += [f"{totals.rejected:,} rejected, each with its reason in {rejects}:", *_reasons(totals)]
    if uncertain:
        parts.append(
            f"{len(uncertain):,} uncertain: a run was killed while they were on their way, so that Butter may have "
            f"them or not. They are not sent again, unless you say --resend-uncertain. {_named(uncertain)}"
        )
    if ending is Ending.STOPPED:
        parts.append("Stopped before the end. The same command sends the rest.")
    if ending is Ending.UNFINISHED:
        parts.append(
            f"Butter failed on some lines again and again. Its last answer was {totals.last_failure}. Run the same "
            "command later to try them once more."
        )
    output.show(_document(ending, totals, sent_in_this_run=totals.sent - totals.sent_before, **files), *parts)
    if ending in {Ending.HELD, Ending.UNREADABLE, Ending.UNWRITABLE}:
        message = f"{remedy.rstrip('.')}. Then run the same command: it sends the rest."
        raise Failure(message)
    attention = ending is not Ending.DONE or totals.rejected or uncertain or totals.strangers
    return ExitCode.ATTENTION if attention else ExitCode.OK


# The output of both.


def _document(ending: str, totals: Totals, **more: object) -> dict[str, Any]:
    """Return the result of a run, for programs."""
    return {
        "ending": ending,
        "read": totals.read,
        "sent": totals.sent,
        "rejected": totals.rejected,
        "reasons": dict(totals.reasons.most_common()),
        "duplicates": totals.duplicates,
        "strangers": totals.strangers,
        "stranger_lines": totals.stranger_lines,
        "waiting": totals.waiting,
        "waiting_lines": totals.waiting_lines,
        "uncertain": totals.uncertain,
        "broken_off": totals.broken_off,
        **more,
    }


def _left_out(totals: Totals) -> list[str]:
    texts: list[str] = []
    if totals.duplicates:
        texts.append(f"{totals.duplicates:,} left out as duplicates, with the PSP and the IDs of an earlier line")
    if totals.strangers:
        texts.append(
            f"{counted(totals.strangers, 'line has', 'lines have')} an ID of an earlier line, and another shopper's "
            f"e-mail address. Check that the column of that ID is the right one, and whole. "
            f"{_named(totals.stranger_lines, totals.strangers)}"
        )
    return texts


def _named(numbers: Sequence[int], count: int = 0) -> str:
    return f"Lines: {', '.join(map(str, numbers))}{', ...' if count > len(numbers) else ''}"


def _reasons(totals: Totals) -> list[str]:
    return [f"  {count:,} {reason}" for reason, count in totals.reasons.most_common()]
