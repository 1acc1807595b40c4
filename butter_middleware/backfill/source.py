"""Reads past checkouts from a file or a pipe, CSV or JSON lines, one by one, in constant memory."""

import csv
import io
import json
import os
import re
import stat
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

from butter_middleware.backfill.rejects import LINE, Format, Raw, restored
from butter_middleware.errors import InputError

STDIN: Final = "-"
MOST_BYTES: Final = 256 * 1024
"""The most of one record. A checkout has a few hundred. More is an unclosed quote, or another kind of file."""
LINES: Final = 256
"""The most lines that one read returns."""
_CHUNK: Final = 64 * 1024
_BLANK: Final = " \t\r\n\v\f"
"""The characters of a blank line. `str.strip` also removes control characters and spaces that JSON does not allow."""
_DELIMITERS: Final = ",;\t|"
_EXCEL_SAYS: Final = re.compile(r"sep=(.)\r?\n?")
_ARRAY: Final = re.compile(rf"[{_BLANK}]*\[[{_BLANK}]*(\{{|$)")
_NO_TEXT: Final = {
    b"\x1f\x8b": "is compressed. Unpack it on the way: gunzip -c FILE | butter-middleware backfill - --progress NAME",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook. Save the sheet as CSV (UTF-8)",
    b"\xff\xfe": "is UTF-16. Save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 FILE",
    b"\xfe\xff": "is UTF-16. Save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 FILE",
}
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, repr=False)
class Line:
    """One record of the input, or the reason why it cannot be read."""

    number: int
    """The number of its first line, from 1, as editors count."""
    raw: Raw
    end: int
    """The input's bytes up to its end."""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The values by column or key."""
    problem: str = ""
    """Why it cannot be read. It contains nothing of the line."""


class _Taken(NamedTuple):
    data: bytes
    size: int
    """The size in the input. It is larger than the data if the line is too long."""


class _Lines:
    """Lines of bytes.

    The file is unbuffered: a thread that waits for a pipe would hold the lock of Python's buffer.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._chunk = b""
        self._at = 0
        self._returned: deque[_Taken] = deque()

    def take(self) -> _Taken | None:
        """Return the next line with its end. Of a line that is too long, return only its beginning."""
        if self._returned:
            return self._returned.popleft()
        parts: list[bytes] = []
        size = 0
        while True:
            end = self._chunk.find(b"\n", self._at) + 1
            part = self._chunk[self._at : end or None]
            self._at = end or len(self._chunk)
            if size <= MOST_BYTES:
                parts.append(part)
            size += len(part)
            if end:
                break
            self._chunk, self._at = self._file.read(_CHUNK) or b"", 0
            if not self._chunk:
                break
        return _Taken(b"".join(parts), size) if size else None

    def put_back(self, lines: list[_Taken]) -> None:
        self._returned.extendleft(reversed(lines))

    @property
    def at_hand(self) -> bool:
        """Whether the next line is in memory."""
        return bool(self._returned) or self._chunk.find(b"\n", self._at) >= 0


class Source:
    """An open input. Its first line shows the format, and its header is read.

    Args:
        path: A file, or "-" for standard input.
        encoding: Any encoding in which a line ends with byte 10.

    Raises:
        InputError: it cannot be opened, or is neither CSV nor JSON lines. The text has the cause and the remedy.
    """

    def __init__(self, path: str, *, encoding: str = "utf-8") -> None:
        self._name = "standard input" if path == STDIN else path
        ends_lines = False
        with suppress(LookupError, ValueError):
            ends_lines = "\n".encode(encoding).removeprefix(_BOM) == b"\n"
        if not ends_lines:
            msg = f"{encoding} is not an encoding whose lines end with a byte 10. Convert: iconv -t UTF-8 -f {encoding}"
            raise InputError(msg)
        self._encoding = encoding
        try:
            self._file = io.FileIO(0, closefd=False) if path == STDIN else io.FileIO(path)
        except OSError as error:
            msg = f"{self._name} cannot be read: {error.strerror}"
            raise InputError(msg) from None
        try:
            self._begin(path)
        except BaseException:
            self.close()
            raise

    def _begin(self, path: str) -> None:
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) and path != STDIN else None
        """In bytes. None for a pipe, which is read once and from its beginning."""
        self._lines = _Lines(self._file)
        self._offset = 0
        self._number = 0
        self._fault: InputError | None = None
        first = self._first_line()
        if _ARRAY.match(first):
            msg = f"{self._name} is one JSON array. Write one object per line: jq -c '.[]' FILE"
            raise InputError(msg)
        self.form: Format = "jsonl" if first.lstrip(_BLANK).startswith("{") else "csv"
        self.delimiter = max(_DELIMITERS, key=re.sub(r'"[^"]*"?', "", first).count)
        self.columns: list[str] = []
        """For CSV."""
        self._restores = False
        """Whether it is a file of rejects."""
        if self.form == "csv":
            self._read_header(first)
        self._left = self._csv() if self.form == "csv" else self._jsonl()

    def read(self) -> list[Line]:
        """Return the next lines, or none at the end. Wait for the first one, and add those that are in memory.

        Raises:
            InputError: the input cannot be read beyond the lines that were returned.
        """
        if self._fault is not None:
            raise self._fault
        lines: list[Line] = []
        try:
            for line in self._left:
                lines.append(line)
                if len(lines) == LINES or not self._lines.at_hand:
                    break
        except OSError as error:
            self._fault = InputError(f"{self._name} cannot be read to its end:  {error.strerror}")
        except InputError as error:
            self._fault = error
        if self._fault is not None and not lines:
            raise self._fault
        return lines

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _first_line(self) -> str:
        """Return the first line that is not blank, and leave it to be read."""
        while (taken := self._lines.take()) is not None:
            if self._offset == 0:
                kind = next((text for magic, text in _NO_TEXT.items() if taken.data.startswith(magic)), None)
                if kind is None and b"\0" in taken.data[:1024]:
                    kind = "is not a text file. A backfill reads CSV or JSON lines, in UTF-8"
                if kind is not None:
                    msg = f"{self._name} {kind}."
                    raise InputError(msg)
            text = self._decoded(taken, self._number + 1)
            if text.strip(_BLANK):
                self._lines.put_back([taken])
                return text
            self._pass(taken)
        msg = f"{self._name} is empty: there is nothing to send."
        raise InputError(msg)

    def _read_header(self, first: str) -> None:
        if (found := _EXCEL_SAYS.fullmatch(first)) is not None:
            self.delimiter = found[1]
            taken = self._lines.take()
            if taken is not None:
                self._pass(taken)
        if "\r" in first.rstrip("\r\n"):
            msg = f"{self._name} has line ends of one carriage return. Convert it: tr '\\r' '\\n' < FILE"
            raise InputError(msg)
        header = next(self._csv(), None)
        if header is None or isinstance(header.raw, str):
            msg = f"{self._name}: its first line is not a header of columns: {'' if header is None else header.problem}"
            raise InputError(msg)
        self._restores = LINE in header.raw
        self.columns = [(restored(name) if self._restores else name).strip() for name in header.raw]

    def _csv(self) -> Generator[Line]:
        while True:
            taken: list[_Taken] = []
            number = self._number + 1
            try:
                # One reader for each record: after an error, it would continue in the middle of the broken record.
                cells = next(csv.reader(self._feed(taken), delimiter=self.delimiter, strict=True), None)
            except csv.Error as error:
                # The line with the error is one record. The further lines that it swallowed are read again.
                self._lines.put_back(taken[1:])
                self._pass(taken[0])
                text = self._decoded(taken[0], number)[:MOST_BYTES].rstrip("\r\n")
                yield Line(number, text, self._offset, problem=f"not CSV: {error}")
                continue
            if cells is None:
                return
            self._pass(*taken)
            cells = [restored(cell) for cell in cells] if self._restores else cells
            if self.columns and cells and (any(cells[len(self.columns) :]) or len(cells) < len(self.columns)):
                # Half a line may hold half an ID.
                yield Line(number, cells, self._offset, problem=f"{len(cells)} cells, and {len(self.columns)} columns")
            elif cells:
                yield Line(number, cells, self._offset, dict(zip(self.columns, cells, strict=False)))

    def _feed(self, taken: list[_Taken]) -> Generator[str]:
        """Yield the lines of one record as its parser asks for them."""
        size = 0
        while (line := self._lines.take()) is not None:
            taken.append(line)
            size += line.size
            if size > MOST_BYTES:
                msg = f"longer than {MOST_BYTES // 1024} KB, or a quote is not closed"
                raise csv.Error(msg)
            yield self._decoded(line, self._number + len(taken))

    def _jsonl(self) -> Generator[Line]:
        while (taken := self._lines.take()) is not None:
            number = self._number + 1
            text = self._decoded(taken, number).strip(_BLANK)
            self._pass(taken)
            if taken.size > MOST_BYTES:
                yield Line(number, text[:MOST_BYTES], self._offset, problem=f"longer than {MOST_BYTES // 1024} KB")
            elif text:
                try:
                    values: object = json.loads(text)
                except (ValueError, RecursionError):
                    yield Line(number, text, self._offset, problem="not JSON")
                    continue
                if isinstance(values, dict):
                    yield Line(number, text, self._offset, cast("dict[str, Any]", values))
                else:
                    yield Line(number, text, self._offset, problem="not a JSON object")

    def _pass(self, *taken: _Taken) -> None:
        self._offset += sum(one.size for one in taken)
        self._number += len(taken)

    def _decoded(self, line: _Taken, number: int) -> str:
        data = line.data.removeprefix(_BOM) if number == 1 else line.data
        if line.size > MOST_BYTES:  # the line is cut, perhaps within a character
            return data.decode(self._encoding, "replace")
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            msg = (
                f"{self._name}, line {number}: byte {error.start + 1} (0x{data[error.start]:02x}) is not "
                f"{self._encoding}. Say what it is, such as --encoding cp1252 for a file saved by Excel."
            )
            raise InputError(msg) from None
