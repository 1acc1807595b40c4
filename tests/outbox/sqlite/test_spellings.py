"""A person's address is found in a record, whichever spelling an operator types."""

import json

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shops import SHOPPER

from butter_middleware import Checkout, Record
from butter_middleware.outbox.sqlite.erasure import Person

SPELLINGS = [
    ("user@xn--strae-oqa.de", "user@stra\xdfe.de"),
    ("USER@XN--STRAE-OQA.DE", "User@STRA\u1e9eE.de"),
    ("user@xn--fa-hia.example", "user@fa\xdf.example"),
    ("user@xn--bcher-kva.example", "user@b\xfccher.example"),
    ("user@xn--bcher-kva.example", "user@bu\u0308cher.example"),
    ("user@xn--nxasmm1c.example", "user@\u03b2\u03cc\u03bb\u03bf\u03c2.example"),
    ("user@mail.xn--strae-oqa.de", "user@mail.stra\xdfe.de"),
    ("user@example.com", "User@EXAMPLE.com"),
]


def payload(email: str) -> str:
    return Record.of(Checkout(customer_email=email, ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"), 1.0).payload


@pytest.mark.parametrize("spellings", SPELLINGS)
def test_each_spelling_of_a_domain_finds_the_others(spellings: tuple[str, str]) -> None:
    """A record has the domain as in IDNA 2008. A body may have it as it was typed. An operator may type either."""
    for typed in spellings:
        for stored in spellings:
            assert Person(typed).named_in(payload(stored))
            assert Person(typed).named_in(json.dumps({"email": stored}))


@given(st.text(st.sampled_from("aeo\xdf\xe4\xe9\u03c2\u03c3\u0430\u4e2d\u200d-1"), min_size=1, max_size=6))
def test_each_address_of_a_record_is_found(label: str) -> None:
    """Each domain that a record may have is found as it was typed, in Unicode, and in ASCII."""
    typed = f"user@{label}.example"
    try:
        text = payload(typed)
    except ValueError:
        return
    unicode = json.loads(text)["customer_email"]
    ascii_ = "user@" + idna.encode(unicode.partition("@")[2]).decode()
    for spelling in (typed, unicode, ascii_):
        assert Person(spelling).named_in(text)


@pytest.mark.parametrize("other", ["user@xn--bcher-kva.example", "user@strand.de", "xuser@stra\xdfe.de"])
def test_another_person_is_not_found(other: str) -> None:
    """Another domain, or a longer local part, belongs to another person."""
    assert not Person("user@xn--strae-oqa.de").named_in(payload(other))
