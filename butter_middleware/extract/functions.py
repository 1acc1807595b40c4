"""The functions that the tables' expressions may use in addition to JMESPath's."""

import re
from typing import Any, Final, cast

import jmespath
from jmespath.functions import Functions, signature

from butter_middleware.extract import normal

_ANY: Final[Any] = {"types": []}
_TEXT: Final[Any] = {"types": ["string"]}
_NUMBER: Final[Any] = {"types": ["number"]}
_ANY_NUMBER_OF: Final[Any] = {"types": [], "variadic": True}


class _OfTables(Functions):
    @signature(_ANY, _ANY_NUMBER_OF)
    def _func_says(self, value: object, *words: object) -> bool:
        """`says(status, 'paid', 'settled')`: is it one of these words, in any spelling?"""
        return bool(normal.word(value)) and normal.word(value) in map(normal.word, words)

    @signature(_ANY)
    def _func_zero(self, amount: object) -> bool:
        """`zero(total)`: is it an amount of nothing, or less? It may be text."""
        if isinstance(amount, str):
            try:
                amount = float(amount)
            except ValueError:
                return False
        return isinstance(amount, int | float) and not isinstance(amount, bool) and amount <= 0

    @signature(_ANY, _TEXT)
    def _func_like(self, value: object, form: str) -> bool:
        """`like(id, '[a-z0-9]+')`: is it text of this form, as a whole?"""
        return isinstance(value, str) and re.fullmatch(form, value.strip()) is not None

    @signature(_NUMBER, _ANY_NUMBER_OF)
    def _func_some(self, least: int, *values: object) -> bool:
        """`some(`2`, a, b, c)`: does so many of these hold something?"""
        return sum(value not in (None, False, "", [], {}) for value in values) >= least

    @signature(_ANY, _ANY_NUMBER_OF)
    def _func_only(self, node: object, *names: object) -> bool:
        """`only(@, 'id', 'status')`: has it no other keys than these?"""
        known = {normal.key(str(name)) for name in names}
        return isinstance(node, dict) and known.issuperset(cast("dict[str, object]", node))


OPTIONS: Final = jmespath.Options(custom_functions=_OfTables())
