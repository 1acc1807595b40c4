"""JMESPath (https://jmespath.org/specification.html).

The alternatives of an expression are searched one by one, so an error in one of them does not stop the others.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import jmespath
from jmespath.functions import Functions, signature
from jmespath.lexer import Lexer
from jmespath.parser import ParsedResult

from butter_middleware.extract import normal
from butter_middleware.extract.explanation import Attempt, Outcome
from butter_middleware.models.checkout import as_text

_OPENING: Final = frozenset({"lparen", "lbracket", "lbrace", "filter"})
_CLOSING: Final = frozenset({"rparen", "rbracket", "rbrace"})


_ANY: Final[Any] = {"types": []}
_TEXT: Final[Any] = {"types": ["string"]}
_NUMBER: Final[Any] = {"types": ["number"]}
_ANY_NUMBER_OF: Final[Any] = {"types": [], "variadic": True}


class _OfTables(Functions):
    """The functions that the tables' expressions may use in addition to JMESPath's."""

    @signature(_ANY, _ANY_NUMBER_OF)
    def _func_says(self, value: object, *words: object) -> bool:
        """`says(status, 'paid', 'settled')`: whether it is one of these words, in any spelling."""
        return bool(normal.word(value)) and normal.word(value) in map(normal.word, words)

    @signature(_ANY)
    def _func_zero(self, amount: object) -> bool:
        """`zero(total)`: whether it is an amount of zero or less. It may be text."""
        if isinstance(amount, str):
            try:
                amount = float(amount)
            except ValueError:
                return False
        return isinstance(amount, int | float) and not isinstance(amount, bool) and amount <= 0

    @signature(_ANY, _TEXT)
    def _func_like(self, value: object, form: str) -> bool:
        """`like(id, '[a-z0-9]+')`: whether it is text and matches fully."""
        return isinstance(value, str) and re.fullmatch(form, value.strip()) is not None

    @signature(_NUMBER, _ANY_NUMBER_OF)
    def _func_some(self, least: int, *values: object) -> bool:
        """`some(`2`, a, b, c)`: whether at least this number of them have a value."""
        return sum(value not in (None, False, "", [], {}) for value in values) >= least

    @signature(_ANY, _ANY_NUMBER_OF)
    def _func_only(self, node: object, *names: object) -> bool:
        """`only(@, 'id', 'status')`: whether it has no other keys than these."""
        known = {normal.key(str(name)) for name in names}
        return isinstance(node, dict) and known.issuperset(cast("dict[str, object]", node))


_OPTIONS: Final = jmespath.Options(custom_functions=_OfTables())


@dataclass(frozen=True, slots=True)
class Path:
    """One alternative: an expression without `||` at its top."""

    text: str
    parsed: Any
    options: Any = None

    def search(self, body: object) -> Any:  # noqa: ANN401 - JSON is any type
        """Return what the expression finds. None if it finds nothing or cannot be applied."""
        try:
            return self.found(body)
        except Exception:  # noqa: BLE001 - JMESPath's functions raise any of Python's errors
            return None

    def found(self, body: object) -> Any:  # noqa: ANN401 - JSON is any type
        """Return what the expression finds. Raises its errors."""
        return self.parsed.search(body, options=self.options)


@cache
def path(expression: str, *, table: bool = False) -> Path:
    """Compile a whole expression: a merchant's, or one of a `table`, whose keys are read in their normal form.

    Raises:
        JMESPathError: it is not an expression.
    """
    parsed: Any = jmespath.compile(expression)
    if not table:
        return Path(expression, parsed)
    return Path(expression, ParsedResult(expression, _normal(parsed.parsed)), _OPTIONS)


def _normal(node: Any) -> Any:  # noqa: ANN401 - as in types-jmespath
    """Return a syntax tree of JMESPath with its keys in their normal form."""
    changed = {**node, "children": [_normal(child) for child in node["children"]]}
    return changed | {"value": normal.key(node["value"])} if node["type"] == "field" else changed


@cache
def alternatives(expression: str, *, table: bool = False) -> tuple[Path, ...]:
    """Split `a || b` into its alternatives. Raises what `path` raises."""
    path(expression)
    cuts = [0]
    depth = 0
    for token in Lexer().tokenize(expression):
        depth += (token["type"] in _OPENING) - (token["type"] in _CLOSING)
        if depth == 0 and token["type"] == "pipe":
            return (path(expression, table=table),)  # it binds weaker than ||, so there are no alternatives at the top
        if depth == 0 and token["type"] == "or":
            cuts += [token["start"], token["start"] + len("||")]
    cuts.append(len(expression))
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    return tuple(path(expression[start:end].strip(), table=table) for start, end in pairs)


def first(expression: str, body: object) -> str | None:
    """Return the first value that an alternative of a table's expression gives."""
    found = (as_text(one.search(body)) for one in alternatives(expression, table=True))
    return next((value for value in found if value is not None), None)


def holds(condition: str, body: object) -> bool:
    """Return whether a table's condition is true for a body. An empty condition is false."""
    return bool(condition) and path(condition, table=True).search(body) not in (None, False, "", [], {})


def attempts(expression: str, body: object, *, table: bool = False) -> Iterator[Attempt]:
    """Try the alternatives in order, up to the one that gives a value."""
    for one in alternatives(expression, table=table):
        outcome = _outcome(one, body)
        yield Attempt(one.text, outcome)
        if outcome is Outcome.GAVE:
            return


def _outcome(one: Path, body: object) -> Outcome:
    try:
        value = one.found(body)
    except Exception:  # noqa: BLE001 - as in `Path.search`
        return Outcome.FAILED
    if value is None:
        return Outcome.NULL if _is_there(one.parsed.parsed, body) else Outcome.ABSENT
    if as_text(value) is not None:
        return Outcome.GAVE
    empty = value in ([], {}) or (isinstance(value, str) and not value.strip())
    return Outcome.EMPTY if empty else Outcome.NOT_A_STRING


def _is_there(node: dict[str, Any], body: object) -> bool:
    """Return whether a body has the key of an expression that gave null.

    This is known for a key and for nested keys. For any other expression, return True.
    """
    steps: list[dict[str, Any]] = node["children"] if node["type"] == "subexpression" else [node]
    if any(step["type"] != "field" for step in steps):
        return True
    for step in steps:
        if not isinstance(body, dict) or step["value"] not in body:
            return False
        body = cast("dict[str, Any]", body)[step["value"]]
    return True
