"""Damages a shop's outbox repeatedly while it sells. No checkout fails, and what is in memory is written again.

    python benchmarks/corrupt.py [--rounds 40] [--seed 1] [--only flip|truncate|delete|unlog|swap|garbage]

One shop runs under uvicorn, with an SQLite outbox. Butter is served in this process. A round damages the file, and then
buys. The damages: bytes are flipped, the file is cut, deleted or overwritten, its log is deleted, a backup replaces it.
In every fourth round Butter answers 503, so that records wait. In every fifth round the shop is restarted.
What waited only in the damaged file is not sent, because a person has the file. At the end every checkout must be with
Butter, or in such a file.

The exit code is 1 if a checkout failed, or is neither with Butter nor in a damaged file.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from processes import Shop, served, until

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import FakeButter

CHECKOUTS = 20
"""The checkouts of each round before the damage, and again after it."""
SUFFIXES = ("", "-wal", "-shm")


def flip(path: Path, chance: random.Random) -> None:
    """Change bytes in the file and in its log."""
    for file in (path, Path(f"{path}-wal")):
        content = bytearray(file.read_bytes()) if file.exists() else bytearray()
        if content:
            with file.open("r+b") as opened:
                for _number in range(200):
                    place = chance.randrange(len(content))
                    opened.seek(place)
                    opened.write(bytes([content[place] ^ chance.randrange(1, 256)]))


def truncate(path: Path, chance: random.Random) -> None:
    """Cut the file."""
    with path.open("r+b") as opened:
        opened.truncate(chance.randrange(path.stat().st_size))


def delete(path: Path, _chance: random.Random) -> None:
    """Delete the file and its log."""
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def unlog(path: Path, _chance: random.Random) -> None:
    """Delete only the log."""
    Path(f"{path}-wal").unlink(missing_ok=True)


def swap(path: Path, _chance: random.Random) -> None:
    """Replace the file by a copy, like a restored backup."""
    copy = path.with_name("backup.db")
    shutil.copyfile(path, copy)
    copy.replace(path)


def garbage(path: Path, chance: random.Random) -> None:
    """Overwrite the file from a random place on."""
    size = path.stat().st_size
    with path.open("r+b") as opened:
        start = chance.choice([0, 100, chance.randrange(size)])
        opened.seek(start)
        opened.write(chance.randbytes(size - start))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "flip": flip,
    "truncate": truncate,
    "delete": delete,
    "unlog": unlog,
    "swap": swap,
    "garbage": garbage,
}


class Butter:
    """A fake Butter, which sometimes answers 503."""

    def __init__(self) -> None:
        self.fake = FakeButter(username="merchant", password="s3cret-pass")  # noqa: S106 - of the tests' shop
        self.away = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.away:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body"})
        else:
            await self.fake(scope, receive, send)


class Campaign:
    """A shop, its file, and its checkouts."""

    def __init__(self, url: str, path: Path, butter: Butter, chance: random.Random) -> None:
        self.url, self.path, self.butter, self.chance = url, path, butter, chance
        self.lines: list[str] = []
        self.start()
        self.bought: list[str] = []
        self.failed: list[str] = []
        self.seconds: list[float] = []
        self.kept = b""
        """The content of every damaged file, and of every copy before a damage."""

    def start(self) -> None:
        """Start the shop."""
        self.shop = Shop("uvicorn", self.url, SHOP_OUTBOX=str(self.path)).ready()

    def stop(self) -> None:
        """Stop the shop, and keep its output."""
        self.lines += self.shop.stop().decode(errors="replace").splitlines()

    def buy(self, name: str) -> None:
        """Check out a few times."""
        for number in range(CHECKOUTS):
            invoice = f"{name}-{number}."
            began = time.monotonic()
            status, _headers, body = self.shop.checkout(invoice)
            self.seconds.append(time.monotonic() - began)
            self.bought.append(invoice)
            if status != 200 or json.loads(body)["invoice"] != invoice:
                self.failed.append(invoice)

    def round(self, number: int, damage: str) -> None:
        """Buy, damage, buy."""
        self.butter.away = number % 4 == 1
        self.buy(f"in_{number}a")
        if not self.butter.away:
            until(lambda: self.missing() == [], "what was bought before is sent", 60)
        restarts = number % 5 == 4
        if restarts:
            self.stop()
        until(lambda: not self.missing(self.stored()), "what was bought before is stored or sent", 60)
        self.kept += self.stored()
        DAMAGES[damage](self.path, self.chance)
        if restarts:
            self.start()
        self.buy(f"in_{number}b")
        self.butter.away = False
        until(lambda: self.missing() == [], f"round {number}, {damage}: all is sent or in a damaged file", 120)

    def stored(self) -> bytes:
        """Return the content of the file and its log."""
        files = [Path(f"{self.path}{suffix}") for suffix in SUFFIXES]
        return b"".join(file.read_bytes() for file in files if file.exists())

    def missing(self, stored: bytes = b"") -> list[str]:
        """Return the checkouts that are neither with Butter nor in a damaged file."""
        sent, aside = self.sent(), [*self.path.parent.glob("*.corrupt-*")]
        kept = self.kept + stored + b"".join(file.read_bytes() for file in aside)
        return [invoice for invoice in self.bought if invoice not in sent and invoice.encode() not in kept]

    def sent(self) -> set[str]:
        """Return the checkouts that Butter has."""
        return {str(record["invoice_id"]) for record in self.butter.fake.records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(DAMAGES))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    butter = Butter()
    with tempfile.TemporaryDirectory() as folder, served(butter) as url:
        path = Path(folder) / "butter.db"
        campaign = Campaign(url, path, butter, chance)
        kinds = Counter[str]()
        try:
            for number in range(options.rounds):
                damage = options.only or [*DAMAGES][number % len(DAMAGES)]
                campaign.round(number, damage)
                kinds[damage] += 1
        except AssertionError as error:
            print(error, campaign.missing()[:10], flush=True)
        finally:
            campaign.stop()
        missing = campaign.missing()
    said = (line.partition(f"{path}: ")[2] for line in campaign.lines)
    for line, times in Counter(line[:100] for line in said if line).most_common(20):
        print(f"{times:4} x {line}")
    p50, p99 = statistics.median(campaign.seconds), sorted(campaign.seconds)[int(len(campaign.seconds) * 0.99)]
    print(
        f"{dict(kinds)}\n{len(campaign.bought)} checkouts, {len(campaign.failed)} failed, {len(missing)} missing, "
        f"{len(set(campaign.bought) - campaign.sent())} in the damaged file only; "
        f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, longest {max(campaign.seconds) * 1000:.0f} ms"
    )
    sys.exit(bool(campaign.failed or missing))


if __name__ == "__main__":
    main()
