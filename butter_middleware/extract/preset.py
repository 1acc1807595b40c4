"""How a PSP's objects are found in a response and read: the machine behind the tables in `tables/`."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast, get_args

from jmespath.exceptions import JMESPathError

from butter_middleware.errors import ConfigurationError
from butter_middleware.extract.explanation import Attempt, Explanation, Field, Outcome
from butter_middleware.extract.expressions import FIELDS
from butter_middleware.extract.paths import attempts, first, holds, path
from butter_middleware.models.checkout import EVIDENCE_IDS, Psp
from butter_middleware.models.http import CheckoutResponse
from butter_middleware.models.payments import Payments
from butter_middleware.models.reasons import Skip

Object = dict[str, Any]
_READ: Final = tuple(name for name in FIELDS if name not in {"psp", "user_agent"})
ADDRESS: Final = "ipv4_address"
"""For `Shape.fields`: the shopper's address as the PSP saw it."""
NEVER: Final = "`true`"
"""For `Shape.unpaid`: such an object is no payment in any state."""

WRAPPERS: Final = frozenset(
    {
        *("body", "content", "data", "object", "payload", "psp", "response", "result", "results", "success"),
        *get_args(Psp),
        *("charge", "charges", "checkout", "checkoutSession", "checkout_session", "session"),
        *("intent", "paymentIntent", "payment_intent", "payment", "payments", "paymentResponse", "payment_response"),
        *("invoice", "order", "purchase", "subscription", "transaction", "transactions"),
    }
)
"""Keys under which shops hand a PSP's object on. Others, such as `customer` or `subscriptions`, hold those of other
purchases."""
_DEEPEST: Final = 6
_MOST: Final = 1000
"""Objects of a response that are looked at, a fraction of a millisecond each: one with more is no checkout."""
_MOST_ITEMS: Final = 1001
"""Items of one object that are looked at: with more than a thousand it is parked, as what any extractor gives."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of object of a PSP. All expressions are JMESPath; an alternative that gives no ID gives way to the next.

    Words are compared without case, spaces and underscores: PSPs spell one state in several ways.
    """

    name: str
    when: str
    """True of an object of this shape, and of no other that a shop might send."""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    """The record's fields, each with the expression that gives it."""
    paid: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The gate: each expression's value is one of its words."""
    unpaid: str = ""
    """True where it is no payment all the same."""
    each: str = ""
    """A list within the object: one record for each of its items..."""
    of_each: Mapping[str, str] = field(default_factory=dict[str, str])
    """...with these fields, which the item gives."""
    test: str = ""
    """True of an object of the PSP's test mode."""
    under: tuple[str, ...] = ()
    """Keys that say what stands under them..."""
    when_under: str = ""
    """...so that this is enough, there or where the merchant points by `at`."""

    def fits(self, node: Object, key: str | None) -> bool:
        """Say whether an object, standing under `key`, is of this shape; None is where the merchant points."""
        return holds(self.when, node) or ((key is None or key in self.under) and holds(self.when_under, node))

    def barrier(self, node: Object) -> str:
        """Return the expression because of which it is not paid; empty where it is paid."""
        if holds(self.unpaid, node):
            return self.unpaid
        for expression, words in self.paid.items():
            if _word(first(expression, node)) not in map(_word, words):
                return expression
        return ""

    def records(self, node: Object) -> list[dict[str, str]]:
        """Return the fields of each record that an object gives."""
        common = _fields(self.fields, node)
        rows = [row for item in self._items(node) if (row := _fields(self.of_each, item))]
        return [common | row for row in rows] or [common]

    def explain(self, node: Object) -> Iterator[Field]:
        """Say for each field of a record what was tried."""
        for name in _READ:
            tried = list(attempts(self.fields[name], node)) if name in self.fields else []
            if name in self.of_each and not (tried and tried[-1].outcome is Outcome.GAVE):
                tried += self._explain_each(self.of_each[name], node)
            yield Field(name, tuple(tried))

    def _explain_each(self, expression: str, node: Object) -> Iterator[Attempt]:
        items = self._items(node)
        for item in items[:1]:
            yield from (Attempt(f"{self.each}[].{one.expression}", one.outcome) for one in attempts(expression, item))
        if not items:
            yield Attempt(self.each, Outcome.EMPTY)

    def _items(self, node: Object) -> list[object]:
        items: object = path(self.each).search(node) if self.each else None
        return cast("list[object]", items)[:_MOST_ITEMS] if isinstance(items, list) else []


REFUSED: Final = Shape("refusal", when="success == `false` || is_success == `false`", unpaid=NEVER)
STEP: Final = Shape(
    "error, link or step",
    when=(
        "error || errors || client_secret || clientSecret || client_token || clientToken || requires_action || "
        "requiresAction || errorName || redirect_url || redirectUrl || (url && length(keys(@)) <= `2`)"
    ),
    unpaid=NEVER,
)
"""What a shop answers before, or instead of, the payment. Asked last."""


@dataclass(frozen=True, slots=True)
class Preset:
    """An extractor for one PSP's objects, wherever in a response they stand."""

    psp: Psp
    shapes: tuple[Shape, ...]
    at: str | None = None
    """Where the object stands, as JMESPath; None looks through the usual wrappers."""
    wrappers: frozenset[str] = WRAPPERS
    prepare: Callable[[object], object] = lambda body: body
    """Undoes what a framework makes of the SDK's own objects."""

    def __post_init__(self) -> None:
        try:
            path(self.at or "@")
        except (JMESPathError, TypeError, AttributeError):
            msg = f"{self}: at={self.at!r} is no JMESPath expression. Write the place of the object, such as 'payment'."
            raise ConfigurationError(msg) from None

    def __call__(self, response: CheckoutResponse) -> Payments:
        """Read a response.

        Raises:
            ExtractionError: the body cannot be decoded, or it is no JSON.
        """
        found = self._found(response)
        if not found:
            return Payments(skip=Skip.UNRECOGNISED, remedy=self._remedy())
        paid = [(shape, node) for shape, node in found if not shape.barrier(node)]
        records = _joined([shape.records(node) for shape, node in paid])
        # Apart from the fields, so that nobody takes it for the shopper's address without having said so.
        addresses = tuple(record.pop(ADDRESS, "") for record in records)
        test_mode = any(holds(shape.test, node) for shape, node in paid)
        return Payments(tuple(records), test_mode=test_mode, addresses=addresses)

    def explain(self, response: CheckoutResponse) -> Explanation:
        """Say what was tried, on the first object that is paid, or the first."""
        found = self._found(response)
        if not found:
            return Explanation(str(self), f"nothing that it knows. {self._remedy()}")
        shape, node = _telling(found)
        barrier = shape.barrier(node)
        state = f"not paid, by {barrier}" if barrier else "paid"
        more = f", the first of {len(found)}" if len(found) > 1 else ""
        return Explanation(str(self), f"{shape.name}{more}, {state}", tuple(shape.explain(node)))

    def values(self, response: CheckoutResponse) -> dict[str, str]:
        """Return what the object that `explain` is about gives, paid or not: personal data."""
        found = self._found(response)
        if not found:
            return {}
        shape, node = _telling(found)
        return shape.records(node)[0]

    def __str__(self) -> str:
        return f"extract.{self.psp}()"

    def _remedy(self) -> str:
        known = ", ".join(shape.name for shape in self.shapes if shape.unpaid != NEVER)
        return (
            f"{self} found none of {known} in this response. Say where it stands, as in "
            f"extract.{self.psp}(at='payment.intent'); where the response is your own, use extract.json."
        )

    def _found(self, response: CheckoutResponse) -> list[tuple[Shape, Object]]:
        body = self.prepare(response.json())
        budget = iter(range(_MOST))
        if self.at is None:
            return list(self._find(body, "", budget))
        return list(self._find(path(self.at).search(body), None, budget))

    def _find(
        self, node: object, key: str | None, budget: Iterator[int], depth: int = 0
    ) -> Iterator[tuple[Shape, Object]]:
        if depth > _DEEPEST or next(budget, None) is None:
            return
        if isinstance(node, list):
            for item in cast("list[object]", node):
                yield from self._find(item, key, budget, depth + 1)
        elif isinstance(node, dict):
            yield from self._within(cast("Object", node), key, budget, depth)

    def _within(
        self, node: Object, key: str | None, budget: Iterator[int], depth: int
    ) -> Iterator[tuple[Shape, Object]]:
        for shape in (*self.shapes, REFUSED):
            if shape.fits(node, key):
                yield shape, node
                return
        nothing = True
        for name in filter(self.wrappers.__contains__, node):
            for found in self._find(node[name], name, budget, depth + 1):
                nothing = False
                yield found
        if nothing and STEP.fits(node, key):
            yield STEP, node


def _telling(found: list[tuple[Shape, Object]]) -> tuple[Shape, Object]:
    """Return the first object that is paid, or else the first."""
    return next(((shape, node) for shape, node in found if not shape.barrier(node)), found[0])


def _word(value: str | None) -> str:
    return re.sub(r"[\W_]", "", value or "").casefold()


def _fields(table: Mapping[str, str], node: object) -> dict[str, str]:
    return {name: value for name, expression in table.items() if (value := first(expression, node)) is not None}


def _joined(groups: list[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Join the records of objects that name one another, such as an invoice and its charge; leave others apart."""
    joined: list[dict[str, str]] = []
    for group in groups:
        if len(group) > 1:
            joined += group
            continue
        (record,) = group
        other = next((other for other in joined if _are_of_one_checkout(record, other)), None)
        if other is None:
            joined.append(record)
        else:
            other.update(record)
    return joined


def _are_of_one_checkout(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    # The same shopper may be written in two ways, and no payment is told apart by the e-mail.
    shared = (one.keys() & other.keys()) - {ADDRESS, "customer_email"}
    same = all(one[name] == other[name] for name in shared)
    return same and any(name in shared for name in EVIDENCE_IDS)
