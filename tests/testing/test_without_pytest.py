"""Without pytest's plugin, nothing leaves the process under unittest, Django's runner and other test clients."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from processes import served

import butter_middleware
from butter_middleware import Butter, ButterMiddleware, client_ip
from butter_middleware._utils import overrides
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import ButterInbox, FakeButter, ParkedError, inbox

PACKAGE = Path(butter_middleware.__file__).parents[1]
SHOP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

butter = Butter(
    client_ip=client_ip.direct(),
    outbox="butter.db",
    routes=[CheckoutRoute("/checkout/{cart}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)


def checkout(request):
    annotate(request, customer_email="ada@example.com")
    return JSONResponse({"invoice": f"in_{request.path_params['cart']}"})


app = Starlette(
    routes=[Route("/checkout/{cart}", checkout, methods=["POST"])],
    middleware=[Middleware(ButterMiddleware, butter=butter)],
)
"""
SEEN = """
import unittest

from starlette.testclient import TestClient

from butter_middleware.testing import ButterInboxMixin
from shop import app, butter


class Seen(ButterInboxMixin, unittest.TestCase):
    def test_a_checkout(self):
        with TestClient(app) as client:
            client.post("/checkout/7")
        self.butter_inbox.assert_sent(invoice_id="in_7", ipv4_address="203.0.113.1")

    def test_each_test_begins_with_nothing(self):
        TestClient(app).post("/checkout/7")
        self.butter_inbox.assert_sent(count=1)


class Unseen(unittest.TestCase):
    client = TestClient(app, client=("81.2.69.142", 50000))

    @classmethod
    def setUpClass(cls):
        cls.client.post("/checkout/1")

    def test_a_checkout(self):
        assert self.client.post("/checkout/7").status_code == 200
        butter.flush()
        assert butter.status().lost == 0
"""


@pytest.fixture
def connections() -> Iterator[tuple[list[str], str]]:
    """Record the requests that reach a Butter on a real socket, and give its URL."""
    came: list[str] = []
    fake = FakeButter(username=None, password=None)

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            came.append(scope["path"])
        await fake(scope, receive, send)

    with served(counted) as url:
        yield came, url


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, connections: tuple[list[str], str]) -> Run:
    """Run Python in the shop's folder, with credentials, and with a Butter that would accept each record."""
    (tmp_path / "shop.py").write_text(SHOP)

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        given = {name: value for name, value in os.environ.items() if not name.startswith(("BUTTER_", "PYTEST_"))}
        given |= {"BUTTER_USERNAME": "any", "BUTTER_PASSWORD": "thing", "BUTTER_BASE_URL": connections[1]}
        given |= {"PYTHONPATH": f"{PACKAGE}:{tmp_path}"} | environment
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Exception ignored" not in done.stderr  # for example, a generator closed when its modules are gone
        return done

    return run


@pytest.mark.server
def test_unittest_sends_nothing(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """With and without the mixin, nothing is sent and no outbox is opened. One log line says why."""
    (tmp_path / "test_shop.py").write_text(SEEN)
    done = run("-m", "unittest", "-v")
    assert "Ran 3 tests" in done.stderr
    assert done.stderr.count("butter: unittest runs in this process: records stay in memory, nothing is sent") == 1
    assert connections[0] == []
    assert not list(tmp_path.glob("butter.db*"))


@pytest.mark.server
def test_unittest_needs_no_credentials(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """The same as under pytest."""
    (tmp_path / "test_shop.py").write_text(SEEN)
    run("-m", "unittest", BUTTER_USERNAME="", BUTTER_PASSWORD="")
    assert connections[0] == []


@pytest.mark.server
def test_a_script_that_ends_with_unittest_main(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """The other way to run unittest."""
    (tmp_path / "test_shop.py").write_text(f"{SEEN}\nunittest.main()\n")
    run("test_shop.py")
    assert connections[0] == []


@pytest.mark.server
def test_pytest_runs_the_same_suite(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """With the fixture, with the mixin, and with neither."""
    fixture = "\ndef test_it(butter_inbox):\n    TestClient(app).post('/checkout/7')\n    butter_inbox.assert_sent()\n"
    (tmp_path / "test_shop.py").write_text(SEEN + fixture)
    plugin = ["-p", "butter_middleware.testing.plugin", "-p", "no:cacheprovider"]
    assert "4 passed" in run("-m", "pytest", "-q", *plugin, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1").stdout
    assert connections[0] == []


@pytest.mark.server
@pytest.mark.parametrize("options", [[], ["--parallel", "2"]])
def test_djangos_runner_sends_nothing(
    run: Run, tmp_path: Path, connections: tuple[list[str], str], options: list[str]
) -> None:
    """`manage.py test`, with Django's own client for ASGI, in one process and in several."""
    pytest.importorskip("django")
    (tmp_path / "shop.py").write_text("""
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

SECRET_KEY = "x"
ROOT_URLCONF = "shop"
ALLOWED_HOSTS = ["*"]
butter = Butter(
    client_ip=client_ip.direct(),
    outbox="butter.db",
    routes=[CheckoutRoute("/checkout/{cart}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)


def checkout(request, cart):
    annotate(request, customer_email="ada@example.com")
    return JsonResponse({"invoice": f"in_{cart}"})


urlpatterns = [path("checkout/<str:cart>", checkout)]
""")
    (tmp_path / "test_shop.py").write_text("""
from django.core.asgi import get_asgi_application
from django.test import AsyncClient, SimpleTestCase

from butter_middleware import ButterMiddleware
from butter_middleware.testing import ButterInboxMixin
from shop import butter


class Client(AsyncClient):
    def __init__(self, **options):
        super().__init__(**options)
        self.handler = Mounted(self.handler)


class Mounted:
    def __init__(self, handler):
        self.handler = handler

    async def __call__(self, scope):
        given = {}

        async def app(scope, receive, send):
            given["response"] = response = await self.handler(scope)
            headers = [(name.encode(), value.encode()) for name, value in response.items()]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": response.content})

        async def send(message):
            pass

        await ButterMiddleware(app, butter)({"type": "http", **scope}, None, send)
        return given["response"]


class Seen(ButterInboxMixin, SimpleTestCase):
    async_client_class = Client

    async def test_a_checkout(self):
        assert (await self.async_client.post("/checkout/7")).status_code == 200
        self.butter_inbox.assert_sent(invoice_id="in_7", ipv4_address="203.0.113.1")


class Unseen(SimpleTestCase):
    async_client_class = Client

    async def test_a_checkout(self):
        assert (await self.async_client.post("/checkout/7")).status_code == 200
        butter.flush()
""")
    done = run("-m", "django", "test", "--settings=shop", *options)
    assert "Ran 2 tests" in done.stderr
    assert connections[0] == []
    assert not list(tmp_path.glob("butter.db*"))


@pytest.mark.server
def test_litestars_client_sends_nothing(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """Under unittest, with the mixin and without it."""
    pytest.importorskip("litestar")
    (tmp_path / "litestar_shop.py").write_text((PACKAGE / "examples/frameworks/litestar_shop.py").read_text())
    (tmp_path / "test_shop.py").write_text("""
import unittest

from litestar.testing import TestClient

from butter_middleware.testing import ButterInboxMixin
from litestar_shop import app


class Seen(ButterInboxMixin, unittest.TestCase):
    def test_a_checkout(self):
        with TestClient(app) as client:
            assert client.post("/checkout/7").status_code == 200
        self.butter_inbox.assert_sent(invoice_id="in_7", ipv4_address="203.0.113.1")


class Unseen(unittest.TestCase):
    def test_a_checkout(self):
        with TestClient(app) as client:
            assert client.post("/checkout/7").status_code == 200
""")
    assert "Ran 2 tests" in run("-m", "unittest").stderr
    assert connections[0] == []


@pytest.mark.server
def test_a_variable_allows_sending_in_tests(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """BUTTER_SEND_IN_TESTS=1 is for an end-to-end test. A test with the mixin still sends nothing."""
    (tmp_path / "test_shop.py").write_text(SEEN)
    run("-m", "unittest", BUTTER_SEND_IN_TESTS="1")
    assert "/v1/analytics" in connections[0]


@pytest.mark.server
def test_a_process_in_production_sends(run: Run, tmp_path: Path, connections: tuple[list[str], str]) -> None:
    """A process that loads unittest, runs it in another thread, or ran it before, sends its checkouts."""
    (tmp_path / "serve.py").write_text("""
import threading
import unittest
import unittest.mock

from starlette.testclient import TestClient

from shop import app, butter


class SelfTest(unittest.TestCase):
    def test_it(self):
        butter.status()
        TestClient(app).post("/checkout/test")


suite = unittest.defaultTestLoader.loadTestsFromTestCase(SelfTest)
assert unittest.TextTestRunner().run(suite).wasSuccessful()  # at its start: that one is a test
release, runs = threading.Event(), threading.Event()


class Endless(unittest.TestCase):
    def test_it(self):
        runs.set()
        release.wait(30)


thread = threading.Thread(target=unittest.TextTestRunner().run, args=[Endless("test_it")])
thread.start()
runs.wait(30)
with butter:
    TestClient(app, client=("81.2.69.142", 50000)).post("/checkout/7")
    assert butter.flush(20)
assert butter.status().delivered == 1, butter.status()
release.set()
thread.join()
""")
    run("serve.py")
    assert connections[0].count("/v1/analytics") == 1


# The context manager


def test_a_butter_that_was_built_before(fake: FakeButter, make_butter: Callable[..., Butter], path: Path) -> None:
    """Within `inbox()` it sends nothing. Afterwards it works as before."""
    butter = make_butter(outbox=str(path), client_ip=client_ip.direct(), transport=None, base_url="http://127.0.0.1:9")
    app = ButterMiddleware(sends(start(), body(b'{"invoice": "in_1", "customer": {"email": "a@example.com"}}')), butter)
    with inbox() as butter_inbox:
        anyio.run(drive, app, http_scope("/checkout/7", client=("testclient", 1)))
        assert isinstance(butter_inbox, ButterInbox)
        butter_inbox.assert_sent(invoice_id="in_1")
        assert not path.exists()
    assert butter.status().captured == 0
    assert overrides.current() is None
    butter.pipeline.start()
    butter.pipeline.counts()
    assert path.exists()


def test_it_fails_at_its_end_as_the_fixture_does(make_butter: Callable[..., Butter]) -> None:
    """It raises at its end, unless the block has raised already."""
    butter = make_butter(client_ip=client_ip.direct(), transport=None)
    app = ButterMiddleware(sends(start(), body(b"{}")), butter)

    def shop(*, fails: bool) -> None:
        with inbox(client_ip="203.0.113.9"):
            anyio.run(drive, app, http_scope("/checkout/7", client=("testclient", 1)))
            if fails:
                raise KeyError

    with pytest.raises(ParkedError, match="a checkout became no record"):
        shop(fails=False)
    with pytest.raises(KeyError):
        shop(fails=True)
    assert overrides.current() is None


def test_one_within_another(make_butter: Callable[..., Butter]) -> None:
    """The inner inbox gets its own records only. Afterwards the outer one gets records again."""
    butter = make_butter(client_ip=client_ip.direct(), transport=None)
    app = ButterMiddleware(sends(start(), body(b'{"invoice": "in_1", "customer": {"email": "a@example.com"}}')), butter)

    def buy() -> None:
        anyio.run(drive, app, http_scope("/checkout/7", client=("testclient", 1)))

    with inbox() as outer:
        buy()
        with inbox() as inner:
            buy()
            inner.assert_sent(count=1)
        buy()
        assert len(outer.sent) == 2


def test_only_the_main_threads_stack_counts() -> None:
    """A test run in another thread does not count, nor does an import of unittest."""
    seen: list[bool] = []
    import unittest  # noqa: PLC0415

    case = unittest.FunctionTestCase(lambda: seen.append(overrides.tests_run()))
    thread = threading.Thread(target=case.run)
    thread.start()
    thread.join()
    case.run()
    assert (seen, overrides.tests_run()) == ([False, True], False)
