"""The main job on this machine: a shop under uvicorn, shoppers behind a proxy, and the sandbox in Butter's place.

Run it: make demo, and Ctrl-C to end it; make demo ONCE=1 ends by itself, with 1 where the two sides differ.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CREDENTIALS = {"BUTTER_USERNAME": "demo-merchant", "BUTTER_PASSWORD": "demo-password"}
SANDBOX_OPTIONS: list[str] = []
SHOPPERS = [
    # Each shopper's own address, and what the shopper's request claimed: the proxy appends, and does not believe.
    ("cart-1", "ada@example.com", "81.2.69.142", ""),
    ("cart-2", "grace@example.com", "89.160.20.112", "1.2.3.4"),
    ("cart-3", "edsger@example.com", "175.16.199.37", "8.8.8.8, 10.0.0.1"),
    ("cart-4", "barbara@example.com", "216.160.83.56", '"unclosed'),
    ("cart-2", "grace@example.com", "89.160.20.112", "a reload of the page"),
]
DELIVERY_SECONDS = 10.0


def port_for(wanted: int) -> int:
    """Return a port of this machine that nobody listens on: `wanted`, where that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    sys.exit("no port of this machine is free")


def wait_for(port: int, process: "subprocess.Popen[bytes]", seconds: float = 30.0) -> None:
    """Wait until a process listens on `port`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nobody listens on port {port}")


@contextmanager
def served(command: Sequence[str], port: int, **environment: str) -> Generator[str]:
    """Run a Python module that serves on `port`; it ends with SIGTERM, as a deploy does."""
    process = subprocess.Popen(  # noqa: S603 - this interpreter, this example
        [sys.executable, "-m", *command, "--port", str(port)],
        cwd=Path(__file__).parent,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this script, which ends the shop first
    )
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main(*, once: bool) -> int:
    """Buy, compare what the shoppers got with what the sandbox got, and stay for whoever wants to look."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sandbox = ["butter_middleware", "sandbox", *SANDBOX_OPTIONS]
    shop = ["uvicorn", "demo_shop:app", "--no-proxy-headers", "--log-level", "warning"]
    try:
        with (
            served(sandbox, port_for(0 if once else 8025)) as inbox,
            served(shop, port_for(0 if once else 8000), **CREDENTIALS, BUTTER_BASE_URL=inbox) as url,
        ):
            code = compare(*buy(url, inbox))
            if not once:
                stay(url, inbox)
    except KeyboardInterrupt:
        print("\nEnded: the shop, then the sandbox.")
        return 130 if once else 0
    return code


def buy(url: str, inbox: str) -> tuple[dict[str, dict[str, str]], list[dict[str, str]]]:
    """Check out as each shopper; return the shop's answers by cart, and the records that arrived."""
    answers: dict[str, dict[str, str]] = {}
    # A proxy to the Internet is of no use for what is on this machine.
    with httpx.Client(trust_env=False) as browser:
        for cart, email, address, claimed in SHOPPERS:
            header = f"{claimed}, {address}" if claimed else address
            answer = browser.post(f"{url}/checkout/{cart}", json={"email": email}, headers={"X-Forwarded-For": header})
            answers[cart] = answer.raise_for_status().json()
        deadline = time.monotonic() + DELIVERY_SECONDS
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            state = browser.get(f"{inbox}/api/records").json()
            if state["arrived"] >= len(answers):
                break
            time.sleep(0.05)
    return answers, [entry["record"] for entry in state["records"] if entry["status"] == 200]  # noqa: PLR2004


def compare(answers: dict[str, dict[str, str]], arrived: list[dict[str, str]]) -> int:
    """Print both sides; 0 where each checkout is one record with the shopper's own address and IDs."""
    records = {record["customer_email"]: record for record in arrived}
    row = "{:<8} {:<22} {:<16} {:<12} │ {:<22} {:<16} {:<12} {}"
    print(f"{'the shop':<61} │ Butter")
    print(row.format("cart", "shopper", "from", "invoice", "customer_email", "ipv4_address", "invoice_id", ""))
    agree = len(arrived) == len(answers)
    for cart, email, address, _claimed in SHOPPERS[: len(answers)]:
        got, want = records.get(email, {}), (address, answers[cart]["invoice"])
        same = (got.get("ipv4_address"), got.get("invoice_id")) == want
        agree = agree and same
        seen = (got.get("customer_email", "-"), got.get("ipv4_address", "-"), got.get("invoice_id", "-"))
        print(row.format(cart, email, address, want[1], *seen, "same" if same else "DIFFERENT"))
    print(
        f"{len(SHOPPERS)} checkouts, one of them a reload; {len(arrived)} records.",
        "They agree." if agree else "They differ.",
    )
    return 0 if agree else 1


def stay(url: str, inbox: str) -> None:
    """Say where to look and what to try, until Ctrl-C."""
    print(
        f"""
The inbox:  {inbox}

One more shopper, to watch it arrive:

  curl {url}/checkout/cart-9 -H 'X-Forwarded-For: 81.2.69.160' \\
    -H 'Content-Type: application/json' -d '{{"email": "you@example.com"}}'

Ctrl-C ends it.""",
        flush=True,
    )
    signal.pause()


if __name__ == "__main__":
    sys.exit(main(once="--once" in sys.argv))
