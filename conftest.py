"""Whatever can be copied from the README and the docs is run, each document in a folder of its own."""

from collections.abc import Iterator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where the document's outbox files may lie, with credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("document"))
        for name in ("BUTTER_USERNAME", "BUTTER_PASSWORD"):
            patch.setenv(name, "any")
        yield


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/tutorial.md"],  # files to save and commands to type: tests/test_tutorial.py does both
    fixtures=["own_folder"],
).pytest()
