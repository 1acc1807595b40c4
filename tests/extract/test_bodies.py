"""Several hundred bodies of the six PSPs, and the result for each spelling and wrapper of SDKs and frameworks."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import psp_bodies_attacks as attacks
import psp_bodies_braintree as braintree
import psp_bodies_field as field
import psp_bodies_others as others
import psp_bodies_stripe as stripe
import pytest
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st
from psp_bodies import Body
from psp_objects import respond

from butter_middleware.extract import normal

PAID = stripe.PAID + braintree.PAID + others.PAID + attacks.PAID + field.PAID
UNPAID = stripe.UNPAID + braintree.UNPAID + others.UNPAID + attacks.UNPAID + field.UNPAID
UNKNOWN = stripe.UNKNOWN + braintree.UNKNOWN + others.UNKNOWN + attacks.UNKNOWN + field.UNKNOWN


def respelled(node: Any, spell: Callable[[str], str]) -> Any:
    """Return a body with every key in another spelling."""
    if isinstance(node, list):
        return [respelled(item, spell) for item in node]
    return {spell(name): respelled(value, spell) for name, value in node.items()} if isinstance(node, dict) else node


def camel(name: str) -> str:
    return re.sub(r"(?<=[a-zA-Z0-9])_+([a-zA-Z0-9])", lambda match: match[1].upper(), name)


def pascal(name: str) -> str:
    return name if name.startswith("_") else camel(name)[:1].upper() + camel(name)[1:]


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: f"_{match[1].lower()}", name)


FORMS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda body: body,
    "camelCase": lambda body: respelled(body, camel),
    "PascalCase": lambda body: respelled(body, pascal),
    "snake_case": lambda body: respelled(body, snake),
    "wrapped": lambda body: {"ok": True, "data": {"result": body}, "cart": {"id": 7}},
    "alone in a list": lambda body: [body],
}


def readings(body: Body) -> dict[str, tuple[list[dict[str, str]], str]]:
    """Return the records and the skip reason of a body, in each form with the same meaning."""
    found: dict[str, tuple[list[dict[str, str]], str]] = {}
    for form, change in FORMS.items():
        if form == "as it is" or not ("at" in body.options or "spelling" in body.name):
            payments = body.preset(respond(change(body.body)))
            found[form] = sorted((dict(fields) for fields in payments), key=str), payments.skip
    return found


@pytest.mark.parametrize("body", PAID, ids=str)
def test_a_paid_body_gives_every_id_in_it(body: Body) -> None:
    """It gives each field of each record, and no other, in every spelling and wrapper."""
    expected = sorted(body.records, key=str)
    assert {form: records for form, (records, _skip) in readings(body).items() if records != expected} == {}


@pytest.mark.parametrize("body", UNPAID, ids=str)
def test_an_unpaid_body_gives_nothing(body: Body) -> None:
    """It is recognised as the PSP's, and the reason is `not_paid`."""
    assert {form: found for form, found in readings(body).items() if found != ([], "not_paid")} == {}


@pytest.mark.parametrize("body", UNKNOWN, ids=str)
def test_a_body_that_only_resembles_the_psps_gives_nothing(body: Body) -> None:
    """These are the shop's own rows, and payments that may not be of this checkout."""
    assert {form: found for form, found in readings(body).items() if found != ([], "unrecognised")} == {}


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a document with one of its keys."""
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


def leaves(node: Any) -> Iterator[str]:
    """Yield the scalar values of a document, as text."""
    if isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from leaves(item)
    else:
        yield str(node).strip()


@pytest.mark.parametrize("body", PAID, ids=str)
def test_nothing_is_paid_without_a_word_for_it(body: Body) -> None:
    """Without every word for paid, a body gives no record. No gate passes because a field is missing."""
    words = {normal.word(word) for shape in body.preset.shapes for words in shape.paid.values() for word in words}
    flags = {"paid", "success", "completedat"}  # true, or a date
    others: list[Any] = [None, "", "another word", {}]
    for instead in others:
        bare = copy.deepcopy(body.body)
        for container, key in list(places(bare)):
            value = container[key]
            if (isinstance(value, str) and normal.word(value) in words) or normal.key(str(key)) in flags:
                container[key] = copy.deepcopy(value) if isinstance(value, dict | list) else instead
        assert list(body.preset(respond(bare))) == []


GOOD = {
    psp: {value for body in PAID if body.psp == psp for record in body.records for value in record.values()}
    for psp in {body.psp for body in PAID}
}
"""The values that the bodies' records have. All other IDs in the bodies are decoys."""


SEVERAL = re.compile(
    "older|newer|named by|order names|previous|latestCharge|two |beside|renewed|newest|second attempt|list"
)
"""Names of bodies with payments of several checkouts or attempts. Without one of them, another may be meant."""
ALONE = [body for body in PAID + UNPAID if not SEVERAL.search(body.name)]


@settings(max_examples=tries(500), deadline=None)
@given(body=st.sampled_from(ALONE), seed=st.integers(0, 2**32))
def test_a_missing_part_gives_no_other_id(body: Body, seed: int) -> None:
    """If a part of a body is deleted, no decoy and no other object's ID replaces it."""
    chance = random.Random(seed)  # noqa: S311 - a choice of a test
    poor = {"data": copy.deepcopy(body.body)} if "at" not in body.options else copy.deepcopy(body.body)
    for _time in range(chance.randint(1, 3)):
        container, key = chance.choice(list(places(poor)))
        del container[key]
        if not poor:
            break
    good = GOOD[body.psp] | {f"{value}" for value in leaves(body.body) if "@" in value}
    if "ONETIME" in str(body.body) and "ONETIME" not in str(poor):
        good.add("12")  # as in Recharge's oldest versions, which do not say whether this item is a subscription
    for record in body.preset(respond(poor)):
        assert "decoy" not in str(record)
        assert set(record.values()) <= good


def keys_of(bodies: list[Body]) -> list[str]:
    return sorted({key for body in bodies for _container, key in places(body.body) if isinstance(key, str)})


@cache  # each hypothesis example needs it
def documents(psp: str) -> st.SearchStrategy[Any]:
    """Return JSON with a PSP's real keys, whose values are its words and IDs, or others."""
    bodies = [body for body in PAID + UNPAID + UNKNOWN if body.psp == psp]
    values = sorted({leaf for body in bodies for leaf in leaves(body.body)})
    keys = st.sampled_from(keys_of(bodies))
    ends = st.sampled_from(values) | st.none() | st.booleans() | st.integers(0, 99) | st.just("mine-7")
    return st.recursive(
        ends,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=8),
        max_leaves=40,
    )


@pytest.mark.parametrize("psp", sorted(GOOD))
@settings(max_examples=tries(150), deadline=None)
@given(data=st.data())
def test_each_id_is_in_a_known_and_paid_object(psp: str, data: st.DataObject) -> None:
    """For any JSON with a PSP's keys, a record's IDs are in objects of a known shape, each with a word for paid."""
    body = data.draw(documents(psp))
    preset = next(body.preset for body in PAID if body.psp == psp and not body.options)
    words = {normal.word(word) for shape in preset.shapes for words in shape.paid.values() for word in words}
    records = list(preset(respond(body)))
    known = [one for one in preset._found(preset._body(respond(body))) if not one.barrier]
    assert bool(records) == bool(known)
    for one in known:
        assert one.shape in preset.shapes
        assert words & {normal.word(leaf) for leaf in leaves(one.node)} | (
            {"x"} if one.node.get("completedat") else set()
        )
    standing = {leaf for one in known for leaf in leaves(one.node)}
    for record in records:
        assert set(record.values()) <= standing
