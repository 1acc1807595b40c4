"""`butter-middleware check`: checks that evidence can be collected and sent from here, before the first checkout."""

import os
import shutil
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import click
from starlette.applications import Starlette

from butter_middleware import config
from butter_middleware._utils import daemons
from butter_middleware.butter import Butter
from butter_middleware.capture import app_routes
from butter_middleware.capture.middleware import ButterMiddleware
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import app_option, by_hand, command, listening, load, outbox_option
from butter_middleware.cli.output import Mark, Output
from butter_middleware.cli.status import attention
from butter_middleware.cli.text import counted, deliverer_name
from butter_middleware.delivery.clients import Client
from butter_middleware.errors import ButterError, ConfigurationError, HTTPClientError
from butter_middleware.extract.expressions import Expressions
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.outbox import MemoryOutbox, SQLiteOutbox
from butter_middleware.outbox.sqlite import preflight
from butter_middleware.outbox.sqlite.existing import existing, refuse_absent
from butter_middleware.outbox.sqlite.snapshot import Snapshot, snapshot
from butter_middleware.pipeline import components
from butter_middleware.pipeline.reporter import HostCounts, host_counts

LEAST_FREE: Final = 256 * 1024**2
WAL_RESET: Final = ((3, 7, 0), (3, 51, 2))
"""The versions of SQLite in which simultaneous writes or checkpoints of two connections can corrupt the log."""
OLDEST_SQLITE: Final = (3, 24, 0)
"""The first version with UPSERT (`INSERT ... ON CONFLICT DO UPDATE`)."""
SECONDS: Final = 10.0
"""The time for each network check."""
SKEW_SECONDS: Final = 30.0
DAY: Final = 86400.0
EXPIRY_DAYS: Final = 14.0
COLUMNS: Final = {"check": "Check", "state": "State", "text": "What was found, and what to do"}
NOBODY_DELIVERS: Final = "Start the app; or beside it, or in its place, `butter-middleware deliver --app ... --follow`."


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    state: Mark
    check: str
    detail: str
    remedy: str = ""


_ok = partial(Finding, Mark.OK)
_warning = partial(Finding, Mark.WARNING)
_failed = partial(Finding, Mark.FAILED)


@command("check", ok="nothing failed, there may be warnings", attention="something failed")
@outbox_option
@app_option
@click.option("--offline", is_flag=True, help="Ask nothing over the network.")
def check(output: Output, *, outbox: str | None, app: str | None, offline: bool) -> ExitCode:
    """Check that evidence can be collected and sent from here.

    With --app it imports your app, and checks its configuration, its outbox and its credentials. Without --app it
    checks the environment (BUTTER_USERNAME, BUTTER_PASSWORD, BUTTER_BASE_URL), and the outbox that --outbox names. Each
    line is ok, warning or failed, with what to do. Run it on the app's machine, as the app's user. It creates and
    changes nothing. It sends only one ping, which records nothing.
    """
    if app is not None and by_hand("app") and not by_hand("outbox"):
        outbox = None  # the app's own outbox has precedence over the environment's
    findings = list(_findings(outbox, app, offline=offline))
    rows = [asdict(each) | {"text": ". ".join(filter(None, (each.detail, each.remedy)))} for each in findings]
    failed = sum(each.state is Mark.FAILED for each in findings)
    warned = sum(each.state is Mark.WARNING for each in findings)
    verdict = f"\n{failed} failed, {counted(warned, 'warning')}." if failed or warned else "\nAll is well."
    output.show(rows, output.table(rows, COLUMNS), verdict)
    return ExitCode.ATTENTION if failed else ExitCode.OK


def _findings(outbox: str | None, app: str | None, *, offline: bool) -> Iterator[Finding]:
    butter, said = None, list[str]()
    if app is not None:
        try:
            butter = load(app, said)
        except Failure as error:
            yield _failed("app", error.message)
        else:
            yield from _configured(butter, app)
            yield from compared(butter, app)
            # Warnings about the outbox are found again below.
            yield from (_warning("app", text) for text in said if not text.startswith("outbox: "))
    yield _sqlite(sqlite3.sqlite_version_info)
    if outbox is not None or butter is not None:
        yield from _outbox(outbox, butter, offline=offline)
    elif app is None:
        yield _warning("outbox", "not looked at", "Name it: --outbox PATH, or --app shop.main:butter.")
    if not offline and (butter is not None or app is None):
        yield from _network(butter)


# The app.


def _only_appends(butter: Butter | None) -> bool:
    return butter is not None and butter.pipeline.components.external


def _configured(butter: Butter, app: str) -> Iterator[Finding]:
    routes = butter.routes.routes
    if butter.dry_run:
        yield _warning("app", f"{app}: dry_run=True, nothing is kept or sent", "Take it out when you are.")
    else:
        text = f"{app}: {butter.environment}, {counted(len(routes), 'checkout route')}"
        yield _ok("app", text + ", delivery='external'" * _only_appends(butter))
    if butter.environment == "staging":
        text = "staging: addresses that are not public and payments of test mode count as evidence"
        yield _warning(
            "environment", text, "This is right for tests. In production leave environment= and BUTTER_ENVIRONMENT out."
        )
    yield _ok("client_ip", repr(butter.strategy))
    if "*" in os.environ.get("FORWARDED_ALLOW_IPS", ""):
        text = (
            "FORWARDED_ALLOW_IPS=*: uvicorn takes the peer from X-Forwarded-For, so trusted= and peer_in= do not "
            "protect you"
        )
        yield _warning("client_ip", text, "Start uvicorn with --no-proxy-headers.")
    if not routes:
        remedy = "Add CheckoutRoute(...) to Butter(routes=[...]), or @butter.checkout_route."
        yield _failed("routes", "none: no checkout is captured", remedy)
    for route in routes:
        yield _ok("route", f"{route}: {route.psp}, {read_by(route)}")


def compared(butter: Butter, app: str) -> Iterator[Finding]:
    """Compare the checkout routes with those of the app: the named one, or another app of its module."""
    name, _colon, attribute = app.partition(":")
    values = [value for value in vars(sys.modules[name]).values() if isinstance(value, Starlette | ButterMiddleware)]
    has_app = bool(values)
    if attribute:
        values.append(attrgetter(attribute)(sys.modules[name]))
    apps = [wrapped for value in values for wrapped in app_routes.watched(value, butter)]
    if not apps and has_app:
        text = f"{name} has an app, and ButterMiddleware with this Butter is not around it: no checkout is captured"
        yield _warning("routes", text, "Write app.add_middleware(ButterMiddleware, butter=...).")
    elif not apps:
        text = f"not compared with the app: {name} has no app with this Butter"
        yield _ok("routes", text, "The log says it when the app starts; or name the app: --app MODULE:app.")
    elif not all(map(app_routes.walkable, apps)):
        text = "not compared with the app, whose routes cannot be listed: it is neither Starlette nor FastAPI"
        yield _ok("routes", text, "If a route matches no request for a day, the log says so.")
    else:
        failures = app_routes.unanswered(apps, butter.routes.routes)
        yield from (_failed("route", text) for text in failures)
        if not failures and butter.routes.routes:
            yield _ok("routes", "the app answers each checkout route")


def read_by(route: CheckoutRoute) -> str:
    """Describe how a route is read."""
    extract = route.extract
    if extract is None:
        return "by annotate() alone"
    if isinstance(extract, Expressions):
        return "by extract.json"
    if isinstance(psp := getattr(extract, "psp", None), str):
        return f"by extract.{psp}"
    name = getattr(extract, "__qualname__", type(extract).__qualname__)
    return f"by {getattr(extract, '__module__', '')}.{name}"


# The outbox.


def _sqlite(version: tuple[int, int, int]) -> Finding:
    text = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return _failed("sqlite", f"SQLite {text} is too old", "Use a Python with SQLite 3.24 or newer.")
    if WAL_RESET[0] <= version <= WAL_RESET[1]:
        why = (
            f"SQLite {text}. It has the WAL-reset bug (3.7.0 to 3.51.2): two processes that write at once can corrupt "
            "a file. The outbox's own lock prevents this. Keep the .lock file, and let no other program write to the "
            "file"
        )
        return _ok("sqlite", why)
    return _ok("sqlite", f"SQLite {text}, in which the WAL-reset bug is fixed")


def _outbox(given: str | None, butter: Butter | None, *, offline: bool) -> Iterator[Finding]:
    try:
        if given is not None:
            outbox: object = SQLiteOutbox(given)
            refuse_absent(os.path.realpath(given))
        else:
            outbox = None if butter is None else butter.outbox
        if not isinstance(outbox, SQLiteOutbox):
            yield _elsewhere(outbox, butter, offline=offline)
            return
        warnings = outbox.validate()
    except ConfigurationError as error:
        yield _failed("outbox", str(error))
        return
    yield from (_warning("outbox", warning) for warning in warnings)
    path = outbox.path
    free = shutil.disk_usage(Path(path).parent).free
    kind = preflight.mount(path, preflight.mounted())[1] or "a file system of unknown type"
    text = f"{Path(path).parent} is on {kind}, {free / 1024**3:.1f} GiB free"
    if free < LEAST_FREE:
        yield _warning("disk", text, "Make room: while the disk is full, captures wait in memory.")
    else:
        yield _ok("disk", text)
    if not os.path.exists(path):  # noqa: PTH110 - text
        yield _ok("outbox", f"{path} is not there yet: the app makes it at its first start or checkout")
        return
    owner, here = Path(path).stat().st_uid, os.geteuid()
    if owner != here:
        remedy = "Run check as the app's user, because its rights count."
        yield _warning("outbox", f"{path} belongs to user {owner}, and you are {here}", remedy)
    try:
        with existing(path) as store:
            view, host = snapshot(store), host_counts(store, time.time())
    except ButterError as error:
        yield _failed("outbox", str(error))
        return
    yield from _stands(view, host, external=_only_appends(butter))


def _elsewhere(outbox: object, butter: Butter | None, *, offline: bool) -> Finding:
    if butter is not None and butter.dry_run:
        return _ok("outbox", "none: a dry run keeps nothing")
    if isinstance(outbox, MemoryOutbox):
        text = "memory only: what is not yet delivered is lost when the process is killed"
        return _warning("outbox", text, "Set outbox= to the path of an SQLite file on a disk that lasts.")
    name = type(outbox).__name__
    extra: Any = sys.modules.get("butter_middleware.postgres.outbox")  # loaded if the app uses it
    queue: Any = outbox
    if extra is not None and isinstance(queue, extra.PostgresOutbox):
        return _ok("outbox", f"{name}, not asked because of --offline") if offline else _verified(queue.verify, name)
    return _ok("outbox", f"a queue of your own ({name}), whose consumer delivers")


def _verified(verify: Callable[[], None], name: str) -> Finding:
    try:
        daemons.call(verify).result(SECONDS)
    except ConfigurationError as error:
        return _failed("outbox", f"{name}: {error}")
    except TimeoutError:
        return _failed("outbox", f"{name} did not answer in {SECONDS:g} s", "Let this machine reach it.")
    return _ok("outbox", f"{name} takes records, and its workers deliver")


def _stands(view: Snapshot, host: HostCounts, *, external: bool) -> Iterator[Finding]:
    reasons = [reason for reason in attention(view, host, time.time()) if reason.code != "no_deliverer"]
    for reason in reasons:
        yield (_failed if reason.code == "hold" else _warning)("outbox", reason.detail, reason.remedy)
    if not reasons:
        text = f"{counted(view.counts.pending, 'record')} to be sent, {view.counts.delivered} delivered"
        yield _ok("outbox", text)
    if view.unread:
        text = f"captured and read by no process that runs now: {view.unread}"
        yield _warning("delivery", text, NOBODY_DELIVERS)
    elif view.deliverer is not None:
        yield _ok("delivery", f"{deliverer_name(view.deliverer)} delivers")
    elif view.counts.pending or external:
        yield _warning("delivery", "no process delivers from this file now", NOBODY_DELIVERS)
    else:
        yield _ok("delivery", "no process delivers from this file now")


# The network.


def _network(butter: Butter | None) -> Iterator[Finding]:
    if butter is not None and butter.dry_run:
        yield _ok("credentials", "not looked at: a dry run needs none")
        return
    said = list[str]()
    try:
        with listening(said):
            url = config.base_url(None) if butter is None else butter.base_url
        client: Client = components.client(url)() if butter is None else butter.client()
    except HTTPClientError as error:
        yield _failed("client", str(error))
        return
    except ConfigurationError as error:
        if _only_appends(butter):
            remedy = "Run check again as `deliver` runs, with its environment."
            text = f"needed by the process that delivers, not by this app: {error}"
            yield _warning("credentials", text.removesuffix("."), remedy)
        else:
            yield _failed("credentials", str(error))
        return
    yield from (_warning("environment", text) for text in said)
    yield from _reach(url, client)


def _reach(base_url: str, client: Client) -> Iterator[Finding]:
    """Check each step of the way to Butter, until one fails."""
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    proxy = getproxies().get(url.scheme)
    if proxy and url.scheme == "https" and not proxy_bypass(host):
        by = urlsplit(proxy).hostname or "a proxy"
        yield _ok("dns", f"left to the proxy {by}, which the environment names")
    else:
        for finding in _connected(host, port, secure=url.scheme == "https"):
            yield finding
            if finding.state is Mark.FAILED:
                return
    before = time.time()
    answer = anyio.run(ask, client, client.ping)
    if answer.kind is AnswerKind.DELIVERED:
        yield _ok("credentials", f"{host} takes them")
    elif answer.kind is AnswerKind.IMPOSTOR:
        text = "the answer is not Butter's: something else may answer in its place"
        yield _warning("credentials", text, refusal(answer))
    else:
        yield _failed("credentials", f"{host} answered {answer.label}", refusal(answer))
    if answer.answered_at is not None:
        yield _clock(answer.answered_at, before, time.time())


def _connected(host: str, port: int, *, secure: bool) -> Iterator[Finding]:
    try:
        # It has no timeout. If no answer comes in time, its thread ends with the process.
        lookup = daemons.call(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
        found = {entry[4][0] for entry in lookup.result(SECONDS)}
    except OSError as error:
        remedy = f"Look up {host} on this machine; see /etc/resolv.conf, and what the container's network allows."
        yield _failed("dns", f"{host} has no address here ({error.strerror or type(error).__name__})", remedy)
        return
    yield _ok("dns", f"{host} has {counted(len(found), 'address', 'addresses')}")
    try:
        with socket.create_connection((host, port), SECONDS) as plain:
            yield _secured(plain, host) if secure else _ok("tls", "none: plain http, to this machine only")
    except ssl.SSLCertVerificationError as error:
        remedy = (
            "Check this machine's clock, its certificate authorities (SSL_CERT_FILE), and whether a proxy or firewall "
            "opens TLS. Verification is never switched off."
        )
        yield _failed("tls", f"the certificate is not trusted: {error.verify_message}", remedy)
    except OSError as error:
        remedy = f"Let this machine reach {host} at port {port}, or set HTTPS_PROXY to the proxy that may."
        if not secure:  # plain http goes to loopback only
            remedy = "Is the sandbox running? Start it: butter-middleware sandbox."
        yield _failed("tls", f"no connection to {host}:{port} ({error.strerror or type(error).__name__})", remedy)


def _secured(plain: socket.socket, host: str) -> Finding:
    from butter_middleware.delivery.http import ssl_context  # noqa: PLC0415 - httpx, for this command only

    with ssl_context().wrap_socket(plain, server_hostname=host) as secured:
        certificate = secured.getpeercert() or {}
        days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / DAY
        text = f"{secured.version()}, certificate trusted, valid for {days:.0f} days"
    if days < EXPIRY_DAYS:
        return _warning("tls", text, "If your own proxy signs it, renew it. Otherwise wait for Butter.")
    return _ok("tls", text)


async def ask(client: Client, question: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask once, and close the client."""
    try:
        return await question()
    finally:
        await client.aclose()


def refusal(answer: Answer) -> str:
    """Return the remedy for an answer other than acceptance."""
    otherwise = "Butter, or something in front of it, has a fault; records wait meanwhile. Try again later."
    return _REMEDIES.get(answer.kind, otherwise)


_REMEDIES: Final = {
    AnswerKind.UNAUTHORIZED: (
        "Check username and password, and that they are those of this environment: production and staging have a pair "
        "each."
    ),
    AnswerKind.REFUSED: "Butter knows the credentials, but they may not do this, or base_url is wrong. Ask Butter.",
    AnswerKind.INVALID: "Butter does not accept these fields of a record. Ask Butter.",
    AnswerKind.IMPOSTOR: "Check base_url, proxies and firewalls.",
    AnswerKind.REDIRECTED: "Check base_url: credentials follow no redirect to another place.",
    AnswerKind.THROTTLED: "Butter wants fewer requests now. Try again in a minute.",
    AnswerKind.UNREACHABLE: "Let this machine reach it, or set HTTPS_PROXY to the proxy that may.",
    AnswerKind.STALLED: "This process stood still while it asked. Run check again.",
    AnswerKind.UNTRUSTED: "Check this machine's clock and its certificate authorities (SSL_CERT_FILE).",
}


def _clock(theirs: float, before: float, after: float) -> Finding:
    """Compare the clocks. Butter's second is rounded down, and the answer took some time."""
    skew = max(before - theirs - 1.0, theirs - after, 0.0)
    if skew <= SKEW_SECONDS:
        return _ok("clock", f"within {max(1.0, skew):.0f} s of Butter's")
    text = f"{skew:.0f} s {'behind' if theirs > after else 'ahead of'} Butter's"
    return _warning("clock", text, "Let NTP set this machine's clock: tokens and due times depend on it.")
