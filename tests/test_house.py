"""The house rules, drawn: light imports, layers, one importer of httpx, and no unread corner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import butter_middleware

ROOT = Path(butter_middleware.__file__).parent
LAYERS = [
    {"errors", "_asgi", "_lazy", "apart", "forks", "rehearsal"},
    {"checkout", "daemons", "decoding", "client_ip", "counters", "progress", "settings", "templates", "waiting"},
    {"exchange", "answers", "body_address", "events", "notes", "parts", "payments"},
    {"notices", "telemetry"},
    {"outbox", "api", "coverage"},
    {"routes", "courier", "health", "status"},
    {"health_app", "places"},
    {"beacon"},
    {"beacon_app"},
    {"extract"},
    {"strength", "remedies", "sources"},
    {"reading", "endpoint"},
    {"delivery", "awaited"},
    {"readloop", "tidings"},
    {"worker", "appender", "postgres"},
    {"standing"},
    {"collector"},
    {"assembly"},
    {"butter"},
    {"backfill"},
    {"middleware", "testing"},
    {"sandbox"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}
HEAVY = ["httpx", "httpx2", "click", "rich", "uvicorn", "opentelemetry", "trio", "fastapi", "sqlalchemy"]


def test_importing_stays_light() -> None:
    """The whole face loads no HTTP client, no command line, no server and no telemetry."""
    code = f"import sys; from butter_middleware import *; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def imported(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, at any place in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("butter_middleware"):
            parts = (node.module or "").split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return names


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    """A module imports only from below its own layer, or from its own package."""
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    lazy = {"api"} if own == "assembly" else set[str]()
    for other in imported(path) - {own} - lazy:
        assert LAYER_OF[other] < LAYER_OF[own], f"{own} imports {other}"


def test_one_module_knows_the_http_client() -> None:
    """Httpx is imported by `api`, and by what tests use; elsewhere for type checkers only."""
    importers = {path.name for path in ROOT.rglob("*.py") if "\nimport httpx" in path.read_text()}
    assert importers == {"api.py", "fake_butter.py"}


def test_no_module_is_too_long() -> None:
    """A module that grows beyond a screenful of screens has two reasons to change."""
    long = {path.name: count for path in ROOT.rglob("*.py") if (count := len(path.read_text().splitlines())) > 350}
    assert long == {}


def test_the_face_is_sorted_and_documented() -> None:
    """Every public name is there, in order, and has a docstring."""
    assert butter_middleware.__all__ == sorted(butter_middleware.__all__)
    for name in butter_middleware.__all__:
        assert getattr(butter_middleware, name).__doc__, name
