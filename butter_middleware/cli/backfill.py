"""`butter-middleware backfill`: past checkouts are sent from a file."""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import click
from click.exceptions import Exit
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from butter_middleware import config
from butter_middleware.backfill.columns import FIELDS, Columns
from butter_middleware.backfill.engine import Ending, Engine
from butter_middleware.backfill.intake import Intake, Totals
from butter_middleware.backfill.journal import Journal, State, destination
from butter_middleware.backfill.rejects import Rejects
from butter_middleware.backfill.source import STDIN, Source
from butter_middleware.cli.failure import EXIT_CODES, ExitCode, Failure
from butter_middleware.cli.output import Output, Row, counted, duration, output_options
from butter_middleware.delivery.circuit_breaker import BreakerState
from butter_middleware.pipeline import components
from butter_middleware.reader.evidence import ids_of

SAMPLE: Final = 3
"""Records that a dry run shows."""
LINE_SECONDS: Final = 5.0
"""Between two lines of progress, if there is no terminal."""
_ACTION_NEEDED: Final = frozenset({Ending.HELD, Ending.UNREADABLE, Ending.UNWRITABLE})
_STATES: Final = {
    BreakerState.OPEN: "Butter does not answer",
    BreakerState.HALF_OPEN: "Butter does not answer; trying one line",
    BreakerState.PAUSED: "Butter asks for a pause",
    BreakerState.HOLD: "Butter takes nothing",
}
_ENDINGS: Final = {
    Ending.STOPPED: "Stopped before the end. The same command sends the rest.",
    Ending.UNFINISHED: "Butter failed on some lines time and again. The same command tries them once more.",
}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

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
        with Source(self.file, encoding=self.encoding) as source:
            if source.form == "csv":
                columns.check_header(source.columns)
            yield source


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
@click.option("--yes", is_flag=True, help="Do not ask before records go to production.")
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

    It can be stopped at any time with Ctrl-C, or killed. The same command sends the rest: what Butter has accepted is
    not sent again.
    """  # noqa: D301 - click's mark
    options = Options(**given)
    columns = Columns(
        _pairs(options.mapped, "--map"),
        _pairs(options.values, "--set"),
        staging=config.environment(None) == "staging",
    )
    if options.file == STDIN and options.progress is None and not options.dry_run:
        message = "standard input has no name: say with --progress where to note what was sent, such as --progress year"
        raise click.UsageError(message)
    raise Exit((_rehearse if options.dry_run else _send)(output, options, columns))


# A dry run.


def _rehearse(output: Output, options: Options, columns: Columns) -> int:
    found: Counter[str] = Counter()
    sample: list[Mapping[str, str]] = []
    with options.source(columns) as source, Journal(None) as journal, ExitStack() as stack:
        rejects = None
        if options.rejects is not None:
            rejects = Rejects(options.rejects, source.form, source.columns, source.delimiter)
            stack.callback(rejects.close)
        intake = Intake(source, columns, journal, rejects)
        with _progress(output, source) as show:
            for waiting in intake:
                found[ids_of(waiting.record)] += 1
                if len(sample) < SAMPLE:
                    sample.append(json.loads(waiting.record.payload))
                show(intake.totals.offset, intake.totals.read, f"{intake.totals.read:,} checked")
        mapped = columns.mapped(intake.names)
    totals = intake.totals
    if output.as_json:
        fields = _document("dry_run", totals, would_send=totals.waiting, sample=sample)
        output.result(fields | {"columns": mapped, "strength": dict(found)}, "")
    else:
        origin: list[Row] = [{"field": name, "from": column} for name, column in mapped.items()]
        origin += [{"field": name, "from": f"the value {value!r}"} for name, value in columns.constants.items()]
        output.table(origin, {"field": "Field", "from": "From"}, "No column is a field of a record.")
        if sample:
            shown = dict.fromkeys(name for payload in sample for name in payload)
            output.say("\nThe first records:")
            output.table(sample, {name: name for name in shown}, "")
        output.say(f"\n{totals.waiting:,} would be sent, of {totals.read:,} lines")
        for ids, count in found.most_common():
            output.say(f"  {count:,} with {ids}")
        _tell_left_out(output, totals)
        if totals.rejected:
            output.say(f"{totals.rejected:,} would be rejected:")
            _tell_reasons(output, totals)
        output.say("Nothing was sent.")
    attention = totals.rejected or totals.strangers or not totals.waiting
    return ExitCode.ATTENTION if attention else ExitCode.OK


# A run.


def _send(output: Output, options: Options, columns: Columns) -> int:
    environment, base_url = config.environment(None), config.base_url(None)
    for name in ("username", "password"):
        if config.credential(name, None) is None:
            variable = f"BUTTER_{name.upper()}"
            message = f"no {name}: set {variable}, or {variable}_FILE to a mounted secret. A --dry-run needs none."
            raise Failure(message)
    make_client = components.client(base_url, None, None, None, needed=True)
    account = destination(base_url, environment, config.credential("username", None) or "")
    progress = options.progress or Path(f"{options.file}.butter-progress")
    with options.source(columns) as source, Journal(progress) as journal:
        journal.agree(account, columns.ids_from(source.columns), same_account=options.same_account)
        if options.resend_uncertain:
            journal.mark_all(State.UNCERTAIN, State.WAITING)
        asks = environment == "production" and not config.is_sandbox(base_url) and not options.yes
        if asks and sys.stdin.isatty() and sys.stderr.isatty() and not _confirmed(output, options, columns, journal):
            output.result({"ending": "declined"}, "Nothing was sent.")
            return ExitCode.ATTENTION
        path = options.rejects or Path(f"{progress if options.file == STDIN else options.file}.rejects.{source.form}")
        rejects = Rejects(path, source.form, source.columns, source.delimiter, known=journal.rejects_size(path.name))
        journal.keep_rejects_size(path.name, None)
        with closing(rejects):
            engine = Engine(
                Intake(source, columns, journal, rejects),
                journal,
                make_client,
                concurrency=options.concurrency,
                rate=options.rate,
                say=lambda text: output.note(f"{time.strftime('%H:%M:%S')} {text}"),
            )
            with _stopping(engine.stop), _progress(output, source) as show:
                ending = asyncio.run(engine.run(lambda: _show(engine, show)))
        if ending is not Ending.UNWRITABLE:
            journal.keep_rejects_size(path.name, rejects.size)
        return _tell(output, engine, ending, journal, path)


def _confirmed(output: Output, options: Options, columns: Columns, journal: Journal) -> bool:
    """Ask the person at the terminal, and say how many records it is about."""
    with options.source(columns) as source:
        if source.size is None:
            return click.confirm(f"Send the records of {options.file} to Butter production?", err=True)
        intake = Intake(source, columns, journal)
        with _progress(output, source) as show:
            for _waiting in intake:
                show(intake.totals.offset, intake.totals.read, f"{intake.totals.read:,} checked")
    count = intake.totals.waiting
    return not count or click.confirm(f"Send {counted(count, 'record')} to Butter production?", err=True)


@contextmanager
def _stopping(stop: Callable[[], None]) -> Generator[None]:
    """Have the signals that ask a run to stop call `stop`; not those that are ignored, as SIGHUP by nohup."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def handle(_number: int, _frame: object) -> None:
        stop()

    before = [(number, signal.signal(number, handle)) for number in heeded]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


def _tell(output: Output, engine: Engine, ending: Ending, journal: Journal, rejects: Path) -> int:
    totals = engine.totals
    uncertain = journal.uncertain_lines()
    if output.as_json:
        files = {"rejects_file": str(rejects), "progress_file": str(journal.path), "uncertain_lines": uncertain}
        output.result(_document(ending, totals, sent_in_this_run=engine.sent, **files), "")
    else:
        output.say(f"{totals.sent:,} sent, of {counted(totals.read, 'line')} read")
        _tell_left_out(output, totals)
        if totals.waiting:
            output.say(f"{totals.waiting:,} waiting: read, and not sent yet")
        if totals.broken_off:
            output.say(
                f"{counted(totals.broken_off, 'time')} a post broke off without an answer, and the line was tried "
                "again: Butter may have it twice"
            )
        if totals.rejected + totals.dead:
            output.say(f"{totals.rejected + totals.dead:,} rejected, each with its reason in {rejects}:")
            _tell_reasons(output, totals)
        if uncertain:
            output.say(
                f"{len(uncertain):,} uncertain: a run was killed while they were on their way, so that Butter may have "
                f"them or not. They are not sent again, unless you say --resend-uncertain. {_named(uncertain)}"
            )
        if ending in _ENDINGS:
            output.say(_ENDINGS[ending])
    if ending in _ACTION_NEEDED:
        message = f"{engine.remedy.rstrip('.')}. Then give the same command: it sends the rest."
        raise Failure(message)
    attention = ending is not Ending.DONE or totals.rejected or totals.dead or uncertain or totals.strangers
    return ExitCode.ATTENTION if attention else ExitCode.OK


# What it shows.


class _Show(Protocol):
    """Shows how far it is: bytes of the input, lines, the same in words, and why it waits."""

    def __call__(self, offset: int, lines: int, text: str, why: str = "") -> None: ...


@contextmanager
def _progress(output: Output, source: Source) -> Generator[_Show]:
    """Give what shows how far it is: a bar on a terminal, else a line every few seconds."""
    console = Console(stderr=True)
    is_terminal = console.is_terminal and not console.is_dumb_terminal
    sized = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn()) if source.size else ()
    with Progress(*sized, TextColumn("{task.description}"), console=console, disable=not is_terminal) as bar:
        bar.add_task("", total=source.size)
        bar.add_task("", total=None, visible=False)  # for the rate
        task, rate = bar.tasks
        next_line, why_before = time.monotonic() + LINE_SECONDS, ""

        def show(offset: int, lines: int, text: str, why: str = "") -> None:
            nonlocal next_line, why_before
            bar.update(rate.id, completed=lines)
            text += "" if rate.speed is None else f", {rate.speed:,.0f}/s"
            bar.update(task.id, completed=offset, description=f"[yellow]{why}" if why else text)
            if is_terminal or (time.monotonic() < next_line and why == why_before):
                return
            next_line, why_before = time.monotonic() + LINE_SECONDS, why
            left = "" if task.time_remaining is None else f"{duration(task.time_remaining)} left"
            parts = (text, f"{task.percentage:.0f} %" if source.size else "", left, why)
            output.note("backfill: " + ", ".join(part for part in parts if part))

        yield show


def _show(engine: Engine, show: _Show) -> None:
    totals = engine.totals
    rejected = totals.rejected + totals.dead
    text = f"{totals.sent:,} sent" + (f", {rejected:,} rejected" if rejected else "")
    why = "stopping: waiting for what is on its way" if engine.stopping else _STATES.get(engine.state, "")
    if not engine.stopping and why and engine.next_try_in >= 1:
        why += f"; next try in {duration(engine.next_try_in)}"
    show(engine.offset, engine.sent, text, why)


def _document(ending: str, totals: Totals, **more: object) -> dict[str, Any]:
    """Return what a run came to, for programs."""
    return {
        "ending": ending,
        "read": totals.read,
        "sent": totals.sent,
        "rejected": totals.rejected + totals.dead,
        "reasons": dict(_by_count(totals)),
        "duplicates": totals.duplicates,
        "strangers": totals.strangers,
        "stranger_lines": totals.stranger_lines,
        "waiting": totals.waiting,
        "uncertain": totals.uncertain,
        "broken_off": totals.broken_off,
        **more,
    }


def _tell_left_out(output: Output, totals: Totals) -> None:
    if totals.duplicates:
        output.say(f"{totals.duplicates:,} left out as duplicates, with the PSP and the IDs of an earlier line")
    if totals.strangers:
        output.say(
            f"{counted(totals.strangers, 'line has', 'lines have')} an ID of an earlier line, and another shopper's "
            f"e-mail address. Check that the column of that ID is the right one, and whole. "
            f"{_named(totals.stranger_lines, totals.strangers)}"
        )


def _named(numbers: Sequence[int], count: int = 0) -> str:
    return f"Lines: {', '.join(map(str, numbers))}{', ...' if count > len(numbers) else ''}"


def _tell_reasons(output: Output, totals: Totals) -> None:
    for reason, count in _by_count(totals):
        output.say(f"  {count:,} {reason}")


def _by_count(totals: Totals) -> list[tuple[str, int]]:
    return sorted(totals.reasons.items(), key=lambda item: -item[1])
