"""Erases a person's data on request: finds everything with their e-mail address, in any encoding."""

import codecs
import html
import json
import re
import sqlite3
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

import idna

from butter_middleware.errors import ExtractionError
from butter_middleware.models.content_encoding import decode
from butter_middleware.outbox.sqlite.store import SQLiteStore

Key = tuple[int | str, ...]

MOST_BYTES: Final = 64 * 1024**2
"""The most bytes of a decoded body that are searched. A capture with a longer one counts as unreadable."""
FEW_CAPTURES: Final = 8
FEW_RECORDS: Final = 500
"""Rows in one query, so that no query is long."""
STEP: Final = 200
"""Rows in one transaction."""
_DELETE: Final = {
    "pending": "DELETE FROM records WHERE id = ?",
    "dead": "DELETE FROM records WHERE id = ?",
    "captured": "DELETE FROM captures WHERE id = ?",
    "parked": "DELETE FROM captures WHERE id = ?",
    "parts": "DELETE FROM parts WHERE key = ? AND shopper = ?",
}
_STARTS: Final = r"(?<!\w)(?<!\w[.+-])"
"""A character of a local part must not precede the address: joann@ is not ann@."""
_ENDS: Final = r"(?![\w-]|\.\w)"
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


class Person:
    """A person's e-mail address, which is found in texts with any case and escapes.

    Args:
        email: The address.

    Raises:
        ValueError: it is not an e-mail address.
    """

    def __init__(self, email: str) -> None:
        local, at, domain = _folded(email.strip()).rpartition("@")
        if not (local and at and domain) or re.search(r"\s", local + domain):
            msg = "not an e-mail address"
            raise ValueError(msg)
        either = "|".join(map(re.escape, sorted({domain, *_spellings(domain)})))
        self._pattern = re.compile(rf"{_STARTS}{re.escape(local)}@(?:{either}){_ENDS}")

    def named_in(self, text: str) -> bool:
        """Whether a text has the address, also with escapes of JSON, URLs, forms or HTML, or several of them."""
        return any(self._pattern.search(_folded(variant)) for variant in _variants(text))

    def named_in_bytes(self, data: bytes) -> bool:
        """Whether bytes in any usual encoding have the address."""
        return any(map(self.named_in, _texts(data)))


@dataclass(slots=True)
class Found:
    """The entries with a person's address."""

    keys: dict[str, list[Key]] = field(default_factory=lambda: {kind: [] for kind in _DELETE})
    """By kind, the numbers of the rows. For parts, their keys."""
    unreadable: list[int] = field(default_factory=list[int])
    """Captures with a body that cannot be decoded, and so cannot be searched."""

    def counts(self) -> dict[str, int]:
        """Return the number of entries of each kind."""
        return {kind: len(keys) for kind, keys in self.keys.items()}

    def __len__(self) -> int:
        return sum(self.counts().values())


def search(store: SQLiteStore, person: Person, tell: Callable[[int], object] = lambda _looked_at: None) -> Found:
    """Search all stored data. `tell` regularly gets the number of searched rows.

    Meanwhile a capture may become a part or a record, and a part a record. With this order, no entry is missed.
    """
    found, looked_at = Found(), 0
    sql = "SELECT id, reason, head, body, request_body FROM captures WHERE id > ? ORDER BY id LIMIT ?"
    for rows in _pages(store, sql, FEW_CAPTURES):
        for number, reason, *stored in rows:
            named, readable = _named_in_capture(person, *stored)
            if named:
                found.keys["captured" if reason is None else "parked"].append((number,))
            elif not readable:
                found.unreadable.append(number)
        tell(looked_at := looked_at + len(rows))
    parts = store.read(lambda db: db.execute("SELECT key, shopper, fields FROM parts").fetchall())
    found.keys["parts"] = [(key, shopper) for key, shopper, fields in parts if person.named_in(fields)]
    for rows in _pages(store, "SELECT id, dead_at, payload FROM records WHERE id > ? ORDER BY id LIMIT ?", FEW_RECORDS):
        for number, dead_at, payload in rows:
            if person.named_in(payload):
                found.keys["pending" if dead_at is None else "dead"].append((number,))
        tell(looked_at := looked_at + len(rows))
    return found


def remove(store: SQLiteStore, found: Found, now: float) -> dict[str, int]:
    """Delete the found entries, a few rows at a time. Return how many of each kind were still there."""
    return {
        kind: sum(store.write(partial(_remove, kind, keys[at : at + STEP], now)) for at in range(0, len(keys), STEP))
        for kind, keys in found.keys.items()
    }


def _remove(kind: str, keys: Sequence[Key], now: float, connection: sqlite3.Connection) -> int:
    if kind in {"captured", "parked"}:
        # With this mark, a process of an earlier release that is reading one of them makes no record of it.
        marks = [(f"capture:{key[0]}", now) for key in keys]
        connection.executemany("INSERT OR REPLACE INTO tombstones VALUES (?, ?)", marks)
    return sum(connection.execute(_DELETE[kind], key).rowcount for key in keys)


def _pages(store: SQLiteStore, sql: str, few: int) -> Iterator[list[Any]]:
    after = -1

    def page(connection: sqlite3.Connection) -> list[Any]:
        return connection.execute(sql, (after, few)).fetchall()

    while rows := store.read(page):
        yield rows
        after = rows[-1][0]


def _named_in_capture(person: Person, head: str, body: bytes, request_body: bytes | None) -> tuple[bool, bool]:
    """Return whether a capture has the address, and whether all of it could be searched."""
    # The stored head has header bytes as latin-1, but most were sent as UTF-8.
    if person.named_in(head) or person.named_in_bytes(_unescaped(head).encode("latin-1", "ignore")):
        return True, True
    readable = True
    for content, headers in ((body, "response_headers"), (request_body, "headers")):
        if content:
            plain, whole = _decoded(content, _coding(head, headers))
            if person.named_in_bytes(plain) or (not whole and person.named_in_bytes(content)):
                return True, True
            readable = readable and whole
    return False, readable


def _coding(head: str, which: str) -> str:
    with suppress(KeyError, TypeError, ValueError):
        return ", ".join(value for name, value in json.loads(head)[which] if name.lower() == "content-encoding")
    return ""


def _decoded(body: bytes, coding: str) -> tuple[bytes, bool]:
    """Return the part of a body that can be decoded. An incomplete body may contain a person's data too."""
    names = [name for part in coding.lower().split(",") if (name := part.strip())]
    if not names and body[:2] == b"\x1f\x8b":
        names = ["gzip"]
    readable = True
    for name in reversed(names):
        if name in {"gzip", "x-gzip", "deflate"}:
            body, whole = _inflated(body)
            readable = readable and whole
        else:
            try:
                body = decode(body, name, MOST_BYTES)
            except ExtractionError:
                return body, False
    return body, readable


def _inflated(body: bytes) -> tuple[bytes, bool]:
    """Inflate gzip, zlib or raw deflate. Data before an error counts."""
    if not body:
        return b"", True
    for window in (32 + zlib.MAX_WBITS, -zlib.MAX_WBITS):
        plain, rest = b"", body
        with suppress(zlib.error):
            while rest and len(plain) < MOST_BYTES:
                inflater = zlib.decompressobj(window)
                plain += inflater.decompress(rest, MOST_BYTES - len(plain))
                rest = inflater.unused_data
        if plain:
            return plain, len(plain) < MOST_BYTES
    return body, False


def _texts(data: bytes) -> Iterator[str]:
    yield data.decode("utf-8", "replace")
    with suppress(UnicodeDecodeError):
        data.decode("utf-8")
        if b"\0" not in data:
            return
    yield data.decode("latin-1")
    if b"\0" in data:
        for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            yield data.removeprefix(codecs.BOM_UTF16_LE).decode(name, "replace")


def _variants(text: str) -> Iterable[str]:
    """Return a text as it is, and with its escapes undone, layer by layer."""
    inner = _unescaped(_unescaped(text))
    unquoted = html.unescape(unquote(inner))
    # A plus means a space in a form, and itself elsewhere.
    form = unquote_plus(inner) if "%40" in inner else inner
    return dict.fromkeys((text, inner, form, unquoted, _unescaped(unquoted)))


def _unescaped(text: str) -> str:
    """Undo the escapes of JSON and JavaScript, even if the text is not valid."""
    if "\\" not in text:
        return text

    def character(found: re.Match[str]) -> str:
        escape = found[1]
        return _ESCAPED.get(escape) or (escape if len(escape) == 1 else chr(int(escape[1:], 16)))

    return _ESCAPE.sub(character, text)


def _folded(text: str) -> str:
    # Not `casefold`, which turns ß into ss. Since IDNA 2008 those are two domains, maybe of two people.
    return unicodedata.normalize("NFC", text).lower()


def _spellings(domain: str) -> Iterator[str]:
    """Yield an international domain in Unicode and in ASCII, in the forms of pydantic's e-mail check."""
    try:
        encoded = idna.encode(domain, uts46=True)
        yield encoded.decode()
        yield _folded(idna.decode(encoded))
    except UnicodeError:  # not valid in IDNA 2008, but an earlier standard may accept it
        with suppress(UnicodeError):
            yield domain.encode("idna").decode()
        with suppress(UnicodeError):
            yield _folded(domain.encode().decode("idna"))
