"""Puts small faults into the core, one by one, and runs the tests on each, to see whether they notice it.

    python benchmarks/mutation.py [--seed 1] [--mutants 60] [--only capture outbox/sqlite/store.py]
                                  [--tests tests/capture ...] [--seconds 300] [--reach FILE] [--results FILE]

It works in a copy of the tree. First all the tests run once, to find which of them reach which line. `--reach` keeps
that in a file for the next run on the same code. Then the tests that reach the line of a fault, a mutant, run until one
fails. Those of its own name and package run first, and all together for at most `--seconds`. A mutant that hangs counts
as noticed. Tests that start servers, browsers or databases are left out. `--results` keeps the result of each mutant. A
run that was stopped continues from there, and after a change of the tests only the survivors are tried again. It prints
the figures of each package, and the mutants that no test noticed: each is a missing test, or a change without effect.
"""

import argparse
import ast
import copy
import difflib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from machine import machine
from written import table

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "butter_middleware"
CORE = [
    "capture",
    "client_ip",
    "delivery",
    "extract/preset.py",
    "extract/tables",
    "models",
    "outbox",
    "pipeline",
    "reader",
]
DOCUMENTS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
TREE = [PACKAGE, "tests", "docs", "examples", "benchmarks", "pyproject.toml", "conftest.py", "Makefile", *DOCUMENTS]
TESTS = ["tests"]
LEFT_OUT = ["benchmarks", "docs", "servers", "helpers"]
PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:faker", "--hypothesis-profile", "quick"]
LOADED = ["pytest", "pytest_asyncio.plugin", "pytest_timeout", "hypothesis", "fastapi.testclient", "httpx", "trio"]
"""Modules that take long to import. Each run of the tests is forked from a process that has loaded them."""
UNMARKED = "not server and not browser and not postgres and not proxy"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: a changed place in a module."""

    path: str
    line: int
    last_line: int
    operator: str
    source: str
    """The whole module with the fault."""
    difference: str

    @property
    def package(self) -> str:
        """Its part of the core."""
        return self.path.split("/")[1].removesuffix(".py")

    @property
    def name(self) -> str:
        """A unique name among the mutants of the same code."""
        return f"{self.path}:{self.line} {self.operator} {sha256(self.source.encode()).hexdigest()[:12]}"


SWAPPED, REMOVED = "swapped branch", "removed statement"
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}


def changed(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the replacements of a node: the operator's name, and the other node."""
    if isinstance(node, ast.expr):
        yield from _other_expressions(node)
    elif isinstance(node, ast.stmt):
        yield from _other_statements(node)


def _other_expressions(node: ast.expr) -> Iterator[tuple[str, ast.AST]]:
    other: Any = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            other.ops = [COMPARISONS[type(operator)]()]
            yield "comparison", other
        case ast.BoolOp():
            other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "boolean", other
        case ast.UnaryOp(op=ast.Not()):
            yield "boolean", other.operand
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _of_text(node):
            other.op = ARITHMETIC[type(node.op)]()
            yield "arithmetic", other
        case ast.IfExp():
            yield SWAPPED, node.test
        case _:
            return


def _other_statements(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    other: Any = copy.deepcopy(node)
    match node:
        case ast.AugAssign() if type(node.op) in ARITHMETIC and not _of_text(node):
            other.op = ARITHMETIC[type(node.op)]()
            yield "arithmetic", other
            yield REMOVED, ast.Pass()
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Delete() | ast.Raise() | ast.Continue():
            yield REMOVED, ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield REMOVED, ast.Pass()
        case ast.If() | ast.While():
            yield SWAPPED, node.test
        case _:
            return


def _of_text(node: ast.BinOp | ast.AugAssign) -> bool:
    """Return whether it joins or formats texts: another operator would only raise."""
    return any(
        isinstance(inner, ast.JoinedStr) or (isinstance(inner, ast.Constant) and isinstance(inner.value, str | bytes))
        for inner in ast.walk(node)
    )


def walked(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the code that runs, without annotations, decorators, defaults of types, texts, or code for checkers."""
    left_out: list[Any] = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    left_out += getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        if child in left_out or isinstance(child, ast.JoinedStr):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from walked(child)


def sites(path: Path, root: Path = ROOT) -> Iterator[Mutant]:
    """Yield each mutant of a module."""
    text = path.read_text()
    relative = str(path.relative_to(root))
    starts: list[int] = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in walked(ast.parse(text)):
        for operator, other in changed(node):
            is_swapped = operator == SWAPPED
            place: Any = other if is_swapped else node
            written = f"(not ({ast.unparse(other)}))" if is_swapped else ast.unparse(other)
            if isinstance(other, ast.expr) and not isinstance(other, ast.Constant):
                written = f"({written})"
            first: int = starts[int(place.lineno) - 1] + place.col_offset
            last: int = starts[int(place.end_lineno) - 1] + place.end_col_offset
            source = (text.encode()[:first] + written.encode() + text.encode()[last:]).decode()
            difference = difflib.unified_diff(text.splitlines(), source.splitlines(), lineterm="", n=0)
            shown = "\n".join(line for line in list(difference)[2:] if not line.startswith("@@"))
            yield Mutant(relative, place.lineno, place.end_lineno, operator, source, shown)


def modules(only: Sequence[str]) -> list[Path]:
    """Return the modules of the named packages and files."""
    found: set[Path] = set()
    for name in only:
        path = ROOT / PACKAGE / name
        found |= {path} if path.is_file() else set(path.rglob("*.py"))
    return sorted(found)


def copied(folder: Path) -> Path:
    """Copy the tree without generated files. Return the copy."""
    tree = folder / "tree"
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif source.exists():
            shutil.copy2(source, tree / name)
    return tree


PLUGIN = """
import atexit, json, os, time
from collections import defaultdict
import coverage, pytest

measured = coverage.Coverage.current()
seconds = {}
failed = set()

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.monotonic()
    measured.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        seconds[item.nodeid] = time.monotonic() - began

def pytest_runtest_logreport(report):
    if not report.passed:
        failed.add(report.nodeid)

def pytest_unconfigure():
    measured.stop()
    data = measured.get_data()
    reach = {}
    for path in data.measured_files():
        lines = defaultdict(list)
        for line, contexts in data.contexts_by_lineno(path).items():
            lines[line] = sorted(set(contexts) & set(seconds) - failed)
        reach[os.path.relpath(path)] = lines
    with open("reach.json", "w") as file:
        json.dump({"seconds": seconds, "failed": sorted(failed), "reach": reach}, file)
"""
"""Records which test runs which lines, on any thread."""


class Campaign:
    """A copy of the tree, the tests that reach each line, and the tried mutants."""

    def __init__(self, tree: Path, tests: Sequence[str], budget: float) -> None:
        self._tree = tree
        self._tests = tests
        self._budget = budget
        self._environment = os.environ | {"PYTHONPATH": str(tree)}
        self._seconds: dict[str, float] = {}
        self._reach: dict[str, dict[str, list[str]]] = {}
        self._broken: set[str] = set()
        """Tests that fail here without a mutant, such as those that start pytest in a process that has loaded it."""
        self._written = 0
        digest = sha256()
        for path in [path for part in (PACKAGE, "tests") for path in sorted((tree / part).rglob("*.py"))]:
            digest.update(path.read_bytes())
        self.name = f"{digest.hexdigest()} {' '.join(tests)}"
        """Equal for the same code and tests."""

    def measure(self, kept: Path | None) -> str:
        """Run the tests without a fault, unless a file has the lines that they reach. Return a line about it."""
        measured: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
        if measured.get("tree") != self.name:
            (self._tree / "reaching.py").write_text(PLUGIN)
            (self._tree / ".coveragerc").write_text(
                f"[run]\nsource = {PACKAGE}\nbranch = false\nconcurrency = thread\n"
            )
            options = ["-p", "reaching", "-m", UNMARKED]
            ignored = [f"--ignore=tests/{name}" for name in LEFT_OUT] + ["--ignore=tests/test_benchmarks.py"]
            done = subprocess.run(
                [sys.executable, "-m", "coverage", "run", "-m", "pytest", *PYTEST, *options, *ignored, *self._tests],
                cwd=self._tree,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
            )
            result = self._tree / "reach.json"
            if not result.exists():
                sys.exit(f"{done.stdout}{done.stderr}\nthe tests do not run: see above")
            measured = json.loads(result.read_text()) | {"tree": self.name}
            if kept:
                kept.write_text(json.dumps(measured))
        self._seconds, self._reach = measured["seconds"], measured["reach"]
        if not any(path.startswith(PACKAGE) for path in self._reach):
            sys.exit(f"the tests import another {PACKAGE} than the copy in {self._tree}")
        total = sum(self._seconds.values())
        out = f"; these fail or are skipped without a mutant: {measured['failed']}" if measured["failed"] else ""
        return f"{len(self._seconds)} tests in {total:.0f} s{out}"

    def reaching(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the mutant's line, or its module if the line runs at import.

        Those of its own name come first, then those of its own package, then the shortest files. Tests beyond the
        budget are left out.
        """
        lines = self._reach.get(mutant.path, {})
        tests = {test for line in range(mutant.line, mutant.last_line + 1) for test in lines.get(str(line), ())}
        if not tests:
            tests = {test for found in lines.values() for test in found}
        files: dict[str, list[str]] = defaultdict(list)
        for test in self._seconds:  # in order, because a file's tests may share expensive objects
            if test in tests - self._broken:
                files[test.split("::")[0]].append(test)

        def order(file: str) -> tuple[bool, bool, float]:
            of_name, of_package = Path(mutant.path).stem in file, file.startswith(f"tests/{mutant.package}/")
            return not of_name, not of_package, self._duration(files[file])

        chosen: list[str] = []
        left = self._budget
        for test in (test for file in sorted(files, key=order) for test in files[file]):
            if self._seconds[test] <= left:
                chosen.append(test)
                left -= self._seconds[test]
        return chosen

    def _duration(self, tests: Sequence[str]) -> float:
        return sum(self._seconds[test] for test in tests)

    def noticed(self, mutant: Mutant) -> str:
        """Run the tests on a mutant. Return the first that fails, "too slow", or nothing."""
        path = self._tree / mutant.path
        original = path.read_text()
        tests = self.reaching(mutant)
        try:
            while tests:
                self._write(path, mutant.source)
                failed = self._fail(tests)
                if failed not in tests:
                    return failed
                if self._fail([failed]):
                    self._write(path, original)
                    if not self._fail([failed]):
                        return failed
                    self._broken.add(failed)
                # It fails without the mutant too, or only after other tests.
                tests = tests[tests.index(failed) + 1 :]
        finally:
            self._write(path, original)
        return ""

    def _write(self, path: Path, source: str) -> None:
        """Write a module with a unique time, because Python's compiled files are matched by it."""
        path.write_text(source)
        self._written += 1
        os.utime(path, (self._written, self._written))

    def _fail(self, tests: Sequence[str]) -> str:
        """Run tests. Return the first that fails, another error, or nothing."""
        (self._tree / "tests.txt").write_text("\n".join(tests))
        process = get_context("fork").Process(target=self._test)
        process.start()
        assert process.pid is not None
        process.join(60 + 3 * self._duration(tests))
        is_slow = process.exitcode is None
        with suppress(ProcessLookupError):  # the group, to end processes that the tests started
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if is_slow:
            return "too slow"
        if process.exitcode == 0:
            return ""
        lines = (self._tree / "output.txt").read_text(errors="replace").strip().splitlines() or ["no output"]
        failures = [line for line in lines if line.startswith(("FAILED tests/", "ERROR tests/"))]
        failure = failures[0].partition(" ")[2] if failures else lines[-1][:200]
        return max((test for test in tests if failure.startswith(test)), key=len, default=failure)

    def _test(self) -> None:
        """Run the tests that the file names in their own process, with pytest's exit code."""
        os.setsid()
        os.chdir(self._tree)
        os.environ.update(self._environment)
        sys.path[0] = str(self._tree)
        with Path("output.txt").open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        arguments = [*PYTEST, "-x", "--timeout", "60", "-W", "ignore::pytest.PytestAssertRewriteWarning", "@tests.txt"]
        code = import_module("pytest").main(arguments)
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="chooses the mutants")
    parser.add_argument("--mutants", type=int, default=60, help="how many")
    parser.add_argument("--only", nargs="+", default=CORE, metavar="PATH", help="packages and modules, in the package")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="TEST", help="what pytest is given")
    parser.add_argument("--seconds", type=float, default=300.0, help="of tests for a mutant, at most")
    parser.add_argument("--reach", type=Path, help="a file that keeps which tests reach which line")
    parser.add_argument("--results", type=Path, help="a file that keeps which test noticed which mutant")
    options = parser.parse_args()
    everything = [mutant for path in modules(options.only) for mutant in sites(path)]
    chosen = random.Random(options.seed).sample(everything, min(options.mutants, len(everything)))
    began = time.monotonic()
    tried: dict[str, list[tuple[Mutant, str]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(copied(Path(folder)), options.tests, options.seconds)
        print(campaign.measure(options.reach), flush=True)
        for name in LOADED:
            import_module(name)
        known = results(options.results, campaign.name)
        for number, mutant in enumerate(chosen, 1):
            notice = known[mutant.name] if mutant.name in known else campaign.noticed(mutant)
            tried[mutant.package].append((mutant, notice))
            print(f"{number}. {mutant.path}:{mutant.line} {mutant.operator}: {notice or 'SURVIVED'}", flush=True)
            if options.results and mutant.name not in known:
                with options.results.open("a") as file:
                    file.write(json.dumps([mutant.name, campaign.name, notice]) + "\n")
    print(f"\n{figures(tried)}\n\n{survivors(tried)}\n")
    print(f"Seed {options.seed}, {len(chosen)} of {len(everything)} mutants, {time.monotonic() - began:.0f} s.")
    print(machine())


def results(kept: Path | None, tree: str) -> dict[str, str]:
    """Return the results of an earlier run. Survivors are included only if nothing has changed since then."""
    if kept is None or not kept.exists():
        return {}
    lines: list[tuple[str, str, str]] = [json.loads(line) for line in kept.read_text().splitlines()]
    return {name: notice for name, of_tree, notice in lines if notice or of_tree == tree}


def figures(tried: dict[str, list[tuple[Mutant, str]]]) -> str:
    """Return a table of how many mutants of each package were noticed."""
    everything = [outcome for outcomes in tried.values() for outcome in outcomes]
    rows: list[list[str]] = []
    for name, outcomes in [*sorted(tried.items()), ("all", everything)]:
        noticed = sum(bool(notice) for _, notice in outcomes)
        share = f"{100 * noticed / len(outcomes):.0f} %" if outcomes else ""
        rows.append([name, str(len(outcomes)), str(noticed), share])
    return table(["", "mutants", "noticed", "share"], rows)


def survivors(tried: dict[str, list[tuple[Mutant, str]]]) -> str:
    """Return the mutants that no test noticed, each with its change."""
    survived = [mutant for outcomes in tried.values() for mutant, notice in outcomes if not notice]
    survived.sort(key=lambda mutant: (mutant.path, mutant.line))
    return "\n\n".join(f"{mutant.path}:{mutant.line} {mutant.operator}\n{mutant.difference}" for mutant in survived)


if __name__ == "__main__":
    main()
