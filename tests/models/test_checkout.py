"""A `Checkout` holds exactly what Butter accepts."""

import copy
import pickle
from typing import Any

import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError, validate_email

from butter_middleware import Checkout, Record

WHOLE: dict[str, Any] = {
    "customer_email": "a@example.com",
    "ipv4_address": "81.2.69.142",
    "psp": "stripe",
    "invoice_id": "in_1",
}


def checkout(**fields: Any) -> Checkout:
    return Checkout.model_validate(WHOLE | fields)


LOCAL = st.text('ab1._+-A"é', max_size=4) | st.sampled_from(["a" * 64, "info", "a.b", "a+b"])
LABEL = st.text("ab1-xn_é", min_size=1, max_size=6) | st.sampled_from(["b", "b-1", "example"])
LAST = st.sampled_from(["com", "c", "c1", "1", "example", "alt", *SPECIAL_USE_DOMAIN_NAMES, "com.", "com\n", "com@b"])


def as_the_library_says(text: str) -> None:
    try:
        _name, expected = validate_email(text.strip())
    except ValueError:
        with pytest.raises(ValidationError):
            checkout(customer_email=text)
    else:
        assert checkout(customer_email=text).customer_email == expected


@given(LOCAL, st.lists(LABEL, max_size=2), LAST)
@settings(max_examples=tries(300), deadline=None)
def test_an_email_address_is_checked_as_by_the_library(local: str, labels: list[str], last: str) -> None:
    """Usual addresses skip the library. Both ways accept the same addresses and return the same text."""
    as_the_library_says(f"{local}@{'.'.join([*labels, last])}")


@pytest.mark.parametrize(
    "text",
    [
        *(f"a@{prefix}{name}" for name in SPECIAL_USE_DOMAIN_NAMES for prefix in ("", "b.")),
        *("a@b.1", "a@b.c1", "a@b.c", "a@b", "a@-b.com", "a@b-.com", "a@b--c.com", "a@bc--d.com", "a@xn--a.com"),
        *("INFO@b.com", "info@B.com", "Ab@b.com", ".a@b.com", "a.@b.com", "a..b@b.com", "a@b..com", "a@b.com."),
        *(f"a@{'b' * 63}.com", f"a@{'b' * 64}.com", f"{'a' * 64}@b.com", f"{'a' * 300}@b.com", f"a@{'b.' * 150}com"),
    ],
)
def test_an_email_address_at_the_limits_is_checked_as_by_the_library(text: str) -> None:
    """These rules rarely apply to random addresses."""
    as_the_library_says(text)


def test_an_email_address_becomes_a_plain_string() -> None:
    """A framework may pass a subclass of `str`, such as one that is marked safe."""
    assert type(checkout(customer_email=type("Safe", (str,), {})("a@b.com")).customer_email) is str


@pytest.mark.parametrize(
    ("given", "kept"),
    [("  in_2\n", "in_2"), (4711, "4711"), ("", None), ("   ", None), (None, None), (0, "0")],
)
def test_ids_are_normalised(given: object, kept: str | None) -> None:
    """IDs are stripped, integers become strings, an empty string is absent."""
    assert checkout(charge_id=given).charge_id == kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"customer_email": "shopper"},
        {"customer_email": "a@b@c"},
        {"customer_email": ""},
        {"customer_email": 5},
        {"ipv4_address": "81.2.69"},
        {"ipv4_address": "081.2.69.142"},
        {"ipv4_address": "2001:db8::1"},
        {"ipv4_address": 1359103374},
        {"psp": "paypal"},
        {"psp": None},
        {"invoice_id": None},
        {"invoice_id": " "},
        {"charge_id": True},
        {"charge_id": 1.5},
        {"charge_id": ["ch_1"]},
        {"charge_id": "ch_1\0"},
        {"charge_id": "ch\0_1"},
        {"customer_id": "\0"},
        {"chargeid": "ch_1"},
    ],
)
def test_an_invalid_field_is_refused(wrong: dict[str, object]) -> None:
    """A wrong, missing or unknown field raises an error without the input in its text."""
    with pytest.raises(ValidationError) as caught:
        checkout(**wrong)
    for value in wrong.values():
        assert not isinstance(value, str) or len(value) < 2 or f"'{value}'" not in str(caught.value)


@pytest.mark.parametrize("name", ["customer_email", "ipv4_address", "psp"])
def test_required_fields(name: str) -> None:
    """Butter requires the e-mail, the address and the PSP."""
    with pytest.raises(ValidationError, match="Field required"):
        Checkout.model_validate({key: value for key, value in WHOLE.items() if key != name})


def test_absent_fields_are_left_out() -> None:
    """The payload contains no null and no empty string."""
    assert checkout(charge_id="", customer_id=None).payload() == WHOLE


def test_it_is_frozen() -> None:
    """Evidence cannot be changed."""
    with pytest.raises(ValidationError, match="frozen"):
        checkout().psp = "adyen"


def test_reprs_show_no_value() -> None:
    """A repr names the fields that are set."""
    text = f"{checkout()!r} {checkout()} {Record.of(checkout(), 1.0)!r}"
    assert "Checkout(customer_email, ipv4_address, psp, invoice_id)" in text
    assert not any(value in text for value in ("a@example.com", "81.2.69.142", "in_1"))


def key(**fields: Any) -> str:
    return Record.of(checkout(**fields), 1.0).key


def test_the_key_consists_of_the_psp_and_the_payments_ids() -> None:
    """A reload from elsewhere, or with the customer's ID, is the same record. Other IDs or another PSP are not."""
    assert key(ipv4_address="81.2.69.143", user_agent="x", customer_email="b@example.com") == key()
    assert key(customer_id="cus_1") == key(customer_id=7) == key(customer_id="") == key()
    assert key(charge_id="ch_1") != key()
    assert key(psp="adyen") != key()
    assert key(invoice_id=None, charge_id="in_1") != key()
    assert key(invoice_id=" in_1 ") == key()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "bd943189daedaf081e270e174a85d81c"),
        ({"customer_id": "cus_1"}, "bd943189daedaf081e270e174a85d81c"),
        ({"charge_id": "ch_1"}, "333a6c93a28ca5a5b5f2ad31346add7f"),
        ({"psp": "adyen", "invoice_id": None, "transaction_id": 4711}, "81bd5e8a3f3daaf0b0ec27cbeb0ebe8a"),
        (
            {"invoice_id": None, "subscription_id": "s\xfcb", "network_transaction_id": "n"},
            "498a34ed8ba1557a89592e876abf5e57",
        ),
    ],
)
def test_a_key_stays_the_same_in_later_releases(fields: dict[str, Any], expected: str) -> None:
    """Outboxes remember delivered keys for a week. With other keys, an upgrade would send records again."""
    assert key(**fields) == expected


def test_a_record_travels_as_a_pickle() -> None:
    """The pickle has the e-mail once, and the parsed fields cannot be changed."""
    record = Record.of(checkout(), 1.5, "00-1-2-01")
    pickled = pickle.dumps(record)
    assert pickled.count(b"a@example.com") == 1
    assert pickle.loads(pickled) == copy.copy(record) == record  # noqa: S301 - our own
    assert dict(pickle.loads(pickled).fields) == dict(record.fields) == checkout().payload()  # noqa: S301 - our own
    assert not isinstance(record.fields, dict)


def test_a_record_travels_as_json() -> None:
    """A merchant's own queue carries text. Other text is refused, and the error does not show it."""
    record = Record.of(checkout(), 1.5)
    assert Record.from_json(record.to_json()) == record
    cut, deep = '{"key": "k", "payload": "shopper@example.com', "[" * 100_000
    for wrong in ("{}", "[]", '{"key": "k", "payload": "p", "captured_at": "soon"}', "null", "", cut, deep):
        with pytest.raises(ValueError, match="not a record") as caught:
            Record.from_json(wrong)
        assert not hasattr(caught.value, "doc"), "JSON's own error holds the whole text"
