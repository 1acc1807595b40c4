"""The normal form in which keys and words are compared: `customerDetails` and `customer_details` are one key.

SDKs and frameworks may serialise a PSP's object differently: snake_case as camelCase or PascalCase, words in capitals.
"""

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final, cast

DEEPEST: Final = 20
"""The most levels of a body that are read. The interpreter can nest far more."""
_PUNCTUATION: Final = re.compile(r"[\W_]+")


@lru_cache(maxsize=4096)
def key(name: str) -> str:
    """Return the normal form of a key. A leading underscore stays: `_id` is not `id`."""
    return ("_" if name.startswith("_") else "") + _PUNCTUATION.sub("", name).casefold() or name


def word(value: object) -> str:
    """Return the normal form of a PSP's word, such as a state. Empty if it is not a word."""
    if isinstance(value, bool):
        return str(value).casefold()
    return _PUNCTUATION.sub("", value).casefold() if isinstance(value, str) else ""


def normal(body: object, own: AbstractSet[str] = frozenset()) -> object:
    """Return a body with its keys in their normal form.

    If two keys become one, the PSP's `own` spelling is used. If neither has it, the value is null.
    """

    def with_normal_keys(fields: dict[str, object]) -> dict[str, object]:
        spellings: dict[str, dict[str, object]] = {}
        for name, value in fields.items():
            spellings.setdefault(key(name), {})[name] = value
        return {name: _chosen(values, own) for name, values in spellings.items()}

    return changed(body, with_normal_keys)


def changed(node: object, change: Callable[[dict[str, object]], dict[str, object]], depth: int = 0) -> object:
    """Return a body with each of its objects replaced by `change`, the innermost first.

    Values deeper than `DEEPEST` become null.
    """
    if depth > DEEPEST:
        return None
    if isinstance(node, list):
        return [changed(item, change, depth + 1) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    fields = cast("dict[str, object]", node)
    return change({name: changed(value, change, depth + 1) for name, value in fields.items()})


def _chosen(values: Mapping[str, object], own: AbstractSet[str]) -> object:
    if len(values) == 1:
        return next(iter(values.values()))
    told = {name: value for name, value in values.items() if value not in (None, "", [], {})}
    chosen = [value for name, value in told.items() if name in own] or list(told.values())
    return chosen[0] if chosen and all(value == chosen[0] for value in chosen) else None
