"""The tutorial is run: the files are saved, the commands are typed, the answers are compared."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Self

import pytest
from processes import free_port, listening, until

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
INSTALLS = ("mkdir ", "python3 -m venv", "pip install")
"""Commands that were run before this test."""
DONE = "--done--"


class Terminal:
    """A shell with job control in a new folder. Free ports replace the tutorial's two ports."""

    def __init__(self, folder: Path) -> None:
        self.ports = {"8025": str(free_port()), "8000": str(free_port())}
        bin_folder = str(Path(sys.executable).parent)
        self.shell = subprocess.Popen(
            ["/usr/bin/env", "bash", "-m"],
            cwd=folder,
            env=os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def port(self, command: str) -> int:
        return int(self.ports["8000" if "uvicorn" in command else "8025"])

    def moved(self, command: str) -> str:
        """Return the command with the ports of this run."""
        for written, here in self.ports.items():
            command = command.replace(f":{written}", f":{here}")
        if command.startswith(("uvicorn", "butter-middleware")):
            # The log goes to a file, because the jobs may outlive this terminal.
            return f"{command.removesuffix('&')} --port {self.port(command)} >> jobs.log 2>&1 &"
        return command

    def run(self, command: str) -> str:
        """Type a command. Return its output after a server that it starts listens, or one that it kills has stopped."""
        sent, received = pipe(self.shell.stdin), pipe(self.shell.stdout)
        # An interactive shell forgets ended jobs at its prompt. This shell needs `jobs` for that.
        sent.write(f"jobs > /dev/null\n{self.moved(command)}\necho; echo {DONE}\n")
        sent.flush()
        lines = list(iter(received.readline, f"{DONE}\n"))
        if command.endswith("&"):
            until(lambda: listening(self.port(command)), command)
        for job in re.findall(r"%(\w+)", command):
            until(partial(self.quiet, job), command)
        return "".join(lines).strip()

    def quiet(self, job: str) -> bool:
        return not listening(self.port(job))

    def shows(self, command: str, expected: str) -> bool:
        """Whether a command prints this. It may be typed again until it does."""
        return self.run(command) == expected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        sent = pipe(self.shell.stdin)
        sent.write("kill -9 $(jobs -p) 2>/dev/null; exit\n")
        sent.close()
        pipe(self.shell.stdout).close()
        self.shell.wait(20)


def pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None
    return end


def blocks() -> Iterator[tuple[str, str, str]]:
    """Yield each block's language and text, and the name of the file to save it as, or an empty string."""
    before = ""
    for words, language, block in re.findall(r"(.*?)^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        saved = re.search(r"Save this as `(\w+\.py)`", before + words)
        yield language, block, saved[1] if saved and language == "python" else ""
        before = "" if language == "python" else words


def typed(language: str, block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a block, and the output that the page shows."""
    if language == "bash":
        block = re.sub("^", "$ ", block, flags=re.MULTILINE)
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        if not command.startswith(INSTALLS):
            yield command, shown.strip()


@pytest.mark.server
def test_every_step_does_what_the_page_shows(tmp_path: Path) -> None:
    """Each command gives the answer, the records or the passing test that the page shows."""
    steps = list(blocks())
    assert [saved for _language, _block, saved in steps if saved] == ["shop.py", "test_shop.py"]
    with Terminal(tmp_path) as terminal:
        for language, block, saved in steps:
            if saved:
                (tmp_path / saved).write_text(block)
            else:
                for command, shown in typed(language, block):
                    if command == "inbox":
                        until(partial(terminal.shows, command, shown), f"the records {shown}")
                        continue
                    printed = terminal.run(command)
                    assert printed == shown if shown else command != "pytest -q" or "2 passed" in printed, printed
