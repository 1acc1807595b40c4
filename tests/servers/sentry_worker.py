"""A worker of the queue with all of Sentry's data collection. It prints each envelope for Sentry."""

import asyncio
import logging
import os

import httpx
import sentry_sdk
from sentry_shop import PASSWORD, USERNAME, be_curious

from butter_middleware import Butter, client_ip
from butter_middleware.postgres import Names, Pace, Worker

ANSWERS = iter([200, 422, 409])


async def answer(request: httpx.Request) -> httpx.Response:
    status = next(ANSWERS, 0)
    if not status:
        await asyncio.sleep(60)  # so that it is cancelled
    return httpx.Response(status, json={})


async def main() -> None:
    butter = Butter(
        username=USERNAME, password=PASSWORD, client_ip=client_ip.direct(), transport=httpx.MockTransport(answer)
    )
    pace = Pace(concurrency=1, stop_seconds=0.2)
    worker = Worker(os.environ["BUTTER_POSTGRES_DSN"], Names(), butter.delivery, pace)
    running = asyncio.create_task(worker.run())
    await asyncio.to_thread(input)
    worker.stop()
    await running


if __name__ == "__main__":
    be_curious()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as in the command
    asyncio.run(main())
    sentry_sdk.flush(5)
