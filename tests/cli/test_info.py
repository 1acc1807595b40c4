"""`butter-middleware info`: enough for a bug report, without secrets."""

import json
import platform
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from butter_middleware.cli import cli

SECRET = "a-secret-that-nobody-may-see"
SHOP = f"""
from butter_middleware import Butter, CheckoutRoute, client_ip, extract
butter = Butter(
    client_ip=client_ip.fastly(["10.0.0.0/8"], require=("x-secret", {SECRET!r})),
    username="somebody", password={SECRET!r}, outbox="butter.db",
    routes=[CheckoutRoute("/pay/{{cart}}", psp="stripe", extract=extract.stripe())],
)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a shop where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop_to_report", raising=False)
    for name in ("BUTTER_APP", "BUTTER_ENVIRONMENT", "BUTTER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BUTTER_PASSWORD", SECRET)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example")
    path = tmp_path / "shop_to_report.py"
    path.write_text(SHOP)
    return path


def test_versions_platform_and_options(shop: Path) -> None:
    """It shows the names of environment variables, and the app's options and routes."""
    found = CliRunner().invoke(cli, ["info", "--app", "shop_to_report:butter", "--json"])
    assert found.exit_code == 0
    fields = json.loads(found.stdout)
    assert fields["python"].startswith(platform.python_version())
    assert {"platform", "sqlite", "butter-middleware", "httpx", "starlette"} <= set(fields)
    assert {"BUTTER_PASSWORD", "HTTPS_PROXY"} <= set(fields["variables"].split(", "))
    assert fields["outbox"].endswith("butter.db")
    assert fields["routes"] == ["POST /pay/{cart}: stripe, by extract.stripe"]
    assert SECRET not in found.stdout


def test_no_secret_is_shown(shop: Path) -> None:
    """This is so in the text too, and if the configuration is invalid."""
    shop.write_text(f"raise ValueError({SECRET!r})")
    broken = CliRunner().invoke(cli, ["info", "--app", "shop_to_report:butter"])
    assert broken.exit_code == 1
    assert "`butter-middleware check` says why" in broken.stdout
    assert SECRET not in broken.output
    assert SECRET not in CliRunner().invoke(cli, ["info"]).output


def test_an_invalid_environment_is_reported(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions are still shown."""
    monkeypatch.setenv("BUTTER_BASE_URL", f"https://user:{SECRET}@example.com")
    found = CliRunner().invoke(cli, ["info"])
    assert found.exit_code == 1
    assert platform.python_version() in found.stdout
    assert SECRET not in found.output
