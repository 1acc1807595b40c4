"""What is logged about a wrong configuration, and what happens to a checkout without an address."""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import until
from shops import PAID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, client_ip
from butter_middleware.client_ip.diagnosis import Diagnosis
from butter_middleware.testing import FakeButter

MakeButter = Callable[..., Butter]
SHOPPER = "81.2.69.142"
PROXY = ("10.0.0.1", 40000)
XFF = "x-forwarded-for"


def shop() -> Starlette:
    invoices = itertools.count()

    async def pay(_request: Request) -> JSONResponse:
        return JSONResponse(PAID | {"invoice": {"id": f"in_{next(invoices)}"}})

    return Starlette(routes=[Route("/checkout/{cart_id}", pay, methods=["POST"])])


def checkouts(butter: Butter, *requests: Any, client: tuple[str, int] = PROXY) -> None:
    """Let one shopper after the other pay, and wait until all captures are read."""
    with TestClient(ButterMiddleware(shop(), butter), client=client) as http:
        for headers in requests:
            assert http.post("/checkout/7", headers=headers).status_code == 200
        assert butter.flush()


def findings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def shoppers(count: int, network: str = "81.2.69") -> list[dict[str, str]]:
    return [{XFF: f"{network}.{number + 1}"} for number in range(count)]


@pytest.mark.parametrize(
    ("header", "preset"),
    [
        ("cf-connecting-ip", "client_ip.cloudflare()"),
        ("fly-client-ip", "client_ip.fly()"),
        ("x-azure-socketip", "client_ip.azure_front_door(fdid)"),
        ("fastly-client-ip", "client_ip.fastly(peer_in)"),
        ("true-client-ip", "client_ip.akamai(peer_in)"),
        ("x-vercel-forwarded-for", "client_ip.vercel()"),
        ("do-connecting-ip", "client_ip.digitalocean()"),
    ],
)
def test_an_unused_header_of_a_platform_is_logged(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture, header: str, preset: str
) -> None:
    """It has another address than the configuration finds. The line names it once, with the preset."""
    checkouts(make_butter(), *[{XFF: "104.22.17.40", header: SHOPPER}] * 3)
    said = [message for message in findings(caplog) if header in message]
    assert len(said) == 1
    assert f"client_ip={preset}" in said[0]
    assert SHOPPER not in caplog.text
    assert "104.22.17.40" not in caplog.text


@pytest.mark.parametrize(
    ("header", "client"), [(SHOPPER, PROXY), ("240.1.2.3", ("104.16.0.1", 40000)), ("unknown", ("104.16.0.1", 40000))]
)
def test_the_advice_never_repeats_the_configuration(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture, header: str, client: tuple[str, int]
) -> None:
    """The configured header may have any fault."""
    checkouts(make_butter(client_ip=client_ip.cloudflare()), {"cf-connecting-ip": header}, client=client)
    assert "no address (" in caplog.text
    assert "set client_ip=" not in caplog.text


def test_a_finding_is_reported_once() -> None:
    """A diagnosis reports each finding once, and checks no more than a thousand checkouts."""
    strategy = client_ip.TrustedHops(1)
    diagnosis = Diagnosis(strategy)
    found: list[str] = []
    for header in [b"cf-connecting-ip"] * 999 + [b"fly-client-ip"] * 2 + [b"true-client-ip"]:
        scope = {"headers": [(b"x-forwarded-for", b"81.2.69.1"), (header, b"9.9.9.9")], "client": PROXY}
        found += [event.reason for event in diagnosis.observe(scope, strategy.resolve(scope))]
    assert sorted(found) == ["alike", "header:cf-connecting-ip", "header:fly-client-ip"]


def test_a_platforms_header_with_the_same_address_is_not_logged(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """On Render behind Cloudflare, for example, the platform's header has the address that was found."""
    requests = [
        {XFF: SHOPPER, "cf-connecting-ip": SHOPPER},
        {XFF: "2a00:1450::1", "cf-connecting-ip": "2a00:1450:0::1"},
    ]
    checkouts(make_butter(), *requests)
    assert "cf-connecting-ip" not in caplog.text


def test_one_address_for_all_shoppers_is_logged(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """After fifty checkouts from one address, that address must be a proxy."""
    checkouts(make_butter(), *[{XFF: SHOPPER}] * 49)
    assert "same address" not in caplog.text
    checkouts(make_butter(), *[{XFF: SHOPPER}] * 60)
    assert caplog.text.count("checkouts all have the same address") == 1
    assert SHOPPER not in caplog.text


def test_one_different_address_is_enough(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """One other address shows that the configuration is correct."""
    checkouts(make_butter(), {XFF: "81.2.69.1"}, *[{XFF: SHOPPER}] * 60)
    assert "same address" not in caplog.text


def test_addresses_of_the_cdn_only_are_logged(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """After twenty shoppers from Cloudflare's addresses, these must be Cloudflare itself."""
    checkouts(make_butter(), *shoppers(19, "104.22.17"))
    assert "the CDN is taken" not in caplog.text
    checkouts(make_butter(), *shoppers(25, "104.22.17"))
    assert caplog.text.count("the CDN is taken for the shopper. Set client_ip=client_ip.cloudflare().") == 1
    assert "104.22" not in caplog.text


def test_some_addresses_of_the_cdn_are_not_logged(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """Some shoppers use a CDN's network. This is not a finding if others do not."""
    checkouts(make_butter(), {XFF: SHOPPER}, *shoppers(25, "104.22.17"))
    assert "the CDN is taken" not in caplog.text


@pytest.mark.parametrize(
    "strategy",
    [
        client_ip.RightmostUntrusted(["192.168.0.0/16"]),
        client_ip.RightmostUntrusted(["192.168.0.0/16"], on_untrusted_peer="none"),
        client_ip.TrustedHops(1, peer_in=["192.168.0.0/16"]),
        client_ip.cloudflare(),
    ],
    ids=repr,
)
def test_trusted_networks_that_never_match_are_logged(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture, strategy: client_ip.Strategy
) -> None:
    """If twenty proxied requests do not match them, they are wrong, whatever the strategy does with other peers.

    A request without a forwarding header, such as a health check, does not count.
    """
    butter = make_butter(client_ip=strategy)
    checkouts(butter, *shoppers(3), {}, *shoppers(16))
    assert "does not hold the proxy's address" not in caplog.text
    checkouts(butter, *shoppers(5))
    assert caplog.text.count("trusted= or peer_in= does not hold the proxy's address. Add its network") == 1
    assert "10.0.0.1" not in caplog.text


@pytest.mark.parametrize("client", [("192.168.0.1", 40000), ("81.2.69.7", 0)])
def test_trusted_networks_that_match_are_not_logged(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture, client: tuple[str, int]
) -> None:
    """The peer is in the list, or the server replaced it by an address from the header."""
    butter = make_butter(client_ip=client_ip.RightmostUntrusted(["192.168.0.0/16"]))
    checkouts(butter, *[{XFF: "81.2.69.7"}] * 25, client=client)
    assert "does not hold the proxy's address" not in caplog.text


def test_one_request_from_a_trusted_network_is_enough(
    make_butter: MakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """It shows that the list is correct. The other requests came around the proxy."""
    butter = make_butter(client_ip=client_ip.RightmostUntrusted(["192.168.0.0/16"]))
    checkouts(butter, *shoppers(1), client=("192.168.0.1", 40000))
    checkouts(butter, *shoppers(25))
    assert "does not hold the proxy's address" not in caplog.text


def test_a_server_that_trusts_all_peers_is_logged(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """The peer has port 0 and an address that the proxies do not confirm. The line names uvicorn's '*' and the fix."""
    butter = make_butter(client_ip=client_ip.RightmostUntrusted(["10.0.0.0/8"]))
    checkouts(butter, *[{XFF: f"1.2.3.4, {SHOPPER}"}] * 3, client=("1.2.3.4", 0))
    assert caplog.text.count("--forwarded-allow-ips '*'). Start it with --no-proxy-headers,") == 1
    assert SHOPPER not in caplog.text


def test_a_correct_configuration_logs_nothing(make_butter: MakeButter, caplog: pytest.LogCaptureFixture) -> None:
    """Five hundred shoppers with addresses cause no warning except the one about the memory."""
    checkouts(make_butter(), *shoppers(250, "81.2.69"), *shoppers(250, "81.2.70"))
    assert [message for message in findings(caplog) if not message.startswith("butter: outbox:")] == []


@pytest.mark.parametrize(
    ("strategy", "headers", "client", "reason", "parked"),
    [
        (client_ip.TrustedHops(1), {XFF: "2a00:1450::1"}, PROXY, "ipv6_client", 0),
        (client_ip.TrustedHops(1), {XFF: "240.0.0.1"}, PROXY, "pseudo_ipv4", 0),
        # If another configuration could find the address, the capture is parked.
        (client_ip.TrustedHops(1), {XFF: "192.168.1.1"}, PROXY, "private_address", 2),
        (client_ip.TrustedHops(1), {XFF: "unknown"}, PROXY, "malformed", 2),
        (client_ip.TrustedHops(2), {XFF: SHOPPER}, PROXY, "too_few_hops", 2),
        (client_ip.nginx(["10.0.0.0/8"]), {XFF: "10.0.0.2"}, PROXY, "no_untrusted_hop", 2),
        (client_ip.cloudflare(), {"cf-connecting-ip": SHOPPER}, PROXY, "untrusted_peer", 2),
        (client_ip.fly(), {}, PROXY, "header_missing", 2),
        (client_ip.azure_front_door("id"), {"x-azure-socketip": SHOPPER}, PROXY, "required_header", 2),
        (client_ip.direct(), {}, ("testclient", 50000), "no_peer", 2),
        (client_ip.direct(), {XFF: "1.2.3.4"}, ("1.2.3.4", 0), "server_rewrite_conflict", 2),
    ],
)
def test_a_checkout_without_an_address(
    make_butter: MakeButter,
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    strategy: client_ip.Strategy,
    headers: dict[str, str],
    client: tuple[str, int],
    reason: str,
    parked: int,
) -> None:
    """It is not sent. It is counted, parked if a fix is possible, and logged once per reason with the remedy."""
    butter = make_butter(client_ip=strategy)
    checkouts(butter, headers, headers, client=client)
    status = butter.status()
    assert fake.records == []
    assert status.skipped == {f"no_address:{reason}": 2}
    assert status.parked == parked
    seen = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    told = strategy.resolve({"type": "http", "headers": seen, "client": client})
    assert caplog.text.count(f"no address ({reason}). {told.remedy}") == 1
    if reason in {"header_missing", "malformed", "too_few_hops", "no_untrusted_hop", "untrusted_peer"}:
        assert told.header.removeprefix("the ") in told.remedy
        assert type(strategy).__name__ in told.header
    assert not any(value in caplog.text for value in headers.values())


def test_staging_accepts_private_addresses(make_butter: MakeButter, fake: FakeButter) -> None:
    """Developers' machines and staging see addresses that are not public."""
    checkouts(make_butter(environment="production"), {XFF: "192.168.1.7"})
    assert fake.records == []
    checkouts(make_butter(environment="staging"), {XFF: "192.168.1.7"})
    assert [record["ipv4_address"] for record in fake.records] == ["192.168.1.7"]


@pytest.mark.parametrize(
    ("wrong", "fixed", "headers"),
    [
        (client_ip.cloudflare(), client_ip.cloudflare(["10.0.0.0/8"]), {"cf-connecting-ip": SHOPPER, XFF: "1.2.3.4"}),
        # An uncounted proxy is the most frequent mistake, and its address is private.
        (client_ip.aws_alb(), client_ip.TrustedHops(2), {XFF: f"1.2.3.4, {SHOPPER}, 10.0.0.9"}),
        (client_ip.direct(), client_ip.nginx(["10.0.0.0/8"]), {XFF: f"1.2.3.4, {SHOPPER}"}),
        (client_ip.SingleHeader("X-Forwarded-For"), client_ip.aws_alb(), {XFF: f"1.2.3.4, {SHOPPER}"}),
        (client_ip.railway(), client_ip.aws_alb(), [(XFF, SHOPPER), ("x-real-ip", SHOPPER), ("x-real-ip", "10.0.0.9")]),
    ],
)
def test_a_fixed_configuration_finds_the_address(
    make_butter: MakeButter,
    fake: FakeButter,
    tmp_path: Path,
    wrong: client_ip.Strategy,
    fixed: client_ip.Strategy,
    headers: Any,
) -> None:
    """A checkout without an address waits on disk. The next start resolves it again."""
    before = make_butter(client_ip=wrong, outbox=tmp_path / "butter.db")
    checkouts(before, headers)
    assert before.status().parked == 1
    before.close()
    assert fake.records == []
    after = make_butter(client_ip=fixed, outbox=tmp_path / "butter.db")
    after.pipeline.start()
    until(lambda: len(fake.records) == 1, "the parked checkout is delivered")
    assert fake.records[0]["ipv4_address"] == SHOPPER
    until(lambda: after.status().parked == 0, "nothing is parked any more")
