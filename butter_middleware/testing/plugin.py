"""The pytest plugin: nothing leaves the process, and `butter_inbox` shows the records.

It loads nothing else of this package before a `Butter` is built or the inbox is used.
"""

from typing import TYPE_CHECKING, Any, Final

import pytest

from butter_middleware._utils import overrides

if TYPE_CHECKING:
    from butter_middleware.pipeline.components import Components
    from butter_middleware.testing import ButterInbox
    from butter_middleware.testing.recorder import Recorder
    from butter_middleware.testing.runtime import InboxRuntime

_CLIENT_IP: Final = "butter_client_ip"
_MARKER: Final = "butter"
_USAGE: Final = '@pytest.mark.butter(respond_with=[503, "timeout"])'


class _Run:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.begun: InboxRuntime | None = None
        """The runtime. None if no test and no `Butter` has needed it yet."""
        end = overrides.begin(self._build)
        config.add_cleanup(end)
        config.add_cleanup(self._close)

    @property
    def runtime(self) -> "InboxRuntime":
        """The runtime, made on first use."""
        if self.begun is None:
            from butter_middleware.testing.runtime import InboxRuntime  # noqa: PLC0415 - most runs never need it

            client_ip = str(self._config.getini(_CLIENT_IP))
            try:
                self.begun = InboxRuntime(client_ip=client_ip or None)
            except ValueError as error:
                msg = f"{_CLIENT_IP}: {error}"
                raise pytest.UsageError(msg) from None
        return self.begun

    def _build(self, production: "Components") -> "Components":
        return self.runtime.build(production)

    def _close(self) -> None:
        if self.begun is not None:
            self.begun.begin()
            self.begun.close()


_KEY: Final = pytest.StashKey[_Run]()


def _run_of(config: pytest.Config) -> _Run:
    if _KEY not in config.stash:
        config.stash[_KEY] = _Run(config)
    return config.stash[_KEY]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of pytest's configuration."""
    about = "the address of a test client's own requests, if they have no header that client_ip reads; empty: 127.0.0.1"
    parser.addini(_CLIENT_IP, about, default=overrides.SHOPPER)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before any conftest.py, which may build a `Butter`."""
    _run_of(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Begin if a conftest.py names this plugin, and register the marker."""
    _run_of(config)
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(respond_with=[...]): what Butter answers to the records of this test, one after the other, as "
        'butter_inbox.respond_with() has it: a status, "reset" or "timeout"; afterwards it accepts.',
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reset every `Butter` before each test."""
    run, marker = _run_of(item.config), item.get_closest_marker(_MARKER)
    if run.begun is not None or marker is not None:
        run.runtime.begin()
    if marker is not None:
        _respond(run.runtime.recorder, marker)


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a passing test if one of its checkouts did not become a record and the test did not expect this.

    A test that does not use `butter_inbox` gets a `ParkedWarning` instead, and only if an extractor failed.
    """
    runtime = _run_of(item.config).begun
    unseen = "" if runtime is None else runtime.unseen()
    if runtime is not None and unseen:
        if runtime.recorder.asked_for:
            pytest.fail(unseen, pytrace=False)
        from butter_middleware.testing import ParkedWarning  # noqa: PLC0415 - most runs never need it

        item.warn(ParkedWarning(unseen))


pytest_runtest_teardown = pytest_runtest_call
"""The same check runs after the fixtures have ended, because a fixture may send requests at its end."""


def _respond(recorder: "Recorder", marker: pytest.Mark) -> None:
    if marker.args or set(marker.kwargs) != {"respond_with"}:
        pytest.fail(f"the marker is written {_USAGE}", pytrace=False)
    given: Any = marker.kwargs["respond_with"]
    answers: Any = [given] if isinstance(given, int | str) else given
    try:
        recorder.respond_with(answers)
    except (TypeError, ValueError) as error:
        pytest.fail(f"{error} The marker is written {_USAGE}", pytrace=False)


@pytest.fixture
def butter_inbox(request: pytest.FixtureRequest) -> "ButterInbox":
    """What reached Butter in this test: `.sent`, `.assert_sent(invoice_id=...)`, `.skipped`, `.parked`, `.pending`.

    `.respond_with(503, "timeout")` sets Butter's answers, `.retry_now()` tries pending records again. Nothing leaves
    the process, with or without this fixture. A test that uses it fails if a checkout does not become a record, unless
    the test reads `.skipped`, `.parked` or `.ignored`.
    """
    return _run_of(request.config).runtime.inbox()
