"""Finds and reads a PSP's objects in a response, by the tables in `tables/`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast, get_args

from jmespath.exceptions import JMESPathError

from butter_middleware.errors import ConfigurationError
from butter_middleware.extract import normal
from butter_middleware.extract.explanation import Attempt, Explaining, Explanation, Field, Outcome
from butter_middleware.extract.expressions import FIELDS
from butter_middleware.extract.paths import attempts, first, holds, path
from butter_middleware.models.checkout import EVIDENCE_IDS, Psp, as_text
from butter_middleware.models.http import CheckoutResponse
from butter_middleware.models.payments import Payments
from butter_middleware.models.reasons import Skip

Object = dict[str, Any]
_READ: Final = tuple(name for name in FIELDS if name not in {"psp", "user_agent"})
ADDRESS: Final = "ipv4_address"
"""For `Shape.fields`: the shopper's address that the PSP saw."""
NEVER: Final = "`true`"
"""For `Shape.unpaid`: such an object is not a payment in any state."""

WRAPPERS: Final = frozenset(
    {
        *("attributes", "body", "content", "data", "object", "payload", "psp", "response", "result", "results"),
        *("success", "target"),
        *get_args(Psp),
        *("charge", "charges", "checkout", "checkout_session", "session", "setup_intent"),
        *("intent", "payment_intent", "payment", "payments", "payment_response"),
        *("invoice", "order", "purchase", "subscription", "transaction", "transactions"),
    }
)
"""Keys under which shops pass on a PSP's object, in any spelling. Others, such as `customer` or `subscriptions`, have
objects of other purchases."""
_REFERENCES: Final = frozenset(
    f"{prefix}{noun}{suffix}"
    for prefix in ("", "current", "latest")
    for noun in ("charge", "invoice", "payment", "paymentintent", "pspreference", "subscription", "transaction")
    for suffix in ("", "id", "reference")
)
"""Keys with which an object names its own payment in a list."""
_NAMING: Final = tuple(name for name in EVIDENCE_IDS if name != "network_transaction_id")
"""The IDs with which objects of one checkout refer to each other."""
_MOST: Final = 1000
"""The most objects of a response that are read. Each takes a fraction of a millisecond. A checkout has fewer."""
_MOST_ITEMS: Final = 1001
"""The most items of one object that are read. With more than a thousand records, a capture is parked."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """One kind of object of a PSP.

    All expressions are JMESPath with the functions of `extract/paths.py`. If an alternative gives no ID, the next one
    is tried. Keys and words are compared without case, punctuation and underscores, because SDKs spell them in several
    ways.
    """

    name: str
    when: str
    """True for an object of this shape only, not for another object of a shop. It uses the PSP's own discriminator, or
    the form of its IDs and several keys that only this PSP has."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """The record's fields, each with its expression."""
    paid: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The gate: the value of each expression must be one of its words."""
    unpaid: str = ""
    """True if it is not a payment although the gate is open."""
    promise: str = ""
    """True if it only announces a payment. It counts if no other object is a payment in progress."""
    pending: str = ""
    """True if it is a step before a payment. An object with a closed gate is one too."""
    each: str = ""
    """A list within the object. Each of its items gives one record."""
    of_each: Mapping[str, str] = field(default_factory=dict[str, str])
    """The fields that an item of `each` gives, each with its expression."""
    under: tuple[str, ...] = ()
    """Keys that identify the object under them. There, `when_under` is sufficient."""
    when_under: str = ""
    """The condition for an object under a key of `under`. It is tried after the `when` of all shapes."""
    never_under: tuple[str, ...] = ()
    """Keys under which a similar object has another meaning."""
    when_at: str = ""
    """The condition for the place that the merchant names with `at`, if it differs from `when_under`."""

    def barrier(self, node: Object) -> str:
        """Return the expression that shows that it is not paid. Empty if it is paid."""
        if holds(self.unpaid, node):
            return self.unpaid
        for expression, words in self.paid.items():
            value = path(expression, table=True).search(node)
            if not normal.word(value) or normal.word(value) not in map(normal.word, words):
                return expression
        return "" if self.paid else NEVER

    def common(self, node: Object) -> dict[str, str]:
        """Return the fields that all records of an object have in common."""
        return _fields(self.fields, node)

    def records(self, node: Object) -> list[dict[str, str]]:
        """Return the fields of each record of an object."""
        common = self.common(node)
        rows = [row for item in self._items(node) if (row := _fields(self.of_each, item))]
        return [common | row for row in rows] or [common]

    def explain(self, node: Object) -> Iterator[Field]:
        """Yield for each field of a record what was tried."""
        for name in _READ:
            tried = list(attempts(self.fields[name], node, table=True)) if name in self.fields else []
            if name in self.of_each and not (tried and tried[-1].outcome is Outcome.GAVE):
                items = self._items(node)
                of_first = attempts(self.of_each[name], items[0], table=True) if items else ()
                tried += [Attempt(f"{self.each}[].{one.expression}", one.outcome) for one in of_first]
                tried += [] if items else [Attempt(self.each, Outcome.EMPTY)]
            yield Field(name, tuple(tried))

    def _items(self, node: Object) -> list[object]:
        items: object = path(self.each, table=True).search(node) if self.each else None
        return cast("list[object]", items)[:_MOST_ITEMS] if isinstance(items, list) else []


REFUSED: Final = Shape(
    "refusal",
    when="says(success, 'false') || says(is_success, 'false') || says(ok, 'false') || refund.id",
    unpaid=NEVER,
    pending="`true`",
)
_UNDER_WAY: Final = (
    "'error', 'fail', 'failed', 'declined', 'refused', 'pending', 'processing', 'requires_action', "
    "'requires_payment_method'"
)
STEP: Final = Shape(
    "error, link or step",
    when=(
        "error || errors || client_secret || confirmation_secret || client_token || requires_action || error_name || "
        "redirect_url || "
        f"(url && length(keys(@)) <= `2`) || says(status, {_UNDER_WAY})"
    ),
    unpaid=NEVER,
    pending=f"client_secret || confirmation_secret || requires_action || error || errors || says(status, {_UNDER_WAY})",
)
"""An answer before a payment, or instead of one. Tried last."""
SEVERAL: Final = Shape("several payments", when="", unpaid=NEVER)
"""A list of payments that may belong to other checkouts."""


class Found(NamedTuple):
    """An object in a response."""

    shape: Shape
    node: Object
    barrier: str
    """Why it is not paid. Empty if it is paid."""
    lists: int = 0
    """The number of lists around it. Lists may contain payments of other checkouts."""
    around: tuple[Object, ...] = ()
    """The objects around it, the innermost first."""


@dataclass(frozen=True, slots=True)
class Preset(Explaining):
    """An extractor for one PSP's objects, wherever they are in a response."""

    psp: Psp
    shapes: tuple[Shape, ...]
    at: str | None = None
    """The object's place, as JMESPath. None: the usual wrappers are searched."""
    wrappers: frozenset[str] = WRAPPERS
    prepare: Callable[[Object], Object] | None = None
    """Changes each object first, such as a framework's form of an SDK object."""
    test: str = ""
    """True for an object of the PSP's test mode, or if one is around it."""
    live: str = ""
    """True for an object of its live mode, whatever is around it."""
    own: frozenset[str] = field(init=False, repr=False)
    """The keys in the table's spelling."""

    def __post_init__(self) -> None:
        try:
            path("@" if self.at is None else self.at)
        except (JMESPathError, TypeError, AttributeError):
            msg = f"{self}: at={self.at!r} is not a JMESPath expression. Write the object's place, such as 'payment'."
            raise ConfigurationError(msg) from None
        expressions = (
            expression for shape in self.shapes for expression in (shape.when, *shape.fields.values(), *shape.paid)
        )
        object.__setattr__(self, "own", frozenset(_NAME.findall(" ".join(expressions))))
        object.__setattr__(self, "wrappers", frozenset(map(normal.key, self.wrappers)))

    def __call__(self, response: CheckoutResponse) -> Payments:
        """Read a response.

        Raises:
            ExtractionError: the body cannot be decoded, or it is not JSON.
        """
        body = self._body(response)
        found = self._found(body)
        paid = [one for one in found if not one.barrier]
        if not paid:
            return self._nothing(body, found)
        records = _joined([one.shape.records(one.node) for one in paid])
        # Separate from the fields: only a route with address_from_body may use it as the shopper's address.
        addresses = tuple(record.pop(ADDRESS, "") for record in records)
        nodes = [one.node for one in paid]
        if not any(holds(self.live, node) for node in nodes):
            nodes += [node for one in paid for node in one.around]
            nodes += [] if self.at is None else [cast("Object", normal.normal(body))]
        test_mode = any(holds(self.test, node) for node in nodes)
        return Payments(tuple(records), test_mode=test_mode, addresses=addresses)

    def explain(self, response: CheckoutResponse) -> Explanation:
        """Return what was tried on the first object that is paid, or else the first."""
        found = self._found(self._body(response))
        if not found or found[0].shape is SEVERAL:
            return Explanation(str(self), f"nothing that it knows. {self._remedy(found)}")
        one = _telling(found)
        more = f", the first of {len(found)}" if len(found) > 1 else ""
        return Explanation(str(self), f"{one.shape.name}{more}, {_state(one)}", tuple(one.shape.explain(one.node)))

    def values(self, response: CheckoutResponse) -> dict[str, str]:
        """Return the values of the object that `explain` describes, paid or not. They are personal data."""
        found = self._found(self._body(response))
        if not found:
            return {}
        one = _telling(found)
        return one.shape.records(one.node)[0]

    def __str__(self) -> str:
        return f"extract.{self.psp}()"

    def _body(self, response: CheckoutResponse) -> object:
        body = response.json()
        return body if self.prepare is None else normal.changed(body, self.prepare)

    def _nothing(self, body: object, found: list[Found]) -> Payments:
        if not found or any(one.shape is SEVERAL for one in found):
            words = {normal.word(word) for shape in self.shapes for words in shape.paid.values() for word in words}
            looks_paid = bool(found) or _holds_one(body, words)
            return Payments(skip=Skip.UNRECOGNISED, remedy=self._remedy(found), looks_paid=looks_paid)
        one = found[0]
        said = f"{self} saw {one.shape.name}, {_state(one)}."
        gate = one.barrier if one.barrier in one.shape.paid and one.shape.unpaid != NEVER else ""
        everyday = not gate or bool(normal.word(path(gate, table=True).search(one.node)))
        if not everyday:  # the deciding value is missing
            said += (
                " If this is a paid checkout, let the endpoint answer with the whole object, say where it is, as in "
                f"extract.{self.psp}(at='payment.intent'), or use extract.json."
            )
        return Payments(remedy=said, everyday=everyday)

    def _remedy(self, found: list[Found]) -> str:
        if found:
            return (
                f"{self} found a list of several payments in this response, and nothing says which of them this "
                f"checkout made. Name it, as in extract.{self.psp}(at='payments[-1]')."
            )
        known = ", ".join(shape.name for shape in self.shapes if shape.unpaid != NEVER)
        return (
            f"{self} found none of {known} in this response. Say where it is, as in "
            f"extract.{self.psp}(at='payment.intent'); if the response is your own, use extract.json."
        )

    def _found(self, body: object) -> list[Found]:
        where, key = (body, "") if self.at is None else (path(self.at).search(body), None)
        found = list(self._find(normal.normal(where, self.own), key, {}, iter(range(_MOST))))
        # An object outside lists belongs to this checkout. One in a list does only if it names such an object.
        known = [one for one in found if one.shape in self.shapes] or found
        least = min((one.lists for one in known), default=0)
        alone = [one for one in found if one.lists == least]
        named = [one.shape.common(one.node) for one in alone]
        found = [
            one for one in found if one in alone or any(_are_one(one.shape.common(one.node), other) for other in named)
        ]
        # Whether a payment, or a step of one, is not finished.
        if not any(one.barrier and (one.shape.paid or holds(one.shape.pending, one.node)) for one in found):
            return found
        promised = [not one.barrier and holds(one.shape.promise, one.node) for one in found]
        pairs = zip(found, promised, strict=True)
        return [one._replace(barrier="a payment beside it") if only else one for one, only in pairs]

    def _find(self, node: object, key: str | None, parent: Object, budget: Iterator[int]) -> Iterator[Found]:
        if next(budget, None) is None:
            return
        if isinstance(node, list):
            objects = filter(lambda item: isinstance(item, dict | list), cast("list[object]", node))
            items = [list(self._find(item, key, {}, budget)) for item in objects]
            yield from self._listed(items, key, parent)
            return
        if not isinstance(node, dict):
            return
        node = cast("Object", node)
        shape = self._shape(node, key)
        if shape is not None:
            yield Found(shape, node, shape.barrier(node))
            return
        nothing, promised = True, False
        for name in filter(self.wrappers.__contains__, node):
            for found in self._find(self._child(node, name), name, node, budget):
                nothing = False
                promised = promised or holds(found.shape.promise, found.node)
                yield found._replace(around=(*found.around, node))
        if (nothing and holds(STEP.when, node)) or (promised and holds(STEP.pending, node)):
            yield Found(STEP, node, NEVER)

    def _listed(self, items: list[list[Found]], key: str | None, parent: Object) -> Iterator[Found]:
        """Yield the objects of a list that belong to one checkout: all of them, or those that the parent names.

        If this cannot be decided, yield `SEVERAL`.
        """
        if key is None or not any(one.shape in self.shapes for item in items for one in item):
            yield from (one for item in items for one in item)
            return
        named = {value for name in _REFERENCES if (value := as_text(parent.get(name))) is not None}
        # If the list has more pages, this page may not be the whole checkout.
        goes_on = parent.get("hasmore") is True or parent.get("nextcursor") or parent.get("nextpage")
        whole = [] if goes_on else items
        for chosen in (whole, [item for item in items if not named.isdisjoint(_ids(item))]):
            every = [one for item in chosen for one in item]
            # An unrecognised item may be a payment too.
            one_checkout = all(chosen) and len(_joined([[one.shape.common(one.node)] for one in every])) == 1
            if one_checkout or len(chosen) == 1:
                yield from (one._replace(lists=one.lists + 1) for one in every)
                return
        yield Found(SEVERAL, {}, NEVER, lists=1)

    def _shape(self, node: Object, key: str | None) -> Shape | None:
        """Return the shape of an object under `key`. None is the place that the merchant names with `at`."""
        rules = [(shape, shape.when) for shape in self.shapes if (key or "") not in map(normal.key, shape.never_under)]
        if key is None:
            rules += [(shape, shape.when_at or shape.when_under) for shape in self.shapes]
        else:
            rules += [(shape, shape.when_under) for shape in self.shapes if key in map(normal.key, shape.under)]
        return next((shape for shape, when in [*rules, (REFUSED, REFUSED.when)] if holds(when, node)), None)

    def _child(self, node: Object, name: str) -> object:
        """Return the object under a wrapper. JSON:API's attributes get the ID of the object that holds them."""
        if name != "attributes" or not isinstance(node[name], dict):
            return cast("object", node[name])
        child = cast("Object", node[name])
        kinds = {normal.key(shape.name) for shape in self.shapes} | {normal.word(child.get("object"))} - {""}
        return {"id": node.get("id")} | child if normal.word(node.get("type")).removesuffix("s") in kinds else child


_NAME: Final = re.compile(r"[A-Za-z_]\w*")


def _state(one: Found) -> str:
    if not one.barrier:
        return "paid"
    return "which is not a payment" if one.barrier == NEVER else f"not paid, by {one.barrier}"


def _telling(found: list[Found]) -> Found:
    """Return the first object that is paid, or else the first."""
    return next((one for one in found if not one.barrier), found[0])


def _fields(table: Mapping[str, str], node: object) -> dict[str, str]:
    return {name: value for name, expression in table.items() if (value := first(expression, node)) is not None}


def _ids(found: list[Found]) -> set[str]:
    every = (one.shape.common(one.node) for one in found)
    return {fields[name] for fields in every for name in _NAMING if name in fields}


def _holds_one(node: object, words: set[str], depth: int = 0) -> bool:
    """Return whether a body has one of these words anywhere."""
    if isinstance(node, dict):
        node = list(cast("dict[str, object]", node).values())
    if isinstance(node, list):
        return depth < normal.DEEPEST and any(_holds_one(item, words, depth + 1) for item in cast("list[object]", node))
    return isinstance(node, str) and normal.word(node) in words


def _joined(groups: list[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Join the records of objects that refer to each other, such as an invoice and its charge. Keep others separate.

    Several records of one object stay separate too, because they are its parts. So they come first, with a number each.
    """
    joined: list[tuple[dict[str, str], int]] = []
    seen: set[tuple[str, str]] = set()
    for number, group in enumerate(sorted(groups, key=lambda group: len(group) == 1), 1):
        ids = {(name, row[name]) for row in group for name in _NAMING if name in row}
        names_none = seen.isdisjoint(ids)
        seen |= ids
        if len(group) > 1 or names_none:
            joined += [(row, number if len(group) > 1 else 0) for row in group]
            continue
        (record,) = group
        part_of, place = 0, len(joined)
        while (at := _one_with(record, part_of, joined)) is not None:
            other, number_of_other = joined.pop(at)
            record, part_of = other | record, part_of or number_of_other
            place = min(place, at)
        joined.insert(place, (record, part_of))
    return [record for record, _part_of in joined]


def _one_with(record: dict[str, str], part_of: int, joined: list[tuple[dict[str, str], int]]) -> int | None:
    """Return the index of a record of the same checkout. Two parts never match."""
    found = (at for at, (other, number) in enumerate(joined) if not (part_of and number) and _are_one(record, other))
    return next(found, None)


def _are_one(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    # The e-mail and the address may be written in two ways, and do not identify a payment.
    shared = (one.keys() & other.keys()) - {ADDRESS, "customer_email"}
    same = all(one[name] == other[name] for name in shared)
    return same and any(name in shared for name in _NAMING)
