"""What a command shows: tables on a terminal, plain lines elsewhere, JSON for programs.

All that goes to standard output passes here. E-mail and IP addresses are masked unless `--reveal` was given.
"""

import json
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from time import monotonic
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TextIO, TypeVar, cast

import click
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

P = ParamSpec("P")
R = TypeVar("R")

Cell = str | int | float | None
Row = Mapping[str, Cell]

TEXT: Final = 20
"""Characters that a column of sentences has at least. On a narrower terminal a row is shown by its fields."""
GAP: Final = 2
"""Between columns."""
UNLIMITED: Final = 1_000_000
"""Columns, if the output is not a terminal: grep wants whole lines."""
LINE_SECONDS: Final = 10.0
"""Between two lines of progress, without a terminal."""


class Mark(StrEnum):
    """How something stands. Coloured on a terminal."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


_STYLES: Final = {Mark.OK: "green", Mark.WARNING: "yellow", Mark.FAILED: "bold red"}


@dataclass(frozen=True, slots=True)
class Output:
    """What one command shows. With `as_json`, standard output gets exactly one JSON document and nothing else."""

    as_json: bool = False
    reveal: bool = False
    """Whether personal data is shown."""

    def show(self, document: object, *parts: RenderableType) -> None:
        """Print one result: to programs the document, to people its parts, in order. A part of text is masked here."""
        if self.as_json:
            click.echo(json.dumps(document if self.reveal else _mask_all(document), indent=2))
            return
        for part in parts:
            self._print(Text(self.safe(part)) if isinstance(part, str) else part)

    def result(self, fields: Mapping[str, Any], text: str) -> None:
        """Say what was done: `text` to people, `fields` to programs."""
        self.show(dict(fields), text)

    def table(self, rows: Sequence[Row], columns: Mapping[str, str], empty: str) -> None:
        """Show rows. `columns` maps the keys that people see to their headings. `empty` is shown if there are no rows.

        JSON gets the list of the rows with all of their keys.
        """
        self.show([dict(row) for row in rows], self.grid(rows, columns) if rows else empty)

    def fields(self, fields: Mapping[str, Any]) -> None:
        """Show one thing by its fields. A value may be any JSON."""
        self.show(dict(fields), _field_by_field({name: self._text(value) for name, value in fields.items()}))

    def say(self, text: str) -> None:
        """Tell people something that programs do not get."""
        if not self.as_json:
            self.show(None, text)

    def note(self, text: str) -> None:
        """Remark something beside the result, on standard error."""
        # Not by click, which would write to the terminal itself, through the bar that rich shows on it.
        sys.stderr.write(printable(self._masked(text), sys.stderr) + "\n")
        sys.stderr.flush()

    @contextmanager
    def progress(self, what: str, total: int) -> Generator["Tell"]:
        """Give a function that shows how far the work is: a bar on a terminal, else a line now and then."""
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

    def grid(self, rows: Sequence[Row], columns: Mapping[str, str]) -> RenderableType:
        """Return rows as a table, or field by field if the terminal is too narrow for that."""
        cells = [[self._text(row.get(key)) for key in columns] for row in rows]
        table, needed = Table(box=None, pad_edge=False, header_style="bold"), -GAP
        for heading, *column in zip(columns.values(), *cells, strict=True):
            wraps = any(" " in text.plain for text in column)
            widest = max(text.cell_len for text in (Text(heading), *column))
            needed += GAP + (min(widest, TEXT) if wraps else widest)
            table.add_column(Text(heading), overflow="fold", no_wrap=not wraps)
        if needed > _console().width:  # rich would cut off the last columns
            grids = [_field_by_field(dict(zip(columns.values(), line, strict=True))) for line in cells]
            return Group(*[part for grid in grids for part in (grid, Text())][:-1])
        for line in cells:
            table.add_row(*line)
        return table

    def _print(self, part: RenderableType) -> None:
        console = _console()
        if console.is_terminal:
            console.print(part)
            return
        with console.capture() as shown:
            console.print(part)
        click.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))

    def _masked(self, text: str) -> str:
        return text if self.reveal else mask(text)

    def _text(self, value: object) -> Text:
        """Return a value as it is shown. It is text and not markup: square brackets in a path mean nothing."""
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
    """Return where standard output goes. If that is not a terminal, nothing is wrapped."""
    console = Console()
    return console if console.is_terminal else Console(width=UNLIMITED)


def _field_by_field(fields: Mapping[str, Text]) -> Table:
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields.items():
        grid.add_row(Text(name, style="bold"), text)
    return grid


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
    """Return `1 record`, `2,000 records`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


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
