"""Real proxies in front of a real uvicorn: the address is that of the shopper's TCP connection, with any headers.

Shoppers call from addresses of 127.0.0.0/8, so Butter's environment is staging.
"""

import http.client
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from asgi import body, sends, start
from processes import free_port, listening, until
from shops import PAID

from butter_middleware import Butter, ButterMiddleware, client_ip
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.testing import FakeButter

NGINX, HAPROXY = (shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("nginx", "haproxy"))
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

SHOPPER = "127.0.0.5"
LOCAL = ["127.0.0.1", "unix:"]
PROXY_APPENDS = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
SPOOFED = [
    [],
    [("X-Forwarded-For", "1.2.3.4")],
    [("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-For", "127.0.0.1, 5.6.7.8")],
    [("X-Forwarded-For", "1.2.3.4:5678"), ("X-Real-IP", "1.2.3.4"), ("Forwarded", "for=1.2.3.4")],
    [("X-Forwarded-For", "127.0.0.1, 127.0.0.1")],
    [("X-Forwarded-For", ", , unknown,"), ("Forwarded", 'for="1.2.3.4')],
    [("X-Forwarded-For", "127.0.0.5, 1.2.3.4"), ("Forwarded", 'for=1.2.3.4;host="\\')],
    [("X-Forwarded-For", "1.2.3.4, " * 300 + "x"), ("Forwarded", 'for="a\\", for=1.2.3.4')],
    [("X-Forwarded-For", "\xf0\xfd \x7f"), ("Forwarded", "\xf0\xfd, for=unknown")],
]


def checkout(port: int, *headers: tuple[str, str], host: str = "shop.example") -> None:
    """Pay from the shopper's address, with any headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(SHOPPER, 0))
    try:
        connection.putrequest("POST", "/checkout/7", skip_host=True)
        for name, value in (("Host", host), ("Content-Length", "0"), *headers):
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        response = connection.getresponse()
        assert json.loads(response.read())["invoice"]
        assert response.status == 200
    finally:
        connection.close()


@contextmanager
def shop(butter: Butter, **options: Any) -> Generator[None]:
    """Serve a shop with uvicorn, in a thread of this process."""
    invoices = itertools.count()

    async def pay(scope: Scope, receive: Receive, send: Send) -> None:
        paid = PAID | {"invoice": {"id": f"in_{next(invoices)}"}}
        await sends(start(), body(json.dumps(paid).encode()))(scope, receive, send)

    app = ButterMiddleware(pay, butter)
    # h11 accepts the bytes of a spoofed header that httptools refuses.
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", http="h11", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "uvicorn listens")
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(port: int, *command: str) -> Generator[int]:
    """Run a proxy that listens on a port."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: listening(port) or process.poll() is not None, f"{command[0]} listens")
        assert process.poll() is None, process.communicate()[0].decode()
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def nginx(folder: Path, upstream: str, setting: str = PROXY_APPENDS) -> Generator[int]:
    port = free_port()
    paths = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""}
        daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
        events {{}}
        http {{
            access_log off; {paths}
            server {{
                listen 127.0.0.1:{port};
                location / {{ proxy_pass http://{upstream}; proxy_set_header Host $http_host; {setting} }}
            }}
        }}"""
    )
    assert NGINX is not None
    with running(port, NGINX, "-e", "stderr", "-p", str(folder), "-c", str(configuration)) as listens:
        yield listens


@contextmanager
def haproxy(folder: Path, upstream: str, setting: str = "option forwardfor") -> Generator[int]:
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(
        f"""defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend shop
    bind 127.0.0.1:{port}
    default_backend app
backend app
    {setting}
    server app {upstream}
"""
    )
    assert HAPROXY is not None
    with running(port, HAPROXY, "-db", "-f", str(configuration)) as listens:
        yield listens


def has_option_forwarded() -> bool:
    """`option forwarded` exists since HAProxy 2.8."""
    if HAPROXY is None:
        return False
    version = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (2, 8)


@contextmanager
def chain(kind: str, folder: Path, butter: Butter, **options: Any) -> Generator[int]:
    """Set up a shop behind proxies. Return the port for shoppers."""
    with ExitStack() as stack:
        port, socket = free_port(), str(folder / "app.sock")
        over_unix = kind.endswith("unix")
        stack.enter_context(shop(butter, **({"uds": socket} if over_unix else {"port": port}), **options))
        tcp = f"127.0.0.1:{port}"
        match kind:
            case "nginx":
                yield stack.enter_context(nginx(folder, tcp))
            case "nginx unix":
                yield stack.enter_context(nginx(folder, f"unix:{socket}:"))
            case "haproxy":
                yield stack.enter_context(haproxy(folder, tcp))
            case "haproxy unix":
                yield stack.enter_context(haproxy(folder, f"unix@{socket}"))
            case "haproxy nginx":
                inner = stack.enter_context(nginx(folder, tcp))
                yield stack.enter_context(haproxy(folder, f"127.0.0.1:{inner}"))
            case "nginx haproxy":
                inner = stack.enter_context(haproxy(folder, tcp))
                yield stack.enter_context(nginx(folder, f"127.0.0.1:{inner}"))
            case _:
                raise AssertionError(kind)


MakeButter = Callable[..., Butter]
CHAINS = [
    pytest.param("nginx", 1, marks=needs_nginx),
    pytest.param("nginx unix", 1, marks=needs_nginx),
    pytest.param("haproxy", 1, marks=needs_haproxy),
    pytest.param("haproxy unix", 1, marks=needs_haproxy),
    pytest.param("haproxy nginx", 2, marks=[needs_nginx, needs_haproxy]),
    pytest.param("nginx haproxy", 2, marks=[needs_nginx, needs_haproxy]),
]


def addresses(fake: FakeButter, butter: Butter) -> list[str]:
    assert butter.flush()
    return [record["ipv4_address"] for record in fake.records]


@pytest.mark.proxy
@pytest.mark.parametrize("proxy_headers", [False, True], ids=["--no-proxy-headers", "--proxy-headers"])
@pytest.mark.parametrize(("kind", "hops"), CHAINS)
def test_behind_proxies(
    make_butter: MakeButter, fake: FakeButter, tmp_path: Path, kind: str, hops: int, *, proxy_headers: bool
) -> None:
    """No header chooses or removes the address: by trust and by hops, with or without uvicorn's rewrite."""
    for strategy in (client_ip.RightmostUntrusted(LOCAL), client_ip.TrustedHops(hops, peer_in=LOCAL)):
        butter = make_butter(client_ip=strategy, environment="staging")
        with chain(kind, tmp_path, butter, proxy_headers=proxy_headers) as port:
            for headers in SPOOFED:
                fake.records.clear()
                checkout(port, *headers)
                assert addresses(fake, butter) == [SHOPPER], headers


@pytest.mark.proxy
@needs_nginx
def test_production_accepts_no_private_address(make_butter: MakeButter, fake: FakeButter, tmp_path: Path) -> None:
    """The same checkout makes no record in production, and is counted."""
    butter = make_butter(client_ip=client_ip.nginx(LOCAL), environment="production")
    with chain("nginx", tmp_path, butter) as port:
        checkout(port)
        assert butter.flush()
    assert fake.records == []
    assert butter.status().skipped == {"no_address:private_address": 1}


@pytest.mark.proxy
@pytest.mark.parametrize(
    ("proxy", "setting"),
    [
        pytest.param(
            nginx,
            'proxy_set_header Forwarded "$http_forwarded, for=$remote_addr;proto=$scheme";',
            marks=needs_nginx,
            id="nginx",
        ),
        pytest.param(
            haproxy,
            "http-request add-header Forwarded for=%[src];proto=http",
            marks=needs_haproxy,
            id="haproxy, by hand",
        ),
        pytest.param(
            haproxy,
            "option forwarded proto host for",
            marks=pytest.mark.skipif(not has_option_forwarded(), reason="this HAProxy has no `option forwarded`"),
            id="haproxy, option forwarded",
        ),
    ],
)
def test_forwarded(
    make_butter: MakeButter, fake: FakeButter, tmp_path: Path, proxy: Callable[..., Any], setting: str
) -> None:
    """A proxy's RFC 7239 header withstands unclosed quotes, backslashes and a quoted Host."""
    butter = make_butter(client_ip=client_ip.Forwarded(LOCAL), environment="staging")
    port = free_port()
    with shop(butter, port=port, proxy_headers=False), proxy(tmp_path, f"127.0.0.1:{port}", setting) as listens:
        for headers in SPOOFED:
            fake.records.clear()
            checkout(listens, *headers)
            assert addresses(fake, butter) == [SHOPPER], headers


@pytest.mark.proxy
@needs_nginx
def test_forwarded_and_a_server_that_reads_another_header(
    make_butter: MakeButter, fake: FakeButter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By default uvicorn trusts an X-Forwarded-For that the proxy does not overwrite: no record, and a remedy."""
    butter = make_butter(client_ip=client_ip.Forwarded(LOCAL), environment="staging")
    port = free_port()
    setting = 'proxy_set_header Forwarded "for=$remote_addr";'
    with shop(butter, port=port), nginx(tmp_path, f"127.0.0.1:{port}", setting) as listens:
        checkout(listens, ("X-Forwarded-For", "1.2.3.4"))
        butter.flush()
        assert fake.records == []
        assert "--no-proxy-headers" in caplog.text
        assert "1.2.3.4" not in caplog.text


@pytest.mark.proxy
@needs_nginx
@pytest.mark.parametrize("spoofed", ["1.2.3.4", "1.2.3.4:5678", "127.0.0.9, 127.0.0.1"])
def test_uvicorn_that_trusts_all_peers(make_butter: MakeButter, fake: FakeButter, tmp_path: Path, spoofed: str) -> None:
    """With --forwarded-allow-ips '*' uvicorn uses the shopper's header: no record, a reason, and a remedy."""
    butter = make_butter(client_ip=client_ip.nginx(LOCAL), environment="staging")
    with chain("nginx", tmp_path, butter, forwarded_allow_ips="*") as port:
        checkout(port, ("X-Forwarded-For", spoofed))
        butter.flush()
        assert fake.records == []
        assert butter.status().parked == 1
        checkout(port)
        butter.flush()
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]


@pytest.mark.proxy
@pytest.mark.parametrize("options", [{}, {"proxy_headers": False}])
def test_no_proxy_at_all(make_butter: MakeButter, fake: FakeButter, options: dict[str, Any]) -> None:
    """A shopper who connects to uvicorn directly is the peer, also with its own address in the header."""
    butter = make_butter(client_ip=client_ip.direct(), environment="staging")
    port = free_port()
    with shop(butter, port=port, **options):
        for headers in SPOOFED:
            fake.records.clear()
            checkout(port, *headers)
            assert addresses(fake, butter) == [SHOPPER], headers


@pytest.mark.proxy
def test_no_proxy_and_a_server_that_trusts_all_peers(make_butter: MakeButter, fake: FakeButter) -> None:
    """Without a proxy, a peer that uvicorn took from a header is not used."""
    butter = make_butter(client_ip=client_ip.direct(), environment="staging")
    port = free_port()
    with shop(butter, port=port, forwarded_allow_ips="*"):
        checkout(port, ("X-Forwarded-For", "1.2.3.4"))
        butter.flush()
    assert fake.records == []
    assert butter.status().skipped == {"no_address:server_rewrite_conflict": 1}
