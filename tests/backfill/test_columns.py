"""How columns map to fields, and how a line becomes a record or gets a reason."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butter_middleware import Record
from butter_middleware.backfill.columns import FIELDS, Columns, ids_in
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.checkout import key_of

LINE: dict[str, Any] = {"Email": "a@example.com", "IP": "81.2.69.142", "PSP": "stripe", "Invoice": "in_1"}


def columns(*given: str, staging: bool = False, **constants: str) -> Columns:
    return Columns(dict(pair.split("=") for pair in given), constants, staging=staging)


def payload(line: dict[str, Any], found: Columns | None = None) -> dict[str, str]:
    found = found or columns()
    record = found.record(found.fields(line))
    assert isinstance(record, Record), record
    content: dict[str, str] = json.loads(record.payload)
    return content


@pytest.mark.parametrize(
    ("names", "mapped"),
    [
        (["customer_email", "ipv4_address", "psp", "invoice_id"], {}),
        (["Email", "IP address", "Gateway", "Invoice ID"], {"psp": "Gateway", "invoice_id": "Invoice ID"}),
        (["E-mail", "Client IP", "payment_provider", "Charge"], {"ipv4_address": "Client IP", "charge_id": "Charge"}),
        # Its own name comes before another's.
        (["email", "customer_email", "ip", "psp", "charge"], {"customer_email": "customer_email"}),
        # A field that not every account may send needs an option. An ambiguous name is not used.
        (["user_agent", "network_transaction_id", "id", "name", "date"], {}),
    ],
)
def test_usual_names_are_found(names: list[str], mapped: dict[str, str]) -> None:
    """Case, spaces, hyphens and underscores do not count."""
    found = columns().mapped(names)
    assert found.items() >= mapped.items()
    assert found.keys() & {"user_agent", "network_transaction_id"} == set()
    assert {"id", "name", "date"} & set(found.values()) == set()


@pytest.mark.parametrize(
    ("found", "names", "said"),
    [
        (
            columns(),
            ["Email", "IP", "Invoice"],
            r"no column is psp\. Say which is, as in --map psp=COLUMN, or .*: --set psp=stripe\. Not used yet: none",
        ),
        (
            columns(psp="stripe"),
            ["Email", "IP", "Note"],
            "no column is invoice_id or subscription_id .* used yet: Note",
        ),
        (columns(), ["x"], "no column is customer_email, nor ipv4_address, nor psp, nor invoice_id or"),
        (
            columns(),
            ["Email", "E-mail"],
            "more than one column could be customer_email: Email, E-mail. Say which: --map",
        ),
        (columns(), ["Email", "IP", "Email"], "customer_email: Email, Email. Give each a name of its own in the first"),
        (
            columns("charge_id=id"),
            ["id", "IP", "id"],
            "2 columns are named 'id'. Give each a name of its own in the first",
        ),
        (columns("customer_email=mial"), ["mail", "IP"], "there is no column 'mial'. Did you mean 'mail'?"),
        (columns("customer_email=x"), ["aaaa", "bbbb"], "there is no column 'x'. The columns are aaaa, bbbb"),
    ],
)
def test_a_header_that_cannot_work_is_refused(found: Columns, names: list[str], said: str) -> None:
    """The error comes before a line is read, and names the option that fixes it."""
    with pytest.raises(ConfigurationError, match=said):
        found.check_header(names)


@pytest.mark.parametrize("first", [["a@example.com", "in_1"], ["x", "81.2.69.142"], ["x", "2001:db8::1"]])
def test_a_file_without_a_header_is_refused(first: list[str]) -> None:
    """Its first line is a person's checkout, so the error does not show it."""
    with pytest.raises(ConfigurationError, match="the first line is not a header") as caught:
        columns().check_header(first)
    assert all(cell not in str(caught.value) for cell in first if cell != "x")


@pytest.mark.parametrize(
    ("given", "constants", "said"),
    [
        ({"psp": "x"}, {"psp": "stripe"}, "psp has both"),
        ({}, {"psp": "paypal"}, "--set psp=paypal: not one of stripe, braintree"),
    ],
)
def test_a_wrong_field_is_refused(given: dict[str, str], constants: dict[str, str], said: str) -> None:
    """It is refused when the columns are built."""
    with pytest.raises(ConfigurationError, match=said):
        Columns(given, constants)


def test_a_line_becomes_the_record_of_a_checkout() -> None:
    """The model is the app's: values are stripped, integers become text, empty fields are left out."""
    line = LINE | {"Invoice": " in_1 ", "charge": 7, "Subscription": "", "PSP": "Stripe ", "IP": " 81.2.69.142"}
    assert payload(line) == {
        "customer_email": "a@example.com",
        "ipv4_address": "81.2.69.142",
        "psp": "stripe",
        "invoice_id": "in_1",
        "charge_id": "7",
    }


def test_keys_and_expressions_of_json() -> None:
    """A key with exactly that name comes before the expression. `--set` needs neither."""
    line = {"customer": {"email": "a@example.com"}, "a.b": "in_1", "a": {"b": "in_2"}, "ip": "81.2.69.142"}
    found = columns("customer_email=customer.email", "invoice_id=a.b", psp="stripe", user_agent="x")
    assert payload(line, found)["customer_email"] == "a@example.com"
    assert payload(line, found)["invoice_id"] == "in_1"
    assert payload(line, found)["user_agent"] == "x"
    assert payload(
        line, columns("customer_email=customer.email || mail", "invoice_id=a.[", "charge_id=a.b", psp="stripe")
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"IP": "2001:db8::1"}, "ipv4_address: IPv6, which Butter does not take"),
        ({"IP": "10.0.0.1"}, "ipv4_address: not public: a server's or a proxy's, not the shopper's"),
        ({"IP": "somewhere"}, "ipv4_address: not an address"),
        ({"IP": ""}, "ipv4_address: missing"),
        ({"Email": "shopper.example.com"}, "customer_email: not an e-mail address"),
        ({"Email": ["a@example.com"]}, "customer_email: missing"),
        ({"PSP": "paypal"}, "psp: not one of stripe, braintree, adyen, worldpay, recurly, recharge"),
        ({"Invoice": " "}, "an ID: none of invoice_id, subscription_id, charge_id, transaction_id"),
        ({"Invoice": ""}, "an ID: none of invoice_id, subscription_id, charge_id, transaction_id"),
        ({"Invoice": 1.5}, "invoice_id: not a string or a whole number"),
        ({"IP": "", "Email": "", "Invoice": ""}, "ipv4_address: missing; customer_email: missing; an ID: none of"),
    ],
)
def test_a_line_that_gives_no_record_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    """The reason has all problems of a line, but none of its values."""
    said = columns().record(columns().fields(LINE | changes))
    assert isinstance(said, str)
    assert said.startswith(reason)
    assert all(str(value) not in said for value in ("example.com", "10.0.0.1", "2001:db8::1", "somewhere", "paypal"))


def test_keys_that_could_be_the_same_field_are_refused() -> None:
    """In JSON each line has its own keys."""
    with pytest.raises(ConfigurationError, match="more than one column could be customer_email"):
        columns().fields(LINE | {"E-mail": "b@example.com"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8.51513E+15", "shortened by a spreadsheet"),
        ("8,51513E+15", "shortened by a spreadsheet"),
        (" 1e+15 ", "shortened by a spreadsheet"),
        ("8515131234567890.0", "a decimal number"),
        ("8515131234567890", ""),
        ("pi_3E+15", ""),
        ("1.2.0", ""),
        ("2E15", ""),
    ],
)
def test_an_id_that_a_spreadsheet_made_a_number_is_rejected(text: str, said: str) -> None:
    """It is recognised by its form, because no PSP has such IDs. The reason says what to do."""
    found = columns().record(columns().fields(LINE | {"Invoice": text}))
    assert isinstance(found, Record) if not said else str(found).startswith(f"invoice_id: {said}")


def test_staging_accepts_private_addresses() -> None:
    """The same as in the app."""
    assert payload(LINE | {"IP": "10.0.0.1"}, columns(staging=True))["ipv4_address"] == "10.0.0.1"


def test_objects_with_keys_of_their_own_take_no_memory() -> None:
    """The cache of names is bounded."""
    found = columns()
    for number in range(1000):
        found.fields({**LINE, f"key {number}": 1})
    assert found._found.cache_info().currsize <= 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, *LINE]) | st.text(max_size=4), JSON, max_size=8), st.booleans())
def test_any_object_is_a_record_or_has_a_reason(line: dict[str, Any], good: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever a line has, it never raises, and a record is complete."""
    try:
        fields = columns().fields(line | LINE if good else line)
    except ConfigurationError:  # two of its keys could be the same field
        return
    found = columns().record(fields)
    assert isinstance(found, Record) or found
    if isinstance(found, Record):
        assert key_of({"psp": str(fields["psp"]), **ids_in(fields)}) == found.key
