"""Writes invalid lines to a file in their own format, each with its reason. A corrected file is a valid input."""

import csv
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TextIO, cast

from butter_middleware.errors import ConfigurationError

Format = Literal["csv", "jsonl"]
Raw = list[str] | str
"""A line in its original form: the cells of CSV, or the text of JSON or of a line that cannot be parsed."""

LINE: Final = "reject_line"
REASON: Final = "reject_reason"
TEXT: Final = "reject_text"
"""For JSON lines: the text that is not an object."""
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
"""The beginning of a formula in a spreadsheet. With an apostrophe in front, it is text."""


def neutralized(cell: str) -> str:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def restored(cell: str) -> str:
    """Undo `neutralized`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class Rejects:
    """A file that only its owner can read, created with the first line. Without a path, nothing is kept.

    The last run's file is replaced. It is known by its size, `known`. None: that run was killed, so any size is.

    Raises:
        ConfigurationError: another file or a link is there, or the folder does not exist.
    """

    def __init__(
        self, path: Path | None, form: Format, columns: Sequence[str], delimiter: str, *, known: int | None = 0
    ) -> None:
        self._path = path
        self._form = form
        self._delimiter = delimiter
        self._kept = [place for place, name in enumerate(columns) if name not in {LINE, REASON}]
        self._columns = [columns[place] for place in self._kept]
        self._file: TextIO | None = None
        self.size = 0
        """The bytes that were written."""
        if path is None:
            return
        try:
            there = path.lstat()
        except FileNotFoundError:
            if not path.parent.is_dir():
                msg = f"the folder {path.parent} does not exist. Create it, or name another file with --rejects."
                raise ConfigurationError(msg) from None
            return
        if not stat.S_ISREG(there.st_mode) or known not in {None, there.st_size}:
            what = "a link" if path.is_symlink() else "another file, or one that was edited since the last run"
            msg = f"{path} is {what}. Move it away, or name another file with --rejects."
            raise ConfigurationError(msg)
        path.unlink()

    def add(self, number: int, reason: str, raw: Raw) -> None:
        """Write a line, or raise the OSError that prevents it."""
        if self._path is None:
            return
        if self._file is None:
            # O_EXCL: a file or a link that was put there meanwhile is not opened.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = os.fdopen(descriptor, "w", 1, encoding="utf-8", errors="backslashreplace", newline="")
            if self._form == "csv":
                self._write_row(self._file, [LINE, REASON, *self._columns])
        if self._form == "csv":
            cells = [raw] if isinstance(raw, str) else [raw[place] for place in self._kept if place < len(raw)]
            self._write_row(self._file, [str(number), reason, *cells])
        else:
            self._file.write(_json(number, reason, str(raw)))
        self.size = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write_row(self, file: TextIO, cells: list[str]) -> None:
        # Before Python 3.13 only a line feed has a cell quoted, but readers take a carriage return for a line end too.
        quoting: Literal[0, 1] = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
        writer = csv.writer(file, delimiter=self._delimiter, lineterminator="\n", quoting=quoting)
        writer.writerow(map(neutralized, cells))


def _json(number: int, reason: str, text: str) -> str:
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    content = cast("dict[str, Any]", values) if isinstance(values, dict) else {TEXT: text}
    return json.dumps({**content, LINE: number, REASON: reason}, ensure_ascii=False) + "\n"
