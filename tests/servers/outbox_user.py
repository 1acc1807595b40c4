"""A process that uses an outbox as it is told on its standard input, a command a line, answering each with JSON."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from outboxes import bodies, capture, invoices, record, result

from butter_middleware import SQLiteOutbox
from butter_middleware.outbox.sqlite.locks import WRITE, LockFile


def main(path: str) -> None:
    outbox = SQLiteOutbox(path)
    locks = LockFile(f"{outbox.path}.lock")

    def append(first: str, last: str) -> None:
        for future in [outbox.append(capture(number)) for number in range(int(first), int(last))]:
            result(future)

    def flood(first: str) -> None:
        """Append until killed, telling each that is on the disk."""
        for number in itertools.count(int(first)):
            result(outbox.append(capture(number)))
            tell(number)

    commands: dict[str, Callable[..., Any]] = {
        "open": outbox.open,
        "append": append,
        "flood": flood,
        "add": lambda first, last: result(outbox.add([record(number) for number in range(int(first), int(last))])),
        "captures": lambda: bodies(result(outbox.captures(1000))),
        "adopt": lambda: result(outbox.adopt()),
        "lead": outbox.lead,
        "claim": lambda: invoices(result(outbox.claim(1000))),
        # As a committer in the midst of a transaction.
        "lock": lambda: locks.take(WRITE, locks),
        "unlock": lambda: locks.release(WRITE, locks),
        "close": outbox.close,
    }
    for line in sys.stdin:
        name, *arguments = line.split()
        tell(commands[name](*arguments))


def tell(answer: Any) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - how it answers


if __name__ == "__main__":
    main(sys.argv[1])
