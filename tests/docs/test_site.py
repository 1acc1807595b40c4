"""The built documentation: pictures, anchors and code to copy. Also the package index's page and the public CI."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages that are tested here."""
    source, built = tmp_path_factory.mktemp("source") / "docs", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("reference", "benchmarks.md"))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples"):
        (source.parent / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "sphinx", "-E", "-a", "-q", str(source), str(built)]
    subprocess.run(command, check=True, capture_output=True)
    return built


def test_diagrams_are_pictures(site: Path) -> None:
    """Each diagram of the architecture is an SVG with a title, and the states have boxes."""
    page = (site / "architecture.html").read_text()
    pictures = re.findall(r'<svg class="diagram" role="img" aria-label="([^"]+)"', page)
    assert len(pictures) == (ROOT / "docs/architecture.md").read_text().count("```{diagram}") == 4
    for state in ("captured", "pending", "delivered", "parked", "skipped", "dead", "open", "hold", "paused"):
        assert re.search(rf'<text class="state"[^>]*>{state}</text>', page), state
    assert "┌" not in re.sub(r"<title>.*?</title>", "", page)


@pytest.mark.parametrize("anchor", ["ipv6-client", "not-annotated", "no-route-of-the-app-answers-nearest"])
def test_each_error_has_an_anchor(site: Path, anchor: str) -> None:
    """Each row of the error index has its own anchor."""
    page = (site / "errors.html").read_text()
    rows = re.findall(r'<tr [^>]*id="([^"]+)"', page)
    assert len(rows) == len(set(rows)) > 150
    assert anchor in rows


def test_a_table_can_be_read_on_a_phone(site: Path) -> None:
    """Each cell of the error index has its column's name, so that a row can be shown as a card."""
    page = (site / "errors.html").read_text()
    for row in re.findall(r'<tr [^>]*id="[^"]+">.*?</tr>', page, re.DOTALL):
        labels = re.findall(r'<td data-label="([^"]*)"', row)
        assert len(labels) == row.count("<td") > 1
        assert labels[-1] in {"remedy", "meaning"}


def test_nothing_is_fetched_to_show_a_page(site: Path) -> None:
    """No script, style, font or picture comes from another site."""
    for page in site.glob("*.html"):
        assert not re.search(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//', page.read_text()), page.name


def test_code_can_be_copied(site: Path) -> None:
    """The pages load the copy button. The servers are a set of tabs."""
    page = (site / "deployment.html").read_text()
    assert "copybutton.js" in page
    assert page.count("sd-tab-label") >= 4


def test_a_package_index_shows_no_dead_link() -> None:
    """The README in the wheel has no relative link, because the package index cannot resolve it."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text()
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "docs/sandbox.png" not in text


def test_the_public_checks_run_the_same_command() -> None:
    """`make test` runs on each Python in the classifiers, and on macOS."""
    (job,) = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"].values()
    matrix = job["strategy"]["matrix"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert matrix["python"] == named
    assert any(each["os"].startswith("macos") for each in matrix["include"])
    assert job["steps"][-1]["run"].startswith("make test")
