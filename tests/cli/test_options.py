"""`--app shop.main:butter`: how a Butter is found, and the error if it is not."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import TIMEOUT_MAX, Thread
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner

from butter_middleware.cli import cli
from butter_middleware.cli.failure import Failure
from butter_middleware.cli.options import Stop, load, outbox_path, path_of

SECONDS = 10.0
"""A thread that does not end in this time hangs."""

SHOP = """
from fastapi import FastAPI
from butter_middleware import Butter, ButterMiddleware, client_ip
print("the shop starts")
butter = Butter(username="u", password="p", client_ip=client_ip.direct(), outbox="butter.db")
app = FastAPI()
app.add_middleware(ButterMiddleware, butter=butter)
class settings:
    evidence = butter
class Around:
    def __init__(self, app): self.app = app
wrapped = Around(ButterMiddleware(FastAPI(), butter))
outer = FastAPI()
outer.mount("/shop", app)
def make(): return butter
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write a module of the shop where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("BUTTER_OUTBOX", raising=False)
    known = set(sys.modules)

    def write(name: str, text: str) -> None:
        Path(name).parent.mkdir(exist_ok=True)
        (Path(name).parent / "__init__.py").touch()  # or another module of this name on the path would come first
        Path(name).write_text(text)

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["butter", "app", "settings.evidence", "wrapped", "outer", ""])
def test_a_butter_is_found(
    write: Callable[[str, str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """It is found by its name, by an app that has or mounts it, by a wrapper, or by the module. So is its path."""
    write("shop/main.py", SHOP)
    found = load(f"shop.main:{name}" if name else "shop.main")
    assert path_of(found, "") == outbox_path(None, "shop.main:butter") == str(tmp_path / "butter.db")
    assert outbox_path("other.db", "shop.main:butter") == "other.db"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the shop starts" in captured.err


@pytest.mark.parametrize(
    ("text", "app", "said"),
    [
        (SHOP, "shop.mian:butter", "there is no module shop.mian here. Run this where the app starts"),
        (SHOP, "shop.main:buter", "shop.main has no buter. Did you mean butter?"),
        ("BUTTER = 1", "shop.main:BUTER", "shop.main has no BUTER. Did you mean BUTTER?"),
        (SHOP, "shop.main:app.zzz", "shop.main has no app.zzz. Name the variable that holds Butter(...), at the"),
        (SHOP, "shop.main:make", "not a Butter or an app with ButterMiddleware, but function"),
        (SHOP + "bare = FastAPI()", "shop.main:bare", "this FastAPI app has no ButterMiddleware, so no checkout"),
        ("", "shop.main", "say which Butter, as in --app shop.main:butter. The module has none"),
        (SHOP + "other = Butter(client_ip=client_ip.direct(), dry_run=True)", "shop.main", "has 2: butter, other"),
        ("import absent_package", "shop.main:butter", "the app needs absent_package, which is not installed here"),
        (
            "x = 1\nraise KeyError('ann@example.com')",
            "shop.main:butter",
            "importing shop.main failed at main.py:2: KeyError",
        ),
        ("import sys; sys.exit(3)", "shop.main:butter", "importing shop.main failed at main.py:1: SystemExit: 3"),
        (SHOP.replace('"u"', '""'), "shop.main:butter", "at main.py:5: ConfigurationError: the username is empty"),
    ],
)
def test_a_wrong_app_is_explained(write: Callable[[str, str], None], text: str, app: str, said: str) -> None:
    """Each error is one line that says what to do."""
    write("shop/main.py", text)
    with pytest.raises(Failure) as caught:
        load(app)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((', outbox="butter.db"', ""), "in memory only"),
        ((', outbox="butter.db"', ", dry_run=True"), "dry_run=True"),
        ((', outbox="butter.db"', ", outbox=Queue()"), "a queue of your own (Queue)"),
    ],
)
def test_an_outbox_that_is_not_a_file_is_explained(
    write: Callable[[str, str], None], change: tuple[str, str], said: str
) -> None:
    """A command cannot read an outbox in memory or in another queue, and a dry run has none."""
    queue = "class Queue:\n    async def enqueue(self, record): ...\n"
    write("shop/main.py", queue + SHOP.replace(*change))
    with pytest.raises(Failure) as caught:
        outbox_path(None, "shop.main:butter")
    assert said in str(caught.value)


def test_options_win_over_the_environment(
    write: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """BUTTER_APP replaces --app, and BUTTER_OUTBOX replaces --outbox. Options win over both."""
    write("shop/main.py", SHOP)

    def said(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["status", *arguments]).stderr

    monkeypatch.setenv("BUTTER_APP", "shop.main")
    assert str(tmp_path / "butter.db") in said()
    assert str(tmp_path / "typed.db") in said("--outbox", "typed.db")
    monkeypatch.setenv("BUTTER_OUTBOX", "environment.db")
    assert str(tmp_path / "environment.db") in said()
    assert str(tmp_path / "butter.db") in said("--app", "shop.main:butter")
    (tmp_path / "answer.json").write_text("{}")
    found = CliRunner().invoke(cli, ["explain", "answer.json", "--psp", "stripe"])
    assert (found.exit_code, found.stderr) == (1, "")
    assert CliRunner().invoke(cli, ["explain-ip", "--peer", "10.0.0.1", "--strategy", "direct()"]).exit_code == 1


def steps_of_a_wait(signalled_at: int) -> int:
    """Run a signal's handler on the waiting thread, at one of its steps. Return the number of steps."""
    stop, steps = Stop(), 0

    def trace(_frame: FrameType, _event: str, _given: object) -> Any:
        nonlocal steps
        steps += 1
        if steps == signalled_at:
            stop.set()
        return trace

    def wait() -> None:
        sys.settrace(trace)
        stop.wait(TIMEOUT_MAX)
        sys.settrace(None)

    waiting, another = Thread(target=wait, daemon=True), Thread(target=stop.set, daemon=True)
    waiting.start()
    another.start()
    waiting.join(SECONDS)
    assert not waiting.is_alive(), f"it waits for ever if the signal comes at step {signalled_at}"
    assert stop.is_set()
    return steps


def test_a_signal_between_any_two_steps_of_a_wait_ends_it() -> None:
    """The handler runs on the waiting thread. A lock that this thread holds would never be free for it."""
    step = 1
    while steps_of_a_wait(step) >= step:
        step += 1
    assert step > 1
