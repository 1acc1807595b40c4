"""Which expression gave each field, or why none did. It never contains a value."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from butter_middleware.errors import ExtractionError
from butter_middleware.models.http import CheckoutResponse, Extracted, Extractor

NOTHING_TRIED: Final = "has no expression for it"


class Outcome(StrEnum):
    """What an expression gave."""

    GAVE = "gave it"
    ABSENT = "absent"
    NULL = "null"
    EMPTY = "empty"
    NOT_A_STRING = "not a string"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One alternative of an expression, and its result."""

    expression: str
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.expression} ({self.outcome})"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the record: the alternatives that were tried, in order, up to the one that gave the value."""

    name: str
    attempts: tuple[Attempt, ...] = ()

    @property
    def given_by(self) -> str | None:
        """The expression that gave it."""
        last = self.attempts[-1] if self.attempts else None
        return last.expression if last is not None and last.outcome is Outcome.GAVE else None

    @property
    def tried(self) -> str:
        """Why nothing gave it, such as "tried customer_details.email, customer_email, both null"."""
        outcomes = {attempt.outcome for attempt in self.attempts}
        if not self.attempts:
            return NOTHING_TRIED
        if len(outcomes) > 1:
            return f"tried {', '.join(map(str, self.attempts))}"
        every = {1: "", 2: "both "}.get(len(self.attempts), "all ")
        return f"tried {', '.join(attempt.expression for attempt in self.attempts)}, {every}{outcomes.pop()}"

    def __str__(self) -> str:
        return f"{self.name}: {self.given_by or self.tried}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an extractor saw in a response. `str()` is for a person, and contains no value of the response."""

    extractor: str
    saw: str
    """Such as "payment_intent, paid"."""
    fields: tuple[Field, ...] = ()

    def __getitem__(self, name: str) -> Field:
        return next((field for field in self.fields if field.name == name), Field(name))

    def __str__(self) -> str:
        return "\n  ".join([f"{self.extractor}: {self.saw}", *map(str, self.fields)])


class Explaining(ABC):
    """An extractor that can explain what its expressions find."""

    @abstractmethod
    def __call__(self, response: CheckoutResponse) -> Extracted:
        """Read a response."""

    @abstractmethod
    def explain(self, response: CheckoutResponse) -> Explanation:
        """Return what was tried."""

    @abstractmethod
    def values(self, response: CheckoutResponse) -> Mapping[str, Any]:
        """Return the values of the fields of `explain`, also of an unpaid object. They are personal data."""


def explain(response: CheckoutResponse, extractor: Extractor) -> Explanation:
    """Return for every field which expression of `extractor` gave it, or what was tried and why it gave nothing.

    Works for `extract.json` and the presets. It cannot look inside your own function, and reports that.

    Raises:
        ExtractionError: the body cannot be decoded, or is not JSON.
    """
    if isinstance(extractor, Explaining):
        return extractor.explain(response)
    name = getattr(extractor, "__name__", type(extractor).__name__)
    return Explanation(name, "a function, whose expressions cannot be seen")


def told(response: CheckoutResponse, extractor: Extractor | None) -> Explanation:
    """Explain for a message. If that fails, the explanation is empty: a message must not cost the record."""
    with suppress(ExtractionError):
        if extractor is not None:
            return explain(response, extractor)
    return Explanation("", "")
