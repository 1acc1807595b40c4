"""A shop that records a checkout while its target does not answer, prints this, and ends."""

import os
import socket
import sys
import threading
import time
from typing import Any

from butter_middleware import Butter, Checkout, client_ip

SECONDS = 60.0
"""How long a call hangs."""


def main(where: str) -> None:
    butter = Butter(username="u", password="p", client_ip=client_ip.direct(), drain_timeout=0.2, **options(where))
    for number in (1, 2):
        butter.record(
            Checkout(
                customer_email="a@example.com", ipv4_address="81.2.69.142", psp="stripe", invoice_id=f"in_{number}"
            )
        )
        if number == 1 and where != "name":
            assert butter.flush(20)
            print("flushed", flush=True)  # noqa: T201 - for the test
            sys.stdin.readline()
    until_tried(butter, where)
    print("ends", flush=True)  # noqa: T201 - as above


def options(where: str) -> dict[str, Any]:
    if where == "name":
        socket.getaddrinfo = lambda *_args, **_options: LOOKUP.hang()
        return {"base_url": "https://butter.example"}
    from butter_middleware.postgres import PostgresOutbox  # noqa: PLC0415 - an extra

    if where == "dsn":
        return {"outbox": PostgresOutbox(os.environ["BUTTER_POSTGRES_DSN"])}
    from psycopg_pool import ConnectionPool  # noqa: PLC0415 - as above

    pool = ConnectionPool[Any](os.environ["BUTTER_POSTGRES_DSN"], min_size=1, max_size=4, open=True)
    return {"outbox": PostgresOutbox(pool=pool)}


class Lookup:
    """The system's name resolution, which hangs."""

    def __init__(self) -> None:
        self.began = threading.Event()

    def hang(self) -> Any:
        self.began.set()
        time.sleep(SECONDS)


LOOKUP = Lookup()


def until_tried(butter: Butter, where: str) -> None:
    if where == "name":
        assert LOOKUP.began.wait(20)
        return
    while butter.status().endpoint == "ok":
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
