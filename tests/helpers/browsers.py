"""Shared by the tests in a real browser. The fixture `browser` is in conftest."""

import shutil
from typing import Final

import pytest

CHROMIUM: Final = shutil.which("chromium") or ""
FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
IN_BROWSER: Final = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no chromium here")]
