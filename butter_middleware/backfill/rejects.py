"""The lines that became no record, each with its reason, in the format that they came in: mended, they are an input."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

from butter_middleware.backfill.source import Format, Raw
from butter_middleware.errors import ConfigurationError

LINE: Final = "reject_line"
REASON: Final = "reject_reason"
TEXT: Final = "reject_text"
"""Of JSON lines: what stood there, where it is no object."""


class Rejects:
    """A file that only its owner reads, made with the first line.

    Args:
        path: Where it lies.
        size: Its bytes that are known; what a killed run wrote beyond them is written anew.
        anew: Begin it once more, since the input is read from its beginning.

    Raises:
        ConfigurationError: a file lies there that is none of this backfill's.
    """

    def __init__(
        self, path: Path, form: Format, columns: Sequence[str], delimiter: str, *, size: int = 0, anew: bool = False
    ) -> None:
        self.path = path
        self.size = 0 if anew else size
        self._form = form
        self._delimiter = delimiter
        self._kept = [place for place, name in enumerate(columns) if name not in {LINE, REASON}]
        self._columns = [columns[place] for place in self._kept]
        self._descriptor: int | None = None
        there = path.stat().st_size if path.exists() else 0
        if there and (not size or (anew and there != size)):
            msg = f"{path} is there already, from another run or mended. Move it away, or name another with --rejects."
            raise ConfigurationError(msg)
        if anew:
            path.unlink(missing_ok=True)

    def add(self, number: int, reason: str, raw: Raw) -> None:
        """Write a line.

        Raises:
            OSError: it cannot be written.
        """
        text = self._csv(number, reason, raw) if self._form == "csv" else _json(number, reason, str(raw))
        data = text.encode("utf-8", "backslashreplace")
        descriptor = self._opened()
        while data:
            written = os.write(descriptor, data)
            self.size += written
            data = data[written:]

    def sync(self) -> None:
        """Wait until it is on the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.fchmod(self._descriptor, 0o600)
            if os.fstat(self._descriptor).st_size > self.size:
                os.ftruncate(self._descriptor, self.size)
            self.size = os.fstat(self._descriptor).st_size  # less, where a person has mended it
            if not self.size and self._form == "csv":
                header = self._row([LINE, REASON, *self._columns]).encode()
                self.size += os.write(self._descriptor, header)
        return self._descriptor

    def _csv(self, number: int, reason: str, raw: Raw) -> str:
        cells = [raw] if isinstance(raw, str) else [raw[place] for place in self._kept if place < len(raw)]
        return self._row([str(number), reason, *cells])

    def _row(self, cells: list[str]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self._delimiter, lineterminator="\n").writerow(cells)
        return buffer.getvalue()


def _json(number: int, reason: str, text: str) -> str:
    try:
        values: object = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    content = cast("dict[str, Any]", values) if isinstance(values, dict) else {TEXT: text}
    return json.dumps({**content, LINE: number, REASON: reason}, ensure_ascii=False) + "\n"
