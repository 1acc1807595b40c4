"""The middleware observes the lifespan of an app that has one, and answers in place of an app that has none."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from asgi import drive, http_scope
from shops import PAID
from starlette.responses import JSONResponse

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

STARTUP, SHUTDOWN = "lifespan.startup", "lifespan.shutdown"
ANSWERED = [f"{STARTUP}.complete", f"{SHUTDOWN}.complete"]


async def lifespan(app: ASGIApp, *events: str) -> tuple[list[str], str | None]:
    """Run a lifespan as a server does. Return the app's messages, and the name of its exception."""
    asked = iter(events or (STARTUP, SHUTDOWN))
    answered: list[str] = []

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        answered.append(message["type"])

    try:
        await app({"type": "lifespan"}, receive, send)
    except Exception as error:  # noqa: BLE001 - a test compares whatever it is
        return answered, type(error).__name__
    return answered, None


def shop(take_part: Callable[[Receive, Send], Any]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await take_part(receive, send)
        else:
            await JSONResponse(PAID)(scope, receive, send)

    return app


async def refuse(_receive: Receive, _send: Send) -> None:
    msg = "Django can only handle ASGI/HTTP connections, not lifespan."
    raise ValueError(msg)


async def ignore(_receive: Receive, _send: Send) -> None:
    return


async def fail(receive: Receive, _send: Send) -> None:
    await receive()
    msg = "no database"
    raise LookupError(msg)


async def fail_politely(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": f"{STARTUP}.failed"})
    msg = "no database"
    raise LookupError(msg)


async def start_unasked(_receive: Receive, send: Send) -> None:
    await send({"type": f"{STARTUP}.complete"})
    msg = "later"
    raise LookupError(msg)


@pytest.mark.parametrize("take_part", [refuse, ignore])
def test_the_middleware_answers_for_an_app_without_lifespan(
    butter: Butter, fake: FakeButter, caplog: pytest.LogCaptureFixture, take_part: Any
) -> None:
    """Django raises, and others return at once. The stop of the server still delivers the records in memory."""
    caplog.set_level("INFO")
    app = ButterMiddleware(shop(take_part), butter)

    async def serve() -> None:
        await drive(app, http_scope())
        assert await lifespan(app) == (ANSWERED, None)

    anyio.run(serve)
    assert len(fake.records) == 1
    assert ("refuses ASGI's lifespan (ValueError)" in caplog.text) is (take_part is refuse)


@pytest.mark.parametrize(
    ("take_part", "answered"),
    [(fail, []), (fail_politely, [f"{STARTUP}.failed"]), (start_unasked, ANSWERED[:1])],
)
def test_a_startup_that_fails_reaches_the_server(butter: Butter, take_part: Any, answered: list[str]) -> None:
    """The app waited for the startup, or answered it, and then raised. The middleware does not answer for it."""
    app = shop(take_part)
    assert anyio.run(lifespan, app) == (answered, "LookupError")
    assert anyio.run(lifespan, ButterMiddleware(app, butter)) == (answered, "LookupError")


def test_a_server_may_cancel_the_lifespan(butter: Butter) -> None:
    """The middleware, which answers for the app, ends as soon as it is cancelled."""

    async def serve() -> bool:
        waits = anyio.Event()

        async def receive() -> Message:
            waits.set()
            await anyio.sleep_forever()
            raise AssertionError

        async def send(_message: Message) -> None:
            raise AssertionError

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(ButterMiddleware(shop(refuse), butter), {"type": "lifespan"}, receive, send)
                await waits.wait()
                group.cancel_scope.cancel()
        return True

    assert anyio.run(serve)


def test_a_server_that_cancels_the_end_of_the_lifespan_waits_for_no_drain(make_butter: Callable[..., Butter]) -> None:
    """The drain has a minute left. The server does not wait for it."""
    asked, answer = threading.Event(), threading.Event()

    def hang(_response: object) -> None:
        asked.set()
        answer.wait(30)

    app = ButterMiddleware(
        shop(refuse), make_butter(CheckoutRoute("/checkout/{cart}", "stripe", hang), drain_timeout=60)
    )

    async def serve() -> None:
        await drive(app, http_scope("/checkout/7"))
        assert await anyio.to_thread.run_sync(asked.wait, 20)
        events = iter([STARTUP, SHUTDOWN])
        ending = anyio.Event()

        async def receive() -> Message:
            event = next(events)
            if event == SHUTDOWN:
                ending.set()
            return {"type": event}

        async def send(message: Message) -> None:
            assert message["type"] == ANSWERED[0]

        async with anyio.create_task_group() as group:
            group.start_soon(app, {"type": "lifespan"}, receive, send)
            await ending.wait()
            for _turn in range(10):  # until it drains
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    begun = time.monotonic()
    anyio.run(serve)
    assert time.monotonic() - begun < 30
    answer.set()


class Slow(logging.Handler):
    """A merchant's slow handler."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        time.sleep(0.05)
        self.said.append(record.getMessage())


def test_losses_at_the_stop_are_logged_before_its_end(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A server may end the process after the answer to the shutdown. The line is in the log before that."""
    fake.respond_with(*[503] * 20)
    app = ButterMiddleware(shop(refuse), make_butter())
    slow = Slow()

    async def serve() -> list[str]:
        await drive(app, http_scope())
        await lifespan(app)
        return list(slow.said)

    logging.getLogger("butter_middleware").addHandler(slow)
    try:
        said = anyio.run(serve)
    finally:
        logging.getLogger("butter_middleware").removeHandler(slow)
    assert [line for line in said if "only in memory and are lost if this process ends now: 1." in line], said
