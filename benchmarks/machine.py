"""The machine of a measurement."""

import datetime as dt
import os
import platform
from pathlib import Path


def machine() -> str:
    """Return the date, the machine, its load, and its Python."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in information if line.startswith("model name")]
    one, five, fifteen = os.getloadavg()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores of {models[0] if models else '?'}, "
        f"{memory:.0f} GiB, Linux {platform.release()}; load {one:.1f}, {five:.1f}, {fifteen:.1f}; "
        f"Python {platform.python_version()}"
    )
