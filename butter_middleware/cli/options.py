"""Which outbox and which app: `--outbox` or `BUTTER_OUTBOX`, `--app` or `BUTTER_APP`, the same for every command."""

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, Final, TypeVar, cast

import click

from butter_middleware._utils import log_thread
from butter_middleware.butter import Butter
from butter_middleware.capture.middleware import ButterMiddleware
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.outbox import MemoryOutbox, SQLiteOutbox

C = TypeVar("C", bound=Callable[..., Any])

LAYERS: Final = 32
"""Of middleware around an app, to look through."""
NO_OUTBOX: Final = (
    "Which outbox? Pass --outbox PATH or set BUTTER_OUTBOX. Or name your Butter, which knows the path: pass "
    "--app shop.main:butter or set BUTTER_APP."
)


def outbox_option(command: C) -> C:
    """Give a command `--outbox`."""
    return click.option(
        "--outbox",
        type=click.Path(dir_okay=False),
        envvar="BUTTER_OUTBOX",
        show_envvar=True,
        help="The outbox's file, as Butter(outbox=...) names it.",
    )(command)


def app_option(command: C) -> C:
    """Give a command `--app`."""
    return click.option(
        "--app",
        metavar="MODULE:NAME",
        envvar="BUTTER_APP",
        show_envvar=True,
        help="Your Butter, or the app that it is mounted in, such as shop.main:butter; imported from this directory.",
    )(command)


def by_hand(name: str) -> bool:
    """Whether an option stands on the command line, and not in the environment."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def outbox_path(outbox: str | None, app: str | None) -> str:
    """Return the file that is meant. The command line goes before the environment, and --outbox before --app.

    Raises:
        Failure: nothing says which, the app cannot be imported, or keeps no file.
    """
    if outbox and (by_hand("outbox") or not by_hand("app")):
        return outbox
    if app is None:
        raise Failure(NO_OUTBOX, ExitCode.USAGE)
    return path_of(load(app), app)


def path_of(butter: Butter, app: str) -> str:
    """Return the file in which a Butter keeps its records.

    Raises:
        Failure: it keeps them elsewhere.
    """
    if isinstance(butter.outbox, SQLiteOutbox):
        return butter.outbox.path
    if butter.dry_run:
        what = "keeps nothing: dry_run=True. Take that out."
    elif isinstance(butter.outbox, MemoryOutbox):
        what = "keeps its records in memory only, which no other process can see. Set outbox= to the path of a file."
    else:
        what = f"keeps its records in a queue of your own ({type(butter.outbox).__name__}). Look there."
    msg = f"--app {app}: this Butter {what}"
    raise Failure(msg)


def load(app: str, said: list[str] | None = None) -> Butter:
    """Import an app and return its Butter. What the app prints goes to standard error.

    What this package warns of meanwhile is added to `said`; where that is left out, a command that is about something
    else does not repeat it.

    Raises:
        Failure: there is none, or the import fails; where, and the remedy.
    """
    name, _colon, attribute = app.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with redirect_stdout(sys.stderr), listening([] if said is None else said):
        module = _import(name, app)
    if not attribute:
        return _only_one(module, app)
    found: object = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            near = get_close_matches(step, dir(found), 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            msg = f"--app {app}: {name} has no {step}.{meant}"
            raise Failure(msg)
        found = getattr(found, step)
    butter = _butter_in(found)
    if butter is None:
        msg = (
            f"--app {app}: that is not a Butter or an app with ButterMiddleware, but {type(found).__name__}. Name the "
            "variable that holds Butter(...), at the module's top level."
        )
        raise Failure(msg)
    return butter


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record.getMessage().removeprefix(log_thread.PREFIX))


@contextmanager
def listening(said: list[str]) -> Generator[None]:
    """Add what this package warns of meanwhile to `said`, and let it go nowhere else."""
    log = logging.getLogger("butter_middleware")
    listener = _Listener(said)
    propagates, log.propagate = log.propagate, False
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.propagate = propagates


def _import(name: str, app: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            msg = (
                f"--app {app}: there is no module {error.name} here. Run this where the app starts, as its server does."
            )
        else:
            msg = f"--app {app}: the app needs {error.name}, which is not installed here. Use the app's environment."
        raise Failure(msg) from error
    except (Exception, SystemExit) as error:
        frames = extract_tb(error.__traceback__)
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        msg = f"--app {app}: importing {name} failed{where}: {type(error).__name__}: {error}"
        raise Failure(msg) from error


def _only_one(module: ModuleType, app: str) -> Butter:
    found = {name: value for name, value in vars(module).items() if isinstance(value, Butter)}
    if len(set(map(id, found.values()))) == 1:
        return next(iter(found.values()))
    which = f"has {len(found)}: {', '.join(sorted(found))}" if found else "has none at its top level"
    msg = f"--app {app}: say which Butter, as in --app {app}:butter. The module {which}."
    raise Failure(msg)


def _butter_in(found: object) -> Butter | None:
    """Return a Butter, or the one that the ButterMiddleware was given which an app has, or that is around it."""
    for _layer in range(LAYERS):
        if isinstance(found, Butter):
            return found
        if isinstance(found, ButterMiddleware) and isinstance(found.butter, Butter):
            return found.butter
        for entry in cast("list[Any]", getattr(found, "user_middleware", None) or []):
            for value in [*getattr(entry, "kwargs", {}).values(), *getattr(entry, "args", ())]:
                if isinstance(value, Butter):
                    return value
        found = getattr(found, "app", None)
    return None
