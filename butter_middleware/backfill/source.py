"""Past checkouts as a file or a pipe gives them: CSV or JSON lines, one by one, in a memory that does not grow."""

import csv
import hashlib
import io
import json
import os
import re
import stat
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, cast

from butter_middleware.errors import InputError

Format = Literal["csv", "jsonl"]
Raw = list[str] | str
"""A line as it can be kept and given back: the cells of CSV; the text of JSON, or of what cannot be parsed."""

STDIN: Final = "-"
MOST_BYTES: Final = 256 * 1024
"""Of one record. A checkout has a few hundred; what is longer is a quote that nobody closed, or no such file."""
_CHUNK: Final = 64 * 1024
_DELIMITERS: Final = ",;\t|"
_EXCEL_SAYS: Final = re.compile(r"sep=(.)\r?\n?")
_ARRAY: Final = re.compile(r"\s*\[\s*(\{|$)")
_NO_TEXT: Final = {
    b"\x1f\x8b": "is compressed. Unpack it on the way: gunzip -c FILE | butter-middleware backfill - --progress NAME",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook. Save the sheet as CSV (UTF-8)",
    b"\xff\xfe": "is UTF-16. Save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 FILE",
    b"\xfe\xff": "is UTF-16. Save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 FILE",
}
_BOM: Final = b"\xef\xbb\xbf"


class Position(NamedTuple):
    """Between two records of the input."""

    offset: int = 0
    """Bytes before it."""
    number: int = 0
    """Lines before it."""


class Checked(NamedTuple):
    """What the input was, up to where it was read: a later run may go on only where it still is."""

    size: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Line:
    """One record of the input, or why there is none."""

    number: int
    """Of the line that it begins at, from 1, as editors count."""
    raw: Raw
    values: Mapping[str, Any]
    """By the names of its columns or keys."""
    problem: str
    """Why it cannot be read. Holds nothing of what stands there."""
    after: Position
    checked: Checked


class _Taken(NamedTuple):
    data: bytes
    size: int
    """In the input: more than the data's where the line is longer than may be."""


class _Lines:
    """Lines of bytes, and the digest of what was read.

    Reads the file without one of Python's buffers: their lock would be held by a thread that waits for a pipe.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._chunk = b""
        self._at = 0
        self._read = 0
        self._returned: deque[_Taken] = deque()
        self._hash = hashlib.blake2b(digest_size=16)
        self.checked = Checked()

    def take(self) -> _Taken | None:
        """Give the next line with its end, of a long one no more than is needed to see that it is."""
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
            if end or not self._fill():
                break
        return _Taken(b"".join(parts), size) if size else None

    def put_back(self, lines: list[_Taken]) -> None:
        """Have lines taken once more."""
        self._returned.extendleft(reversed(lines))

    def check(self, expected: Checked) -> bool:
        """Read the beginning anew; say whether it is what was read before."""
        self.seek(0)
        self._hash, self.checked = hashlib.blake2b(digest_size=16), Checked()
        while self._read < expected.size and self._fill(expected.size - self._read):
            pass
        return self.checked == expected

    def seek(self, offset: int) -> None:
        """Go on elsewhere, not beyond what was read."""
        self._read = self._file.seek(offset)
        self._chunk, self._at = b"", 0
        self._returned.clear()

    def _fill(self, most: int = _CHUNK) -> bool:
        chunk = self._file.read(min(most, _CHUNK)) or b""
        self._chunk, self._at = chunk, 0
        self._read += len(chunk)
        new = self._read - self.checked.size
        if new > 0:
            self._hash.update(chunk[-new:])
            self.checked = Checked(self._read, self._hash.hexdigest())
        return bool(chunk)


class Source:
    """An open input whose format is seen from its first line and whose header is read.

    Args:
        path: A file, or "-" for standard input.
        encoding: Any in which a line end is a byte 10.

    Raises:
        InputError: it cannot be opened, or is neither; what it is instead, and the remedy.
    """

    def __init__(self, path: str, *, encoding: str = "utf-8") -> None:
        self._name = "standard input" if path == STDIN else path
        if not _ends_lines(encoding):
            msg = f"{encoding} is no encoding whose lines end with a byte 10. Convert it: iconv -t UTF-8 -f {encoding}"
            raise InputError(msg)
        self._encoding = encoding
        self._file = self._open(path)
        try:
            self._begin(path)
        except BaseException:
            self.close()
            raise

    def _begin(self, path: str) -> None:
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) and path != STDIN else None
        """In bytes; None of a pipe, which is read once and from its beginning."""
        self._lines = _Lines(self._file)
        self._at = Position()
        first = self._first_line()
        if _ARRAY.match(first):
            msg = f"{self._name} is one JSON array. Make it a line an object: jq -c '.[]' FILE"
            raise InputError(msg)
        self.form: Format = "jsonl" if first.lstrip().startswith("{") else "csv"
        self.delimiter = max(_DELIMITERS, key=_unquoted(first).count)
        self.columns: list[str] = []
        """Of CSV."""
        if self.form == "csv":
            self._read_header(first)

    @property
    def checked(self) -> Checked:
        """What was read so far."""
        return self._lines.checked

    def resume(self, at: Position, checked: Checked) -> bool:
        """Go on at a place of an earlier run; False where what was read then is not there any more."""
        if not self._lines.check(checked):
            return False
        self._lines.seek(at.offset)
        self._at = at
        return True

    def __iter__(self) -> Iterator[Line]:
        """Give what follows.

        Raises:
            InputError: a line is in another encoding.
        """
        return self._csv() if self.form == "csv" else self._jsonl()

    def values(self, raw: Raw) -> Mapping[str, Any]:
        """Return by name what a line gave as `raw`."""
        if isinstance(raw, list):
            return dict(zip(self.columns, raw, strict=False))
        return cast("Mapping[str, Any]", json.loads(raw))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _open(self, path: str) -> io.FileIO:
        try:
            if path == STDIN:
                return io.FileIO(0, closefd=False)
            return io.FileIO(Path(path))
        except OSError as error:
            msg = f"{self._name} cannot be read: {error.strerror}"
            raise InputError(msg) from None

    def _first_line(self) -> str:
        """Return the first line that is not blank, and leave it to be read."""
        while (taken := self._lines.take()) is not None:
            if self._at.offset == 0:
                kind = next((text for magic, text in _NO_TEXT.items() if taken.data.startswith(magic)), None)
                if kind is None and b"\0" in taken.data[:1024]:
                    kind = "is no text file. A backfill reads CSV or JSON lines, in UTF-8"
                if kind is not None:
                    msg = f"{self._name} {kind}."
                    raise InputError(msg)
            text = self._decoded(taken, self._at.number + 1)
            if text.strip():
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
            msg = f"{self._name}: its first line is no header of columns: {'' if header is None else header.problem}"
            raise InputError(msg)
        self.columns = [name.strip() for name in header.raw]

    def _csv(self) -> Generator[Line]:
        while True:
            taken: list[_Taken] = []
            number = self._at.number + 1
            try:
                # A reader a record: after a fault it would go on in the midst of the broken one.
                cells = next(csv.reader(self._feed(taken), delimiter=self.delimiter, strict=True), None)
            except csv.Error as error:
                # The line with the fault is one record; those that it swallowed are read on their own.
                self._lines.put_back(taken[1:])
                self._pass(taken[0])
                text = self._decoded(taken[0], number)[:MOST_BYTES].rstrip("\r\n")
                yield self._line(number, text, problem=f"no CSV: {error}")
                continue
            if cells is None:
                return
            self._pass(*taken)
            if cells:
                yield self._row(number, cells)

    def _row(self, number: int, cells: list[str]) -> Line:
        surplus = [cell for cell in cells[len(self.columns) :] if cell]
        if self.columns and (surplus or len(cells) < len(self.columns)):
            # Half a line may hold half an ID.
            return self._line(number, cells, problem=f"{len(cells)} cells, and {len(self.columns)} columns")
        return self._line(number, cells)

    def _feed(self, taken: list[_Taken]) -> Generator[str]:
        """Give the lines of one record as its parser asks for them."""
        size = 0
        while (line := self._lines.take()) is not None:
            taken.append(line)
            size += line.size
            if size > MOST_BYTES:
                msg = f"longer than {MOST_BYTES // 1024} KB, or a quote is not closed"
                raise csv.Error(msg)
            yield self._decoded(line, self._at.number + len(taken))

    def _jsonl(self) -> Generator[Line]:
        while (taken := self._lines.take()) is not None:
            number = self._at.number + 1
            text = self._decoded(taken, number).strip()
            self._pass(taken)
            if taken.size > MOST_BYTES:
                yield self._line(number, text[:MOST_BYTES], problem=f"longer than {MOST_BYTES // 1024} KB")
            elif text:
                yield self._object(number, text)

    def _object(self, number: int, text: str) -> Line:
        try:
            values: object = json.loads(text)
        except (ValueError, RecursionError):
            return self._line(number, text, problem="no JSON")
        if not isinstance(values, dict):
            return self._line(number, text, problem="no JSON object")
        return self._line(number, text, cast("dict[str, Any]", values))

    def _line(self, number: int, raw: Raw, values: Mapping[str, Any] | None = None, problem: str = "") -> Line:
        if values is None:
            values = {} if problem else self.values(raw)
        return Line(number, raw, values, problem, self._at, self._lines.checked)

    def _pass(self, *taken: _Taken) -> None:
        self._at = Position(self._at.offset + sum(one.size for one in taken), self._at.number + len(taken))

    def _decoded(self, line: _Taken, number: int) -> str:
        data = line.data.removeprefix(_BOM) if number == 1 else line.data
        if line.size > MOST_BYTES:  # cut, perhaps within a character
            return data.decode(self._encoding, "replace")
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            msg = (
                f"{self._name}, line {number}: byte {error.start + 1} (0x{data[error.start]:02x}) is no "
                f"{self._encoding}. Say what it is, such as --encoding cp1252 for a file saved by Excel."
            )
            raise InputError(msg) from None


def _ends_lines(encoding: str) -> bool:
    try:
        return "\n".encode(encoding) == b"\n"
    except (LookupError, ValueError):
        return False


def _unquoted(text: str) -> str:
    return re.sub(r'"[^"]*"?', "", text)
