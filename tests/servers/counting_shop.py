"""A shop that executes the commands of its standard input, one per line. It answers each with a line of JSON."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import anyio
from shops import CREDENTIALS, ROUTE, SHOPPER, refusing_shop
from starlette.testclient import TestClient

from butter_middleware import Beacon, Butter, ButterMiddleware, client_ip
from butter_middleware.testing import FakeButter


def main(path: str) -> None:
    fake = FakeButter(username=CREDENTIALS["username"], password=CREDENTIALS["password"])
    butter = Butter(
        **CREDENTIALS,
        client_ip=client_ip.TrustedHops(1),
        routes=[ROUTE],
        outbox=path,
        transport=fake.transport(),
        ipv4_beacon=Beacon(["https://shop.example"], bind="header:x-cart", keys=["k" * 32]),
    )
    client = TestClient(ButterMiddleware(refusing_shop, butter))

    def buy(*carts: str) -> None:
        for cart in carts:
            client.post(f"/checkout/{cart}", headers={"x-forwarded-for": SHOPPER})

    def redeem(token: str, cart: str) -> None:
        headers = {"x-forwarded-for": "2001:db8::1", "x-butter-token": token, "x-cart": "7"}
        client.post(f"/checkout/{cart}", headers=headers)

    def status() -> dict[str, Any]:
        return asdict(butter.status())

    def health() -> list[str]:
        return [reason.code for reason in anyio.run(butter.pipeline.reporter.health).reasons]

    commands: dict[str, Callable[..., Any]] = {
        "start": butter.pipeline.start,
        "buy": buy,
        "redeem": redeem,
        "flush": butter.flush,
        "sent": lambda: [record["invoice_id"] for record in fake.records],
        "status": status,
        "health": health,
        "leads": lambda: butter.pipeline.leads,
        "deliverer": lambda: butter.pipeline.deliverer,
        "late": lambda: anyio.run(late, butter),
        "close": butter.close,
    }
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*arguments)), flush=True)  # noqa: T201 - how it answers


async def late(butter: Butter) -> None:
    """Wait for a capture that never reaches the disk."""
    await butter.pipeline.wait_until_durable(Future())


if __name__ == "__main__":
    main(sys.argv[1])
