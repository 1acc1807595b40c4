"""Links, commands, tests, versions and public names in the documentation exist. Its Python is run elsewhere."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import butter_middleware
from butter_middleware import Butter, MemoryOutbox, SQLiteOutbox
from butter_middleware.cli import cli
from butter_middleware.delivery.circuit_breaker import CircuitBreaker
from butter_middleware.outbox import base
from butter_middleware.pipeline import store_thread
from butter_middleware.pipeline.components import QUEUE_SECONDS

ROOT = Path(butter_middleware.__file__).parents[1]
TESTS = ROOT / "tests"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Yield the code blocks of a language, with their pages."""
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            yield page, block


# Code to copy.

COLUMNS = 88


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_next_to_the_menu(page: Path) -> None:
    """Code to copy is not cut off at the right. Printed output may be longer."""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        lines = block.splitlines()
        copied = [line for line in lines if language != "console" or line.startswith("$ ")]
        assert [line for line in copied if len(line) > COLUMNS] == []


@pytest.mark.parametrize("example", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_next_to_the_menu(example: Path) -> None:
    """An example that a page includes is not cut off. A type checker's comment may be longer."""
    lines = [line for line in example.read_text().splitlines() if "# type: ignore" not in line]
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_prompts_separate_commands_from_output() -> None:
    """A block with only commands has no prompts, so it can be copied as a whole. A block with output has prompts."""
    for page, block in blocks("bash"):
        assert not re.search(r"^\$ ", block, re.MULTILINE), page.name
    for page, block in blocks("console"):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()
        assert {line[:2] == "$ " for line in lines if line} == {True, False}, f"{page.name}: use bash, without prompts"


# Links. Sphinx checks those between the pages.


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_of_the_front_page_resolve(page: Path) -> None:
    """On the repository's page, each link of the README works."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), link
            assert not anchor or anchor in anchors(ROOT / target if target else page), link


def test_the_readme_links_to_the_first_page() -> None:
    """The README links to the first page, whose menu has all others."""
    assert "(docs/index.md)" in PAGES[0].read_text()


# Commands.


def test_no_command_has_a_comment() -> None:
    """An interactive zsh would read it as arguments."""
    assert not [command for _page, command in lines_of_commands() if " # " in command]


def commands() -> Iterator[tuple[str, ...]]:
    """Yield each command of a page. Those of the tutorial are run by its own test."""
    for page, line in lines_of_commands():
        if page.name != "tutorial.md":
            yield tuple(shlex.split(line))


def lines_of_commands() -> Iterator[tuple[Path, str]]:
    """Yield each command that can be copied, with its page."""
    for page, block in blocks("console"):
        yield from ((page, line[2:]) for line in unfolded(block) if line.startswith("$ "))
    for page, block in blocks("bash"):
        yield from ((page, line) for line in unfolded(block) if line)


def unfolded(block: str) -> list[str]:
    """Return the lines of a block. Lines that end with a backslash are joined."""
    return re.sub(r"\\\n\s*", "", block).splitlines()


HELP_OF_SCRIPTS = """
import contextlib, io, json, pathlib, runpy, sys

told = {}
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], str(pathlib.Path(script).parent)
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    told[script] = output.getvalue()
print(json.dumps(told))
"""


@cache
def help_of_scripts() -> dict[str, str]:
    """Return the help of each script in the documents. One process runs them all, because they share modules."""
    scripts = sorted({command[1] for command in commands() if command[0] == "python" and command[1].endswith(".py")})
    command = [sys.executable, "-c", HELP_OF_SCRIPTS, *scripts]
    told: dict[str, str] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return told


@cache
def help_of(*command: str) -> str:
    """Return a program's help."""
    run = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=True)
    return run.stdout


def options_of(command: click.Command, arguments: Sequence[str]) -> set[str]:
    """Return the options of a command, or of the subcommand in `arguments`."""
    for name in arguments:
        if isinstance(command, click.Group):
            found = command.get_command(click.Context(command), name)
            assert found is not None, f"there is no command {name}"
            command = found
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


@pytest.mark.parametrize("command", sorted(set(commands())), ids=" ".join)
def test_a_documented_command_exists(command: tuple[str, ...]) -> None:
    """Each command to copy has an existing target, extra, subcommand and options."""
    program, *arguments = command
    options = [argument.split("=")[0] for argument in arguments if re.match("--?[a-z]", argument)]
    match program:
        case "make":
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()
        case "pip" | "uv":
            assert arguments[0] in {"install", "add"}
            extras = re.findall(r"\[(.*)\]", arguments[-1])
            assert set(",".join(extras).split(",")) <= {"", *PROJECT["project"]["optional-dependencies"]}
        case "python" if arguments[0].endswith(".py"):
            told = help_of_scripts()[arguments[0]]
            assert "usage:" in told
            assert [option for option in options if option not in told] == []
        case "python":
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        case "uvx":
            extras = re.findall(r"\[(.*)\]", arguments[1])
            assert set(extras) <= {*PROJECT["project"]["optional-dependencies"]}
            assert arguments[2] in PROJECT["project"]["scripts"]
            assert {*options} - {"--from"} <= options_of(cli, arguments[3:])
        case "butter-middleware":
            assert [option for option in options if option not in options_of(cli, arguments)] == []
        case "uvicorn" | "gunicorn" | "hypercorn" | "granian" | "daphne":
            told = help_of(program)
            assert [option for option in options if not re.search(rf"{option}\b", told)] == []
        case "export":
            read = {f"BUTTER_{name}" for name in ("BASE_URL", "USERNAME", "PASSWORD", "ENVIRONMENT")}
            assert {argument.partition("=")[0] for argument in arguments} <= read
        case _:
            assert program in {"curl", "cd", "pytest"}, f"{program}: say here how it is checked"


NAMED = r"`butter-middleware ([a-z]+)(?: ([a-z]+))?"
OF_ITSELF = r"`([a-z]+) (?:--[a-z][^`\n]*|(list|show|retry|drop))`"
"""How the command line's own texts name commands."""


@pytest.mark.parametrize(
    ("pages", "pattern"),
    [
        ([*PAGES, *(ROOT / "butter_middleware").rglob("*.py")], NAMED),
        ([*(ROOT / "butter_middleware/cli").glob("*.py")], OF_ITSELF),
    ],
    ids=["everywhere", "command line"],
)
def test_a_command_in_a_sentence_exists(pages: list[Path], pattern: str) -> None:
    """If a text says to run a command, the command must exist."""
    found = {names for page in pages for names in re.findall(pattern, page.read_text())}
    assert len(found) > 2
    for names in sorted(found):
        options_of(cli, [name for name in names if name])


def test_gunicorn_does_not_change_the_peer() -> None:
    """The deployment page has an empty option. Uvicorn gets it as an empty list of trusted proxies."""
    code = (
        "import sys; from gunicorn.app.wsgiapp import WSGIApplication as App; "
        f"sys.argv = {[*next(command for command in commands() if command[0] == 'gunicorn')]}; "
        "print(App().cfg.forwarded_allow_ips)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_pod_has_time_to_end() -> None:
    """The manifest is YAML. Its grace period is longer than the server's shutdown and the drain together."""
    (manifest,) = [yaml.safe_load(block) for _page, block in blocks("yaml")]
    pod: dict[str, Any] = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments: list[str] = container["args"]
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in help_of("uvicorn")
    grace = float(arguments[arguments.index("--timeout-graceful-shutdown") + 1])
    drain = inspect.signature(Butter).parameters["drain_timeout"].default
    assert pod["terminationGracePeriodSeconds"] > grace + drain


# Statements about the code.


def written() -> set[str]:
    """Return the names of all tests, with their files."""
    return {
        f"{path.relative_to(TESTS)}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_each_cell_of_the_losses_has_a_test() -> None:
    """Each promise in the tables needs a test."""
    page = (ROOT / "docs/losses.md").read_text()
    tables = re.findall(r"^\|.*\n\| -.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(tables) == 2
    rows = [row.strip("|").split("|") for table in tables for row in table.splitlines()]
    assert len(rows) > 15
    for event, *cells in rows:
        for cell in cells:
            assert not cell.strip() or re.search(r"<!-- [\w/]+\.py::test_", cell), f"{event}: {cell}"
    named = set(re.findall(r"[\w/]+\.py::test_\w+", page))
    assert named - written() == set()


def test_the_losses_have_the_limits_of_the_code(tmp_path: Path) -> None:
    """The seconds, bytes and numbers in the tables are the defaults. The tests of the cells use other ones."""
    page = " ".join((ROOT / "docs/losses.md").read_text().split())
    defaults = {name: option.default for name, option in inspect.signature(Butter).parameters.items()}
    file = SQLiteOutbox(tmp_path / "butter.db")
    for text in (
        f"within `drain_timeout` ({defaults['drain_timeout']:.0f} s), counted",
        f"a response waits {defaults['durability_timeout'] * 1000:.0f} ms at most (`durability_timeout`)",
        f"while {MemoryOutbox().limit:,} are waiting",
        f"up to `max_bytes` ({file.max_bytes / 1024**3:.0f} GiB)",
        f"until {store_thread.MOST_WAITING:,} captures or {store_thread.MOST_BYTES / 1024**2:.0f} MiB are waiting",
        f"delivered in the last {store_thread.LINGER_SECONDS * 1000:.0f} ms may be sent again",
        f"and the response waits {QUEUE_SECONDS * 1000:.0f} ms",
    ):
        assert text in page
    assert (defaults["inline_timeout"], file.tombstone_days) == (1, 7)  # "one second", "a week"


@pytest.mark.parametrize("where", [base, CircuitBreaker.__module__], ids=["record", "endpoint"])
def test_the_diagrams_agree_with_the_code(where: Any) -> None:
    """The diagram in the module's docstring is the one in the architecture."""
    module = sys.modules[where] if isinstance(where, str) else where
    diagram = re.search(r"(?:^    .*\n)+", module.__doc__ or "", re.MULTILINE)
    assert diagram is not None
    assert diagram[0] in (ROOT / "docs/architecture.md").read_text()


def test_the_reference_has_every_public_name() -> None:
    """Each name that users may import is there."""
    reference = (ROOT / "docs/reference/index.md").read_text()
    for name in butter_middleware.__all__:
        assert re.search(rf":: {name}$|`{name}`|^{name}$", reference, re.MULTILINE), name


def test_the_oldest_versions_are_tested() -> None:
    """The table has the versions that `make oldest` installs. The lower bounds are the same."""
    page = (ROOT / "docs/compatibility.md").read_text()
    table = {name.lower(): oldest for name, oldest in re.findall(r"^\| (\w+) \| ([\d.]+) \|", page, re.MULTILINE)}
    pins = dict(
        re.findall(
            r"^([a-z]+)(?:\[.*\])?==([\d.]+)$",
            "\n".join(map(str, PROJECT["dependency-groups"]["oldest"])),
            re.MULTILINE,
        )
    )
    assert table == pins
    for bound in PROJECT["project"]["dependencies"]:
        name, low = re.split(r"(?:\[.*\])?>=", bound)
        assert pins[name] == low or pins[name] == f"{low}.0"
