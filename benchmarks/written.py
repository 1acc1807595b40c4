"""Writes measured tables into a document, between two markers. The other text belongs to the authors."""

import re
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown that is readable on a terminal too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(head), line(rule), *map(line, rows)])


def publish(document: Path | None, name: str, text: str) -> None:
    """Print a text. If there is a document, put the text between the markers of its name."""
    print(text, flush=True)
    if document is not None:
        write(document, name, text)


def write(document: Path, name: str, text: str) -> None:
    """Put a text between the markers of its name.

    Raises:
        ValueError: the document does not have exactly one such pair of markers.
    """
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    place = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    written, times = place.subn(lambda _found: f"\n{text}\n\n", document.read_text())
    if times != 1:
        msg = f"{document} must have the lines {begin!r} and {end!r} once, in this order; it has them {times} times"
        raise ValueError(msg)
    document.write_text(written)
