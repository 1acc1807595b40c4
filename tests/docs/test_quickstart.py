"""The README's first section is run: the sandbox, the shop of ten lines, one checkout, the record."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import free_port, listening, until

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## See your first record")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_the_shop_is_ten_lines_at_most() -> None:
    """A user needs at most ten lines of code for the first record."""
    (shop,) = blocks("python")
    assert len([line for line in shop.splitlines() if line.strip()]) <= 10


@pytest.mark.server
def test_the_first_record_is_seen(tmp_path: Path) -> None:
    """The test uses the README's commands and environment. Only the ports differ."""
    (shop,) = blocks("python")
    commands = [line for block in blocks("bash") for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    sandbox, exported, served, bought = (
        next(command for command in commands if command.startswith(start))
        for start in ("butter-middleware sandbox", "export ", "uvicorn ", "curl ")
    )
    inbox, port = free_port(), free_port()
    (tmp_path / "shop.py").write_text(shop)
    named = dict(pair.split("=", 1) for pair in exported.split()[1:])
    named["BUTTER_BASE_URL"] = named["BUTTER_BASE_URL"].replace("8025", str(inbox))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUTTER_")}

    def start(command: str, port: int, **environment: str) -> Any:
        words = command.partition("&")[0].replace("butter-middleware", "butter_middleware").split()
        return subprocess.Popen(
            [sys.executable, "-m", *words, "--port", str(port)], cwd=tmp_path, env=clean | environment
        )

    with start(sandbox, inbox) as one, start(served, port, **named) as two:
        try:
            until(lambda: listening(inbox) and listening(port), "both listen", 40)
            url = bought.split()[-1].replace("8000", str(port))
            assert httpx.post(url).json() == {"status": "paid"}
            state = f"http://127.0.0.1:{inbox}/api/records"
            until(lambda: httpx.get(state).json()["arrived"] == 1, "the record")
            (entry,) = httpx.get(state).json()["records"]
        finally:
            two.terminate()
            one.terminate()
    assert (entry["outcome"], entry["route"]) == ("accepted", "POST /checkout")
    assert entry["record"] == {
        "customer_email": "ada@example.com",
        "ipv4_address": "127.0.0.1",
        "psp": "stripe",
        "invoice_id": "in_1",
    }
    assert entry["sources"]["ipv4_address"] == "client_ip.Peer: the TCP peer"
