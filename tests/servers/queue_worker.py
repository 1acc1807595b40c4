"""A worker of the queue in PostgreSQL, run like the command, with the tests' timing."""

import asyncio
import os
import signal
import sys

from butter_middleware import Butter, client_ip
from butter_middleware.postgres import Names, Pace, Worker


async def main() -> None:
    butter = Butter(
        username="merchant", password="s3cret-pass", base_url=os.environ["SHOP_BUTTER"], client_ip=client_ip.direct()
    )
    pace = Pace(concurrency=int(os.environ.get("CONCURRENCY", "4")), stalled_seconds=8.0, stop_seconds=10.0)
    worker = Worker(os.environ["BUTTER_POSTGRES_DSN"], Names(), butter.delivery, pace)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=os.environ.get("LOG", "WARNING"), stream=sys.stdout)
    asyncio.run(main())
