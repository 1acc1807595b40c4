"""Runs all code in the README and the docs, each document in its own folder."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

asyncio.set_event_loop(None)  # otherwise pytest-asyncio lets Python make a loop that is never closed


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, for the document's outbox files, with credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("document"))
        for name in ("BUTTER_USERNAME", "BUTTER_PASSWORD"):
            patch.setenv(name, "any")
        yield
    with suppress(RuntimeError):  # there is no loop, unless Mangum made one
        asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/tutorial.md"],  # it has files to save and commands to type, which tests/docs/test_tutorial.py does
    fixtures=["own_folder"],
).pytest()
