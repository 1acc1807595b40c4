"""Decodes a Content-Encoding within a limit, so that a decompression bomb cannot use more memory."""

import gzip
import importlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any, Final

from butter_middleware._utils.asgi import RawHeaders
from butter_middleware.errors import ExtractionError

MAX_CODINGS: Final = 3
"""The most layers. No real response has more."""
ZSTD_WINDOW_LOG: Final = 23
"""RFC 9659: a decoder of this coding needs at most 8 MiB for its window."""
_ZSTANDARD_STEP: Final = 64
"""The number of bytes that are decoded at once. `zstandard` cannot limit its output, and four bytes may become 128 KiB.
So the output of one step is 2 MiB at most."""
_EARLY: Final = "the compressed data ends early"


def coding_of(headers: RawHeaders) -> str:
    """Return the Content-Encoding of headers. It may have several lines, because each compressing layer adds one."""
    return ", ".join(value.decode("latin-1") for name, value in headers if name.lower() == b"content-encoding")


def decode(body: bytes, content_encoding: str, limit: int) -> bytes:
    """Decode a Content-Encoding (RFC 9110, section 8.4). The last coding was applied last.

    Raises:
        ExtractionError: a coding is unknown, the data is broken or ends early, or the result exceeds `limit` bytes.
    """
    codings = [coding for part in content_encoding.lower().split(",") if (coding := part.strip(" \t"))]
    if len(codings) > MAX_CODINGS:
        msg = f"more than {MAX_CODINGS} content codings"
        raise ExtractionError(msg)
    for coding in reversed(codings):
        decoder = _DECODERS.get(coding)
        if decoder is None:
            msg = "the response's content coding is not one of gzip, deflate, br, zstd"
            raise ExtractionError(msg)
        try:
            body = decoder(body, limit)
        except ImportError:
            msg = (
                f"no decoder for {coding}: install brotli 1.2, backports.zstd or zstandard, or compress outside this "
                "middleware"
            )
            raise ExtractionError(msg) from None
        except Exception as error:  # noqa: BLE001 - each decoder has its own exception
            msg = f"the response's {coding} data is broken ({type(error).__name__})"
            raise ExtractionError(msg) from None
        if len(body) > limit:
            msg = f"the response's {coding} data is longer than max_body_bytes once decoded"
            raise ExtractionError(msg)
    return body


def _gzip(body: bytes, limit: int) -> bytes:
    # RFC 1952, section 2.2: a file is a series of members, one after the other.
    with gzip.GzipFile(fileobj=BytesIO(body)) as file:
        return file.read(limit + 1)


def _deflate(body: bytes, limit: int) -> bytes:
    # RFC 9110 requires zlib. Some servers send raw deflate, and clients accept both.
    try:
        return _inflate(body, limit, zlib.MAX_WBITS)
    except zlib.error:
        return _inflate(body, limit, -zlib.MAX_WBITS)


def _inflate(body: bytes, limit: int, wbits: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    plain = inflater.decompress(body, limit + 1)
    if not inflater.eof and len(plain) <= limit:
        raise zlib.error(_EARLY)
    return plain


def _brotli(body: bytes, limit: int) -> bytes:
    decompressor: Any = importlib.import_module("brotli").Decompressor()
    if not hasattr(decompressor, "can_accept_more_data"):  # before 1.2, the output cannot be limited
        raise ImportError
    plain: bytes = decompressor.process(body, output_buffer_limit=limit + 1)
    while len(plain) <= limit and not decompressor.is_finished():
        more: bytes = decompressor.process(b"", output_buffer_limit=limit + 1)
        if not more:
            raise EOFError(_EARLY)
        plain += more
    return plain


def _zstd(body: bytes, limit: int) -> bytes:
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            zstd: Any = importlib.import_module(name)
            break
    else:
        return _zstandard(body, limit)
    window = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    with zstd.ZstdFile(BytesIO(body), options=window) as file:
        plain: bytes = file.read(limit + 1)
    return plain


def _zstandard(body: bytes, limit: int) -> bytes:
    """Decode with the package that most compressing middlewares use. Its file object does not report an early end."""
    decompressor: Any = importlib.import_module("zstandard").ZstdDecompressor(max_window_size=1 << ZSTD_WINDOW_LOG)
    plain = bytearray()
    start = 0
    while start < len(body) and len(plain) <= limit:
        frame = decompressor.decompressobj()
        if not hasattr(frame, "unused_data"):  # before 0.19, the end of a frame is not known
            raise ImportError
        while not frame.eof:
            if start >= len(body):
                raise EOFError(_EARLY)
            plain += frame.decompress(body[start : start + _ZSTANDARD_STEP])
            if len(plain) > limit:
                break
            start += _ZSTANDARD_STEP
        start = min(start, len(body)) - len(frame.unused_data)
    return bytes(plain)


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "identity": lambda body, _limit: body,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
