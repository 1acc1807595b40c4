"""`butter-middleware explain` and `explain-ip`: the result of an extractor or of a strategy, for one example."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from psp_objects import EMAIL, PAID, SESSION, UNPAID, Case, respond

from butter_middleware import Butter, CheckoutRoute, client_ip, extract
from butter_middleware.cli import cli

SHOPPER = "81.2.69.142"
NOTED = ("--annotate", "customer_email=a@example.com", "--annotate", "invoice_id=1")
APP = """
from butter_middleware import Butter, CheckoutRoute, client_ip, extract

def mine(response):
    order = response.json()
    if order.get("fails"):
        raise KeyError(order["fails"])
    return None if order.get("draft") else {"invoice_id": order["number"], "customer_email": "own@example.com"}

butter = Butter(
    dry_run=True,
    client_ip=client_ip.nginx(["10.0.0.0/8"]),
    routes=[
        CheckoutRoute("/checkout/{cart}", psp="stripe", extract=extract.json(invoice_id="invoice.id || invoice")),
        CheckoutRoute("/gated", psp="stripe", extract=extract.json(invoice_id="id"), when=lambda r: r.json()["paid"]),
        CheckoutRoute("/mine", psp="adyen", extract=mine),
        CheckoutRoute("/noted", psp="adyen"),
        CheckoutRoute("/hook", psp="recurly", extract=extract.recurly(), address_from_body=True),
        CheckoutRoute("/begin", psp="stripe", join="session"),
        CheckoutRoute("/paid", psp="stripe", join="session", address=False, source="request",
                      extract=extract.json(invoice_id="invoice", customer_email="email")),
        CheckoutRoute("/failing", psp="stripe", extract=extract.json(invoice_id="abs(id)", charge_id="charge")),
    ],
)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Run the command in a directory with an app, with a response's body as its input."""
    (tmp_path / "explained_shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)

    def command(name: str, *arguments: str, body: Any = None) -> Result:
        text = body if isinstance(body, str) else json.dumps(body)
        return CliRunner().invoke(cli, [name, *(["-"] if name == "explain" else []), *arguments], input=text)

    yield command
    sys.modules.pop("explained_shop", None)


def at(path: str, *more: str) -> list[str]:
    return ["--app", "explained_shop:butter", "--path", path, *more]


def document(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(result.stdout)
    return content


# explain


def test_a_preset_is_explained(run: Callable[..., Result]) -> None:
    """Each field has its masked value and the expression that gave it. The last line is the verdict."""
    result = run("explain", "--psp", "stripe", body={"data": SESSION | {"invoice": None}})
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "extract.stripe(): checkout.session, paid"
    (email,) = [line.split() for line in lines if line.startswith("customer_email")]
    assert "***@" in email[1]
    assert email[2] == "customer_details.email"
    assert "invoice.id (absent), invoice (null)" in result.stdout
    assert lines[-1].startswith("A record, matched to a dispute by ")


def test_personal_data_is_shown_with_reveal_only(run: Callable[..., Result]) -> None:
    """It needs --reveal, also in JSON."""
    for form in ((), ("--json",)):
        assert EMAIL not in run("explain", "--psp", "stripe", *form, body=SESSION).output
        assert EMAIL in run("explain", "--psp", "stripe", "--reveal", *form, body=SESSION).output


def test_an_unpaid_object_is_explained(run: Callable[..., Result]) -> None:
    """It names the field that decided, and still shows the object's fields."""
    result = run("explain", "--psp", "stripe", body=SESSION | {"payment_status": "unpaid"})
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "No paid checkout (checkout.session, not paid, by payment_status)."
    assert "customer_details.email" in result.stdout


def test_the_test_mode_is_explained(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """No route is named if none was given."""
    session = SESSION | {"livemode": False}
    said = run("explain", "--psp", "stripe", body=session).stdout.splitlines()[-1]
    assert said.startswith("A payment of the PSP's test mode, which is not evidence in production.")
    monkeypatch.setenv("BUTTER_ENVIRONMENT", "staging")
    assert run("explain", "--psp", "stripe", body=session).stdout.splitlines()[-1].startswith("A record")


@pytest.mark.parametrize("case", PAID + UNPAID, ids=lambda case: case.name)
def test_it_agrees_with_the_extractor(run: Callable[..., Result], case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every known object, the verdict and the values are those of the extractor."""
    monkeypatch.setenv("BUTTER_ENVIRONMENT", "staging")
    note = ("--annotate", "customer_email=a@example.com")
    found = document(run("explain", "--psp", case.psp, "--json", "--reveal", *note, body=case.body))
    assert (found["verdict"] == "record") is bool(case.records)
    if case.records:
        shown = {row["field"]: row["value"] for row in found["fields"] if row["value"] is not None}
        given = {name: value for name, value in case.records[0].items() if name != "ipv4_address"}
        assert shown.items() >= given.items()
        assert len(found["records"]) == len(case.records)
        assert all("ipv4_address" not in record for record in found["records"])


@pytest.mark.parametrize(
    ("arguments", "body", "code", "verdict", "said"),
    [
        (at("/checkout/7"), {"invoice": "in_1"}, 1, "parked", "Fix: call annotate(request, customer_email=...)"),
        (at("/checkout/7", "--annotate", "customer_email=a@example.com"), {"invoice": 7}, 0, "record", "by invoice_id"),
        (at("/checkout/7"), {}, 1, "parked", "tried invoice.id, invoice, both absent"),
        (at("/gated"), {"paid": False, "id": "in_1"}, 1, "skipped", "No checkout, says the route's when="),
        (at("/mine"), {"number": "1"}, 0, "record", "A record"),
        (at("/mine"), {"draft": True}, 1, "skipped", "No checkout (a function, whose expressions cannot be seen)"),
        (at("/mine"), {"fails": "shopper@example.com"}, 1, "parked", "raised KeyError at explained_shop.py:7"),
        (at("/noted"), {}, 1, "skipped", "here --annotate"),
        (
            at("/noted", "--annotate", "customer_email=a@example.com", "--annotate", "invoice_id=1"),
            "<html>",
            0,
            "record",
            "",
        ),
        (at("/hook"), {}, 1, "skipped", "Not recognised"),
        (at("/begin"), {"session": "cs_1"}, 0, "part", "counterpart"),
        (at("/paid"), {"session": "cs_1", "invoice": "in_1", "email": "a@example.com"}, 0, "part", "counterpart"),
        (at("/failing"), {"id": "x", "charge": "ch_1"}, 1, "parked", "the expression of invoice_id failed"),
        (["--psp", "stripe", "--at", "pay"], {"pay": SESSION | {"livemode": False}}, 1, "skipped", "test mode"),
        (["--psp", "stripe"], {"order": 1}, 1, "skipped", "Say where it is"),
    ],
)
def test_each_verdict(
    run: Callable[..., Result], arguments: list[str], body: Any, code: int, verdict: str, said: str
) -> None:
    """The verdict is a record, a part, or why there is none, with the fix. The exit code agrees."""
    result = run("explain", *arguments, "--json", body=body)
    assert result.exit_code == code, result.output
    found = document(result)
    assert found["verdict"] == verdict
    assert said in found["text"]
    assert "shopper@example.com" not in result.output
    assert run("explain", *arguments, body=body).stdout.rstrip().endswith(found["text"].strip())


def test_an_unknown_body_is_explained_once(run: Callable[..., Result]) -> None:
    """The text is long, so it must not be repeated."""
    shown = run("explain", "--psp", "stripe", body={"order": 1}).stdout
    assert shown.startswith("extract.stripe(): nothing that it knows\n")
    assert shown.count("Say where it is") == 1
    last = shown.splitlines()[-1]
    assert last.startswith("Not recognised. extract.stripe() found none of checkout.session")


def test_the_source_of_each_value(run: Callable[..., Result]) -> None:
    """The source is an expression, an annotation, the route, or a function."""
    note = ("--annotate", "customer_email=a@example.com")
    found = document(run("explain", *at("/checkout/7", *note, "--json"), body={"invoice": "in_1"}))
    assert {row["field"]: row["from"] for row in found["fields"]} == {
        "invoice_id": "invoice",
        "customer_email": "extract.json() or annotate()",
        "psp": "the route",
    }
    found = document(run("explain", "--psp", "stripe", *note, "--json", body=SESSION))
    assert {row["field"]: row["from"] for row in found["fields"]}["psp"] == "--psp"
    found = document(run("explain", *at("/mine", "--json"), body={"number": "1"}))
    assert {row["field"]: row["from"] for row in found["fields"]} == {
        "invoice_id": "mine or annotate()",
        "customer_email": "mine or annotate()",
        "psp": "the route",
    }


@pytest.mark.parametrize(
    ("arguments", "body", "code", "said"),
    [
        ([], {}, 2, "either --psp stripe, or --app"),
        (["--psp", "stripe", "--app", "x"], {}, 2, "either --psp stripe, or --app"),
        (["--psp", "paypal"], {}, 2, "paypal"),
        (["--app", "explained_shop:butter"], {}, 2, "--path /checkout/7"),
        (at("/nowhere"), {}, 3, "is not a checkout route of explained_shop:butter. Its routes: POST /checkout/{cart}"),
        (at("/mine", "--method", "put"), {}, 3, "PUT /mine is not a checkout route"),
        (["--psp", "stripe"], "<html>", 3, "is not JSON: Expecting value: line 1 column 1"),
        (["--psp", "stripe"], '{"id": 1 2}', 3, "line 1 column 10"),
        (["--psp", "stripe", "--at", "a["], {}, 3, "not a JMESPath expression"),
        (at("/mine", "--annotate", "email=x"), {}, 2, "'email' is not a field"),
    ],
)
def test_wrong_options_are_refused_with_the_right_ones(
    run: Callable[..., Result], arguments: list[str], body: Any, code: int, said: str
) -> None:
    """The error is one line, and says what to type instead."""
    result = run("explain", *arguments, body=body)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_file_and_a_missing_file(run: Callable[..., Result], tmp_path: Path) -> None:
    """The error names the missing file."""
    (tmp_path / "session.json").write_text(json.dumps(SESSION))
    assert CliRunner().invoke(cli, ["explain", "session.json", "--psp", "stripe"]).exit_code == 0
    missing = CliRunner().invoke(cli, ["explain", "none.json", "--psp", "stripe"])
    assert (missing.exit_code, "'none.json': No such file or directory" in missing.stderr) == (2, True)


# explain-ip

HEADERS = ("--header", f"X-Forwarded-For: {SHOPPER}", "--header", "X-Forwarded-For: 10.0.0.7")
PEER = ("--peer", "10.0.0.1")


def test_every_strategy_answers(run: Callable[..., Result]) -> None:
    """The rows are those of `client_ip.explain`. Strategies with an address come first, the others have a fix."""
    scope: Mapping[str, Any] = {
        "type": "http",
        "client": ("10.0.0.1", 50_000),
        "headers": [(b"x-forwarded-for", SHOPPER.encode()), (b"x-forwarded-for", b"10.0.0.7")],
    }
    result = run("explain-ip", *HEADERS, *PEER, "--json", "--reveal")
    assert result.exit_code == 0
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    told = {row["strategy"]: (row["address"], row["reason"], row["remedy"]) for row in rows}
    assert told == {
        one.name: (one.result.ipv4 or one.result.ipv6, one.result.reason.value, one.remedy)
        for one in client_ip.explain(scope)
    }
    found = [row["address"] is not None for row in rows]
    assert found == sorted(found, reverse=True)
    nginx = next(name for name in told if "nginx" in name)
    assert told[nginx][0] == SHOPPER
    assert json.loads(run("explain-ip", *HEADERS, *PEER, "--json", "--reveal", "--strategy", nginx).stdout)[0] == {
        "strategy": "configured",
        "address": SHOPPER,
        "reason": "ok",
        "remedy": "",
    }


def test_the_remedy_is_that_of_the_configured_strategy(run: Callable[..., Result]) -> None:
    """Others have the same reason, but lack other headers. One fix is shown for each reason."""
    shown = run("explain-ip", *PEER, "--strategy", "nginx(['10.0.0.1'])").stdout
    assert "\nheader_missing, configured: The header X-Forwarded-For" in shown
    assert shown.count("\nheader_missing, ") == 1


def test_addresses_are_masked(run: Callable[..., Result]) -> None:
    """They are a shopper's, although the user has typed them."""
    result = run("explain-ip", *HEADERS, *PEER)
    assert SHOPPER not in result.output
    assert "81.2.x.x" in result.stdout
    assert "proves nothing by itself" in result.stdout


@pytest.mark.parametrize(
    ("strategy", "address", "code"),
    [
        ("nginx(['10.0.0.0/8'])", SHOPPER, 0),
        ("client_ip.nginx(trusted=['10.0.0.0/8'])", SHOPPER, 0),
        ("TrustedHops(2)", SHOPPER, 0),
        ("direct", None, 1),
        ("aws_alb()", None, 1),
    ],
)
def test_the_configured_one_comes_first(
    run: Callable[..., Result], strategy: str, address: str | None, code: int
) -> None:
    """It is written as in the configuration. If it finds no address, the exit code is 1."""
    result = run("explain-ip", *HEADERS, *PEER, "--strategy", strategy, "--json", "--reveal")
    first = json.loads(result.stdout)[0]
    assert (first["strategy"], first["address"], result.exit_code) == ("configured", address, code)


def test_the_apps_own_comes_first(run: Callable[..., Result]) -> None:
    """It is the strategy of the app."""
    result = run("explain-ip", *HEADERS, *PEER, "--app", "explained_shop:butter", "--json", "--reveal")
    first = json.loads(result.stdout)[0]
    assert (first["strategy"], first["address"]) == ("configured", SHOPPER)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (SHOPPER, SHOPPER),
        (f"{SHOPPER}:4711", SHOPPER),
        ("2001:4860::1", "2001:4860::1"),
        ("[2001:4860::1]", "2001:4860::1"),
        ("[2001:4860::1]:4711", "2001:4860::1"),
        ("unix:", None),
        # Port 0 proves nothing: API Gateway gives it for each peer.
        (f"{SHOPPER}:0", SHOPPER),
    ],
)
def test_the_formats_of_a_peer(run: Callable[..., Result], peer: str, client: str | None) -> None:
    """The peer may have a port or brackets, or be a Unix socket."""
    rows = json.loads(run("explain-ip", "--peer", peer, "--json", "--reveal").stdout)
    assert next(row["address"] for row in rows if row["strategy"] == "client_ip.direct()") == client


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--header", "nonsense", *PEER], "is not a header line"),
        (["--peer", "somewhere"], "'somewhere' is not an address"),
        (["--peer", f"10.0.0.1:{'9' * 5000}"], "is not an address"),
        ([], "--peer"),
        ([*PEER, "--strategy", "ngnix([])"], "Did you mean nginx?"),
        ([*PEER, "--strategy", "nginx()"], "missing 1 required positional argument"),
        ([*PEER, "--strategy", "nginx(['10.0.0.0/33'])"], "10.0.0.0/33"),
        ([*PEER, "--strategy", "nginx(open('x'))"], "is not a strategy"),
        ([*PEER, "--strategy", "1 +"], "is not a strategy"),
        ([*PEER, "--strategy", "__import__('os')"], "client_ip has no strategy __import__. The strategies are"),
        ([*PEER, "--strategy", "direct", "--app", "x"], "Give one of them"),
    ],
)
def test_a_wrong_request_is_refused(run: Callable[..., Result], arguments: list[str], said: str) -> None:
    """The error says how to write it. Only literals are evaluated."""
    result = run("explain-ip", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split()).replace(" │ ", " ")


def test_values_of_an_extractor() -> None:
    """`explain` shows these values with the expressions."""
    assert extract.stripe().values(respond(SESSION | {"payment_status": "unpaid"}))
    assert extract.stripe().values(respond({})) == {}
    assert extract.json(invoice_id="a").values(respond({"a": "in_1"})) == {"invoice_id": "in_1"}


def test_a_butter_has_its_strategy() -> None:
    """In staging it accepts private addresses, as in the middleware."""
    route = CheckoutRoute("/", psp="stripe")
    butter = Butter(dry_run=True, client_ip=client_ip.direct(), environment="staging", routes=[route])
    assert butter.strategy == client_ip.direct().admitting_private()
