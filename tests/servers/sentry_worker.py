"""A worker of the queue under Sentry at its most curious; prints each envelope that Sentry would send."""

import asyncio
import logging
import os

import httpx
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_shop import PASSWORD, USERNAME, Printer

from butter_middleware import Butter, client_ip
from butter_middleware.postgres import Names, Pace, Worker

ANSWERS = iter([200, 422, 409])


async def answer(request: httpx.Request) -> httpx.Response:
    status = next(ANSWERS, 0)
    if not status:
        await asyncio.sleep(60)  # so that it is cut off
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
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Printer,
        integrations=[LoggingIntegration(level=logging.DEBUG, event_level=logging.INFO)],
        attach_stacktrace=True,
        include_local_variables=True,
        max_request_body_size="always",
        send_default_pii=True,
        enable_logs=True,
        max_breadcrumbs=100,
    )
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # as the command has it
    asyncio.run(main())
    sentry_sdk.flush(5)
