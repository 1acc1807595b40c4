"""The arrivals, in bounded memory: the newest entries are kept, and all are counted."""

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final, cast

from butter_middleware.models.checkout import Checkout, Record
from butter_middleware.models.reasons import EXPLAINED

KEEP: Final = 10_000
"""The default number of kept entries."""
KEEP_CHARACTERS: Final = 64 * 1024**2
"""The most characters of all entries together. A record takes some 600. Only other bodies reach the limit."""
KNOWN_KEYS: Final = 250_000
"""The number of remembered records, kept or not, to detect duplicates."""
SHOWN_BODY: Final = 4096
"""The most characters of a body that is not a record."""
MOST_FIELDS: Final = 64
"""The most fields, and problems, of a body that is not a record."""


class Outcome(StrEnum):
    """The result of a POST."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """Accepted, but the same PSP and IDs were accepted before. Butter has no idempotency key."""
    REJECTED = "rejected"
    """It is not a valid record."""
    REFUSED = "refused"
    """Refused because of the credentials, or by a switch of the sandbox."""
    MISSING = "missing"
    """It was not posted: a checkout of the shop did not become a record, and evidence is missing."""
    SKIPPED = "skipped"
    """It was correctly not posted: nothing was paid, or the record was known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept arrival, ready for display."""

    seq: int
    """Counted from 1."""
    json: str
    """An ASCII JSON object with `seq`, `at`, `outcome` and `route`. An arrival also has `status`, `switched`, `record`,
    `problems`, `body`, `duplicate_of`, `sources`, `request` and `answer`. Others have `name`, `reason`, `message` and
    `times`."""
    arrived: bool = True

    def __repr__(self) -> str:
        return f"Entry({self.seq})"


class Inbox:
    """Keeps the `keep` newest entries, up to `KEEP_CHARACTERS` in total. Only one thread may use it."""

    def __init__(self, keep: int = KEEP) -> None:
        self.keep = keep
        self.arrived = 0
        """The number of arrivals since the start, including cleared ones."""
        self._last = 0
        self._entries: deque[Entry] = deque()
        self._characters = 0
        self._keys: OrderedDict[str, int] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._dropped = 0

    @property
    def first(self) -> int:
        """The number of the oldest kept entry, or of the next one if none is kept."""
        return self._entries[0].seq if self._entries else self._last + 1

    @property
    def counts(self) -> dict[str, int]:
        """The number of entries by outcome since the inbox was cleared, and how many of them were dropped."""
        return {**{outcome.value: self._counts[outcome.value] for outcome in Outcome}, "dropped": self._dropped}

    def take(
        self,
        body: bytes,
        status: int | None,
        *,
        switched: bool = False,
        told: str = "",
        request: str = "",
        answer: str = "",
    ) -> Entry:
        """Take a POST.

        Args:
            body: Its body.
            status: The status of the answer. None if the connection was broken.
            switched: Whether a switch chose the answer.
            told: JSON text that the middleware sends with the record (`Record.sources`).
            request: The request, with masked credentials.
            answer: JSON text. The `detail` of an error is a text, or a list of problems in FastAPI's format.
        """
        self.arrived += 1
        self._last += 1
        parsed = _parsed(body)
        accepted = status is not None and status < 300  # noqa: PLR2004 - RFC 9110, section 15.3
        first = self._last
        if accepted:
            key = Record.of(Checkout.model_validate(parsed), 0.0).key
            first = self._keys.setdefault(key, self._last)
            if len(self._keys) > KNOWN_KEYS:
                self._keys.popitem(last=False)
            outcome = Outcome.ACCEPTED if first == self._last else Outcome.DUPLICATE
        else:
            outcome = Outcome.REFUSED if switched or status == 401 else Outcome.REJECTED  # noqa: PLR2004 - RFC 9110, section 15.5.2
        is_contract = not (accepted or switched)
        problems = _problems(_parsed(answer).get("detail")) if is_contract else ()
        fields = dict(islice(parsed.items(), MOST_FIELDS))
        route, sources = _told(told, fields)
        return self._keep(
            outcome,
            {
                "status": status,
                "switched": switched,
                # Without NaN, which JSON.parse refuses.
                "record": {name: _text(value) for name, value in fields.items()},
                "problems": list(problems),
                "body": body.decode("utf-8", "replace")[:SHOWN_BODY] if outcome is Outcome.REJECTED else "",
                "duplicate_of": None if first == self._last else first,
                "route": route,
                "sources": sources,
                "request": request[: 2 * SHOWN_BODY],
                "answer": answer[:SHOWN_BODY],
            },
        )

    def report(self, given: object) -> None:
        """Take a shop's reports of checkouts that did not become a record.

        Raises:
            ValueError: it is not a list of reports.
        """
        if not isinstance(given, list) or not all(isinstance(report, dict) for report in cast("list[object]", given)):
            raise ValueError
        for report in cast("list[dict[str, object]]", given):
            self._last += 1
            texts = {name: str(report.get(name, ""))[:SHOWN_BODY] for name in ("name", "route", "reason", "message")}
            texts["message"] = texts["message"] or EXPLAINED.get(texts["reason"], "")
            times = report.get("times")
            outcome = Outcome.MISSING if report.get("missing") else Outcome.SKIPPED
            self._keep(outcome, {**texts, "times": times if isinstance(times, int) else 1}, arrived=False)

    def since(self, seq: int, characters: int) -> list[Entry]:
        """Return the entries after number `seq`, the oldest first, up to this number of characters."""
        given: list[Entry] = []
        for entry in islice(self._entries, max(0, seq + 1 - self.first), None):
            given.append(entry)
            characters -= len(entry.json)
            if characters <= 0:
                break
        return given

    def clear(self) -> None:
        """Delete all entries and counts. The numbers continue, and a repeated record is not a duplicate."""
        self._entries.clear()
        self._keys.clear()
        self._counts.clear()
        self._characters = self._dropped = 0

    def _keep(self, outcome: Outcome, content: Mapping[str, object], *, arrived: bool = True) -> Entry:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Entry(self._last, json.dumps({"seq": self._last, "at": at, "outcome": outcome, **content}), arrived)
        self._counts[outcome.value] += 1
        self._entries.append(entry)
        self._characters += len(entry.json)
        while len(self._entries) > self.keep or self._characters > KEEP_CHARACTERS:
            self._characters -= len(self._entries.popleft().json)
            self._dropped += 1
        return entry


def _parsed(text: bytes | str) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _text(value: object) -> str:
    """Return a value to show: a string unchanged, and anything else, which is invalid in a record, as JSON text."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)[:SHOWN_BODY]
    except RecursionError:
        return "…"


def _problems(detail: object) -> Iterator[dict[str, str]]:
    if isinstance(detail, str):
        yield {"field": "", "message": detail}
    elif isinstance(detail, list):
        for problem in cast("list[dict[str, Any]]", detail)[:MOST_FIELDS]:
            place = ".".join(str(part) for part in problem["loc"] if part != "body")
            yield {"field": place, "message": str(problem["msg"])}


def _told(text: str, record: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Parse the middleware's sources of the record's fields. The data is not trusted."""
    told = _parsed(text)
    route, fields = told.get("route"), told.get("fields")
    sources = cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}
    return (
        route if isinstance(route, str) else "",
        {name: source for name, source in sources.items() if name in record and isinstance(source, str)},
    )
