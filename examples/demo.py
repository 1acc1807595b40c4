"""The main job on this machine: a shop under uvicorn, shoppers behind a proxy, and a Butter that keeps the contract.

Run it: make demo
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from butter_middleware.testing import FakeButter

CREDENTIALS = {"BUTTER_USERNAME": "demo-merchant", "BUTTER_PASSWORD": "demo-password"}
SHOPPERS = [
    # Each shopper's own address, and what the shopper's request claimed: the proxy appends, and does not believe.
    ("cart-1", "ada@example.com", "81.2.69.142", ""),
    ("cart-2", "grace@example.com", "89.160.20.112", "1.2.3.4"),
    ("cart-3", "edsger@example.com", "175.16.199.37", "8.8.8.8, 10.0.0.1"),
    ("cart-4", "barbara@example.com", "216.160.83.56", '"unclosed'),
    ("cart-2", "grace@example.com", "89.160.20.112", "a reload of the page"),
]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 30.0) -> None:
    """Wait until somebody listens on `port`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nobody listens on port {port} after {seconds:g} s")


@contextmanager
def butter(fake: FakeButter) -> Generator[str]:
    """Serve Butter's contract on loopback."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(fake, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def shop(butter_url: str) -> Generator[str]:
    """Serve the FastAPI example under uvicorn, in a process of its own; it ends with SIGTERM, as a deploy does."""
    port = free_port()
    process = subprocess.Popen(  # noqa: S603 - this interpreter, this example
        [
            sys.executable,
            "-m",
            "uvicorn",
            "demo_shop:app",
            "--port",
            str(port),
            "--no-proxy-headers",
            "--no-access-log",
        ],
        cwd=Path(__file__).parent,
        # A proxy to the Internet is of no use for what is on this machine.
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        | CREDENTIALS
        | {"BUTTER_URL": butter_url},
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    """Buy, stop the shop at once, and compare what the shoppers got with what Butter got."""
    fake = FakeButter(username=CREDENTIALS["BUTTER_USERNAME"], password=CREDENTIALS["BUTTER_PASSWORD"])
    answers: dict[str, dict[str, str]] = {}
    with butter(fake) as butter_url, shop(butter_url) as url, httpx.Client(base_url=url, trust_env=False) as browser:
        for cart, email, address, claimed in SHOPPERS:
            header = f"{claimed}, {address}" if claimed else address
            order = {"email": email}
            answer = browser.post(f"/checkout/{cart}", json=order, headers={"X-Forwarded-For": header})
            answers[cart] = answer.raise_for_status().json()
    return compare(answers, {record["customer_email"]: record for record in fake.records}, len(fake.records))


def compare(answers: dict[str, dict[str, str]], records: dict[str, dict[str, str]], count: int) -> int:
    """Print both sides; 0 where each checkout is one record with the shopper's own address and IDs."""
    row = "{:<8} {:<22} {:<16} {:<12} │ {:<22} {:<16} {:<12} {}"
    print(f"{'the shop':<61} │ Butter")
    print(row.format("cart", "shopper", "from", "invoice", "customer_email", "ipv4_address", "invoice_id", ""))
    agree = count == len(answers)
    for cart, email, address, _claimed in SHOPPERS[: len(answers)]:
        got, want = records.get(email, {}), (address, answers[cart]["invoice"])
        same = (got.get("ipv4_address"), got.get("invoice_id")) == want
        agree = agree and same
        seen = (got.get("customer_email", "-"), got.get("ipv4_address", "-"), got.get("invoice_id", "-"))
        print(row.format(cart, email, address, want[1], *seen, "same" if same else "DIFFERENT"))
    print(
        f"{len(SHOPPERS)} checkouts, one of them a reload; {count} records.", "They agree." if agree else "They differ."
    )
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
