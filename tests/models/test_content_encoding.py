"""Content-Encoding: a compressed body is decoded completely or not at all, within limits of time and memory."""

import gzip
import importlib
import json
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st

from butter_middleware import ExtractionError
from butter_middleware.models.content_encoding import MAX_CODINGS, decode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 4096
ZSTD_PACKAGES = ("compression.zstd", "backports.zstd", "zstandard")
brotli: Any = importlib.import_module("brotli")  # it has no types
Pack = Callable[[bytes], bytes]


@pytest.fixture(scope="module", autouse=True, params=["zstd", "zstandard"])
def zstd_package(request: pytest.FixtureRequest) -> Iterator[None]:
    """Decode zstd with the standard library or its backport, then with `zstandard` alone."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "zstandard":
            for package in ZSTD_PACKAGES[:-1]:
                patch.setitem(sys.modules, package, None)
        yield


def gzipped(plain: bytes) -> bytes:
    return gzip.compress(plain, mtime=0)  # hypothesis needs the same bytes each time


def raw_deflate(plain: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(plain) + packer.flush()


def flushed(plain: bytes, wbits: int) -> bytes:
    """Compress as a streaming server does: it flushes every few bytes."""
    packer = zlib.compressobj(wbits=wbits)
    parts = [packer.compress(plain[at : at + 7]) + packer.flush(zlib.Z_SYNC_FLUSH) for at in range(0, len(plain), 7)]
    return b"".join(parts) + packer.flush()


def members(plain: bytes) -> bytes:
    """Compress as concatenated gzip files: one member after the other, the last one empty."""
    half = len(plain) // 2
    return gzipped(plain[:half]) + gzipped(plain[half:]) + gzipped(b"")


def frames(plain: bytes) -> bytes:
    half = len(plain) // 2
    return zstd.compress(plain[:half]) + zstd.compress(plain[half:])


PACKS: dict[str, tuple[str, Pack]] = {
    "gzip": ("gzip", gzipped),
    "gzip, flushed": ("gzip", lambda plain: flushed(plain, 31)),
    "gzip, members": ("x-gzip", members),
    "deflate": ("deflate", zlib.compress),
    "deflate, flushed": ("deflate", lambda plain: flushed(plain, 15)),
    "deflate, raw": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "zstd, frames": ("zstd", frames),
    "identity": ("identity", bytes),
}
SERIES = {"gzip, members", "zstd, frames"}
packs = st.sampled_from(sorted(PACKS))
plains = st.binary(max_size=LIMIT) | st.integers(0, 200).map(lambda n: json.dumps({"lines": ["a"] * n}).encode())


def pack(plain: bytes, names: Sequence[str]) -> tuple[bytes, str]:
    """Compress a body with each of the codings. Return it with its Content-Encoding header."""
    for name in names:
        plain = PACKS[name][1](plain)
    return plain, ", ".join(PACKS[name][0] for name in names)


def outcome(body: bytes, encoding: str) -> bytes | ExtractionError:
    """Return the decoded body, or the one error that is allowed."""
    try:
        return decode(body, encoding, LIMIT)
    except ExtractionError as error:
        return error


@settings(max_examples=tries(200), deadline=None)
@given(plain=plains, names=st.lists(packs, max_size=MAX_CODINGS))
def test_a_compressed_body_is_decoded(plain: bytes, names: list[str]) -> None:
    """Any coding in any of its forms, up to three of them on top of each other."""
    body, encoding = pack(plain, names)
    assert decode(body, encoding, 4 * LIMIT) == plain


@pytest.mark.parametrize("name", sorted(PACKS))
def test_the_limit_is_exact(name: str) -> None:
    """The decoded body may be as long as the limit, and not a byte longer."""
    for length in (LIMIT, LIMIT + 1):
        found = outcome(*pack(b"x" * length, [name]))
        assert isinstance(found, ExtractionError) is (length > LIMIT)


@settings(max_examples=tries(200), deadline=None)
@given(plain=plains.filter(bool), name=packs.filter(lambda name: name != "identity"), data=st.data())
def test_a_truncated_body_is_an_error(plain: bytes, name: str, data: st.DataObject) -> None:
    """The body may be cut anywhere. Half an order must not be read as an order."""
    body, encoding = pack(plain, [name])
    kept = data.draw(st.integers(0, len(body) - 1))
    found = outcome(body[:kept], encoding)
    # A series may end after any of its members. An empty body is valid.
    ends = {b"", plain[: len(plain) // 2], plain} if name in SERIES or not kept else set[bytes]()
    assert isinstance(found, ExtractionError) or found in ends


@settings(max_examples=tries(200), deadline=None)
@given(plain=plains, names=st.lists(packs, min_size=1, max_size=MAX_CODINGS), data=st.data())
def test_a_damaged_body_raises_one_error_without_the_body(plain: bytes, names: list[str], data: st.DataObject) -> None:
    """Bytes are changed, inserted or removed. The result is an `ExtractionError`, or bytes."""
    body, encoding = pack(plain, names)
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    found = outcome(bytes(damaged), encoding)
    if isinstance(found, bytes):
        assert len(found) <= LIMIT
    else:
        assert found.__suppress_context__ or found.__context__ is None
        assert len(plain) < 8 or plain[:8].decode("latin-1") not in str(found)


@settings(max_examples=tries(200), deadline=None)
@given(body=st.binary(max_size=300), encoding=st.text() | st.lists(st.sampled_from(
    ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "identity", "compress", "", " ", "*", "gzip;q=1"]
)).map(",".join))  # fmt: skip
def test_garbage_raises_no_other_error(body: bytes, encoding: str) -> None:
    """Any bytes, with any header."""
    found = outcome(body, encoding)
    assert isinstance(found, ExtractionError) or len(found) <= LIMIT


@pytest.mark.parametrize(("coding", "packages"), [("br", ["brotli"]), ("zstd", [*ZSTD_PACKAGES])])
def test_a_missing_decoder_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, coding: str, packages: list[str]
) -> None:
    """If all packages of a coding are missing, the error names those to install."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtractionError, match=f"no decoder for {coding}.*backports.zstd or zstandard"):
        decode(PACKS[coding][1](b"{}"), coding, LIMIT)


MEGABYTE = 1 << 20
HUGE = bytes(64 * MEGABYTE)
BOMBS: dict[str, tuple[Pack, str]] = {
    "gzip": (gzipped, "gzip"),
    "deflate": (zlib.compress, "deflate"),
    "raw deflate": (raw_deflate, "deflate"),
    "br": (lambda plain: brotli.compress(plain, quality=1), "br"),
    "zstd": (zstd.compress, "zstd"),
    "gzip in gzip": (lambda plain: gzipped(gzipped(plain)), "gzip, gzip"),
    "gzip thrice": (lambda plain: gzipped(gzipped(gzipped(plain))), "gzip, gzip, gzip"),
    "empty gzip members": (lambda _plain: gzipped(b"") * 10_000, "gzip"),
    "empty zstd frames": (lambda _plain: zstd.compress(b"") * 10_000, "zstd"),
    "a zstd window of 128 MiB": (
        lambda plain: zstd.compress(plain, options={zstd.CompressionParameter.window_log: 27}),
        "zstd",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_cheap(name: str) -> None:
    """64 MiB in a few bytes use little more memory than the limit, and little time."""
    make, encoding = BOMBS[name]
    bomb = make(HUGE)
    assert len(bomb) < 2 * MEGABYTE
    tracemalloc.start()
    began = time.thread_time()
    try:
        found = decode(bomb, encoding, MEGABYTE)
    except ExtractionError:
        found = b""
    seconds, (_now, peak) = time.thread_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == b""
    assert peak < 16 * MEGABYTE
    assert seconds < 5
