"""The tests of all frameworks and servers, as a table.

    python benchmarks/matrix.py [--write docs/compatibility.md] [-- PYTEST_OPTION ...]

Each cell is a test of `tests/ecosystem` with a real app, and with a real server if one is named. The exit code is
pytest's.
"""

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

from written import publish, table

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = {
    "test_the_response_is_read": "extract",
    "test_the_endpoint_annotates": "annotate",
    "test_the_endpoint_records": "record",
    "test_an_example_sends_after_a_restart_and_loses_nothing_at_a_stop": "restart, stop",
}
SERVERS = {
    "test_a_stop_right_after_five_checkouts_loses_none_on_disk": "restart, a file",
    "test_a_stop_right_after_five_checkouts_loses_none_in_memory": "stop, memory",
    "test_losses_of_a_memory_outbox_are_logged": "stop, memory",
}
TESTS = ["tests/ecosystem/test_asgi_frameworks.py", "tests/ecosystem/test_servers.py"]
PACKAGES = [
    *("fastapi", "starlette", "litestar", "django", "djangorestframework", "django-ninja", "quart", "falcon"),
    *("blacksheep", "strawberry-graphql", "uvicorn", "gunicorn", "hypercorn", "granian", "daphne"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a document with a place for the tables")
    parser.add_argument("pytest", nargs="*", help="options of pytest's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *options.pytest, *TESTS]
        done = subprocess.run(command, cwd=ROOT, check=False)
        cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest wrote it
        outcomes = {case.get("name", ""): "yes" if case.find("failure") is None else "FAILED" for case in cases}
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = f"{matrix(outcomes, FRAMEWORKS)}\n\n{matrix(outcomes, SERVERS)}\n\n"
    text += f"Python {platform.python_version()}; {versions}."
    publish(options.write, "matrix", text)
    sys.exit(done.returncode)


def matrix(outcomes: dict[str, str], columns: dict[str, str]) -> str:
    """Return the outcomes of parametrized tests as a table: one row for each parameter, one column for each test."""
    rows: dict[str, dict[str, str]] = {}
    names: dict[str, None] = {}
    for name, outcome in outcomes.items():
        found = re.fullmatch(r"(\w+)\[(.*)\]", name)
        if found and found[1] in columns:
            column = columns[found[1]]
            said = "said" if found[1] == "test_losses_of_a_memory_outbox_are_logged" and outcome == "yes" else outcome
            rows.setdefault(found[2], {})[column] = said
            names[column] = None
    return table(["", *names], [[row, *(cells.get(name, "") for name in names)] for row, cells in rows.items()])


if __name__ == "__main__":
    main()
