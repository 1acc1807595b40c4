"""Real servers for the tests: a fake Butter on a socket, and the shop under each ASGI server."""

import asyncio
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import uvicorn

from butter_middleware._utils.asgi import ASGIApp, Receive, Scope, Send

SHOPPER = "81.2.69.142"
HERE = Path(__file__).parents[1]
GUNICORN = "gunicorn shop:plain -w 2 -k"
TCP_BIND, UNIX_BIND = "--bind 127.0.0.1:{port}", "--bind unix:{socket}"
SERVERS = {
    # The command, and its options for a port and for a Unix socket. Two serve the shop in FastAPI, `shop:api`.
    "uvicorn": ("uvicorn shop:plain --no-access-log", "--port {port}", "--uds {socket}"),
    "uvicorn two workers": ("uvicorn shop:plain --workers 2", "--port {port}", "--uds {socket}"),
    "uvicorn without lifespan": ("uvicorn shop:api --lifespan off", "--port {port}", "--uds {socket}"),
    "gunicorn uvicorn": (f"{GUNICORN} uvicorn_worker.UvicornWorker", TCP_BIND, UNIX_BIND),
    "gunicorn uvicorn preload": (
        "gunicorn shop:api -w 2 -k uvicorn_worker.UvicornWorker --preload",
        TCP_BIND,
        UNIX_BIND,
    ),
    "gunicorn asgi": (f"{GUNICORN} asgi", TCP_BIND, UNIX_BIND),
    "hypercorn": ("hypercorn shop:plain", TCP_BIND, UNIX_BIND),
    "hypercorn trio": ("hypercorn shop:plain -k trio", TCP_BIND, UNIX_BIND),
    "granian": ("granian shop:plain --interface asgi", "--port {port}", "--uds {socket}"),
    "granian asginl": ("granian shop:plain --interface asginl", "--port {port}", "--uds {socket}"),
    "daphne": ("daphne shop:plain", "--port {port}", "-u {socket}"),
}
DEPLOYED = {
    "gunicorn, each worker for ten requests": (
        f"{GUNICORN} uvicorn_worker.UvicornWorker --max-requests 10 --max-requests-jitter 5",
        TCP_BIND,
        UNIX_BIND,
    ),
}
"""Like `SERVERS`, for the tests of deploys."""
WITHOUT_LIFESPAN = ["uvicorn without lifespan", "granian asginl", "daphne"]
"""Servers that report neither the start nor the end to the app."""


def until(done: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Poll until a condition in another process is true, or fail with its name."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            msg = f"not within {seconds} s: {what}"
            raise AssertionError(msg)
        time.sleep(0.01)


def free_port() -> int:
    """Return a free port. It is below the system's range of dynamic ports, so that it stays free."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("shop.example", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


@contextmanager
def served(app: ASGIApp, host: str = "127.0.0.1") -> Generator[str]:
    """Serve an app on loopback in a thread of this process. Return its base URL."""
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    async def serve(listener: socket.socket) -> None:
        await server.serve([listener])
        for connection in list(server.server_state.connections):  # a client may keep one open for too long
            connection.transport.abort()

    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(serve(listener)))
        thread.start()
        try:
            until(lambda: server.started, "the server in this process")
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join()


class Late:
    """An app that can be set or replaced while it is served."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Shop:
    """A shop under a real server, on a port or a Unix socket, in its own process group."""

    def __init__(self, server: str, butter: str, unix_socket: Path | None = None, /, **environment: str) -> None:
        self.port = free_port()
        self._socket = unix_socket
        start, on_port, on_socket = (SERVERS | DEPLOYED)[server]
        bound = on_port.format(port=self.port) if unix_socket is None else on_socket.format(socket=unix_socket)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *start.split(), *bound.split()],
            cwd=HERE / "servers",
            env=os.environ | {"SHOP_BUTTER": butter, "PYTHONWARNINGS": "default"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = b""
        self._over = False

    def _listens(self) -> bool:
        if self._socket is None:
            return listening(self.port)
        with closing(UnixConnection(self._socket, 0.5)) as probe, suppress(OSError):
            probe.connect()
            return True
        return False

    def ready(self) -> Self:
        until(lambda: self._listens() or self.process.poll() is not None, "the shop listens", 40)
        if self.process.poll() is not None:
            raise AssertionError(self.stop().decode())
        return self

    def request(self, method: str, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            if self._socket is None
            else UnixConnection(self._socket, 20)
        )
        with closing(connection):
            connection.request(method, path, headers={"X-Forwarded-For": SHOPPER})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def checkout(self, invoice: str) -> tuple[int, list[tuple[str, str]], bytes]:
        return self.request("POST", f"/checkout/{invoice}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> bytes:
        """Send a signal to the server, as a supervisor does, and return its output."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            output, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
            output, _ = self.process.communicate()
        self.output += output
        self.kill()
        self._over = True
        return self.output

    def kill(self) -> None:
        """Kill the whole process group. After its end, another group may have its number."""
        if self._over:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def __enter__(self) -> Self:
        return self.ready()

    def __exit__(self, *_exc: object) -> None:
        self.kill()
        self.stop(signal.SIGKILL)


def numbered(count: int) -> Sequence[str]:
    return [f"in_{number}" for number in range(count)]


@contextmanager
def accepting(take: Callable[[socket.socket], object]) -> Generator[int]:
    """Listen on loopback, and pass each connection to `take`, in a thread. Return the port.

    That thread closes the listener, after a last connection has woken it. Another thread must not close it just before
    `accept`. The call would then wait at the next listener with the same descriptor, and take one of its connections.
    """
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()
    address = listener.getsockname()

    def accept() -> None:
        with listener:
            while True:
                connection = listener.accept()[0]
                if over.is_set():
                    connection.close()
                    return
                take(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield address[1]
    finally:
        over.set()
        with suppress(OSError):
            socket.create_connection(address, 20).close()


@contextmanager
def misbehaving(behave: Callable[[socket.socket], None]) -> Generator[str]:
    """Listen on loopback, read each request, and call `behave`."""

    def take(connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            connection.recv(65536)
            behave(connection)

    with accepting(take) as port:
        yield f"http://127.0.0.1:{port}"
