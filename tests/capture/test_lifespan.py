"""The middleware watches the lifespan of an app that has one, and answers for an app that has none."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from asgi import drive, http_scope
from shops import PAID
from starlette.responses import JSONResponse

from butter_middleware import Butter, ButterMiddleware
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

STARTUP, SHUTDOWN = "lifespan.startup", "lifespan.shutdown"
ANSWERED = [f"{STARTUP}.complete", f"{SHUTDOWN}.complete"]


async def lifespan(app: ASGIApp, *events: str) -> tuple[list[str], str | None]:
    """Run a lifespan as a server does; return what the app answered, and the name of what it raised."""
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
def test_an_app_without_lifespan_is_answered_for(
    butter: Butter, fake: FakeButter, caplog: pytest.LogCaptureFixture, take_part: Any
) -> None:
    """Django raises, and others return at once: the stop of the server still delivers what is in memory."""
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
def test_a_startup_that_fails_is_for_the_server_to_hear(butter: Butter, take_part: Any, answered: list[str]) -> None:
    """An app that asked for the startup, or answered it, and then raises is not answered for: it did not start."""
    app = shop(take_part)
    assert anyio.run(lifespan, app) == (answered, "LookupError")
    assert anyio.run(lifespan, ButterMiddleware(app, butter)) == (answered, "LookupError")


def test_a_server_that_cancels_the_lifespan_is_obeyed(butter: Butter) -> None:
    """In the place of the app, the middleware ends as soon as it is cancelled."""

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
