"""The sandbox under uvicorn. The only module that uses a server."""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Thread
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from butter_middleware._utils.asgi import ASGIApp, Receive, Scope, Send
from butter_middleware.sandbox.app import RESET, Sandbox

GRACE_SECONDS: Final = 3
"""The time for requests to end after a signal."""
UNREAD_SECONDS: Final = 1
"""The time for requests whose clients no longer read, such as a page that the browser has frozen."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class _Protocol(H11Protocol):
    """Lets the app break its connection, like a network failure, with the extension `butter.reset`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app: Any = self.app

        def reset() -> None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            transport.abort()

        async def with_reset(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), RESET: reset}
            await app(scope, receive, send)

        self.app = with_reset


class _Server(uvicorn.Server):
    """Ends the page's streams, which do not end by themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if isinstance(self._app, Sandbox):
            self._app.close()
        asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._abort_unread)
        await super().shutdown(sockets)

    def _abort_unread(self) -> None:
        # Otherwise uvicorn would cancel each request whose client does not read, with a traceback.
        connections: Any = self.server_state.connections
        for connection in list(connections):
            if connection.flow.write_paused:
                connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket.

    Raises:
        OSError: the port is in use, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError:
        raise OSError(errno.EINVAL, "not a name of a host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def serving(
    app: ASGIApp, listener: socket.socket, failed: Callable[[BaseException], object] | None = None
) -> Generator[str]:
    """Serve a sandbox or a shop on a separate thread, and give its URL. At the end, the app's lifespan ends too.

    `failed` is called on that thread if it cannot serve.
    """
    server = _Server(app)

    def serve() -> None:
        try:
            asyncio.run(server.serve(sockets=[listener]))
        except BaseException as error:
            if failed is None:
                raise
            failed(error)

    thread = Thread(target=serve, name="serving", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # earlier connections wait in the backlog
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
