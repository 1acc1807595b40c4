"""The plugin as pytest finds it: by its entry point, in separate processes, and as the documents show it."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from suites import INI, LOADED, Suite

import butter_middleware
from butter_middleware import testing

ROOT = Path(__file__).parents[2]
PACKAGE = Path(butter_middleware.__file__).parent
HEAVY = ["pydantic", "starlette", "jmespath", "anyio", "httpx", "httpx2", "opentelemetry", "sqlite3"]
if sys.version_info < (3, 14):
    HEAVY.append("asyncio")  # from Python 3.14, pytest's own pdb loads it
ALONE = ["", "._utils", "._utils.lazy", "._utils.overrides", ".testing", ".testing.plugin"]
"""The only modules of this package that the plugin may load."""
BARE = [option for name in ("anyio", "asyncio", "hypothesispytest") for option in ("-p", f"no:{name}")]
"""Leave out other installed plugins, which take a second to load."""
STRICT = "[pytest]\nfilterwarnings = error\n"
"""An ini file without the options of those plugins."""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a pytest in another process find this package's entry points, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["pytest11"].items()
    metadata = pytester.mkdir("butter_middleware-0.1.0.dist-info")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: butter-middleware\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{name} = {path}\n" for name, path in points))
    monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{ROOT}:{ROOT / 'tests'}")


@pytest.mark.usefixtures("installed")
def test_pytest_finds_the_plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point is enough. `-p no:` leaves it out, and `-p` loads it if autoload is off."""
    pytester.makepyfile("def test_it(butter_inbox):\n    assert butter_inbox.sent == []\n")
    pytester.makefile(".ini", pytest=STRICT)
    result = pytester.runpytest_subprocess(*BARE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["plugins:*butter-middleware-0.1.0*"])
    result = pytester.runpytest_subprocess(*BARE, "-p", "no:butter_middleware")
    result.stdout.fnmatch_lines(["E*fixture 'butter_inbox' not found"])
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.runpytest_subprocess("-p", "butter_middleware").assert_outcomes(passed=1)


def test_a_run_without_a_butter_loads_nothing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads neither this package's dependencies, nor the rest of this package."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tests = f"""
import sys


def test_it(request):
    assert [name for name in {HEAVY} if name in sys.modules] == []
    ours = sorted(name.removeprefix("butter_middleware") for name in sys.modules if name.startswith("butter_middl"))
    assert ours == {ALONE}
    assert request.config.pluginmanager.has_plugin("butter_middleware.testing.plugin")
"""
    (suite.path / "pytest.ini").write_text(STRICT)
    suite.run_subprocess(tests, head="").assert_outcomes(passed=1)


LIGHT_SHOP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip, extract

butter = Butter(
    client_ip=client_ip.aws_alb(),
    outbox="/var/lib/no-such-shop/butter.db",
    routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
)


async def checkout(request):
    annotate(request, customer_email="ada@example.com")
    return JSONResponse({"status": "paid", "invoice": f"in_{request.path_params['cart_id']}"})


app = ButterMiddleware(Starlette(routes=[Route("/checkout/{cart_id}", checkout, methods=["POST"])]), butter)
"""
"""Starlette only: each process starts a second faster than with FastAPI."""
OFFLINE = """
import os
import socket
import sqlite3


def refuse(*args, **_options):
    tried.append(args)
    raise OSError("there is no network in this test")


tried = []
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
sqlite3.connect = refuse


def pytest_sessionfinish():
    assert tried == []
    assert not os.path.exists("/var/lib/no-such-shop")
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_nothing_leaves_the_process(suite: Suite, workers: str) -> None:
    """No connection is tried and no database is opened, with or without the fixture, also under xdist."""
    (suite.path / "pytest.ini").write_text(STRICT)
    suite.write("shop", LIGHT_SHOP)
    if workers == "0":  # xdist itself talks to its workers
        suite.write("conftest", OFFLINE)
    tests = """
@pytest.mark.parametrize("number", range(10))
def test_with(butter_inbox, number):
    with TestClient(app) as client:
        for cart in range(3):
            buy(cart, client)
    assert len(butter_inbox.sent) == 3


@pytest.mark.parametrize("number", range(4))
@pytest.mark.butter(respond_with=[503] * 9)
def test_without(number):
    buy(number)
    butter.close()


def test_it_does_not_wait():
    buy()
"""
    suite.run_subprocess(tests, *BARE, "-n", workers).assert_outcomes(passed=15)


def test_pytest_describes_the_fixture_and_the_marker(suite: Suite) -> None:
    """`--fixtures` and `--markers` describe the fixture and the marker in whole sentences."""
    result = suite.run("", "--fixtures")
    result.stdout.fnmatch_lines(["*butter_inbox*", "*What reached Butter in this test: *"])
    result = suite.run("", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.butter(respond_with=[[]...[]]): what Butter answers to the records of*"])


def test_a_conftest_may_load_the_plugin(pytester: pytest.Pytester, suite: Suite) -> None:
    """If plugins are not loaded automatically, `pytest_plugins` does it. It applies to what is built afterwards."""
    suite.write("conftest", "pytest_plugins = ['butter_middleware.testing.plugin']\n")
    suite.write("test_shop", "import shop\n\ndef test_it(butter_inbox):\n    assert butter_inbox.sent == []\n")
    pytester.runpytest_inprocess("-p", "no:butter_middleware").assert_outcomes(passed=1)


@pytest.mark.parametrize("document", ["README.md", "docs/testing.md"])
def test_the_documents_tests_pass(pytester: pytest.Pytester, document: str) -> None:
    """Each test in the document's code passes."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    code = "\n".join(re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks)
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(shop=blocks[0][1], test_document=code)  # the README saves its first block as shop.py
    expected = len(re.findall(r"^ *def test_", code, re.MULTILINE))
    assert expected
    pytester.runpytest_inprocess(*LOADED).assert_outcomes(passed=expected)


# Lazy imports.


@pytest.mark.parametrize("package", [butter_middleware, testing])
def test_a_package_lists_its_public_names(package: object) -> None:
    """Type checkers, `__all__`, `dir` and lazy loading agree on the names. Each name exists and has a docstring."""
    path = Path(str(vars(package)["__file__"]))
    (checked,) = (
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    seen = [alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names = vars(package)["__all__"]
    assert sorted(seen) == names == sorted(vars(package)["_HOMES"])
    assert set(names) <= set(dir(package))
    for name in names:
        assert getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match=r"^module 'butter_middleware(\.testing)?' has no attribute 'Butler'$"):
        package.Butler  # type: ignore[attr-defined]  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_star_import_gives_the_public_names(pytester: pytest.Pytester) -> None:
    """A star import loads the lazy names too."""
    code = "from butter_middleware import *\nfrom butter_middleware.testing import *\n"
    code += f"assert {{*{butter_middleware.__all__}, *{testing.__all__}}} <= set(globals())\n"
    assert pytester.runpython_c(code).ret == 0
