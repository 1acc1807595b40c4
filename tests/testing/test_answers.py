"""What Butter answers in a merchant's test, and what the test reports about checkouts that give no record."""

import re
import threading

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from processes import until
from suites import Suite

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, client_ip
from butter_middleware._utils import overrides
from butter_middleware.testing.runtime import InboxRuntime


def test_a_record_that_is_not_accepted_is_pending_until_a_retry(suite: Suite) -> None:
    """Each answer is for one record. Time only passes at a retry. The states are those of production."""
    tests = """
def test_pending(butter_inbox):
    butter_inbox.respond_with(503, "timeout", "reset")
    buy()
    for answer in ("503", "timeout", "reset"):
        assert butter_inbox.sent == []
        assert [(record.invoice_id, record.answer) for record in butter_inbox.pending] == [("in_7", answer)]
        assert not butter.flush()
        butter_inbox.retry_now()
    assert butter_inbox.pending == []
    assert butter_inbox.assert_sent(invoice_id="in_7").answer is None


def test_one_for_each_record(butter_inbox):
    butter_inbox.respond_with(503, 200, 201, "reset")
    for cart in "12345":
        buy(cart)
    assert [record.invoice_id for record in butter_inbox.sent] == ["in_2", "in_3", "in_5"]
    assert [record.invoice_id for record in butter_inbox.pending] == ["in_1", "in_4"]


@pytest.mark.parametrize("answer", [401, 307])
def test_on_hold_nothing_is_asked(butter_inbox, answer):
    butter_inbox.respond_with(answer)
    buy("1")
    buy("2")
    assert [record.answer for record in butter_inbox.pending] == [str(answer), None]
    assert butter.status().endpoint == "hold"
    butter_inbox.retry_now()
    assert len(butter_inbox.sent) == 2
    assert butter.status().endpoint == "ok"


def test_five_failures_open_the_breaker(butter_inbox):
    butter_inbox.respond_with(*[503] * 5)
    for cart in range(6):
        buy(cart)
    assert [record.answer for record in butter_inbox.pending] == ["503"] * 5 + [None]
    assert butter.status().endpoint == "open"
    butter_inbox.retry_now()
    assert len(butter_inbox.sent) == 6


def test_dead(butter_inbox):
    butter_inbox.respond_with(422)
    buy()
    assert [record.answer for record in butter_inbox.dead] == ["422"]
    assert butter_inbox.pending == []
    assert butter.status().dead == 1


def test_an_ambiguous_answer_does_not_make_a_record_dead(butter_inbox):
    butter_inbox.respond_with(403, 403, 403)
    buy()
    for _hour in range(2):
        butter_inbox.retry_now()
    assert len(butter_inbox.pending) == 1
    butter_inbox.retry_now()
    assert len(butter_inbox.sent) == 1


@pytest.mark.parametrize("answer", [429, 409, 500, 418])
def test_every_other_answer_ends_at_a_retry(butter_inbox, answer):
    butter_inbox.respond_with(answer)
    with TestClient(app) as client:
        buy(client=client)
    assert len(butter_inbox.pending) == 1
    assert butter.status().lost == 0
    butter_inbox.retry_now()
    assert len(butter_inbox.sent) == 1


def test_it_is_retried_after_the_app_is_closed(butter_inbox):
    butter_inbox.respond_with(503)
    buy()
    butter.close()
    assert len(butter_inbox.pending) == 1
    butter_inbox.retry_now()
    assert (len(butter_inbox.sent), butter_inbox.pending) == (1, [])


def test_a_retry_of_nothing(butter_inbox):
    butter_inbox.retry_now()
    assert butter_inbox.sent == []


@pytest.mark.parametrize("answer", [100, 600, 50.3, "never", None])
def test_an_invalid_answer(butter_inbox, answer):
    with pytest.raises(ValueError, match="is not an answer of Butter's. Give statuses from 200 to 599, 'reset' or"):
        butter_inbox.respond_with(answer)
"""
    suite.run(tests).assert_outcomes(passed=18)


def test_reading_the_inbox_waits_for_all_events(suite: Suite) -> None:
    """`on_event` and the log have got every event before the inbox returns."""
    tests = """
import threading

from butter_middleware import Butter, Checkout, client_ip

CHECKOUT = Checkout(customer_email="a@example.com", ipv4_address="8.8.8.8", psp="adyen", transaction_id="PSP1")


def test_it(butter_inbox):
    heard = []

    def hear(event):
        threading.Event().wait(0.1)
        heard.append(event.name)

    Butter(client_ip=client_ip.direct(), on_event=hear).record(CHECKOUT)
    assert butter_inbox.sent
    assert heard == ["recorded", "delivered"]
"""
    suite.run(tests).assert_outcomes(passed=1)


def test_the_marker_sets_the_answers(suite: Suite) -> None:
    """It applies before any fixture sends a request, to one test, with or without the fixture."""
    tests = """
@pytest.fixture
def bought():
    buy()


@pytest.mark.butter(respond_with=[503, "reset"])
def test_it(bought, butter_inbox):
    assert [record.answer for record in butter_inbox.pending] == ["503"]
    buy("8")
    assert [record.answer for record in butter_inbox.pending] == ["503", "reset"]


def test_the_next(bought, butter_inbox):
    assert butter_inbox.pending == []


@pytest.mark.butter(respond_with=503)
def test_one_answer_and_no_fixture():
    buy()
    assert not butter.flush()
    assert butter.status().pending == 1
"""
    suite.run(tests, "--strict-markers").assert_outcomes(passed=3)


@pytest.mark.parametrize("marker", ["503", "answer=503", "respond_with=[503], x=1", "respond_with=['x']", ""])
def test_a_wrong_marker_is_explained(suite: Suite, marker: str) -> None:
    """The error has one line, and comes before the test runs."""
    result = suite.run(f"@pytest.mark.butter({marker})\ndef test_it(): ...\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(['*arker is written @pytest.mark.butter(respond_with=[[]503, "timeout"[]])'])
    result.stdout.no_fnmatch_line("*plugin.py*")


# Checkouts that give no record.


def test_an_extractor_that_fails_fails_the_test(suite: Suite) -> None:
    """It fails when the test reads the inbox, or at its end. The error shows the extractor's line and its input."""
    tests = """
def test_that_looks(butter_inbox):
    order()
    assert butter_inbox.sent == []


def test_that_asserts(butter_inbox):
    order()
    butter_inbox.assert_sent()


def test_that_does_not_look(butter_inbox):
    order()


def test_that_looked_before(butter_inbox):
    assert butter_inbox.sent == []
    order()


@pytest.mark.usefixtures("butter_inbox")
class TestOfAClass:
    def test_it(self):
        order()


def test_that_failed_already(butter_inbox):
    order()
    butter_inbox.parked
    assert not "the test's own failure"
"""
    result = suite.run(tests, "-rf")
    result.assert_outcomes(failed=6)
    out = result.stdout.str()
    assert out.count("POST /orders was parked (extractor_error):") == 5
    assert out.count("ParkedError: a checkout became no record\n") == 2  # raised at the line that reads the inbox
    assert out.count("KeyError: 'payment'\n\nshop.py:16: KeyError") == 2
    assert len(re.findall(r"shop.py\", line 16, in order\n.*\n.*\nKeyError: 'payment'", out)) == 3
    assert out.count('The response was 200, with the body {"status":"paid"}') == 5
    assert out.count("A test that expects this reads butter_inbox.parked.") == 5
    for ours in ("*reading.py*", "*plugin.py*", "*inbox.py*", "*hidden*"):
        result.stdout.no_fnmatch_line(ours)


def test_a_test_that_expects_a_parked_checkout_reads_it(suite: Suite) -> None:
    """A parked checkout that the test has read is not an error. A later one is."""
    tests = """
from butter_middleware.testing import ParkedError


def test_expected(butter_inbox):
    order()
    (parked,) = butter_inbox.parked
    assert (parked.reason, parked.request, parked.status_code) == ("extractor_error", "POST /orders", 200)
    assert parked.detail.startswith("the extractor of POST /orders raised KeyError at shop.py:16.")
    assert (repr(parked.error), parked.body) == ("KeyError('payment')", '{"status":"paid"}')
    assert butter_inbox.sent == []
    assert butter_inbox.skipped == {}


def test_expected_otherwise(butter_inbox):
    order()
    with pytest.raises(ParkedError, match="KeyError: 'payment'") as raised:
        butter_inbox.assert_sent()
    assert isinstance(raised.value.__cause__, KeyError)
    assert butter_inbox.sent == []


def test_a_second_one(butter_inbox):
    order()
    assert butter_inbox.parked
    order()
    with pytest.raises(ParkedError, match="^a checkout became"):
        butter_inbox.sent
    order()
    order()
    with pytest.raises(ParkedError, match="^2 checkouts became"):
        butter_inbox.skipped


def test_the_repr_does_not_count_as_reading(butter_inbox):
    order()
    butter.flush()
    assert repr(butter_inbox) == "ButterInbox(0 sent, 0 pending, 0 dead, 1 parked, 0 skipped)"
    with pytest.raises(ParkedError):
        butter_inbox.pending
"""
    suite.run(tests).assert_outcomes(passed=4)


def test_every_way_to_be_parked_is_explained(suite: Suite) -> None:
    """Without an e-mail, ID, address or JSON, or after an exit, the error says what was tried and what to do."""
    tests = """
import gzip
import sys

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract
from butter_middleware.testing import ParkedError

KEYS = extract.json(customer_email="customer.email || email", invoice_id="invoice.id || invoice")


def shop(body, extractor=KEYS, encoding=b"identity"):
    async def paid(scope, receive, send):
        headers = [(b"content-type", b"application/json"), (b"content-encoding", encoding)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    route = CheckoutRoute("/checkout", psp="stripe", extract=extractor)
    TestClient(ButterMiddleware(paid, Butter(client_ip=client_ip.aws_alb(), routes=[route]))).post(
        "/checkout", headers=SHOPPER | {"accept-encoding": "identity"}
    )


@pytest.mark.parametrize(
    ("body", "extractor", "says"),
    [
        (b'{"invoice": "in_1"}', KEYS, "tried customer.email, email, both absent; nothing"),
        (b'{"email": "a@example.com"}', KEYS, "tried invoice.id, invoice, both absent; neither"),
        (b'{"email": "a@b", "invoice": "in_1"}', KEYS, "customer_email (not an e-mail address)"),
        (b"{", KEYS, "the response's body is not JSON, or ends early"),
        (b"{}", lambda _response: sys.exit("now"), "It raised SystemExit: now"),
        (b"{}", lambda _response: 7, "the extractor returned int"),
        (b"{}", lambda response: response.request.json(), "set capture_request_body=True"),
    ],
)
def test_it(butter_inbox, body, extractor, says):
    shop(body, extractor)
    with pytest.raises(ParkedError) as raised:
        butter_inbox.sent
    assert says in str(raised.value)


def test_an_encoded_body_is_shown_decoded(butter_inbox):
    shop(gzip.compress(b'{"much": "' + b"x" * 2000 + b'"}'), encoding=b"gzip")
    (parked,) = butter_inbox.parked
    assert parked.body.startswith('{"much": "xxx')
    assert parked.body.endswith("xxx ... (2012 characters)")


def test_no_address(butter_inbox):
    butter_inbox.client_ip = None
    TestClient(app).post("/checkout/7")
    with pytest.raises(ParkedError) as raised:
        butter_inbox.assert_sent(invoice_id="in_7")
    assert "no address (header_missing)" in str(raised.value)
    assert "leave out the headers that client_ip reads" in str(raised.value)
    assert [parked.reason for parked in butter_inbox.parked] == ["no_address"]
    assert butter_inbox.skipped == {}
"""
    suite.run(tests).assert_outcomes(passed=9)


def test_without_the_fixture_it_is_a_warning(suite: Suite) -> None:
    """As for other exceptions in threads, the test gets the warning. It only comes if the merchant's code failed."""
    tests = """
def test_broken():
    order()


def test_no_address():
    TestClient(app).post("/checkout/7", headers={"x-forwarded-for": "10.0.0.1"})
"""
    result = suite.run(tests, "-W", "default")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ["*test_shop.py::test_broken", "*ParkedWarning: a checkout became no record", "*butter_inbox*"]
    )
    suite.run(tests).assert_outcomes(passed=1, failed=1)
    quiet = "ignore::butter_middleware.testing.ParkedWarning"
    suite.run(tests, "-W", quiet).assert_outcomes(passed=2)


def test_a_checkout_parked_by_a_fixtures_end_is_an_error(suite: Suite) -> None:
    """If a checkout is parked while fixtures end, the test's teardown fails."""
    tests = """
@pytest.fixture
def last_order():
    yield
    order()


def test_it(butter_inbox, last_order): ...
"""
    result = suite.run(tests)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", "a checkout became no record"])


def test_unittest_classes_fail_too(suite: Suite) -> None:
    """Classes of unittest fail as functions do, and keep their own failures."""
    tests = """
import unittest


@pytest.mark.usefixtures("butter_inbox")
class Case(unittest.TestCase):
    def test_broken(self):
        order()

    def test_own_failure(self):
        self.fail("of its own")

    def test_good(self):
        buy()
"""
    result = suite.run(tests)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["a checkout became no record", "*AssertionError: of its own"])


def test_an_extractor_that_hangs_is_named(request: pytest.FixtureRequest) -> None:
    """Reading the inbox raises after `patience`. The next test does not get that checkout, even if it is read later."""
    stage, release, came = InboxRuntime(patience=1.0), threading.Event(), []

    def hang(response: CheckoutResponse) -> dict[str, str]:
        came.append(response.request.path)
        if len(came) == 1:
            release.wait(20)
            came.append("back")
        return {"customer_email": "ada@example.com", "transaction_id": str(len(came))}

    request.addfinalizer(overrides.begin(stage.build))
    butter = Butter(client_ip=client_ip.direct(), routes=[CheckoutRoute("/slow", psp="adyen", extract=hang)])
    app = ButterMiddleware(sends(start(), body(b"{}")), butter)
    scope = http_scope("/slow", client=("203.0.113.7", 4711))
    anyio.run(drive, app, scope)
    inbox = stage.inbox()
    with pytest.raises(TimeoutError, match=r"an extractor has been reading POST /slow for 1 s"):
        inbox.assert_sent()
    stage.begin()
    anyio.run(drive, app, http_scope("/slow", client=("203.0.113.7", 4711)))
    assert len(stage.inbox().sent) == 1
    release.set()
    until(lambda: "back" in came, "the extractor")
    assert len(stage.inbox().sent) == 1
    stage.begin()
