"""AWS Lambda through Mangum: the events of each service that calls a function, with spoofed headers."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mangum import Mangum
from shops import PAID, SHOPPER
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from butter_middleware import Butter, ButterMiddleware, client_ip
from butter_middleware.testing import FakeButter

EDGE = "130.176.100.154"
"""An address of CloudFront."""
LIE = "6.6.6.6"
"""The client's own X-Forwarded-For."""


def rest(forwarded_for: str, source_ip: str = SHOPPER) -> dict[str, Any]:
    """Return the event of a REST API (payload 1.0)."""
    headers = {"Host": "abc123.execute-api.eu-west-1.amazonaws.com", "X-Forwarded-For": forwarded_for}
    headers |= {"X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"}
    return {
        "resource": "/{proxy+}",
        "path": "/checkout/7",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": "checkout/7"},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": "POST",
            "path": "/prod/checkout/7",
            "protocol": "HTTP/1.1",
            "stage": "prod",
            "identity": {"sourceIp": source_ip, "userAgent": "Mozilla/5.0", "user": None},
            "domainName": "abc123.execute-api.eu-west-1.amazonaws.com",
            "apiId": "abc123",
        },
        "body": "{}",
        "isBase64Encoded": False,
    }


def edge_optimised(forwarded_for: str) -> dict[str, Any]:
    event = rest(forwarded_for)
    event["headers"]["Via"] = "2.0 d1.cloudfront.net (CloudFront)"
    event["headers"]["CloudFront-Viewer-Country"] = "GB"
    event["multiValueHeaders"] = {name: [value] for name, value in event["headers"].items()}
    return event


def http_api(forwarded_for: str, source_ip: str = SHOPPER) -> dict[str, Any]:
    """Return the event of an HTTP API (payload 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/checkout/7",
        "rawQueryString": "",
        "cookies": ["session=1"],
        "headers": {
            "host": "abc123.execute-api.eu-west-1.amazonaws.com",
            "x-forwarded-for": forwarded_for,
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": "abc123.execute-api.eu-west-1.amazonaws.com",
            "http": {
                "method": "POST",
                "path": "/checkout/7",
                "protocol": "HTTP/1.1",
                "sourceIp": source_ip,
                "userAgent": "Mozilla/5.0",
            },
            "routeKey": "$default",
            "stage": "$default",
        },
        "body": "{}",
        "isBase64Encoded": False,
    }


def function_url(forwarded_for: str) -> dict[str, Any]:
    event = http_api(forwarded_for)
    domain = "abc123.lambda-url.eu-west-1.on.aws"
    event["headers"]["host"] = event["requestContext"]["domainName"] = domain
    return event


def load_balancer(*lines: str, multi_value: bool = False) -> dict[str, Any]:
    """Return the event of an Application Load Balancer. Only the header shows the client's address."""
    headers = {"host": "shop.example", "x-forwarded-port": "443", "x-forwarded-proto": "https"}
    every = {name: [value] for name, value in headers.items()} | {"x-forwarded-for": [*lines]}
    event: dict[str, Any] = {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/shop/1"}},
        "httpMethod": "POST",
        "path": "/checkout/7",
        "body": "{}",
        "isBase64Encoded": False,
    }
    if multi_value:
        return event | {"multiValueQueryStringParameters": {}, "multiValueHeaders": every}
    return event | {"queryStringParameters": {}, "headers": {name: values[-1] for name, values in every.items()}}


GATEWAY, BALANCER, OWN_CDN = client_ip.api_gateway(), client_ip.aws_alb(), client_ip.cloudfront_alb()
EVENTS: list[tuple[str, client_ip.Strategy, dict[str, Any]]] = [
    ("REST API, regional", GATEWAY, rest(SHOPPER)),
    ("REST API, regional, a lie", GATEWAY, rest(f"{LIE}, {SHOPPER}")),
    ("REST API, edge-optimised", GATEWAY, edge_optimised(f"{SHOPPER}, {EDGE}")),
    ("REST API, edge-optimised, a lie", GATEWAY, edge_optimised(f"{LIE}, {SHOPPER}, {EDGE}")),
    ("HTTP API", GATEWAY, http_api(SHOPPER)),
    ("HTTP API, a lie", GATEWAY, http_api(f"{LIE}, {SHOPPER}")),
    ("function URL", GATEWAY, function_url(SHOPPER)),
    ("function URL, which cuts the header to the lie", GATEWAY, function_url(LIE)),
    ("load balancer", BALANCER, load_balancer(SHOPPER)),
    ("load balancer, a lie", BALANCER, load_balancer(f"{LIE}, {SHOPPER}")),
    ("load balancer, a lie in a line", BALANCER, load_balancer(LIE, f"{LIE}, {SHOPPER}", multi_value=True)),
    ("REST API behind CloudFront", OWN_CDN, rest(f"{SHOPPER}, {EDGE}", EDGE)),
    ("HTTP API behind CloudFront", OWN_CDN, http_api(f"{LIE}, {SHOPPER}, {EDGE}", EDGE)),
    ("load balancer behind CloudFront", OWN_CDN, load_balancer(f"{LIE}, {SHOPPER}, {EDGE}")),
]


@pytest.fixture
def loop() -> Iterator[None]:
    """Set an event loop, as Mangum does in the main thread of a Lambda runtime."""
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    yield
    asyncio.set_event_loop(None)
    loop.close()


async def checkout(_request: Request) -> JSONResponse:
    return JSONResponse(PAID)


def invoke(butter: Butter, event: dict[str, Any]) -> None:
    app = Starlette(routes=[Route("/checkout/{cart}", checkout, methods=["POST"])])
    context: Any = None
    response = Mangum(ButterMiddleware(app, butter))(event, context)
    assert (response["statusCode"], json.loads(response["body"])) == (200, PAID)


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize(("strategy", "event"), [each[1:] for each in EVENTS], ids=[each[0] for each in EVENTS])
def test_the_address_is_the_shoppers(
    make_butter: Callable[..., Butter], fake: FakeButter, strategy: client_ip.Strategy, event: dict[str, Any]
) -> None:
    """The strategy is the one that the page names for the service. Nothing waits at the end."""
    butter = make_butter(client_ip=strategy, delivery="inline", inline_timeout=20)
    invoke(butter, copy.deepcopy(event))
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize("forwarded_for", [SHOPPER, f"{LIE}, {SHOPPER}"])
def test_a_load_balancers_event_has_no_source(
    make_butter: Callable[..., Butter], fake: FakeButter, forwarded_for: str
) -> None:
    """`api_gateway()` uses no header that the client may have written."""
    butter = make_butter(client_ip=GATEWAY, delivery="inline", inline_timeout=5)
    invoke(butter, load_balancer(forwarded_for))
    assert fake.records == []
    assert butter.status().captured == 1


@pytest.mark.usefixtures("loop")
def test_the_example(example: Any, fake: FakeButter) -> None:
    """The function of the page, with a function URL's event."""
    shop = example("frameworks/lambda_function")
    assert json.loads(shop.handler(function_url(LIE), None)["body"]) == {"invoice": "in_7"}
    (record,) = fake.records
    assert (record["ipv4_address"], record["customer_email"]) == (SHOPPER, "shopper@example.com")
