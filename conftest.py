"""Whatever can be copied from the README and the docs is run, each document in a folder of its own."""

import os
from collections.abc import Iterator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where the document's outbox files may lie."""
    before = os.getcwd()  # noqa: PTH109 - to go back to
    os.chdir(tmp_path_factory.mktemp("document"))
    yield
    os.chdir(before)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["own_folder"],
).pytest()
