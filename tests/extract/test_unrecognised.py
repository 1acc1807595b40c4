"""What is logged and kept if a preset gives no record for a body."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from processes import until
from psp_objects import CHARGE, EMAIL, SESSION

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, ConfigurationError, extract
from butter_middleware.reader.reader import MOST_UNRECOGNISED
from butter_middleware.testing import FakeButter

PAID_ELSEWHERE = {"order": {"number": 7}, "kept": {"intent": CHARGE}}


def read(butter: Butter, *contents: object) -> None:
    """Let a checkout answer with each, and wait until all are handled."""
    for content in contents:
        app = ButterMiddleware(sends(start(), body(json.dumps(content).encode())), butter)
        anyio.run(drive, app, http_scope())
    assert butter.flush()


def route(extractor: Any, psp: Any = "stripe") -> CheckoutRoute:
    return CheckoutRoute("/checkout/{cart_id}", psp, extractor)


def test_a_body_that_may_be_paid_is_read_again_at_the_next_start(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A body with a word for paid and no known object is parked. After a restart with `at=`, it is sent."""
    path = tmp_path / "butter.db"
    blind = make_butter(route(extract.stripe()), outbox=path)
    read(blind, PAID_ELSEWHERE)
    assert (blind.status().parked, blind.status().skipped) == (1, {"parked:unreadable": 1})
    assert "extract.stripe() found none of checkout.session" in caplog.text
    assert "The body has a word for paid: it is kept, and read again" in caplog.text
    blind.close()
    seeing = make_butter(route(extract.stripe(at="kept.intent")), outbox=path)
    seeing.pipeline.start()
    until(lambda: seeing.status().delivered == 1, "the record")
    (record,) = fake.records
    assert record["charge_id"] == "ch_1"


def test_the_kept_bodies_are_bounded(make_butter: Callable[..., Butter]) -> None:
    """If no body of a route is recognised, the disk must not fill. Each process keeps only the first ones."""
    butter = make_butter(route(extract.stripe()), dry_run=True)
    read(butter, *[PAID_ELSEWHERE] * (MOST_UNRECOGNISED + 3))
    assert butter.status().skipped == {"parked:unreadable": MOST_UNRECOGNISED, "unrecognised": 3}


def test_several_payments_of_which_one_may_be_meant_are_kept(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """Earlier payments in a list get no record with today's address. The log says how to select one."""
    butter = make_butter(route(extract.stripe()))
    read(butter, {"order": {"payments": [CHARGE, CHARGE | {"id": "ch_2", "payment_intent": "pi_2"}]}})
    assert butter.status().skipped == {"parked:unreadable": 1}
    assert "found a list of several payments in this response" in caplog.text
    assert "extract.stripe(at='payments[-1]')" in caplog.text


def test_an_unpaid_object_in_a_list_hides_no_list_of_several_payments(make_butter: Callable[..., Butter]) -> None:
    """One of the payments may be of this checkout, so the body is kept."""
    butter = make_butter(route(extract.stripe()))
    open_invoice = {"id": "in_9", "object": "invoice", "status": "open", "customer": "cus_9"}
    payments = [CHARGE, CHARGE | {"id": "ch_2", "payment_intent": "pi_2"}]
    read(butter, {"invoice": [open_invoice], "payments": payments})
    assert butter.status().skipped == {"parked:unreadable": 1}


@pytest.mark.parametrize(
    ("psp", "content", "level", "says"),
    [
        ("adyen", {"resultCode": "Refused", "pspReference": "P1"}, "INFO", "saw payment, not paid, by resultCode."),
        ("stripe", SESSION | {"payment_status": None}, "WARNING", "saw checkout.session, not paid, by payment_status."),
        ("stripe", {"url": "https://example.com"}, "INFO", "saw error, link or step, which is not a payment."),
    ],
)
def test_an_unpaid_body_is_explained_once(
    make_butter: Callable[..., Butter],
    caplog: pytest.LogCaptureFixture,
    psp: Any,
    content: object,
    level: str,
    says: str,
) -> None:
    """One line names the object and the expression that decided. It is a warning if there was no value."""
    caplog.set_level(logging.INFO, "butter_middleware")
    butter = make_butter(route(getattr(extract, psp)(), psp))
    read(butter, content, content)
    lines = [line for line in caplog.records if says in line.getMessage()]
    assert [line.levelname for line in lines] == [level]
    assert "POST /checkout/{cart_id}" in lines[0].getMessage()
    assert EMAIL not in caplog.text
    assert butter.status().skipped == {"not_paid": 2}


@pytest.mark.parametrize(
    ("extractor", "remedy"),
    [
        (extract.stripe, "extract.stripe is a factory: write extract.stripe()"),
        (extract.worldpay, "extract.worldpay is a factory: write extract.worldpay()"),
        (extract.json, "extract.json is a factory: write extract.json(...)"),
        (extract.model, "extract.model is a factory: write extract.model(...)"),
    ],
)
def test_a_factory_is_refused_when_the_route_is_built(extractor: Any, remedy: str) -> None:
    """If the parentheses are missing, the start fails, and the error names the function."""
    with pytest.raises(ConfigurationError) as refused:
        CheckoutRoute("/pay", "stripe", extractor)
    assert remedy in str(refused.value)


def takes_two(_response: object, _more: object) -> dict[str, str]:
    return {}


def test_the_log_names_the_extractors_own_file(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """If an extractor cannot be called, none of its lines is reached. The log still names its own file."""
    read(make_butter(route(takes_two)), {})
    line = takes_two.__code__.co_firstlineno
    assert f"raised TypeError at test_unrecognised.py:{line}. Fix it" in caplog.text
    assert "reader.py" not in caplog.text.replace("test_unrecognised.py", "").split("raised TypeError")[1]
