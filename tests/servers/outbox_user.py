"""A process that executes commands on a store, one per line of its standard input. It answers each with JSON."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from outboxes import append, bodies, invoices, known, record, unread

from butter_middleware import SQLiteOutbox
from butter_middleware.outbox.sqlite.locks import WRITE


def main(path: str) -> None:
    store = SQLiteOutbox(path).store()

    def flood(first: str) -> None:
        """Append until killed, and print the number of each capture on disk."""
        for number in itertools.count(int(first)):
            append(store, number)
            tell(number)

    commands: dict[str, Callable[..., Any]] = {
        "open": store.open,
        "append": lambda first, last: list(append(store, *range(int(first), int(last)))),
        "flood": flood,
        "add": lambda first, last: known(store.add([record(number) for number in range(int(first), int(last))])),
        "unread": lambda: bodies(unread(store)),
        "lead": store.lead,
        "due": lambda: invoices(store.due(1000)),
        # As during a transaction.
        "lock": lambda: store.locks.take(WRITE),
        "unlock": lambda: store.locks.release(WRITE),
        "close": store.close,
    }
    for line in sys.stdin:
        name, *arguments = line.split()
        tell(commands[name](*arguments))


def tell(answer: Any) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 - how it answers


if __name__ == "__main__":
    main(sys.argv[1])
