"""What a command tells, and to whom: tables on a terminal, plain lines elsewhere, JSON for programs.

All that goes to standard output passes here, where e-mail and IP addresses are masked unless `--reveal` was given.
"""

import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from time import monotonic
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TextIO, TypeVar, cast

import click
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

Cell = str | int | float | None
Row = Mapping[str, Cell]

SHORT: Final = 24
"""Columns up to this width are not narrowed for the sake of others."""
TEXT: Final = 16
"""What wraps between its words has at least so much."""
GAP: Final = 2
"""Between columns."""
LINE_SECONDS: Final = 10.0
"""Between two lines of progress, where there is no terminal."""


class Mark(StrEnum):
    """How something stands; coloured on a terminal."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_STYLES: Final = {Mark.OK: "green", Mark.WARNING: "yellow", Mark.FAILED: "bold red"}


@dataclass(frozen=True, slots=True)
class Output:
    """What one command tells. With `as_json`, standard output gets exactly one JSON document and nothing else."""

    as_json: bool = False
    reveal: bool = False
    """Whether personal data is shown."""

    def table(self, rows: Sequence[Row], columns: Mapping[str, str], empty: str) -> None:
        """Show rows, of which `columns` names the keys and their headings; where there are none, `empty`.

        JSON gets the list of the rows with all of their keys, and never `empty`.
        """
        if self.as_json:
            self._document([dict(row) for row in rows])
        elif not rows:
            self.say(empty)
        else:
            self._grid(list(columns.values()), [[self._cell(row.get(key)) for key in columns] for row in rows])

    def fields(self, fields: Mapping[str, Any]) -> None:
        """Show one thing by its fields. A value may be any JSON; JSON gets the object."""
        if self.as_json:
            self._document(dict(fields))
            return
        shown = {name: self._value(value) for name, value in fields.items()}
        console = Console()
        if console.is_terminal:
            console.print(_field_by_field(shown))
            return
        width = max(map(len, shown), default=0)
        for name, text in shown.items():
            click.echo(f"{name:<{width}}  " + text.replace("\n", "\n" + " " * (width + 2)))

    def result(self, fields: Mapping[str, Any], text: str) -> None:
        """Say what was done: `text` to people, `fields` to programs."""
        if self.as_json:
            self._document(dict(fields))
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Tell people something; programs do not get it."""
        if not self.as_json:
            click.echo(self.safe(text))

    def note(self, text: str) -> None:
        """Remark something beside the result: on standard error, whoever reads the result."""
        # Not by click, which would write to the terminal itself, through the bar that rich shows on it.
        with suppress(OSError):  # nobody reads it any more: no reason to end
            sys.stderr.write(printable(self._masked(text), sys.stderr) + "\n")
            sys.stderr.flush()

    @contextmanager
    def progress(self, what: str, total: int) -> Generator["Tell"]:
        """Give a function to be told how far it is: a bar on a terminal, else a line now and then."""
        console = Console(stderr=True)
        if not console.is_terminal or console.is_dumb_terminal or self.as_json:
            yield _Lines(what, self.note)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Remaining())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total, why="")
            yield lambda done, of, why="": bar.update(task, completed=done, total=of, why=why)

    def safe(self, text: str) -> str:
        """Return text as it may be shown: masked, and without what a terminal would obey."""
        return printable(self._masked(text), sys.stdout)

    def renderable_table(self, rows: Sequence[Row], columns: Mapping[str, str]) -> RenderableType:
        """Return the table that `table` shows on a terminal, for a live display."""
        cells = [[self._cell(row.get(key)) for key in columns] for row in rows]
        return _rich_table(list(columns.values()), cells, Console().width)

    def _masked(self, text: str) -> str:
        return text if self.reveal else mask(text)

    def _cell(self, value: object) -> str:
        if isinstance(value, Mark):
            return value
        if value is None:
            return "-"
        return self.safe(f"{value:.1f}" if isinstance(value, float) else str(value))

    def _value(self, value: object) -> str:
        is_cell = value is None or isinstance(value, str | int | float)
        return self._cell(value) if is_cell else self.safe(json.dumps(value, indent=2, ensure_ascii=False))

    def _document(self, data: object) -> None:
        click.echo(json.dumps(data if self.reveal else _mask_all(data), indent=2))

    def _grid(self, headings: list[str], cells: list[list[str]]) -> None:
        console = Console()
        if console.is_terminal:
            console.print(_rich_table(headings, cells, console.width))
            return
        # Whole, whatever the width: what reads it here is grep.
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        for line in [headings, *cells]:
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


class Tell(Protocol):
    """How far it is."""

    def __call__(self, done: int, of: int, why: str = "", /) -> None:
        """Say how many of how many are done; where it waits, `why`, in a few words."""


class _Remaining(TimeRemainingColumn):
    """The time that remains; where it waits for something else, for what."""

    def render(self, task: Task) -> Text:
        why = str(task.fields["why"])
        return Text(why, style="yellow") if why else super().render(task)


class _Lines:
    """Progress where there is no terminal: a line every ten seconds."""

    def __init__(self, what: str, note: Callable[[str], None]) -> None:
        self._what = what
        self._note = note
        self._last = monotonic()

    def __call__(self, done: int, of: int, why: str = "", /) -> None:
        if monotonic() - self._last >= LINE_SECONDS:
            self._last = monotonic()
            self._note(f"{self._what}: {done} of {of}" + (f" ({why})" if why else ""))


def output_options(*, reveal: bool = False) -> Callable[[Callable[Concatenate[Output, P], R]], Callable[P, R]]:
    """Give a command `--json`, with `reveal` also `--reveal`, and the `Output` that they mean as first argument."""

    def decorate(command: Callable[Concatenate[Output, P], R]) -> Callable[P, R]:
        @wraps(command)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            output = Output(bool(kwargs.pop("as_json")), bool(kwargs.pop("reveal", False)))
            return command(output, *args, **kwargs)

        if reveal:
            help_ = "Show personal data: e-mail and IP addresses, and what a shopper's request and response held."
            wrapped = click.option("--reveal", is_flag=True, help=help_)(wrapped)
        return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")(wrapped)

    return decorate


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 record`, `2 records`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def moment(seconds: float | None) -> str | None:
    """Return a time, in seconds since the epoch, as `2026-11-24T08:00:00Z`."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a clock that was far off
        return None


def duration(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min`, `3 h`, `9 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def printable(text: str, stream: TextIO) -> str:
    """Return text without control characters, which a terminal obeys, and with what the stream can encode."""
    shown = "".join(
        character if character.isprintable() or character == "\n" else repr(character)[1:-1] for character in text
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _rich_table(headings: list[str], cells: list[list[str]], width: int) -> RenderableType:
    """Return a table; where there is no place for it, each row by its fields. rich would cut off the last columns."""
    columns = [list(column) for column in zip(headings, *cells, strict=True)]
    spare = width - sum(map(_least, columns)) - GAP * (len(columns) - 1)
    if spare < 0:
        grids = [_field_by_field(dict(zip(headings, line, strict=True))) for line in cells]
        return Group(*[part for grid in grids for part in (grid, Text())][:-1])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, given in zip(columns, _widths(columns, spare), strict=True):
        table.add_column(Text(column[0]), overflow="fold", width=given)
    for line in cells:
        table.add_row(*(_colored(cell, cell) for cell in line))
    return table


def _widths(columns: list[list[str]], spare: int) -> list[int]:
    """Share out what is left beyond the least: who wants little has all of it."""
    widths = list(map(_least, columns))
    wants = [_widest(column) - least for column, least in zip(columns, widths, strict=True)]
    for left, place in zip(range(len(columns), 0, -1), sorted(range(len(columns)), key=wants.__getitem__), strict=True):
        given = min(wants[place], spare // left)
        widths[place] += given
        spare -= given
    return widths


def _widest(column: list[str]) -> int:
    return max(map(cell_len, column))


def _least(column: list[str]) -> int:
    """Return how far a column is narrowed for the sake of others: what wraps is the long text, not the date."""
    words = [word for text in column for word in text.split()]
    return widest if (widest := _widest(column)) <= SHORT else min(SHORT, max(TEXT, _widest(words)))


def _field_by_field(fields: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, GAP))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields.items():
        grid.add_row(Text(name, style="bold"), _colored(text, text))
    return grid


def _colored(text: str, value: object) -> Text:
    # Text, not markup: square brackets in a path mean nothing.
    return Text(text, style=_STYLES[value] if isinstance(value, Mark) else "")


def _mask_all(data: object) -> object:
    if isinstance(data, str):
        return mask(data)
    if isinstance(data, Mapping):
        return {mask(str(key)): _mask_all(value) for key, value in cast("Mapping[object, object]", data).items()}
    if isinstance(data, list | tuple):
        return [_mask_all(value) for value in cast("Sequence[object]", data)]
    return data


# Masking: enough is left of an address to recognise it, too little to use it. Addresses of a private network, and of
# this machine, are proxies' and not a person's: they stay.

_EMAIL: Final = re.compile(
    r"""(?<![^\s@"'`<>()\[\]{},;:=&?/\\|])  # once a run of such characters, so that a long body takes no long time
    ((?:[^\s@"'`<>()\[\]{},;:=&?/\\|%]|%(?!40)[0-9a-f]{2})+)
    (@|%40)(?=\w)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The local part, as loosely as it occurs in JSON, URLs and forms; the domain stays as it is."""
_IPV4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_IPV6: Final = re.compile(r"(?<!\w)[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:]*(?!\w|\.\w)", re.IGNORECASE)
_PRIVATE: Final = [
    IPv4Network(network)
    for network in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
]


def mask(text: str) -> str:
    """Return the text with e-mail and IP addresses masked: `a***@example.com`, `81.2.x.x`, `2001:db8:x`."""
    text = _EMAIL.sub(lambda found: f"{found[1][0]}***{found[2]}", text)
    text = _IPV4.sub(lambda found: _mask_ipv4(found[0]), text)
    return _IPV6.sub(lambda found: _mask_ipv6(found[0]), text)


def _mask_ipv4(text: str) -> str:
    first, second, *_rest = text.split(".")
    try:
        is_private = any(IPv4Address(text) in network for network in _PRIVATE)
    except ValueError:  # a leading zero, or beyond 255: rather hidden than shown
        is_private = False
    return text if is_private else f"{first}.{second}.x.x"


def _mask_ipv6(text: str) -> str:
    # A colon before or after it may be the sentence's.
    for part in (text, text[:-1], text[1:], text[1:-1]):
        try:
            address = IPv6Address(part)
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified:
            return text
        groups = address.exploded.split(":")[:2]
        return text.replace(part, ":".join(group.lstrip("0") or "0" for group in groups) + ":x")
    return text  # a time, or a MAC address
