"""At import, `Butter` refuses options that could not work at a checkout. The error names option, value and remedy."""

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import served
from shops import CREDENTIALS, ROUTE

from butter_middleware import (
    Beacon,
    Butter,
    Checkout,
    CheckoutResponse,
    CheckoutRoute,
    ConfigurationError,
    MemoryOutbox,
    Record,
    SQLiteOutbox,
    client_ip,
    extract,
)
from butter_middleware.config import BASE_URL
from butter_middleware.testing import FakeButter

DIRECT: dict[str, Any] = {"client_ip": client_ip.direct()}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "USERNAME_FILE", "PASSWORD_FILE", "ENVIRONMENT", "BASE_URL"):
        monkeypatch.delenv(f"BUTTER_{name}", raising=False)


ANYTHING: Any = 7


async def coroutine(_response: CheckoutResponse) -> None: ...


class Queue:
    async def enqueue(self, _record: Record) -> None: ...


class Callable_:  # noqa: N801 - a class that is called
    async def __call__(self, _response: CheckoutResponse) -> None: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "Butter\\(client_ip=...\\) is missing. It has no default.*client_ip.aws_alb"),
        ({"client_ip": "10.0.0.0/8"}, "is not a strategy, but str. It has no default"),
        ({"client_ip": client_ip.aws_alb}, "is not a strategy, but its factory: write client_ip.aws_alb\\(...\\)"),
        (DIRECT | {"username": "a"}, "no password: set BUTTER_PASSWORD, or BUTTER_PASSWORD_FILE"),
        (DIRECT | {"password": "a"}, "no username: set BUTTER_USERNAME"),
        (DIRECT | {"username": " ", "password": "a"}, "username is empty"),
        (DIRECT | CREDENTIALS | {"enviroment": "staging"}, "no option enviroment. Did you mean environment\\?"),
        (DIRECT | CREDENTIALS | {"environment": "test"}, "'production' or 'staging'"),
        (DIRECT | CREDENTIALS | {"durability": "never"}, "'after_response' or 'before_response'"),
        (DIRECT | CREDENTIALS | {"base_url": "http://butter.example"}, "in the clear. Use https://"),
        (DIRECT | CREDENTIALS | {"base_url": "https://u:p@butter.example"}, "belong in no URL"),
        (DIRECT | CREDENTIALS | {"base_url": "localhost:8025"}, "not an http\\(s\\) URL.*as http://127.0.0.1:8025"),
        (DIRECT | CREDENTIALS | {"base_url": "https://xn--0"}, "has the host 'xn--0', which is"),
        (DIRECT | CREDENTIALS | {"base_url": "https://0.0.0.0000"}, "has the host '0.0.0.0000', which is"),
        (DIRECT | CREDENTIALS | {"base_url": "https://butter.7"}, "has the host 'butter.7', which is"),
        (
            DIRECT | CREDENTIALS | {"base_url": "https://[fe80::1%eth0]"},
            "has the host '\\[fe80::1%eth0\\]', which is",
        ),
        (
            DIRECT | CREDENTIALS | {"base_url": "https://[v1.butter]"},
            "has the host '\\[v1.butter\\]', which is",
        ),
        # Some releases of Python parse these two, and others do not.
        (
            DIRECT | CREDENTIALS | {"base_url": "https://butter[::1]"},
            "has the host 'butter\\[::1\\]', which is|is not an http\\(s\\) URL",
        ),
        (
            DIRECT | CREDENTIALS | {"base_url": "http://[::1]]:80"},
            "has the host '\\[::1\\]\\]:80', which is|is not an http\\(s\\) URL",
        ),
        (DIRECT | CREDENTIALS | {"base_url": "https://butter.example:port"}, "not an http\\(s\\) URL"),
        (DIRECT | CREDENTIALS | {"senders": 9}, "senders=9: use a whole number from 1 to 8"),
        (DIRECT | CREDENTIALS | {"max_body_bytes": 0}, "max_body_bytes=0"),
        (DIRECT | CREDENTIALS | {"drain_timeout": -1}, "drain_timeout=-1"),
        (
            DIRECT | CREDENTIALS | {"transport": FakeButter(**CREDENTIALS)},
            "transport=FakeButter is no.*transport\\(\\)",
        ),
        (DIRECT | CREDENTIALS | {"transport": httpx.AsyncHTTPTransport}, "transport=AsyncHTTPTransport is no"),
        (DIRECT | CREDENTIALS | {"transport": httpx.HTTPTransport()}, "transport=HTTPTransport is no"),
        (DIRECT | CREDENTIALS | {"outbox": 42}, "outbox=int is not an outbox"),
        (DIRECT | {"outbox": 42, "dry_run": True}, "outbox=int is not an outbox"),
        (DIRECT | CREDENTIALS | {"outbox": SQLiteOutbox}, "outbox=SQLiteOutbox, a class, is not an outbox"),
        (DIRECT | CREDENTIALS | {"outbox": Queue}, "outbox=Queue, a class, is not an outbox"),
        (DIRECT | CREDENTIALS | {"dry_run": "false"}, "dry_run='false': use True or False. .* write os.environ"),
        (DIRECT | CREDENTIALS | {"send_user_agent": "no"}, "send_user_agent='no'"),
        (DIRECT | CREDENTIALS | {"send_network_transaction_id": 0}, "send_network_transaction_id=0"),
        (DIRECT | CREDENTIALS | {"telemetry": None}, "telemetry=None"),
        (DIRECT | CREDENTIALS | {"on_event": 5}, "on_event is not callable. Pass a plain function of one event"),
        (DIRECT | CREDENTIALS | {"on_event": coroutine}, "on_event is a coroutine function"),
        (DIRECT | CREDENTIALS | {"on_event": partial(coroutine, ANYTHING)}, "on_event is a coroutine function"),
        (DIRECT | CREDENTIALS | {"clock": 5.0}, "clock is not callable.*time.time"),
        (DIRECT | CREDENTIALS | {"clock": len}, "clock raises TypeError if it is called without.*time.time"),
        (DIRECT | CREDENTIALS | {"clock": dict}, "clock gives dict, which is not a time"),
        (DIRECT | CREDENTIALS | {"clock": lambda: float("nan")}, "clock gives nan, which is not a time"),
        (DIRECT | CREDENTIALS | {"clock": dict, "outbox": MemoryOutbox()}, "clock gives dict, which is not a time"),
        (DIRECT | CREDENTIALS | {"base_url": b"https://butter.example"}, "not an http\\(s\\) URL"),
        (DIRECT | CREDENTIALS | {"ipv4_beacon": Beacon}, "is not a Beacon"),
        (DIRECT | CREDENTIALS | {"outbox": "/no/such/directory/butter.db"}, "/no/such/directory"),
    ],
)
def test_a_mistake_names_option_and_remedy(options: dict[str, Any], says: str) -> None:
    """Each mistake in the options is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match=says):
        Butter(**options)


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ({"path": "checkout"}, "'checkout'.*Write a path"),
        ({"path": "/checkout?x=1"}, "without query"),
        ({"path": "/checkout/{id:guid}"}, "guid"),
        ({"path": "/checkout/{id"}, "'/checkout/{id'"),
        ({"path": "/checkout/<int:id>"}, "'/checkout/<int:id>': it has a parameter in angle brackets. Write a path"),
        ({"path": "/checkout/{1d}"}, "'/checkout/{1d}'"),
        ({"path": "/{id}/{id}"}, "Duplicated param name id"),
        ({"psp": "paypal"}, "psp='paypal': use 'stripe', 'braintree'"),
        ({"psp": "Stripe"}, "psp='Stripe': did you mean 'stripe'"),
        ({"psp": "ayden"}, "psp='ayden': did you mean 'adyen'"),
        ({"psp": "brain"}, "psp='brain': did you mean 'braintree'"),
        ({"methods": "POST"}, r"Write methods=\('POST',\)"),
        ({"methods": []}, "not a sequence of method names"),
        ({"extract": coroutine}, "coroutine function.*annotate"),
        ({"extract": Callable_()}, "coroutine function"),
        ({"when": coroutine}, "when is a coroutine function"),
        ({"extract": "invoice"}, r"extract is not callable.*extract\.json"),
        ({"extract": partial(coroutine)}, "coroutine function"),
        ({"when": 5}, "when is not callable. .* gives True or False"),
        ({"join": 5}, "join is not callable. Pass a JMESPath expression"),
        ({"address": "no"}, "address='no': use True or False"),
        ({"address_from_body": "no"}, "address_from_body='no'"),
        ({"capture_request_body": 1}, "capture_request_body=1"),
    ],
)
def test_an_invalid_route_is_refused(route: dict[str, Any], says: str) -> None:
    """A route's mistakes are found when it is built."""
    options: dict[str, Any] = {"path": "/checkout", "psp": "stripe"} | route
    with pytest.raises(ConfigurationError, match=says):
        CheckoutRoute(**options)


@pytest.mark.parametrize("senders", [-1, 0, 9, "4", True])
def test_a_consumers_senders_are_checked(senders: Any) -> None:
    """A number that sends nothing would leave the queue full without an error."""
    butter = Butter(**DIRECT, **CREDENTIALS)
    with pytest.raises(ConfigurationError, match=r"senders=.*: use a whole number from 1 to 8"):
        butter.delivery(senders)
    butter.delivery(8)


@pytest.mark.parametrize("methods", ["POST", b"POST", 5])
def test_the_decorator_checks_methods_as_the_route_does(methods: Any) -> None:
    """A method without its tuple would be a list of letters, which match no request."""
    butter = Butter(**DIRECT, **CREDENTIALS)
    with pytest.raises(ConfigurationError, match=r"Write methods=\('POST',\)"):
        butter.checkout_route("/checkout", psp="stripe", methods=methods)(lambda _response: None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (extract.json, "has no field"),
        (lambda: extract.json(invoice="id"), "invoice is not a field of a checkout. Did you mean invoice_id"),
        (lambda: extract.json(invoice_id="invoice.["), r"invoice_id='invoice.\['"),
        (lambda: extract.json(invoice_id="nosuch("), "not a JMESPath expression"),
        (lambda: extract.json(invoice_id=ANYTHING), "is not a string"),
        (lambda: extract.model(dict, lambda order: order), "not a pydantic model"),  # type: ignore[type-var]
        (lambda: extract.model(Checkout, coroutine), "coroutine function.*annotate"),  # type: ignore[arg-type]
        (lambda: extract.model(Checkout, partial(coroutine)), "coroutine function"),  # type: ignore[arg-type]
    ],
)
def test_an_invalid_extractor_is_refused(make: Any, says: str) -> None:
    """A wrong expression is reported when it is written, not at the first checkout."""
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_two_routes_for_one_request_are_refused() -> None:
    """Two routes for the same requests are a mistake, even if the decorator adds the second."""
    other = CheckoutRoute("/checkout/{id}", psp="adyen")
    with pytest.raises(ConfigurationError, match=r"POST /checkout/\{cart_id\} and POST /checkout/\{id\}"):
        Butter(**DIRECT, **CREDENTIALS, routes=[ROUTE, other])
    butter = Butter(**DIRECT, **CREDENTIALS, routes=[ROUTE])
    with pytest.raises(ConfigurationError, match="match the same requests"):
        butter.checkout_route("/checkout/{other}", psp="stripe")(lambda _response: None)
    butter.checkout_route("/checkout/{other}", psp="stripe", methods=["PUT"])(lambda _response: None)


def test_credentials_come_from_arguments_environment_or_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Arguments win over the environment, and the environment over mounted secrets."""
    secret = tmp_path / "password"
    secret.write_text("from-file\n")
    monkeypatch.setenv("BUTTER_USERNAME", "from-environment")
    monkeypatch.setenv("BUTTER_PASSWORD_FILE", str(secret))
    Butter(**DIRECT)
    monkeypatch.setenv("BUTTER_PASSWORD_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="BUTTER_PASSWORD_FILE names a file that cannot be read"):
        Butter(**DIRECT)
    Butter(**DIRECT, password="argument")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty: str) -> None:
    """A compose file may set `BUTTER_BASE_URL: ${BUTTER_BASE_URL:-}`. The default applies, or the mounted secret."""
    secret = tmp_path / "password"
    secret.write_text("from-file\n")
    for name in ("ENVIRONMENT", "BASE_URL", "USERNAME_FILE", "PASSWORD"):
        monkeypatch.setenv(f"BUTTER_{name}", empty)
    monkeypatch.setenv("BUTTER_USERNAME", "merchant")
    monkeypatch.setenv("BUTTER_PASSWORD_FILE", str(secret))
    butter = Butter(**DIRECT)
    assert (butter.environment, butter.base_url) == ("production", BASE_URL)
    monkeypatch.setenv("BUTTER_PASSWORD_FILE", empty)
    with pytest.raises(ConfigurationError, match=r"no (username|password)|BUTTER_PASSWORD"):
        Butter(**DIRECT)


def test_a_misspelled_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the variable, its value and the near miss."""
    monkeypatch.setenv("BUTTER_ENVIRONMENT", "Stagging")
    with pytest.raises(ConfigurationError, match="BUTTER_ENVIRONMENT='Stagging': did you mean 'staging'"):
        Butter(**DIRECT, **CREDENTIALS)


def test_the_environment_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """BUTTER_ENVIRONMENT applies without the argument."""
    monkeypatch.setenv("BUTTER_ENVIRONMENT", "staging")
    assert Butter(**DIRECT, **CREDENTIALS).environment == "staging"
    assert Butter(**DIRECT, **CREDENTIALS, environment="production").environment == "production"


def test_the_base_url_comes_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, make_butter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """BUTTER_BASE_URL points at a sandbox without a change of code, and the log warns. The argument wins over it."""
    elsewhere, sandbox = FakeButter(**CREDENTIALS), FakeButter(**CREDENTIALS)
    with served(sandbox) as url, served(elsewhere) as other:
        monkeypatch.setenv("BUTTER_BASE_URL", f"{url}/")
        for options in ({}, {"base_url": other}):
            butter = make_butter(transport=None, **options)
            butter.record(Checkout(customer_email="a@example.com", ipv4_address="1.1.1.1", psp="adyen", invoice_id="1"))
            assert butter.flush()
    assert (len(sandbox.records), len(elsewhere.records)) == (1, 1)
    assert caplog.text.count("a sandbox, and not to Butter. Unset it in production") == 1


def test_a_base_url_of_a_public_host_is_not_a_sandbox(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a merchant's own proxy, so nothing is logged."""
    monkeypatch.setenv("BUTTER_BASE_URL", "https://butter.internal.example")
    Butter(**DIRECT, **CREDENTIALS)
    assert "sandbox" not in caplog.text


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (":8025", "BUTTER_BASE_URL is not an http"),
        ("127.0.0.1:8025", "BUTTER_BASE_URL is not an http"),
        (
            "http://butter.example",
            "BUTTER_BASE_URL is http:// to butter.example: credentials would travel in the clear",
        ),
        ("http://127.0.0.1.nip.example", "in the clear"),
        ("https://u:p@butter.example", "BUTTER_BASE_URL carries credentials"),
    ],
)
def test_the_base_urls_variable_is_checked_like_the_argument(
    monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    """The error names the variable instead of the argument."""
    monkeypatch.setenv("BUTTER_BASE_URL", value)
    with pytest.raises(ConfigurationError, match=says):
        Butter(**DIRECT, **CREDENTIALS)


def test_no_repr_shows_a_secret() -> None:
    """The credentials are in no repr, at any depth."""
    butter = Butter(**DIRECT, **CREDENTIALS)
    assert repr(butter) == "Butter(production, 0 routes)"
    assert CREDENTIALS["password"] not in f"{butter!r}{butter!s}{vars(butter)!r}"


def test_building_it_opens_nothing(tmp_path: Path) -> None:
    """A constructor opens no file and starts no thread."""
    Butter(**DIRECT, **CREDENTIALS, outbox=tmp_path / "butter.db")
    assert list(tmp_path.iterdir()) == []


def test_a_memory_outbox_warns(caplog: pytest.LogCaptureFixture) -> None:
    """Without a durable outbox, one warning says what is lost and when."""
    Butter(**DIRECT, **CREDENTIALS)
    assert "lost when this process is killed" in caplog.text


def test_a_dry_run_needs_no_credentials() -> None:
    """`dry_run` sends nothing, so it needs no credentials."""
    Butter(**DIRECT, dry_run=True)


class Unreadable(client_ip.TrustedHops):
    """A merchant's own strategy, with an error in its `__repr__`."""

    def __repr__(self) -> str:
        raise KeyError


def test_a_strategy_that_cannot_be_described_is_refused_at_import() -> None:
    """Its repr distinguishes configurations. If it failed only at the first checkout, each record would be lost."""
    with pytest.raises(KeyError):
        Butter(client_ip=Unreadable(1), routes=[ROUTE], **CREDENTIALS)
