"""Whatever can be copied from the README and the docs is run, each document in a folder of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

asyncio.set_event_loop(None)  # otherwise pytest-asyncio has Python make a loop, which nobody closes


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where the document's outbox files may lie, with credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("document"))
        for name in ("BUTTER_USERNAME", "BUTTER_PASSWORD"):
            patch.setenv(name, "any")
        yield
    with suppress(RuntimeError):  # there is none, unless Mangum made one
        asyncio.get_event_loop().close()
    asyncio.set_event_loop(None)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["docs/tutorial.md"],  # files to save and commands to type: tests/test_tutorial.py does both
    fixtures=["own_folder"],
).pytest()
