"""The output of `explain`: expressions and why they gave nothing, never a value."""

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from psp_objects import CHARGE, INTENT, PAID, PRESETS, SESSION, UNPAID, Case, respond
from pydantic import BaseModel

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, ExtractionError, extract
from butter_middleware.extract import Outcome
from butter_middleware.testing import FakeButter

SECRET = "shopper-secret@example.com"


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ({}, [Outcome.ABSENT, Outcome.ABSENT]),
        ({"a": None}, [Outcome.ABSENT, Outcome.NULL]),
        ({"a": {"b": None}}, [Outcome.NULL, Outcome.NOT_A_STRING]),
        ({"a": {"b": ""}}, [Outcome.EMPTY, Outcome.NOT_A_STRING]),
        ({"a": {"b": "  "}}, [Outcome.EMPTY, Outcome.NOT_A_STRING]),
        ({"a": []}, [Outcome.ABSENT, Outcome.EMPTY]),
        ({"a": {"b": True}}, [Outcome.NOT_A_STRING, Outcome.NOT_A_STRING]),
        ({"a": {"b": 1.5}}, [Outcome.NOT_A_STRING, Outcome.NOT_A_STRING]),
        ({"a": {"b": 0}}, [Outcome.GAVE]),
        ({"a": "x"}, [Outcome.ABSENT, Outcome.GAVE]),
        ([1], [Outcome.ABSENT, Outcome.ABSENT]),
    ],
)
def test_each_reason_for_no_value_is_distinguished(body: Any, outcomes: list[Outcome]) -> None:
    """The alternatives are tried in order, until one gives the field."""
    field = extract.explain(respond(body), extract.json(invoice_id="a.b || a"))["invoice_id"]
    assert [attempt.outcome for attempt in field.attempts] == outcomes
    assert field.given_by == ({1: "a.b", 2: "a"}[len(outcomes)] if Outcome.GAVE in outcomes else None)


@pytest.mark.parametrize(
    ("expression", "tried"),
    [
        ("a || b", "tried a, b, both absent"),
        ("a || b || c", "tried a, b, c, all absent"),
        ("a", "tried a, absent"),
        ("(a || b).c", "tried (a || b).c, null"),
        ("[a || b, c][?@] | [0]", "tried [a || b, c][?@] | [0], null"),
        ("a || b | [0]", "tried a || b | [0], null"),
        ("items[?x || y].id | [0]", "tried items[?x || y].id | [0], null"),
        ('"a || b" || a', 'tried "a || b", a, both absent'),
        ("a || n", "tried a (absent), n (null)"),
        ("abs(s) || a", "tried abs(s) (failed), a (absent)"),
        ("ceil(big) || contains(s, one)", "tried ceil(big), contains(s, one), both failed"),
    ],
)
def test_only_top_level_alternatives_count(expression: str, tried: str) -> None:
    """Only `||` outside brackets, quotes and pipes separates alternatives, as in JMESPath."""
    body = {"n": None, "s": SECRET, "big": float("inf"), "one": 1}
    assert extract.explain(respond(body), extract.json(invoice_id=expression))["invoice_id"].tried == tried


def test_the_text_is_readable() -> None:
    """`str()` is for a person. It has the object, and one line per field."""
    said = str(
        extract.explain(respond({"data": SESSION | {"customer": "", "invoice": {"id": "in_1"}}}), PRESETS["stripe"])
    )
    assert said.splitlines()[0] == "extract.stripe(): checkout.session, paid"
    assert "  customer_email: customer_details.email" in said
    assert "  invoice_id: invoice.id" in said
    assert "  customer_id: tried customer.id (absent), customer (empty), customer_account.id (absent), " in said


@pytest.mark.parametrize(
    ("body", "saw"),
    [
        ([CHARGE, CHARGE], "charge, the first of 2, paid"),
        ([INTENT | {"status": "canceled"}, CHARGE], "charge, the first of 2, paid"),
        (INTENT | {"status": "canceled"}, "payment_intent, not paid, by status"),
        (SESSION | {"payment_status": "unpaid"}, "checkout.session, not paid, by payment_status"),
        ({"a": 1}, "nothing that it knows. extract.stripe() found none of checkout.session"),
    ],
)
def test_the_text_names_the_object(body: Any, saw: str) -> None:
    """It names the object, its state, and the expression that decided."""
    assert extract.explain(respond(body), PRESETS["stripe"]).saw.startswith(saw)


def test_parts_of_an_object_are_explained() -> None:
    """For the items of a list, the first one is explained."""
    bodies: dict[str, Any] = {case.name: case.body for case in PAID}
    invoice = extract.explain(respond(bodies["stripe C invoice, paid in two parts"]), PRESETS["stripe"])
    given_by = str(invoice["transaction_id"].given_by)
    assert given_by.startswith("(payments.data[?says(status, 'paid')]")
    assert given_by.endswith("[].payment.payment_intent")
    purchase = extract.explain(respond(bodies["recurly invoice"] | {"subscription_ids": []}), PRESETS["recurly"])
    assert purchase["subscription_id"].tried == "tried subscription_ids, empty"


class Order(BaseModel):
    id: str


def test_a_function_is_not_explained() -> None:
    """For a plain function and for `extract.model`, it says that the expressions cannot be seen."""

    def mine(_response: CheckoutResponse) -> None: ...

    assert str(extract.explain(respond({}), mine)) == "mine: a function, whose expressions cannot be seen"
    model = extract.model(Order, lambda order: {"invoice_id": order.id})
    assert extract.explain(respond({}), model).fields == ()


class Own:
    """A merchant's class with methods of the same names as this package's."""

    def __init__(self, explain: Any) -> None:
        self.explain = explain
        self.values = explain

    def __call__(self, response: CheckoutResponse) -> Any:
        return response.json()


def raises(_response: CheckoutResponse) -> Any:
    raise KeyError(SECRET)


def is_at_a_loss(_response: CheckoutResponse) -> Any:
    raise ExtractionError(SECRET)


@pytest.mark.parametrize("explain", [lambda _r: "seen", lambda: "seen", lambda _r: None, raises])
def test_a_method_with_another_meaning_is_not_used(explain: Any) -> None:
    """The extractor is then treated like any function."""
    assert str(extract.explain(respond({}), Own(explain))) == "Own: a function, whose expressions cannot be seen"


@pytest.mark.parametrize("explain", [lambda _r: "seen", lambda: "seen", raises, is_at_a_loss])
def test_a_broken_explanation_costs_no_record(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture, explain: Any
) -> None:
    """A record with weak IDs is sent, and a record without an ID is parked, whatever `explain` does."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", Own(explain)))
    for answer in ({"transaction_id": "pi_1", "customer_email": "a@example.com"}, {"customer_id": "c"}):
        app = ButterMiddleware(sends(start(), body(json.dumps(answer).encode())), butter)
        anyio.run(drive, app, http_scope())
    assert butter.flush()
    assert [record["transaction_id"] for record in fake.records] == ["pi_1"]
    assert butter.status().skipped == {"parked:invalid": 1}
    assert SECRET not in caplog.text


def test_a_body_that_is_not_json_raises() -> None:
    """It raises, because there is nothing to explain."""
    with pytest.raises(ExtractionError, match="not JSON"):
        extract.explain(respond(b"<html>"), PRESETS["stripe"])


@pytest.mark.parametrize("case", PAID + UNPAID, ids=lambda case: case.name)
def test_it_agrees_with_the_extractor_and_shows_no_value(case: Case) -> None:
    """The explanation and the record have the same fields. The text has no value of the body."""
    preset = PRESETS[case.psp]
    explanation = extract.explain(respond(case.body), preset)
    if case.records:
        given = {field.name for field in explanation.fields if field.given_by is not None}
        assert given == set(case.records[0])
    for value in {value for record in case.records for value in record.values() if len(value) > 3}:
        assert value not in str(explanation)
        assert value not in repr(explanation)
