"""No JSON makes a preset raise, and each value that it gives is in the JSON."""

import copy
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st
from psp_objects import PAID, PRESETS, UNPAID, Case, respond

from butter_middleware import ExtractionError, extract

WORDS = sorted(
    {"id", "object", "status", "data", "transaction", "payments", "charge", "invoice", "customer", "email", "state"}
    | {"resultCode", "pspReference", "outcome", "paymentId", "line_items", "subscription_ids", "account", "_links"}
    | {"charge_invoice", "transactions", "completed_at", "token", "_data", "livemode", "payment_intent", "href"}
)
VALUES = sorted({"charge", "invoice", "succeeded", "paid", "Authorised", "settled", "success", "active", "completed"})
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(VALUES)
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=6),
    max_leaves=40,
)


def scalars(node: object) -> Iterator[str]:
    """Yield every string and integer of a document, as text."""
    if isinstance(node, dict):
        for value in node.values():
            yield from scalars(value)
    elif isinstance(node, list):
        for value in node:
            yield from scalars(value)
    elif isinstance(node, str | int) and not isinstance(node, bool):
        yield str(node).strip()


def check(psp: str, body: object) -> None:
    response = respond(body)
    payments = PRESETS[psp](response)
    reporter = set(scalars(body))
    for fields in payments:
        assert set(fields.values()) <= reporter
        assert all(fields.values())
    assert len(payments) or payments.skip in {"not_paid", "unrecognised"}
    assert str(extract.explain(response, PRESETS[psp])).startswith(f"extract.{psp}()")


@pytest.mark.parametrize("psp", PRESETS)
@settings(max_examples=tries(100), deadline=None)
@given(body=documents)
def test_any_json_is_read_without_an_error(psp: str, body: object) -> None:
    """For any answer of a route, a preset only gives values that are in it, each as a non-empty string."""
    check(psp, body)


def places(node: object) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a document with one of its keys."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


@settings(max_examples=tries(600), deadline=None)
@given(
    case=st.sampled_from(PAID + UNPAID),
    seed=st.integers(0, 2**32),
    value=leaves | st.lists(leaves, max_size=2) | st.dictionaries(st.text(), leaves),
)
def test_a_mutated_object_is_read_without_an_error(case: Case, seed: int, value: object) -> None:
    """A real object with changed or deleted parts only gives values that are in it."""
    body = {"data": copy.deepcopy(case.body)}
    chance = random.Random(seed)  # noqa: S311 - a choice of a test
    for _mutation in range(chance.randint(1, 3)):
        container, key = chance.choice(list(places(body)))
        if chance.random() < 0.3:
            del container[key]
        else:
            container[key] = copy.deepcopy(value)
        if not body:
            break
    check(case.psp, body)


@pytest.mark.parametrize("psp", PRESETS)
def test_deep_nesting_is_read(psp: str) -> None:
    """A body with the deepest nesting that can be parsed is read like any other."""
    for opening, closing in (("[", "]"), ('{"data":', "}"), ('{"_data":', "}")):
        body = opening * 800 + "1" + closing * 800
        assert len(PRESETS[psp](respond(body.encode()))) == 0


@pytest.mark.parametrize("function", ["ceil(id)", "contains(object, id)", "sort(status)", "to_array(id) | abs(@)"])
@settings(max_examples=tries(40), deadline=None)
@given(body=documents)
def test_no_exception_of_an_expressions_function_escapes(function: str, body: object) -> None:
    """A merchant's expression either works or raises ExtractionError, and it can be explained."""
    extractor = extract.json(invoice_id=f"status || {function}")
    response = respond(body)
    with suppress(ExtractionError):
        extractor(response)
    assert extract.explain(response, extractor)["invoice_id"].attempts
