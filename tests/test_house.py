"""The architecture: packages in rows, imports only from lower rows, and a light `import butter_middleware`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import butter_middleware

ROOT = Path(butter_middleware.__file__).parent
ROWS = [
    {"errors", "events", "_utils"},
    {"models", "client_ip", "config"},
    {"capture", "extract", "ipv6", "outbox", "telemetry", "sandbox"},
    {"reader", "delivery"},
    {"pipeline", "postgres", "backfill"},
    {"butter", "testing"},
    {"cli"},
    {"__main__"},
]
"""From the lowest row up. A module imports from the rows below its own."""
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
NEIGHBOURS = {("models", "client_ip"), ("models", "config"), ("client_ip", "config")}
"""Within the rows 1 and 2 these may import each other, in one direction. The packages of other rows may not."""
HEAVY = [
    *("httpx", "httpx2", "click", "rich", "uvicorn", "opentelemetry", "trio", "fastapi", "sqlalchemy"),
    *("jmespath", "difflib", "butter_middleware.extract.preset", "butter_middleware.extract.tables"),
    *("psycopg", "butter_middleware.outbox.sqlite.store", "butter_middleware.outbox.sqlite.preflight"),
]
"""Not loaded until used: a server, a command line, a PSP's table, a file, the near miss of an error."""


def test_importing_stays_light() -> None:
    """All public names load no HTTP client, command line, server or telemetry, no PSP's table and no JMESPath."""
    code = f"import sys; from butter_middleware import *; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_request_loads_the_sqlite_store() -> None:
    """It is loaded when an outbox names a file. An app without one does not load it, and no checkout waits for it."""
    code = (
        "import sys; from butter_middleware import Butter, SQLiteOutbox, client_ip\n"
        "loaded = lambda: 'butter_middleware.outbox.sqlite.store' in sys.modules\n"
        "butter = Butter(username='u', password='p', client_ip=client_ip.direct(), outbox=None)\n"
        "assert not loaded()\n"
        "butter = Butter(username='u', password='p', client_ip=client_ip.direct(), outbox='butter.db')\n"
        "assert loaded()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def imported(path: Path) -> set[str]:
    """Return the packages and top modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("butter_middleware"):
            parts = (node.module or "").split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Constant) and str(node.value).startswith("butter_middleware."):  # for import_module
            names.add(str(node.value).split(".")[1])
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return names


def test_the_top_level_is_the_architecture() -> None:
    """At most 8 modules and 16 packages at the top, each in a row."""
    top = {path for path in ROOT.iterdir() if path.name not in {"__pycache__", "py.typed"}}
    modules = {path.stem for path in top if path.suffix == ".py"}
    packages = {path.name for path in top if path.is_dir()}
    assert len(modules) <= 8
    assert len(packages) <= 16
    assert modules | packages == set(ROW_OF) | {"__init__"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    """A module imports only from the rows below its own, or from its own package."""
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for other in imported(path) - {own}:
        allowed = ROW_OF[other] < ROW_OF[own] or (own, other) in NEIGHBOURS
        assert allowed, f"{own} imports {other}"


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        ("capture", {"outbox", "reader", "delivery"}),
        ("delivery", {"capture", "reader", "extract"}),
    ],
)
def test_capture_and_delivery_stay_apart(package: str, strangers: set[str]) -> None:
    """The capture knows no outbox, reader or network. The delivery knows no ASGI."""
    for path in (ROOT / package).rglob("*.py"):
        assert imported(path) & strangers == set(), path


def test_one_module_imports_the_http_client() -> None:
    """`delivery.http` imports httpx, and so does the module for tests. Others import it for type checkers only."""
    importers = {path.name for path in ROOT.rglob("*.py") if "\nimport httpx" in path.read_text()}
    assert importers == {"http.py", "fake_butter.py"}


def test_public_names_are_sorted_and_documented() -> None:
    """Every public name exists, in order, and has a docstring."""
    assert butter_middleware.__all__ == sorted(butter_middleware.__all__)
    for name in butter_middleware.__all__:
        assert getattr(butter_middleware, name).__doc__, name
