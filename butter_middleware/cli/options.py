"""What the commands share: exit codes, `--json`, `--reveal`, `--outbox`, `--app`, and the signals that stop them."""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import wraps
from importlib import import_module
from logging.handlers import BufferingHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from traceback import extract_tb
from types import FrameType, ModuleType
from typing import Any, Final, TypeVar, cast

import click
from click.exceptions import Exit
from starlette.applications import Starlette

from butter_middleware import config
from butter_middleware._utils import log_thread
from butter_middleware.butter import Butter
from butter_middleware.capture import app_routes
from butter_middleware.cli.failure import ExitCode, Failure, exit_codes
from butter_middleware.cli.output import Output
from butter_middleware.outbox import MemoryOutbox, SQLiteOutbox

C = TypeVar("C", bound=Callable[..., Any])

ENTRY: Final = click.IntRange(0, 2**63 - 1)
"""The number of an entry in the outbox. The upper bound is SQLite's."""
_PACKAGE: Final = str(Path(__file__).parents[1])
SAME_SECONDS: Final = 1.0
"""A second signal within this time is the first one, sent twice: `timeout` signals a process, then its group."""
NO_OUTBOX: Final = (
    "Which outbox? Pass --outbox PATH or set BUTTER_OUTBOX. Or name your Butter, which knows the path: pass "
    "--app shop.main:butter or set BUTTER_APP."
)

NAME_IT: Final = "Name the variable that holds Butter(...), at the module's top level."


class NumberRange(click.FloatRange):
    """A number in a range. click accepts `nan`, which is not in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def command(
    name: str,
    *,
    ok: str,
    attention: str = "",
    busy: str = "",
    reveal: bool = False,
    group: click.Group | None = None,
    help_: str | None = None,
) -> Callable[[Callable[..., ExitCode | None]], click.Command]:
    """Make a function a command. The function gets an `Output` first, and returns an exit code, or None for OK.

    `ok`, `attention` and `busy` describe these exit codes, if the command has them. `reveal` adds the option
    `--reveal`. The help text is `help_`, or the docstring.
    """
    codes = exit_codes(ok=ok, attention=attention, busy=busy)

    def decorate(function: Callable[..., ExitCode | None]) -> click.Command:
        @wraps(function)
        def run(*, as_json: bool, reveal: bool = False, **options: Any) -> None:  # noqa: ANN401 - any command's
            raise Exit(function(Output(as_json, reveal), **options) or ExitCode.OK)

        make = click.command if group is None else group.command
        made = make(name, help=help_, epilog=codes)(run)
        if reveal:
            text = "Show personal data: e-mail and IP addresses, and the content of a shopper's request and response."
            made.params.append(click.Option(["--reveal"], is_flag=True, help=text))
        made.params.append(
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document, for programs.")
        )
        return made

    return decorate


outbox_option: Final = click.option(
    "--outbox",
    type=click.Path(dir_okay=False),
    envvar="BUTTER_OUTBOX",
    show_envvar=True,
    help="The outbox's file, as Butter(outbox=...) names it.",
)
app_option: Final = click.option(
    "--app",
    metavar="MODULE:NAME",
    envvar="BUTTER_APP",
    show_envvar=True,
    help="Your Butter, or the app that it is mounted in, such as shop.main:butter; imported from this directory.",
)


def outbox_options(function: C) -> C:
    """Add `--outbox` and `--app` to a command. It gets the path of their file as `path`."""

    @wraps(function)
    def run(*arguments: Any, outbox: str | None, app: str | None, **options: Any) -> Any:  # noqa: ANN401 - any command's
        return function(*arguments, path=outbox_path(outbox, app), **options)

    return cast("C", outbox_option(app_option(run)))


def default_option(name: str, default: Any, kind: Any, help_: str) -> Callable[[C], C]:  # noqa: ANN401 - click's types
    """Return an option with a default that its help shows."""
    return click.option(name, default=default, type=kind, show_default=True, help=help_)


def by_hand(name: str) -> bool:
    """Return whether an option is given on the command line, and not by the environment."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def outbox_path(outbox: str | None, app: str | None) -> str:
    """Return the path of the file. The command line has precedence over the environment, and --outbox over --app."""
    if outbox and (by_hand("outbox") or not by_hand("app")):
        return outbox
    if app is None:
        raise Failure(NO_OUTBOX, ExitCode.USAGE)
    return path_of(load(app), app)


def path_of(butter: Butter, app: str) -> str:
    """Return the file in which a Butter keeps its records. Fail if it keeps them elsewhere."""
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

    Warnings of this package during the import are added to `said`. Without `said`, they are dropped, for commands that
    have another subject.
    """
    name, _colon, attribute = app.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with redirect_stdout(sys.stderr), listening([] if said is None else said):
        module = _import(name, app)
    if not attribute:
        butters = {name: value for name, value in vars(module).items() if isinstance(value, Butter)}
        if len(set(map(id, butters.values()))) == 1:
            return next(iter(butters.values()))
        which = f"has {len(butters)}: {', '.join(sorted(butters))}" if butters else "has none at its top level"
        msg = f"--app {app}: say which Butter, as in --app {app}:butter. The module {which}."
        raise Failure(msg)
    found: object = module
    for step in attribute.split("."):
        if not hasattr(found, step):
            near = config.near_miss(step, [name for name in dir(found) if not name.startswith("_")])
            msg = f"--app {app}: {name} has no {attribute}. {f'Did you mean {near}?' if near else NAME_IT}"
            raise Failure(msg)
        found = getattr(found, step)
    given = (value for value, _wrapped in app_routes.mounted(found))
    butter = next((value for value in (found, *given) if isinstance(value, Butter)), None)
    if butter is None and isinstance(found, Starlette):
        msg = (
            f"--app {app}: this {type(found).__name__} app has no ButterMiddleware, so no checkout is captured. Write "
            f"{attribute}.add_middleware(ButterMiddleware, butter=...)."
        )
        raise Failure(msg)
    if butter is None:
        kind = type(found).__name__
        msg = f"--app {app}: that is not a Butter or an app with ButterMiddleware, but {kind}. {NAME_IT}"
        raise Failure(msg)
    return butter


def field_values(given: Sequence[str], option: str, fields: Collection[str]) -> dict[str, str]:
    """Return the values of a repeated option of the form FIELD=VALUE, by field."""
    values: dict[str, str] = {}
    for text in given:
        name, _equals, value = text.partition("=")
        if name not in fields or not value:
            msg = f"{name!r} is not a field. {config.meant(name, fields, 'fields')}"
            if not value:
                msg = f"{text!r} is not FIELD=VALUE. The fields are {', '.join(fields)}."
            raise click.BadParameter(msg, param_hint=option)
        values[name] = value
    return values


def load_aloud(app: str, output: Output) -> Butter:
    """Import an app that must send. Warnings of this package during the import go to standard error."""
    said: list[str] = []
    butter = load(app, said)
    for text in said:
        output.note(text)
    refuse_dry_run(butter, app)
    return butter


def refuse_dry_run(butter: Butter, app: str) -> None:
    """Refuse a Butter that sends nothing."""
    if butter.dry_run:
        msg = f"--app {app}: this Butter sends nothing: dry_run=True. Take that out."
        raise Failure(msg)


def load_extra(module: str, name: str, what: str, needs: Collection[str]) -> ModuleType:
    """Import a module that needs an extra. Fail if the extra is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in needs:
            raise
        msg = f"{what} is an extra. Run: pip install 'butter-middleware[{name}]'"
        raise Failure(msg) from error


@contextmanager
def listening(said: list[str]) -> Generator[None]:
    """Within the block, add this package's warnings to `said` instead of logging them."""
    log, listener = logging.getLogger("butter_middleware"), BufferingHandler(sys.maxsize)
    listener.setLevel(logging.WARNING)
    propagates, log.propagate = log.propagate, False
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.propagate = propagates
        said += [record.getMessage().removeprefix(log_thread.PREFIX) for record in listener.buffer]


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
        # The app's own line, even if this package or the code of a dataclass raised.
        frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith((_PACKAGE, "<"))]
        where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        msg = f"--app {app}: importing {name} failed{where}: {type(error).__name__}: {error}"
        raise Failure(msg) from error


class Stop:
    """Whether a command was told to stop. A signal handler may set it.

    A handler runs on the main thread, between any two of its steps. If that thread waits for a `threading.Event`, it
    may hold the event's lock. `Event.set` in the handler then waits forever. `SimpleQueue.put` does not.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Tell the command to stop."""
        self._told.put(None)

    def is_set(self) -> bool:
        """Whether it was told to stop."""
        return not self._told.empty()

    def wait(self, seconds: float) -> bool:
        """Wait until it is told to stop, but no longer than `seconds`. Return whether it was."""
        with suppress(Empty):
            self._told.get(timeout=seconds)
            self.set()  # the next call must return the same
        return self.is_set()


@contextmanager
def stop_signals(stop: Callable[[], object], *, again_ends: bool = True) -> Generator[None]:
    """Within the block, make Ctrl-C, SIGTERM and SIGHUP call `stop`.

    A signal that the process ignores stays ignored, such as SIGHUP under nohup. With `again_ends`, a second signal ends
    the process at once, unless it comes within `SAME_SECONDS` after the first one.
    """
    ends_from = math.inf

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal ends_from
        if again_ends and time.monotonic() >= ends_from:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        ends_from = min(ends_from, time.monotonic() + SAME_SECONDS)
        stop()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
