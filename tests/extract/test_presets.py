"""The six presets: what they read, what they refuse, and the records."""

import json
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from psp_objects import (
    CHARGE,
    EMAIL,
    INTENT,
    INVOICE,
    PAID,
    PRESETS,
    PURCHASED,
    SALE,
    SESSION,
    SUBSCRIPTION,
    UNPAID,
    Case,
    respond,
)
from shops import SHOPPER

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, ConfigurationError, annotate, extract
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.models.reasons import Skip
from butter_middleware.testing import FakeButter


def read(butter: Butter, content: object, **annotations: Any) -> None:
    """Let one checkout answer with `content`, annotated, and wait until it is handled."""
    answer = sends(start(), body(json.dumps(content).encode()))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **annotations)
        await answer(scope, receive, send)

    anyio.run(drive, ButterMiddleware(app, butter), http_scope())
    assert butter.flush()


def route(psp: Any) -> CheckoutRoute:
    return CheckoutRoute("/checkout/{cart_id}", psp, PRESETS[psp])


@pytest.mark.parametrize("case", PAID, ids=lambda case: case.name)
def test_a_paid_object_gives_its_ids(case: Case) -> None:
    """It gives every field of the PSP's table, and no decoy. IDs are strings. A part with its own ID gives a record."""
    assert list(PRESETS[case.psp](respond(case.body))) == case.records


@pytest.mark.parametrize("case", UNPAID, ids=lambda case: case.name)
def test_an_unpaid_object_gives_nothing(case: Case) -> None:
    """A 2xx may be a refusal, a redirect, a draft, a link or an error."""
    payments = PRESETS[case.psp](respond(case.body))
    assert (list(payments), payments.skip) == ([], Skip.NOT_PAID)


@pytest.mark.parametrize("wrap", ["data", "result", "payment", "order", "success", "stripe"])
@pytest.mark.parametrize("case", [PAID[0], PAID[13], PAID[20], PAID[23]], ids=lambda case: case.name)
def test_the_usual_wrappers_are_searched(case: Case, wrap: str) -> None:
    """An object may be in one or two wrappers, next to the shop's own fields."""
    for wrapped in ({wrap: case.body}, {"ok": True, "data": {"id": 7, "status": "paid", wrap: case.body}}):
        assert list(PRESETS[case.psp](respond(wrapped))) == case.records


PARTS = [{"status": "paid", "payment": {"charge": "ch_a"}}, {"status": "paid", "payment": {"payment_intent": "pi_1"}}]
OF_INVOICE = {"customer_email": EMAIL, "customer_id": "cus_1", "invoice_id": "in_1"}
OF_PURCHASE = {"customer_id": "a1", "invoice_id": "m1d6nq4abcde"}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("psp", "content", "records"),
    [
        (  # The intent is one of two parts. Its record does not get the other part's charge.
            "stripe",
            {"payment_intent": INTENT, "invoice": INVOICE | {"payments": {"data": PARTS}}},
            [OF_INVOICE | {"charge_id": "ch_a"}, OF_INVOICE | {"transaction_id": "pi_1"}],
        ),
        (
            "recurly",
            {
                "transaction": {
                    "id": "l1d6nq4abcde",
                    "object": "transaction",
                    "status": "success",
                    "account": {"id": "a1"},
                    "invoice": {"id": "m1d6nq4abcde"},
                },
                "invoice": {
                    "id": "m1d6nq4abcde",
                    "object": "invoice",
                    "state": "paid",
                    "account": {"id": "a1"},
                    "subscription_ids": ["s1", "s2"],
                },
            },
            [
                OF_PURCHASE | {"subscription_id": "s1", "transaction_id": "l1d6nq4abcde"},
                OF_PURCHASE | {"subscription_id": "s2"},
            ],
        ),
    ],
)
def test_an_object_in_parts_has_one_record_for_each(
    psp: str, content: dict[str, Any], records: list[dict[str, str]], *, turned: bool
) -> None:
    """Another object that refers to it completes one of the records, in any order in the JSON."""
    found = PRESETS[psp](respond(dict(reversed(content.items())) if turned else content))
    assert sorted(found, key=repr) == sorted(records, key=repr)


@pytest.mark.parametrize("name", ["customer", "subscriptions", "orders", "invoices"])
def test_a_history_is_not_searched(name: str) -> None:
    """A history gives no record with today's address, with or without a purchase. `at` can select it."""
    old = SUBSCRIPTION | {"id": "sub_old"}
    for kept in ([old, SUBSCRIPTION], {"data": [old]}):
        (record,) = extract.stripe()(respond({"payment_intent": INTENT, name: kept}))
        assert record["transaction_id"] == "pi_1"
        assert extract.stripe()(respond({"id": 7, name: kept})).skip == Skip.UNRECOGNISED
    (record,) = extract.stripe(at=name)(respond({"payment_intent": INTENT, name: [SUBSCRIPTION]}))
    assert record["subscription_id"] == "sub_1"


def test_the_merchant_can_select_the_object() -> None:
    """`at` finds an object outside the usual wrappers, and declares that a bare object is the PSP's."""
    response = respond({"shop": {"paid_by": {"id": "t1", "status": "settled"}}})
    assert list(extract.braintree()(response)) == []
    assert list(extract.braintree(at="shop.paid_by")(response)) == [{"transaction_id": "t1"}]
    assert [record["charge_id"] for record in extract.stripe(at="kept[-1]")(respond({"kept": [INTENT, CHARGE]}))] == [
        "ch_1"
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: extract.stripe(at="a b"), r"extract.stripe\(\): at='a b' is not a JMESPath"),
        (lambda: extract.stripe(at=""), r"extract.stripe\(\): at='' is not a JMESPath"),
        (lambda: extract.adyen(at=7), "is not a JMESPath"),  # type: ignore[arg-type]
        (lambda: extract.worldpay(prefer="orderCode"), "'transactionReference' or 'paymentId'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_option_is_refused(make: Callable[[], object], says: str) -> None:
    """A mistake stops the start of the app."""
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_a_preset_needs_a_route_of_its_psp() -> None:
    """A record with one PSP's IDs and another PSP's name would match nothing."""
    with pytest.raises(ConfigurationError, match="psp='adyen', and extract reads the objects of stripe"):
        CheckoutRoute("/pay", "adyen", extract.stripe())


def test_worldpay_prefers_the_given_reference() -> None:
    """The merchant says on which reference Butter matches. If it is missing, the other one is used."""
    preset = extract.worldpay(prefer="paymentId")
    both = {"outcome": "authorized", "transactionReference": "R1", "paymentId": "pay1"}
    assert list(preset(respond(both))) == [{"transaction_id": "pay1"}]
    assert list(preset(respond(both | {"paymentId": ""}))) == [{"transaction_id": "R1"}]


@pytest.mark.parametrize(
    "own",
    [
        {"id": 7, "status": "settled", "total": 5},
        {"id": 7, "status": "active", "customer_details": {"email": EMAIL}, "transaction": {"id": "x"}},
        {"subscription": {"id": 7, "status": "active"}},
        {"customer": CHARGE},
        {"outcome": "authorized"},
        [],
        None,
        "paid",
    ],
)
@pytest.mark.parametrize("psp", PRESETS)
def test_a_shops_own_object_is_not_taken_for_the_psps(psp: str, own: object) -> None:
    """An object that only resembles the PSP's gives no ID, and is not counted as unpaid."""
    payments = PRESETS[psp](respond(own))
    assert (list(payments), payments.skip) == ([], Skip.UNRECOGNISED)


def test_objects_that_refer_to_one_another_are_one_checkout() -> None:
    """An invoice, its subscription and its charge make one record. Two charges make two."""
    whole = {"invoice": INVOICE, "charge": CHARGE, "subscription": SUBSCRIPTION | {"latest_invoice": "in_1"}}
    (record,) = extract.stripe()(respond(whole))
    assert (record["invoice_id"], record["charge_id"], record["subscription_id"]) == ("in_1", "ch_1", "sub_1")
    other = CHARGE | {"id": "ch_2", "payment_intent": "pi_2"}
    refused = CHARGE | {"id": "ch_3", "status": "failed"}
    listed = {"object": "list", "data": [CHARGE, other, refused, CHARGE]}
    assert [record["charge_id"] for record in extract.stripe(at="data")(respond(listed))] == ["ch_1", "ch_2"]


@pytest.mark.parametrize("mail", ["Ada@Example.com", "billing@example.com"])
def test_one_checkout_may_have_two_emails(mail: str) -> None:
    """Objects that refer to one another are one checkout, although their e-mails differ."""
    session = SESSION | {"customer_details": {"email": mail}, "customer": "cus_1", "payment_intent": "pi_1"}
    (record,) = extract.stripe()(respond({"session": session, "payment_intent": INTENT | {"receipt_email": EMAIL}}))
    assert (record["invoice_id"], record["transaction_id"]) == ("in_1", "pi_1")
    assert record["customer_email"] in {mail, EMAIL}


def test_a_huge_response_is_read_in_part() -> None:
    """The number of objects that are read is bounded."""
    many = [CHARGE | {"id": f"ch_{n}", "payment_intent": None, "invoice": None} for n in range(3000)]
    assert len(extract.stripe(at="charges")(respond({"charges": many}))) == 999


@pytest.mark.parametrize("built_upon", [False, True])
def test_thousands_of_records_are_parked(make_butter: Callable[..., Butter], *, built_upon: bool) -> None:
    """An object that lists more is parked like an endless iterator, and not read to its end."""
    ids = [f"s{number}" for number in range(20_000)]
    recurly = extract.recurly()
    assert len(recurly(respond(PURCHASED | {"subscription_ids": ids}))) == 1001
    extractor = (lambda response: iter(recurly(response))) if built_upon else recurly
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "recurly", extractor), dry_run=True)
    read(butter, PURCHASED | {"subscription_ids": ids})
    read(butter, PURCHASED | {"subscription_ids": ids[:1000]})
    assert butter.status().skipped == {"parked:unreadable": 1, "dry_run": 1000}


def test_each_record_of_a_response_is_sent(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Several subscriptions in one response give several records, each with its own ID."""
    case = next(case for case in PAID if case.name == "recurly invoice of two subscriptions")
    read(make_butter(route("recurly")), case.body)
    assert sorted(record["subscription_id"] for record in fake.records) == ["s1", "s2"]
    assert {record["ipv4_address"] for record in fake.records} == {SHOPPER}


@pytest.mark.parametrize("on", [True, False])
def test_the_network_id_is_sent_if_the_option_is_set(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    on: bool,  # noqa: FBT001 - parametrized
) -> None:
    """A preset reads the card network's ID. It is sent if the option is set."""
    read(make_butter(route("stripe"), send_network_transaction_id=on), CHARGE)
    assert ("network_transaction_id" in fake.records[0]) is on


def test_a_function_may_use_a_preset(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """It can iterate the result as mappings. If it returns the result unchanged, the skip reason stays."""
    preset = extract.braintree()
    built = CheckoutRoute("/checkout/{cart_id}", "braintree", lambda r: [{**f, "customer_id": "c9"} for f in preset(r)])
    read(make_butter(built), {"transaction": SALE}, customer_email=EMAIL)
    assert fake.records[0]["customer_id"] == "c9"
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "braintree", lambda response: preset(response)))  # noqa: PLW0108
    read(butter, {"transaction": SALE | {"status": "voided"}})
    assert butter.status().skipped == {"not_paid": 1}
    assert repr(preset(respond(SALE))) == "Payments(1)"
    assert repr(preset(respond({}))) == "Payments(unrecognised)"


def test_an_unpaid_object_is_counted_and_not_parked(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A refusal is usual. It is only counted."""
    butter = make_butter(route("adyen"))
    read(butter, {"resultCode": "Refused", "pspReference": "P1"})
    assert (dict(butter.status().skipped), butter.status().parked) == ({"not_paid": 1}, 0)
    assert fake.records == []


def test_an_unrecognised_body_is_logged_once(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """A body without an object of the PSP has its own reason. The log says how to fix it."""
    butter = make_butter(route("stripe"))
    caplog.clear()
    for _twice in range(2):
        read(butter, {"order": 7, "secret": EMAIL})
    assert (dict(butter.status().skipped), butter.status().parked) == ({"unrecognised": 2}, 0)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "POST /checkout/{cart_id}" in line
    assert "extract.stripe(at='payment.intent')" in line
    assert EMAIL not in line


AUTHORISED = {"eventCode": "AUTHORISATION", "success": "true", "pspReference": "P1", "merchantReference": "7"}
TESTS: list[tuple[str, Any]] = [
    ("stripe", SESSION | {"livemode": False}),
    ("stripe", {"id": "cs_test_a1B2", "status": "complete", "payment_status": "paid", "payment_intent": "pi_3Pq"}),
    (
        "worldpay",
        {
            "outcome": "authorized",
            "transactionReference": "R1",
            "_links": {"curies": [{"href": 1}], "self": {"href": "https://try.access.worldpay.com/payments/1"}},
        },
    ),
    ("worldpay", {"orderCode": "O1", "paymentStatus": "SUCCESS", "environment": "TEST"}),
    # The flag is around the payment, at any level.
    ("stripe", {"data": {"livemode": False, "payment_intent": {**INTENT, "receipt_email": EMAIL}}}),
    (
        "adyen",
        {"ok": True, "payload": {"live": "false", "notificationItems": [{"NotificationRequestItem": AUTHORISED}]}},
    ),
    (
        "worldpay",
        {
            "data": {
                "payment": {"outcome": "authorized", "transactionReference": "R1"},
                "_links": {"self": {"href": "https://try.access.worldpay.com/payments/1"}},
            }
        },
    ),
    # The flag is in an expanded object, or is text.
    ("stripe", {**INTENT, "customer": {"id": "cus_1", "object": "customer", "livemode": False}}),
    ("stripe", SESSION | {"livemode": "False"}),
]


@pytest.mark.parametrize(("psp", "content"), TESTS)
@pytest.mark.parametrize(("environment", "sent"), [("staging", 1), ("production", 0)])
def test_test_mode_is_evidence_in_staging_only(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    psp: str,
    content: Any,
    environment: str,
    sent: int,
) -> None:
    """An object of the PSP's test mode is refused in production. It is counted, and logged once."""
    butter = make_butter(route(psp), environment=environment)
    caplog.clear()
    for _twice in range(2):
        read(butter, content, customer_email=EMAIL)
    assert len(fake.records) == sent
    assert dict(butter.status().skipped) == ({"duplicate": 1} if sent else {"test_mode": 2})
    assert caplog.text.count("test mode") == (0 if sent else 1)


def test_the_flag_of_a_live_object_wins(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A flag around a live object does not make it a test payment. If the object has no flag, it does."""
    butter = make_butter(route("stripe"))
    unmarked = {name: value for name, value in SESSION.items() if name != "livemode"}
    read(butter, {"livemode": False, "session": SESSION | {"livemode": True}}, customer_email=EMAIL)
    read(butter, {"livemode": False, "session": unmarked}, customer_email=EMAIL)
    assert len(fake.records) == 1
    assert dict(butter.status().skipped) == {"test_mode": 1}


def test_the_extractor_wins_and_a_conflict_is_counted(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """Annotations fill the fields that the object lacks. A difference is counted, and logged once."""
    butter = make_butter(route("braintree"))
    caplog.clear()
    for number in ("t1", "t2"):
        read(butter, SALE | {"id": number}, customer_email=EMAIL, customer_id="c1", transaction_id="t1")
    assert [record["transaction_id"] for record in fake.records] == ["t1", "t2"]
    assert {record["customer_id"] for record in fake.records} == {"c1"}
    assert butter.status().conflicts == {"transaction_id": 1}
    assert caplog.text.count("annotate() gave another transaction_id") == 1


@pytest.mark.parametrize("nothing", [None, False, "", " \t", [], {}])
def test_an_annotation_replaces_an_empty_value(
    make_butter: Callable[..., Butter], fake: FakeButter, nothing: object
) -> None:
    """The annotation is used, or another ID is enough. A number is a value, also 0."""
    expressions = extract.json(customer_email="mail", invoice_id="invoice", charge_id="charge", subscription_id="sub")
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", expressions))
    read(butter, {"mail": nothing, "invoice": 0, "charge": nothing, "sub": nothing}, customer_email=EMAIL, charge_id=7)
    (record,) = fake.records
    assert record == {
        "customer_email": EMAIL,
        "ipv4_address": SHOPPER,
        "psp": "stripe",
        "invoice_id": "0",
        "charge_id": "7",
    }


def test_a_missing_email_is_logged_with_the_expressions(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of the parked capture names the expressions, why each gave nothing, and the fix."""
    butter = make_butter(route("stripe"), CheckoutRoute("/pay", "adyen", PRESETS["adyen"]))
    read(butter, SESSION | {"customer_details": {"email": None}, "customer_email": None})
    tried = "extract.stripe() tried customer_details.email (null), customer_email (null), customer.email (absent), "
    assert f"no customer e-mail for POST /checkout/{{cart_id}}: {tried}" in caplog.text
    assert "nothing was annotated. Fix: call annotate(request, customer_email=...)" in caplog.text
    assert butter.status().skipped == {"parked:no_email": 1}


def test_a_missing_id_is_logged_with_the_expressions(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """A paid object without an ID is parked. The line names the expressions that were tried."""
    read(make_butter(route("adyen")), {"resultCode": "Authorised"}, customer_email=EMAIL)
    assert "extract.adyen() tried pspReference, absent; neither the extractor nor annotate() gave one of" in caplog.text
