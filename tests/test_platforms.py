"""Systems without `fcntl` and `fork`, such as Windows: all works there except an outbox on disk, which is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

WINDOWS = """
import os, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_CLOEXEC", "fchown", "fork", "geteuid", "getuid", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)
"""
"""What Python lacks there."""

SHOP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, annotate, client_ip

async def pay(request):
    annotate(request, customer_email="ada@example.com", invoice_id="in_1")
    return JSONResponse({"status": "paid"})

def shop(**options):
    routes = [CheckoutRoute("/checkout", psp="stripe")]
    butter = Butter(client_ip=client_ip.SingleHeader("x-ip"), routes=routes, **options)
    app = Starlette(routes=[Route("/checkout", pay, methods=["POST"])])
    app.add_middleware(ButterMiddleware, butter=butter)
    return butter, app

def buy(app):
    with TestClient(app) as client:
        client.post("/checkout", headers={"x-ip": "81.2.69.142"})
"""

MEMORY = """
from butter_middleware.testing import FakeButter
fake = FakeButter(username="merchant", password="secret")
butter, app = shop(username="merchant", password="secret", transport=fake.transport())
buy(app)
assert butter.flush(), butter.status()
butter.close()
assert [record["invoice_id"] for record in fake.records] == ["in_1"]
"""

EXIT = """
import atexit, os
from butter_middleware import Checkout
from butter_middleware.testing import FakeButter
fake = FakeButter(username="merchant", password="secret")
atexit.register(lambda: os._exit(3 - len(fake.records)))  # after ours, which is registered later
butter, _app = shop(username="merchant", password="secret", transport=fake.transport())
for number in range(3):
    butter.record(Checkout(
        ipv4_address="81.2.69.142", psp="stripe", customer_email="ada@example.com", invoice_id=f"in_{number}"
    ))
"""

DISK = """
from butter_middleware import ConfigurationError
try:
    shop(username="merchant", password="secret", outbox="butter.db")
except ConfigurationError as error:
    assert "butter.db': an outbox on disk needs Python's fcntl module" in str(error), error
    assert "use PostgresOutbox; or run on Linux or macOS" in str(error), error
else:
    raise AssertionError("an outbox on disk was built")
"""

SANDBOX = """
import asyncio, signal, socket, threading, time, urllib.request
from butter_middleware.cli import cli

def unable(*_arguments):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = unable  # as the event loops of Windows
pages = []
with socket.create_server(("127.0.0.1", 0)) as probe:
    port = probe.getsockname()[1]

def look():
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Accept": "text/html"})
    until = time.monotonic() + 20
    while not pages and time.monotonic() < until:
        try:
            with opener.open(request, timeout=20) as page:
                pages.append(page.read())
        except OSError:  # it does not listen yet
            time.sleep(0.05)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=look).start()
try:
    cli(["sandbox", "--port", str(port)])
except SystemExit as end:
    assert end.code == 0, end.code
assert b"Butter" in pages[0], pages
"""


def run(code: str, folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("code", [MEMORY, EXIT, DISK, SANDBOX], ids=["memory", "exit", "disk", "sandbox"])
def test_it_works_without_fcntl(tmp_path: Path, code: str) -> None:
    """The memory outbox delivers and drains, the sandbox shows its page, and an outbox on disk names the remedy."""
    run(WINDOWS + SHOP + code, tmp_path)


def test_the_plugin_works_without_fcntl(tmp_path: Path) -> None:
    """A shop's test sees its checkout in `butter_inbox`."""
    (tmp_path / "test_shop.py").write_text(
        SHOP
        + "butter, app = shop()\n"
        + "def test_the_checkout_is_recorded(butter_inbox):\n"
        + "    buy(app)\n"
        + "    butter_inbox.assert_sent(invoice_id='in_1', ipv4_address='81.2.69.142')\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:asyncio"]
    run(f"{WINDOWS}\nimport pytest\nsys.exit(pytest.main({[*options, str(tmp_path)]!r}))", tmp_path)
