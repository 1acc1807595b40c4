"""The output of commands: tables on a terminal, plain lines elsewhere, JSON for programs.

All standard output passes through this module. E-mail and IP addresses are masked unless `--reveal` was given.
"""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any, Final, cast

import click
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.text import duration, mask, mask_all, printable

Cell = str | int | float | None
Row = Mapping[str, Cell]
Tell = Callable[[int, int | None, int, str, str], None]
"""Shows progress: what is done, of what total if known, the count for the rate, the text, why it waits."""

UNLIMITED: Final = 1_000_000
"""The width if the output is not a terminal: grep needs whole lines."""
LINE_SECONDS: Final = 5.0
"""The time between two lines of progress without a terminal."""


class Mark(StrEnum):
    """A state, which is coloured on a terminal."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_STYLES: Final = {Mark.OK: "green", Mark.WARNING: "yellow", Mark.FAILED: "bold red"}


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one command. With `as_json`, standard output gets exactly one JSON document and nothing else."""

    as_json: bool = False
    reveal: bool = False
    """Whether personal data is shown."""

    def show(self, document: object, *parts: RenderableType) -> None:
        """Print one result: the document for programs, or its parts in order for people. Text parts are masked here."""
        if self.as_json:
            click.echo(json.dumps(document if self.reveal else mask_all(document), indent=2))
            return
        console = _console()
        for part in parts:
            shown = Text(self.safe(part)) if isinstance(part, str) else part
            if console.is_terminal:
                console.print(shown)
                continue
            with console.capture() as captured:
                console.print(shown)
            click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def fields(self, fields: Mapping[str, Any]) -> None:
        """Show one object by its fields. A value may be any JSON."""
        self.show(fields, _field_by_field({name: self._text(value) for name, value in fields.items()}))

    def note(self, text: str) -> None:
        """Print a remark about the result on standard error."""
        # Not with click: it would write to the terminal itself, through rich's progress bar.
        sys.stderr.write(printable(self._masked(text), sys.stderr) + "\n")
        sys.stderr.flush()

    def confirm(self, question: str) -> None:
        """Ask before an action that cannot be undone. End the command if the answer is no, or there is no terminal."""
        if self.as_json or not is_interactive():
            msg = "This cannot be undone, and there is no terminal to ask on. Pass --yes if you mean it."
            raise Failure(msg, ExitCode.USAGE)
        click.confirm(question, abort=True, err=True)

    @contextmanager
    def progress(self, what: str) -> Generator[Tell]:
        """Give a function that shows progress: a bar on a terminal, otherwise a line every few seconds."""
        console = Console(stderr=True)
        is_terminal = console.is_terminal and not console.is_dumb_terminal
        columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(TextColumn(what), *columns, console=console, disable=not is_terminal) as bar:
            bar.add_task("", total=None, visible=False)
            bar.add_task("", total=None, visible=False)  # for the rate
            task, rate = bar.tasks
            next_line, state_before = monotonic() + LINE_SECONDS, ""

            def tell(done: int, of: int | None, count: int, text: str, why: str) -> None:
                nonlocal next_line, state_before
                bar.update(rate.id, completed=count)
                text += "" if rate.speed is None else f", {rate.speed:,.0f}/s"
                shown = f"[yellow]{why}" if why else text
                bar.update(task.id, completed=done, total=of, description=shown, visible=True)
                state = why.partition(";")[0]  # the seconds after it change each time
                if is_terminal or (monotonic() < next_line and state == state_before):
                    return
                next_line, state_before = monotonic() + LINE_SECONDS, state
                left = "" if task.time_remaining is None else f"{duration(task.time_remaining)} left"
                parts = (text, f"{task.percentage:.0f} %" if of else "", left, why)
                self.note(f"{what}: " + ", ".join(part for part in parts if part))

            yield tell

    def safe(self, text: str) -> str:
        """Return text that may be shown: masked, and without control characters."""
        return printable(self._masked(text), sys.stdout)

    def table(self, rows: Sequence[Row], columns: Mapping[str, str]) -> RenderableType:
        """Return rows as a table, or field by field if the terminal is too narrow for that.

        `columns` maps the keys that are shown to their headings.
        """
        table = Table(box=None, pad_edge=False, header_style="bold")
        cells = [[self._text(row.get(key)) for key in columns] for row in rows]
        for heading, *column in zip(columns.values(), *cells, strict=True):
            table.add_column(Text(heading), overflow="fold", no_wrap=not any(" " in text.plain for text in column))
        for line in cells:
            table.add_row(*line)
        console = _console()
        unlimited = console.options.update(width=UNLIMITED)
        if Measurement.get(console, unlimited, table).minimum <= console.width:
            return table
        shown = [_field_by_field(dict(zip(columns.values(), line, strict=True))) for line in cells]
        return Group(*[part for fields in shown for part in (fields, Text())][:-1])

    def _masked(self, text: str) -> str:
        return text if self.reveal else mask(text)

    def _text(self, value: object) -> Text:
        """Return a value for display. It is text, not markup: square brackets in a path have no meaning."""
        match value:
            case Mark():
                return Text(value, style=_STYLES[value])
            case None:
                return Text("-")
            case float():
                return Text(f"{value:.1f}")
            case str() | int():
                return Text(self.safe(str(value)))
            case list() if all(isinstance(item, str) for item in cast("list[object]", value)):
                return Text(self.safe("\n".join(cast("list[str]", value))))
            case _:
                return Text(self.safe(json.dumps(value, indent=2, ensure_ascii=False)))


def _console() -> Console:
    """Return the console for standard output. If it is not a terminal, lines are not wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=UNLIMITED)


def _field_by_field(fields: Mapping[str, Text]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields.items():
        grid.add_row(Text(name, style="bold"), text)
    return grid


def is_interactive() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty()
