"""Shared fixtures: a Butter in the process, and one on a real socket."""

import gc
import importlib.util
import os
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from browsers import CHROMIUM, FLAGS
from hypothesis import HealthCheck, settings
from postgres_server import PostgresServer, why_not
from processes import Late, served
from shops import CREDENTIALS, ROUTE
from suites import Suite

from butter_middleware import Butter, CheckoutRoute, SQLiteOutbox, client_ip
from butter_middleware._utils import log_thread
from butter_middleware.capture import annotations
from butter_middleware.outbox import SQLiteStore
from butter_middleware.pipeline import processes
from butter_middleware.testing import FakeButter

# A suite that runs in the background (`nohup make test &`) starts with these signals ignored. So would the processes
# that it starts and then stops by a signal.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else signal.SIG_DFL)

# No example has a deadline: a loaded machine may take any time.
settings.register_profile("usual", deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)  # for one more Python version
settings.register_profile("deep", max_examples=100_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("usual")


# Modules and thousands of test objects stay until the end. The garbage collector would visit all of them each time.
gc.disable()


def pytest_collection_finish() -> None:
    """Exclude them from now on."""
    gc.freeze()
    gc.enable()


LONG = [
    *("test_sentry.py", "test_processes.py", "test_faults.py", "test_servers.py", "test_deliver.py", "test_browser.py"),
    *("test_without_pytest.py", "test_runs.py", "test_killed.py", "test_tutorial.py", "test_host_counts.py"),
    *("test_unharmed.py", "test_platforms.py", "test_site.py", "test_command.py", "test_model.py", "test_deploys.py"),
    *("test_celery.py", "test_worker.py", "test_demo.py", "test_exit.py"),
]
"""Files with few tests that take long, mostly in other processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, then those with many tests, so that the workers of xdist end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # without workers, in the given order
        tests = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path.name not in LONG, -tests[item.path]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a real Chromium for a module. While Playwright runs, no other test of this thread can have a loop."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def late_server() -> Iterator[tuple[Late, str]]:
    """Serve an app that each test sets, because starting a server takes longer than most tests."""
    late = Late()
    with served(late) as url:
        yield late, url


EXAMPLES = Path(__file__).parents[1] / "examples"


class _SettledLog:
    """It waits for pending log lines before it reads the log. They are written on their own thread."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __getattr__(self, name: str) -> Any:
        log_thread.settle(10)
        return getattr(self._caplog, name)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    log_thread.settle(10)  # lines of an earlier test may still be pending
    annotations.hourly.forget()
    yield cast("pytest.LogCaptureFixture", _SettledLog(caplog))
    log_thread.settle(10)


@pytest.fixture(autouse=True)
def _stop_threads() -> Iterator[None]:
    """The first request of any kind starts threads. End those of a `Butter` that a test did not close."""
    yield
    for pipeline in list(processes._process.pipelines):
        pipeline.reset()


@pytest.fixture(autouse=True)
def _no_lifespan_warning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests send requests without a lifespan. Other tests check the log line about that."""
    if "lifespan" not in request.node.name:
        monkeypatch.setattr("butter_middleware.pipeline.pipeline.Pipeline._say_no_lifespan", lambda _pipeline: None)


@pytest.fixture
def fake() -> FakeButter:
    return FakeButter(**CREDENTIALS)


@pytest.fixture
def url(fake: FakeButter) -> Iterator[str]:
    """Serve `fake` on a real socket."""
    with served(fake) as url:
        yield url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of an outbox's file, which does not exist yet."""
    return tmp_path / "butter.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Open an outbox's store at `path`."""
    store = SQLiteOutbox(path).store()
    store.open()
    yield store
    store.close()


@pytest.fixture
def make_butter(fake: FakeButter) -> Iterator[Callable[..., Butter]]:
    """Build a `Butter` that posts to `fake`. Each is closed at the end."""
    made: list[Butter] = []

    def make(*routes: CheckoutRoute, **options: Any) -> Butter:
        defaults: dict[str, Any] = {
            "client_ip": client_ip.TrustedHops(1),
            "routes": routes or (ROUTE,),
            "transport": fake.transport(),
            **CREDENTIALS,
        }
        butter = Butter(**(defaults | options))
        made.append(butter)
        return butter

    yield make
    for butter in made:
        butter.close()


@pytest.fixture
def butter(make_butter: Callable[..., Butter]) -> Butter:
    return make_butter()


@pytest.fixture
def example(fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import an example, named by its path below `examples/`, with its Butter posting to `fake`. Close it later."""
    opened: list[Butter] = []
    build = Butter.__init__

    def init(self: Butter, **options: Any) -> None:
        build(self, **options, **CREDENTIALS, transport=fake.transport())
        opened.append(self)

    def load(name: str) -> ModuleType:
        monkeypatch.setattr(Butter, "__init__", init)
        path = EXAMPLES / f"{name}.py"
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for butter in opened:
        butter.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests share. A test that stops it starts it again."""
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer()
    try:
        yield server.start()
    finally:
        server.destroy()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The DSN of the test's own database, with the queue's schema in it."""
    from butter_middleware.postgres.names import Names  # noqa: PLC0415 - an extra, and the oldest tests run without it
    from butter_middleware.postgres.schema import migrate  # noqa: PLC0415

    name = f"shop_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name}")
    migrate(postgres.dsn(name), Names())
    yield postgres.dsn(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in ("CI", "BUILD_NUMBER"):  # with these, pytest prints each failure twice in full
        monkeypatch.delenv(name, raising=False)
    return Suite(pytester)
