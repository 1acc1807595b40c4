"""Run code with a real terminal for its output."""

import os
import pty
import re
import subprocess
import sys

from butter_middleware.cli.output import Mark, Output, Row

__all__ = ["COLUMNS", "ROWS", "Output", "on_terminal", "plain", "run_on_terminal"]

ROWS: list[Row] = [
    {"name": "dns", "state": Mark.OK, "detail": "a.shopper@example.com", "more": 1.25},
    {"name": "clock [bold]", "state": Mark.FAILED, "detail": "81.2.69.142 \x1b[2J", "more": None},
]
COLUMNS = {"name": "Check", "state": "State", "detail": "Detail", "more": "More"}


def on_terminal(code: str, **environment: str) -> str:
    """Run Python code with a terminal of 100 columns for its output, and return the output."""
    return run_on_terminal([sys.executable, "-c", code], **environment)


def plain(shown: str) -> str:
    """Return the text without colours and other escapes."""
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)


def run_on_terminal(command: list[str], **environment: str) -> str:
    """Run a command with a terminal of 100 columns for its output, and return the output."""
    ours, theirs = pty.openpty()
    names = {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"}
    environ = {name: value for name, value in os.environ.items() if name not in names}
    process = subprocess.Popen(
        command,
        stdout=theirs,
        stderr=theirs,
        cwd=os.path.dirname(__file__),  # noqa: PTH120 - the code imports from here
        env=environ | {"COLUMNS": "100", "TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    process.wait(20)
    return shown.decode()
