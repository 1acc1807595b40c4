"""A merchant's first test passes: the default address of a test client's requests."""

import pytest
from suites import Suite


def test_the_first_test_needs_no_header(suite: Suite) -> None:
    """The README's first test passes with any `client_ip`."""
    tests = """
from butter_middleware import Beacon, Butter, ButterMiddleware, CheckoutRoute, client_ip, extract


async def paid(scope, receive, send):
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"email": "a@example.com", "id": "in_1"}'})


class Own:
    def __init__(self, header=b""):
        self.header = header

    def resolve(self, scope):
        return client_ip.SingleHeader("x-own").resolve(scope)

    def admitting_private(self):
        return self


def shop(strategy, **options):
    keys = extract.json(customer_email="email", invoice_id="id")
    routes = [CheckoutRoute("/checkout", psp="stripe", extract=keys)]
    return ButterMiddleware(paid, Butter(client_ip=strategy, routes=routes, **options))


STRATEGIES = [
    client_ip.direct(), client_ip.aws_alb(), client_ip.nginx(["10.0.0.0/8"]), client_ip.nginx(["127.0.0.1"]),
    client_ip.cloudflare(), client_ip.azure_front_door("id"), client_ip.Forwarded(hops=1), client_ip.api_gateway(),
    client_ip.TrustedHops(2, peer_in=["10.0.0.0/8"]), Own(),
]


@pytest.mark.parametrize("environment", ["production", "staging"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it(butter_inbox, strategy, environment):
    TestClient(shop(strategy, environment=environment)).post("/checkout")
    butter_inbox.assert_sent(invoice_id="in_1", ipv4_address="203.0.113.1")


@pytest.mark.anyio
async def test_with_httpx(butter_inbox):
    import httpx

    async with httpx.AsyncClient(transport=httpx.ASGITransport(shop(client_ip.direct())), base_url="http://x") as http:
        await http.post("/checkout")
    butter_inbox.assert_sent(ipv4_address="203.0.113.1")


def test_a_header_of_the_tests_own_decides(butter_inbox):
    client = TestClient(shop(client_ip.aws_alb()))
    client.post("/checkout", headers={"x-forwarded-for": "10.0.0.1"})
    assert [parked.reason for parked in butter_inbox.parked] == ["no_address"]


def test_another_shopper_from_here_on(butter_inbox):
    client = TestClient(app)
    client.post("/checkout/1")
    butter_inbox.client_ip = "203.0.113.9"
    client.post("/checkout/2")
    butter_inbox.client_ip = "2001:db8::7"
    client.post("/checkout/3")
    assert [record.ipv4_address for record in butter_inbox.sent] == ["203.0.113.1", "203.0.113.9"]
    assert butter_inbox.skipped == {"no_address:ipv6_client": 1}
    with pytest.raises(ValueError, match="'nonsense' does not appear to be an IPv4 or IPv6 address"):
        butter_inbox.client_ip = "nonsense"


def test_the_next_test_begins_with_the_first_one(butter_inbox):
    assert butter_inbox.client_ip == "203.0.113.1"


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
    suite.run(tests).assert_outcomes(passed=24)


@pytest.mark.parametrize(("given", "passed"), [("203.0.113.77", 1), ("", 0)])
def test_an_option_sets_the_address_for_all_tests(suite: Suite, given: str, passed: int) -> None:
    """If it is empty, the requests come from this machine, as if the proxy were misconfigured."""
    tests = """
def test_it(butter_inbox):
    TestClient(app).post("/checkout/7")
    butter_inbox.assert_sent(ipv4_address="203.0.113.77")
"""
    result = suite.run(tests, "-o", f"butter_client_ip={given}")
    result.assert_outcomes(passed=passed, failed=1 - passed)


def test_a_wrong_option_is_reported(suite: Suite) -> None:
    """The error names the option."""
    result = suite.run("def test_it():\n    pass\n", "-o", "butter_client_ip=nobody")
    result.stdout.fnmatch_lines(["*butter_client_ip: 'nobody' does not appear to be an IPv4*"])


def test_a_checkout_without_a_record_fails_the_test(suite: Suite) -> None:
    """A checkout without a record, or a warning in production's log, fails the test, unless the test reads it."""
    tests = """
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from butter_middleware import Checkout, CheckoutRoute, annotate


def answers(status, annotated, kind=JSONResponse):
    def endpoint(request):
        if annotated:
            annotate(request, customer_email="ada@example.com", invoice_id="in_1")
        return kind({"invoice": "in_1"} if kind is JSONResponse else "in_1", status)

    return endpoint


@pytest.fixture
def client():
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from butter_middleware import Butter, ButterMiddleware, client_ip, extract

    json = extract.json(invoice_id="invoice")
    butter = Butter(client_ip=client_ip.direct(), routes=[
        CheckoutRoute("/json/{status}", psp="stripe", extract=json), CheckoutRoute("/none", psp="stripe"),
        CheckoutRoute("/gone", psp="stripe", when=lambda response: False, extract=json),
    ])
    routes = [
        Route("/json/402", answers(402, True), methods=["POST"]),
        Route("/json/200", answers(200, True), methods=["POST"]),
        Route("/json/422", answers(422, False), methods=["POST"]),
        Route("/json/text", answers(200, True, PlainTextResponse), methods=["POST"]),
        Route("/none", answers(200, False), methods=["POST"]),
        Route("/gone", answers(200, False), methods=["POST"]),
        Route("/typo", answers(200, True), methods=["POST"]),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(ButterMiddleware, butter=butter)]))


UNWANTED = [
    ("/json/402", "the endpoint annotated, and answered 402", {"status": 1}),
    ("/json/text", "the response is not JSON", {"not_json": 1}),
    ("/none", "POST /none: The route has no extractor, and the endpoint annotated nothing.", {"not_annotated": 1}),
]


@pytest.mark.parametrize("path", [path for path, _says, _skipped in UNWANTED])
def test_fails(client, butter_inbox, path):
    client.post(path)


@pytest.mark.parametrize(("path", "skipped"), [(path, skipped) for path, _says, skipped in UNWANTED])
def test_expects(client, butter_inbox, path, skipped):
    client.post(path)
    assert butter_inbox.skipped == skipped


@pytest.mark.parametrize("path", [path for path, _says, _skipped in UNWANTED])
def test_expects_by_assert_not_sent(client, butter_inbox, path):
    client.post(path)
    butter_inbox.assert_not_sent()


@pytest.mark.parametrize("path", ["/json/422", "/gone"])
def test_a_refusal_does_not_fail(client, butter_inbox, path):
    client.post(path)


def test_a_reload_does_not_fail(client, butter_inbox):
    client.post("/json/200")
    client.post("/json/200")
    assert len(butter_inbox.sent) == 1


def test_an_annotation_without_effect_fails(client, butter_inbox):
    client.post("/typo")


def test_an_annotation_without_effect_is_expected(client, butter_inbox):
    client.post("/typo")
    assert "annotate() had no effect on POST /typo" in butter_inbox.ignored[0]


def test_so_is_a_wrong_argument(butter_inbox):
    butter.record(7)
    assert "It got int" in butter_inbox.ignored[0]


def test_without_the_fixture_nothing_fails(client):
    client.post("/typo")
    client.post("/none")
"""
    result = suite.run(tests)
    result.assert_outcomes(passed=12, failed=4)
    result.stdout.fnmatch_lines(
        [
            "a checkout became no record",
            "1 x status. POST /json/{status}: the endpoint annotated, and answered 402*",
            "A test that expects this reads butter_inbox.skipped.",
            "1 x not_json. POST /json/{status}: the response is not JSON*",
            "1 x not_annotated. POST /none: The route has no extractor, and the endpoint annotated nothing.",
            "annotate() had no effect on POST /typo: no checkout route matched it.*",
            "A test that expects this reads butter_inbox.ignored.",
        ]
    )


def test_assert_sent_counts_and_assert_not_sent(suite: Suite) -> None:
    """`assert_sent(count=2)` counts the records that match. `assert_not_sent` fails if an extractor failed."""
    tests = """
from butter_middleware.testing import ParkedError


def test_it(butter_inbox):
    buy("1"), buy("2")
    assert butter_inbox.assert_sent(count=2, customer_email="ada@example.com").invoice_id == "in_1"
    butter_inbox.assert_sent(count=1, invoice_id="in_2")
    butter_inbox.assert_not_sent(invoice_id="in_3")
    with pytest.raises(AssertionError, match="^records sent with psp='stripe': 2, and not 3:"):
        butter_inbox.assert_sent(count=3, psp="stripe")
    with pytest.raises(AssertionError, match="^a record was sent with invoice_id='in_1':"):
        butter_inbox.assert_not_sent(invoice_id="in_1")
    with pytest.raises(AssertionError, match="^no record was sent with invoice_id='in_9'"):
        butter_inbox.assert_sent(count=1, invoice_id="in_9")
    with pytest.raises(ValueError, match="See assert_not_sent"):
        butter_inbox.assert_sent(count=0, invoice_id="in_9")
    with pytest.raises(TypeError, match="Did you mean invoice_id"):
        butter_inbox.assert_not_sent(invoice="in_1")


def test_broken(butter_inbox):
    order()
    with pytest.raises(ParkedError):
        butter_inbox.assert_not_sent()


def test_the_repr_has_no_value(butter_inbox):
    buy("1"), buy("1")
    assert butter_inbox.sent
    assert repr(butter_inbox) == "ButterInbox(1 sent, 0 pending, 0 dead, 0 parked, 1 skipped)"
"""
    suite.run(tests).assert_outcomes(passed=3)
