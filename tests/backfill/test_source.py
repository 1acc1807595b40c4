"""Files as merchants have them: CSV of every make, JSON lines, what is broken in them, and going on in the midst."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from butter_middleware.backfill.source import MOST_BYTES, Checked, Line, Position, Source
from butter_middleware.errors import InputError

OPENED: list[Source] = []


@pytest.fixture(autouse=True)
def closing() -> Iterator[None]:
    """Close what a test has opened."""
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


def cells(lines: Iterator[Line] | Source) -> list[tuple[int, Any, str]]:
    return [(line.number, line.raw, line.problem) for line in lines]


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
        # What a header holds in quotes is no delimiter.
        ('"a, b; c; d",e\n1,2\n', ["a, b; c; d", "e"], [(2, ["1", "2"])]),
        ("sep=;\na;b\n1;2\n", ["a", "b"], [(3, ["1", "2"])]),
        # Blank lines, before the header too, count as lines and as nothing else.
        ("\n\na,b\n\n1,2\n\r\n3,4\n", ["a", "b"], [(5, ["1", "2"]), (7, ["3", "4"])]),
        # A cell of several lines; the next record's number is that of its line.
        ('a,b\n"x\ny",2\n3,"4""5"\n', ["a", "b"], [(2, ["x\ny", "2"]), (4, ["3", '4"5'])]),
        ("[a],[b]\n1,2\n", ["[a]", "[b]"], [(2, ["1", "2"])]),
        (" a , b\n1,2\n", ["a", "b"], [(2, ["1", "2"])]),
        # Spreadsheets end lines with empty cells.
        ("a,b\n1,2,,\n", ["a", "b"], [(2, ["1", "2", "", ""])]),
        ('a,b\n5" pipe,2\n', ["a", "b"], [(2, ['5" pipe', "2"])]),
    ],
)
def test_csv_of_every_make(tmp_path: Path, text: str, columns: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Delimiters, line ends, byte order marks and quoted line ends are seen."""
    found = source(tmp_path, text)
    assert (found.form, found.columns) == ("csv", columns)
    assert cells(found) == [(number, row, "") for number, row in rows]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # Half a line may hold half an ID.
        ("a,b\n1\n2,3\n", [(2, "1 cells, and 2 columns"), (3, "")]),
        ("a,b\n1,2,3\n4,5\n", [(2, "3 cells, and 2 columns"), (3, "")]),
        # A quote that is not closed costs its own line, and none after it.
        ('a,b\n1,"2\n3,4\n5,6\n', [(2, "no CSV: unexpected end of data"), (3, ""), (4, "")]),
        ('a,b\n1,"2\n3,"4"\n5,6\n', [(2, "no CSV: ',' expected after '\"'"), (3, ""), (4, "")]),
        ('a,b\n"1"x,2\n3,4\n', [(2, "no CSV: ',' expected after '\"'"), (3, "")]),
    ],
)
def test_a_broken_line_costs_itself(tmp_path: Path, text: str, lines: list[tuple[int, str]]) -> None:
    """The reason says what is wrong with its form, and nothing of what stands there."""
    assert [(line.number, line.problem) for line in source(tmp_path, text)] == lines


def test_a_quote_that_is_never_closed_takes_no_memory(tmp_path: Path) -> None:
    """The rest of the file is not read as one cell: the line is rejected, and those after it are read."""
    filler = "".join(f"{number},x\n" for number in range(30_000))
    found = list(source(tmp_path, f'a,b\n1,"2\n{filler}'))
    assert "KB, or a quote is not closed" in found[0].problem or "field limit" in found[0].problem
    assert [len(found), found[1].raw, found[-1].raw] == [30_001, ["0", "x"], ["29999", "x"]]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"a": 1}\n{"a": 2}\n', [(1, ""), (2, "")]),
        ('\ufeff{"a": 1}\n\n{"a": 2}', [(1, ""), (3, "")]),
        ('{"a": 1\n[1]\n"x"\nnull\n{"a": 2}\n', [(1, "no JSON"), *[(n, "no JSON object") for n in (2, 3, 4)], (5, "")]),
        ('{"a": 1}\n' + "[" * 100_000 + "\n" + '{"a": 2}\n', [(1, ""), (2, "no JSON"), (3, "")]),
        ('{"a": "' + "x" * MOST_BYTES + '"}\n{"a": 2}\n', [(1, "longer than 256 KB"), (2, "")]),
    ],
)
def test_json_lines(tmp_path: Path, text: str, lines: list[tuple[int, str]]) -> None:
    """One object a line; what is none is a problem of that line."""
    found = source(tmp_path, text)
    assert found.form == "jsonl"
    assert [(line.number, line.problem) for line in found] == lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        ("a,b\n1,2\n".encode("utf-16"), "iconv -f UTF-16"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gunzip -c"),
        (b"PK\x03\x04rest of a workbook", "Save the sheet as CSV"),
        (b"a\0b\n", "no text file"),
        (b"[\n{}\n]\n", "jq -c '.[]'"),
        (b' [ {"a": 1}, {"a": 2}]', "jq -c '.[]'"),
        (b"a,b\r1,2\r", "one carriage return"),
        (b'"a,b\n', "no header of columns"),
        (b"a,b\n1,2\nK\xe4the,2\n", "line 3: byte 2 (0xe4) is no utf-8. Say what it is, such as --encoding cp1252"),
        (b'{"a": 1}\n{"a": "\xe4"}\n', "line 2: byte 8 (0xe4) is no utf-8"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_remedy(tmp_path: Path, content: bytes, said: str) -> None:
    """Workbooks, archives and other encodings are recognised; a byte that is wrong is placed."""
    with pytest.raises(InputError) as caught:
        list(source(tmp_path, content))
    assert said in str(caught.value)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    """With it, the same file is read."""
    found = source(tmp_path, "name,b\nKäthe,2\n".encode("cp1252"), encoding="cp1252")
    assert cells(found) == [(2, ["Käthe", "2"], "")]


@pytest.mark.parametrize("encoding", ["nonsense", "utf-16", "cp037", "base64", "a\0b"])
def test_an_encoding_that_cannot_be_is_refused(tmp_path: Path, encoding: str) -> None:
    """One that there is not, or whose lines end in another way."""
    with pytest.raises(InputError, match="is no encoding whose lines end with a byte 10"):
        source(tmp_path, "a,b\n", encoding=encoding)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The system's reason is given."""
    with pytest.raises(InputError, match="No such file"):
        Source(str(tmp_path / "none.csv"))


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    """A line is there as soon as it is written; a pipe has no size."""
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
    with Source(str(fifo)) as found:
        for line in found:
            seen.append(line.raw)
            wait.set()
    writer.join()
    assert (found.size, seen) == (None, [["1", "2"], ["3", "4"]])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """More than twice the lines take no more of it; the fewer ones, too, are more than is read at once."""

    def peak(count: int) -> int:
        found = source(tmp_path, "a,b\n" + "some value,another\n" * count)
        tracemalloc.start()
        for _line in found:
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.2 * peak(8_000) + 10_000


# Going on


def test_it_goes_on_where_a_line_ended(tmp_path: Path) -> None:
    """After any line, with what was read until then checked."""
    text = 'a,b\n1,2\n"x\ny",3\n\n5,"6\n7,8\n9,10\n'
    lines = list(source(tmp_path, text))
    for number, line in enumerate(lines):
        again = source(tmp_path, text)
        assert again.resume(line.after, line.checked)
        assert cells(again) == cells(iter(lines[number + 1 :]))


@pytest.mark.parametrize(
    ("changed", "goes_on"),
    [
        ("a,b\n1,2\n3,4\n5,6\n", True),
        ("a,b\n1,2\n3,4\n", False),
        ("a,b\n1,9\n3,4\n5,6\n", False),
        ("a,c\n1,2\n3,4\n5,6\n", False),
        ("a,b\n1,2\n3,4\n5,6\n7,8\n", True),
        ("", False),
    ],
)
def test_another_file_is_noticed(tmp_path: Path, changed: str, *, goes_on: bool) -> None:
    """What was read must be there as it was; what comes after it may be more."""
    lines = list(source(tmp_path, "a,b\n1,2\n3,4\n5,6\n"))
    again = source(tmp_path, "a,b\n1,2\n")
    (tmp_path / "input").write_text(changed)
    assert again.resume(lines[0].after, lines[0].checked) is goes_on


# For any file

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=12),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.data(),
)
def test_what_a_csv_writer_wrote_is_read(
    rows: list[list[str]], delimiter: str, end: str, quoting: Any, mark: str, data: st.DataObject
) -> None:
    """Every row comes back, at its line's number, and from any of them on."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["one", "two"])
    expected: list[tuple[int, Any, str]] = []
    for row in rows:
        expected.append((buffer.getvalue().count("\n") + 1, row, ""))
        writer.writerow(row)
    with TemporaryDirectory() as directory:
        content = buffer.getvalue().encode(mark)
        lines = list(source(Path(directory), content))
        assert cells(iter(lines)) == expected
        if lines:
            at = data.draw(st.integers(0, len(lines) - 1))
            again = source(Path(directory), content)
            assert again.resume(lines[at].after, lines[at].checked)
            assert cells(again) == expected[at + 1 :]
        close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(CELL, st.none() | st.integers() | CELL, max_size=3), min_size=1, max_size=8))
def test_what_a_json_writer_wrote_is_read(objects: list[dict[str, Any]]) -> None:
    """Every object comes back as it was."""
    with TemporaryDirectory() as directory:
        content = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in objects)
        found = source(Path(directory), content)
        assert [(line.number, line.values) for line in found] == list(enumerate(objects, 1))
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
def test_any_bytes_are_read_or_refused(first: bytes, more: bytes) -> None:
    """Whatever a file holds, every line but blank ones is told of once, in order, or the file is refused with a reason.

    What is told of begins where the last one ended, so that nothing is passed over and a run can go on after each.
    """
    content = first + more
    with TemporaryDirectory() as directory:
        try:
            found = source(Path(directory), content)
            at = Position()
            for line in found:
                assert line.number > at.number
                assert line.after.offset > at.offset
                skipped = content[at.offset : line.after.offset].count(b"\n")
                assert line.after.number - at.number in {skipped, skipped + 1}
                at = line.after
                assert line.checked.size >= at.offset
        except InputError:
            return
        finally:
            close()
        assert content[at.offset :].strip() in {b"", b"\xef\xbb\xbf"} or found.form == "csv"


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


def test_nothing_was_checked_of_nothing() -> None:
    """The beginning of every file is that of every other."""
    assert Checked() == Checked(0, "")
