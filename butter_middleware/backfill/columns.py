"""Maps columns to the fields of a record, and makes the record of a line."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, get_args

from jmespath.exceptions import JMESPathError
from pydantic import ValidationError

from butter_middleware.client_ip.address import ANYWHERE, NOWHERE, in_body, parse_host
from butter_middleware.client_ip.reason import Reason
from butter_middleware.errors import ConfigurationError
from butter_middleware.extract import normal
from butter_middleware.extract.paths import path
from butter_middleware.models.checkout import EVIDENCE_IDS, Checkout, Psp, Record, as_text
from butter_middleware.reader.messages import in_words, wrong_fields

REASONS_APART: Final = "; "
FIELDS: Final = tuple(Checkout.model_fields)
_REQUIRED: Final = ("customer_email", "ipv4_address", "psp")
_IDS: Final = EVIDENCE_IDS[:4]
_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "customer_email": ("email", "e-mail", "email address", "customer email address", "shopper email", "billing email"),
    "ipv4_address": (
        *("ip", "ip address", "ipv4", "client ip", "customer ip", "shopper ip", "user ip", "remote ip", "remote addr"),
        *("client ip address", "customer ip address", "shopper ip address"),
    ),
    "psp": ("provider", "payment provider", "payment service provider", "processor", "gateway", "payment gateway"),
    "customer_id": ("customer", "shopper reference"),
    "invoice_id": ("invoice", "invoice number"),
    "subscription_id": ("subscription",),
    "charge_id": ("charge",),
    "transaction_id": ("transaction", "psp reference"),
}
"""Other unambiguous names. Case, spaces, hyphens and underscores do not matter."""
_ADDRESS: Final = {
    Reason.BODY_MISSING: "missing",
    Reason.BODY_MALFORMED: "not an address",
    Reason.BODY_IPV6: "IPv6, which Butter does not take",
    Reason.BODY_PRIVATE: "not public: a server's or a proxy's, not the shopper's",
}
_PSPS: Final = get_args(Psp)
_NOT_A_PSP: Final = f"not one of {', '.join(_PSPS)}"
_SHORTENED: Final = re.compile(r"\d([.,]\d+)?[Ee]\+\d+")
_AS_FLOAT: Final = re.compile(r"\d+\.0")
_DAMAGED: Final = {
    _SHORTENED: "shortened by a spreadsheet. Export it again, with the column as text",
    _AS_FLOAT: "a decimal number: a program read the IDs as numbers. Export it again, with the IDs as text",
}
"""IDs that a program has damaged because it took them for numbers. No PSP has IDs of these forms."""
_RENAME: Final = "Give each a name of its own in the first line."
_PLACEHOLDER: Final = "192.0.2.1"
"""Replaces a wrong address, so that all other errors are found too. It is never sent."""


class Columns:
    """The columns of a record's fields.

    Args:
        given: For each field, the named column or key. For JSON it may be a JMESPath expression.
        constants: For each field, the value for all lines.
        staging: Admit addresses that are not public.

    Raises:
        ConfigurationError: the PSP is unknown, or a field has both a column and a value.
    """

    def __init__(self, given: Mapping[str, str], constants: Mapping[str, str], *, staging: bool = False) -> None:
        self.given, self.constants = given, constants
        self._admitted = ANYWHERE if staging else NOWHERE
        self._found = lru_cache(maxsize=100)(self._find)
        """Bounds the keys that are kept: objects may have varying ones, such as IDs."""
        for name in given.keys() & constants.keys():
            msg = f"{name} has both a column (--map) and a value for all lines (--set). Leave one of them out."
            raise ConfigurationError(msg)
        if (psp := self.constants.get("psp", "stripe").strip().lower()) not in _PSPS:
            msg = f"--set psp={psp}: {_NOT_A_PSP}."
            raise ConfigurationError(msg)

    def check_header(self, names: Iterable[str]) -> None:
        """Refuse a header from which no line could become a record.

        Raises:
            ConfigurationError: a column is missing. The text names the columns that could be meant.
        """
        names = list(names)
        if any("@" in name or parse_host(name.strip()) is not None for name in names):
            msg = (
                "the first line is not a header with names of columns, but a checkout. Put a header before it, such as "
                "customer_email,ipv4_address,invoice_id."
            )
            raise ConfigurationError(msg)
        for column in self.given.values():
            if column not in names:
                near = get_close_matches(column, names, 1, 0.4)
                meant = f"Did you mean {near[0]!r}?" if near else f"The columns are {', '.join(names)}."
                msg = f"there is no column {column!r}. {meant}"
                raise ConfigurationError(msg)
            if (count := names.count(column)) > 1:
                msg = f"{count} columns are named {column!r}. {_RENAME}"
                raise ConfigurationError(msg)
        mapped = self.mapped(names)
        there = {*mapped, *self.constants}
        missing = [name for name in _REQUIRED if name not in there]
        missing += [] if there & {*EVIDENCE_IDS} else [" or ".join(_IDS)]
        if missing:
            name = missing[0].partition(" ")[0]
            value = ", or give all lines one value: --set psp=stripe" if "psp" in missing else ""
            unused = [column for column in names if column not in mapped.values()]
            msg = (
                f"no column is {', nor '.join(missing)}. Say which is, as in --map {name}=COLUMN{value}. "
                f"Not used yet: {', '.join(unused) or 'none'}."
            )
            raise ConfigurationError(msg)

    def mapped(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the column of each field.

        Raises:
            ConfigurationError: two columns could be the same field.
        """
        return self._found(tuple(names))

    def _find(self, names: tuple[str, ...]) -> dict[str, str]:
        mapped = dict(self.given)
        for name, aliases in _ALIASES.items():
            if name in mapped or name in self.constants:
                continue
            own = [column for column in names if normal.word(column) == normal.word(name)]
            found = own or [column for column in names if normal.word(column) in map(normal.word, aliases)]
            if len(found) > 1:
                remedy = f"Say which: --map {name}={found[0]!r}" if len({*found}) > 1 else _RENAME
                msg = f"more than one column could be {name}: {', '.join(found)}. {remedy}"
                raise ConfigurationError(msg)
            mapped |= dict.fromkeys([name], *found) if found else {}
        return mapped

    def ids_from(self, names: Sequence[str]) -> dict[str, str]:
        """Return the source of the PSP and of each ID: for each field, the column or the value."""
        origins = {**self.mapped(names), **{name: f"={value}" for name, value in self.constants.items()}}
        return {name: origin for name, origin in origins.items() if name in {"psp", *EVIDENCE_IDS}}

    def fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record's fields that have a value. Raises what `mapped` raises."""
        found = {name: self._value(values, column) for name, column in self.mapped(values).items()} | {**self.constants}
        if isinstance(psp := found.get("psp"), str):
            found["psp"] = psp.strip().lower()
        return {name: value for name, value in found.items() if value is not None and value != ""}

    def _value(self, values: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401 - JSON is any type
        if column in values:
            value = values[column]
            if column not in self.given.values() and isinstance(value, dict | list):
                return None  # an object under a key that was found automatically, such as `customer`, is not an ID
            return value
        with suppress(JMESPathError):
            return path(column).search(values)
        return None

    def record(self, fields: Mapping[str, Any]) -> Record | str:
        """Return the record that `fields` make, or what is wrong with them, without their values."""
        wrong = {
            name: what
            for name, text in ids_in(fields).items()
            for form, what in _DAMAGED.items()
            if form.fullmatch(text)
        }
        address = in_body(fields.get("ipv4_address"), self._admitted)
        if isinstance(address, Reason):
            wrong["ipv4_address"], address = _ADDRESS[address], _PLACEHOLDER
        try:
            checkout = Checkout.model_validate({**fields, "ipv4_address": address})
        except ValidationError as error:
            kinds = wrong_fields(error)
            if not fields.keys() & {*EVIDENCE_IDS}:
                kinds["record"] = "no_ids"  # pydantic finds it only if all else is valid
            words = {name: in_words(name, kind) for name, kind in kinds.items()}
            wrong |= words | ({"psp": _NOT_A_PSP} if kinds.get("psp") == "literal_error" else {})
        else:
            if not wrong:
                # The checkout is old, so a record that Butter fails on is given up after its tries, not after a day.
                return Record.of(checkout, 0.0)
        if wrong.pop("record", None) is not None:
            wrong["an ID"] = f"none of {', '.join(_IDS)}"
        return REASONS_APART.join(f"{name}: {what}" for name, what in wrong.items())


def ids_in(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the IDs of a line in the form that a record has."""
    return {name: text for name, value in fields.items() if name.endswith("_id") and (text := as_text(value))}
