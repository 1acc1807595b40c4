"""Merchants' files: CSV variants, JSON lines, and broken ones."""

import contextlib
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from butter_middleware.backfill.source import MOST_BYTES, Line, Source
from butter_middleware.errors import InputError

OPENED: list[Source] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    """Close the sources that a test has opened."""
    yield
    close()


def close() -> None:
    while OPENED:
        OPENED.pop().close()


def source(directory: Path, content: str | bytes, **options: Any) -> Source:
    path = directory / "input"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    OPENED.append(Source(str(path), **options))
    return OPENED[-1]


def read(found: Source) -> Iterator[Line]:
    """Yield all lines of an input."""
    while lines := found.read():
        yield from lines


def cells(found: Source) -> list[tuple[int, Any, str]]:
    return [(line.number, line.raw, line.problem) for line in read(found)]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("a,b\n1,2\n", ["a", "b"], [(2, ["1", "2"])]),
        ("a,b\n1,2", ["a", "b"], [(2, ["1", "2"])]),
        ("a,b\r\n1,2\r\n", ["a", "b"], [(2, ["1", "2"])]),
        ("\ufeffa,b\n1,2\n", ["a", "b"], [(2, ["1", "2"])]),
        ('\ufeff"a","b"\n1,2\n', ["a", "b"], [(2, ["1", "2"])]),
        ("a;b\n1;2,5\n", ["a", "b"], [(2, ["1", "2,5"])]),
        ("a\tb\n1\t2\n", ["a", "b"], [(2, ["1", "2"])]),
        ("a|b\n1|2\n", ["a", "b"], [(2, ["1", "2"])]),
        ("a\n1\n2\n", ["a"], [(2, ["1"]), (3, ["2"])]),
        # A character in quotes is not a delimiter.
        ('"a, b; c; d",e\n1,2\n', ["a, b; c; d", "e"], [(2, ["1", "2"])]),
        ("sep=;\na;b\n1;2\n", ["a", "b"], [(3, ["1", "2"])]),
        # Blank lines, also before the header, only count for line numbers.
        ("\n\na,b\n\n1,2\n\r\n3,4\n", ["a", "b"], [(5, ["1", "2"]), (7, ["3", "4"])]),
        # After a cell of several lines, the next record's number is that of its line.
        ('a,b\n"x\ny",2\n3,"4""5"\n', ["a", "b"], [(2, ["x\ny", "2"]), (4, ["3", '4"5'])]),
        ("[a],[b]\n1,2\n", ["[a]", "[b]"], [(2, ["1", "2"])]),
        (" a , b\n1,2\n", ["a", "b"], [(2, ["1", "2"])]),
        # Spreadsheets end lines with empty cells.
        ("a,b\n1,2,,\n", ["a", "b"], [(2, ["1", "2", "", ""])]),
        ('a,b\n5" pipe,2\n', ["a", "b"], [(2, ['5" pipe', "2"])]),
    ],
)
def test_csv_variants(tmp_path: Path, text: str, columns: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Delimiters, line ends, byte order marks and quoted line ends are recognised."""
    found = source(tmp_path, text)
    assert (found.form, found.columns) == ("csv", columns)
    assert cells(found) == [(number, row, "") for number, row in rows]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # Half a line may have half an ID.
        ("a,b\n1\n2,3\n", [(2, "1 cells, and 2 columns"), (3, "")]),
        ("a,b\n1,2,3\n4,5\n", [(2, "3 cells, and 2 columns"), (3, "")]),
        # A quote that is not closed only rejects its own line.
        ('a,b\n1,"2\n3,4\n5,6\n', [(2, "not CSV: unexpected end of data"), (3, ""), (4, "")]),
        ('a,b\n1,"2\n3,"4"\n5,6\n', [(2, "not CSV: ',' expected after '\"'"), (3, ""), (4, "")]),
        ('a,b\n"1"x,2\n3,4\n', [(2, "not CSV: ',' expected after '\"'"), (3, "")]),
    ],
)
def test_a_broken_line_is_rejected_alone(tmp_path: Path, text: str, lines: list[tuple[int, str]]) -> None:
    """Only this line is rejected. The reason describes the problem, without the line's content."""
    assert [(line.number, line.problem) for line in read(source(tmp_path, text))] == lines


def test_a_quote_that_is_never_closed_takes_no_memory(tmp_path: Path) -> None:
    """The rest of the file is not read as one cell. The line is rejected, and the next lines are read."""
    filler = "".join(f"{number},x\n" for number in range(30_000))
    found = list(read(source(tmp_path, f'a,b\n1,"2\n{filler}')))
    assert "KB, or a quote is not closed" in found[0].problem or "field limit" in found[0].problem
    assert [len(found), found[1].raw, found[-1].raw] == [30_001, ["0", "x"], ["29999", "x"]]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"a": 1}\n{"a": 2}\n', [(1, ""), (2, "")]),
        ('\ufeff{"a": 1}\n\n{"a": 2}', [(1, ""), (3, "")]),
        (
            '{"a": 1\n[1]\n"x"\nnull\n{"a": 2}\n',
            [(1, "not JSON"), *[(n, "not a JSON object") for n in (2, 3, 4)], (5, "")],
        ),
        ('{"a": 1}\n' + "[" * 100_000 + "\n" + '{"a": 2}\n', [(1, ""), (2, "not JSON"), (3, "")]),
        ('{"a": "' + "x" * MOST_BYTES + '"}\n{"a": 2}\n', [(1, "longer than 256 KB"), (2, "")]),
    ],
)
def test_json_lines(tmp_path: Path, text: str, lines: list[tuple[int, str]]) -> None:
    """There is one object per line. If a line is not an object, only that line is rejected."""
    found = source(tmp_path, text)
    assert found.form == "jsonl"
    assert [(line.number, line.problem) for line in read(found)] == lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("a,b\n1,2\n".encode("utf-16"), "iconv -f UTF-16"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gunzip -c"),
        (b"PK\x03\x04rest of a workbook", "Save the sheet as CSV"),
        (b"a\0b\n", "not a text file"),
        (b"[\n{}\n]\n", "jq -c '.[]'"),
        (b' [ {"a": 1}, {"a": 2}]', "jq -c '.[]'"),
        (b"a,b\r1,2\r", "one carriage return"),
        (b'"a,b\n', "not a header of columns"),
        (b"a,b\n1,2\nK\xe4the,2\n", "line 3: byte 2 (0xe4) is not utf-8. Say what it is, such as --encoding cp1252"),
        (b'{"a": 1}\n{"a": "\xe4"}\n', "line 2: byte 8 (0xe4) is not utf-8"),
    ],
)
def test_an_unreadable_file_is_refused_with_the_fix(tmp_path: Path, content: bytes, said: str) -> None:
    """Workbooks, archives and other encodings are recognised. For a wrong byte, the error names the place."""
    with pytest.raises(InputError) as caught:
        list(read(source(tmp_path, content)))
    assert said in str(caught.value)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    """With `--encoding`, the same file is read."""
    found = source(tmp_path, "name,b\nKäthe,2\n".encode("cp1252"), encoding="cp1252")
    assert cells(found) == [(2, ["Käthe", "2"], "")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf_8_with_a_byte_order_mark_is_an_encoding(tmp_path: Path, mark: str) -> None:
    """`utf-8-sig` reads a file that Excel saved as UTF-8, and one without the mark."""
    found = source(tmp_path, f"{mark}name,b\nKäthe,2\n", encoding="utf-8-sig")
    assert (found.columns, cells(found)) == (["name", "b"], [(2, ["Käthe", "2"], "")])


@pytest.mark.parametrize("encoding", ["nonsense", "utf-16", "cp037", "base64", "a\0b"])
def test_an_encoding_that_cannot_be_used_is_refused(tmp_path: Path, encoding: str) -> None:
    """It does not exist, or its lines end in another way."""
    with pytest.raises(InputError, match="is not an encoding whose lines end with a byte 10"):
        source(tmp_path, "a,b\n", encoding=encoding)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The error has the system's reason."""
    with pytest.raises(InputError, match="No such file"):
        Source(str(tmp_path / "none.csv"))


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    """A line is read as soon as it is written. A pipe has no size."""
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    seen: list[Any] = []
    wait = threading.Event()

    def write() -> None:
        with fifo.open("wb", buffering=0) as file:
            file.write(b"a,b\n1,2\n")
            wait.wait(10)
            file.write(b"3,4\n")

    writer = threading.Thread(target=write)
    writer.start()
    with contextlib.closing(Source(str(fifo))) as found:
        for line in read(found):
            seen.append(line.raw)
            wait.set()
    writer.join()
    assert (found.size, seen) == (None, [["1", "2"], ["3", "4"]])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """More than twice the lines need no more memory. Both files are larger than one read."""

    def peak(count: int) -> int:
        found = source(tmp_path, "a,b\n" + "some value,another\n" * count)
        tracemalloc.start()
        for _line in read(found):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.2 * peak(8_000) + 10_000


# Any file

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=12),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_the_output_of_a_csv_writer_is_read(
    rows: list[list[str]], delimiter: str, end: str, quoting: Any, mark: str
) -> None:
    """Every row is read, with its line's number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["one", "two"])
    expected: list[tuple[int, Any, str]] = []
    for row in rows:
        expected.append((buffer.getvalue().count("\n") + 1, row, ""))
        writer.writerow(row)
    with TemporaryDirectory() as directory:
        content = buffer.getvalue().encode(mark)
        assert cells(source(Path(directory), content)) == expected
        close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(CELL, st.none() | st.integers() | CELL, max_size=3), min_size=1, max_size=8))
def test_the_output_of_a_json_writer_is_read(objects: list[dict[str, Any]]) -> None:
    """Every object is read unchanged."""
    with TemporaryDirectory() as directory:
        content = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in objects)
        found = source(Path(directory), content)
        assert [(line.number, line.values) for line in read(found)] == list(enumerate(objects, 1))
        close()


BYTES = st.lists(
    st.sampled_from(
        [b'"', b",", b";", b"\n", b"\r\n", b"\r", b"a", b"1", b"{", b"}", b'{"a": 1}', b"\xef\xbb\xbf", b"\xe4"]
    )
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b'{"a": 1}\n', b"a,b\n"]), BYTES)
@example(b'{"a": 1}\n', b"\x1c")
@example(b"", b"\x85\n{}")
def test_any_bytes_are_read_or_refused(first: bytes, more: bytes) -> None:
    """Each line except blank ones is read once, in order, or the file is refused with a reason.

    Each line begins where the last one ended, so that no byte is skipped.
    """
    content = first + more
    with TemporaryDirectory() as directory:
        try:
            found = source(Path(directory), content)
            offset = number = 0
            for line in read(found):
                assert line.number > number
                assert line.end > offset
                number, offset = line.number, line.end
                before = content[:offset].removesuffix(b"\n").count(b"\n") + 1
                assert before >= number if found.form == "csv" else before == number
        except InputError:
            return
        finally:
            close()
        assert content[offset:].strip() in {b"", b"\xef\xbb\xbf"} or found.form == "csv"


def test_the_reader_of_a_pipe_holds_no_lock() -> None:
    """A thread that waits for standard input does not keep the process from ending."""
    code = (
        "import threading, time; from butter_middleware.backfill.source import Source\n"
        "threading.Thread(target=lambda: Source('-'), daemon=True).start(); time.sleep(0.2)"
    )
    read, write = os.pipe()
    try:
        done = subprocess.run([sys.executable, "-c", code], stdin=read, timeout=20, capture_output=True, check=False)
    finally:
        os.close(read)
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
