"""Published objects, if they are next to this project. A field is right or absent, never wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from psp_objects import PRESETS, respond

SAMPLES = Path(__file__).parents[3] / "shared" / "psp_samples"
INDEX = SAMPLES / "index.json"
CASES: list[dict[str, Any]] = json.loads(INDEX.read_text()) if INDEX.exists() else []

pytestmark = pytest.mark.skipif(not CASES, reason="the samples are not part of the project")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_a_published_object_is_read_correctly(case: dict[str, Any]) -> None:
    """An expected field has its value, and there is no other ID. An unpaid object gives nothing."""
    payments = PRESETS[case["psp"]](respond((SAMPLES / case["file"]).read_bytes()))
    if not case["checkout_success"]:
        assert payments.skip == "not_paid"
        assert list(payments) == []
        return
    (fields,) = payments
    name = {"email": "customer_email"}
    expected = {name.get(key, key): value for key, value in case["expected"].items()}
    accepted = {name.get(key, key): value for key, value in case["accept"].items()}
    for field, value in fields.items():
        assert field == "network_transaction_id" or value in (expected.get(field), *accepted.get(field, ()))
    missing = set(expected) - set(fields)
    assert all(None in accepted.get(field, ()) for field in missing)
