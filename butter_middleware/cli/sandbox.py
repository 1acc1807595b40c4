"""`butter-middleware sandbox`: Butter's API on this machine, and a page that shows what arrives."""

import errno
import shlex
import socket
from types import ModuleType
from typing import Final

import click

from butter_middleware.cli.failure import ExitCode, Failure, exit_codes
from butter_middleware.cli.options import Stop, default_option, load_extra, stop_signals
from butter_middleware.config import is_loopback

PORT: Final = 8025


@click.command(epilog=exit_codes(ok="it was told to stop", busy="the port is in use"))
@default_option("--port", PORT, click.IntRange(0, 65535), "0 takes a free one.")
@default_option("--host", "127.0.0.1", str, "Where to listen. An address other than loopback needs --expose.")
@click.option("--expose", is_flag=True, help="Let other machines read the records. Goes with --host.")
@click.option("--username", help="Accept only this one. Without it any credentials are accepted.")
@click.option("--password", help="Goes with --username.")
@default_option("--keep", 10_000, click.IntRange(1, 1_000_000), "How many of the newest records are kept, in memory.")
def sandbox(*, port: int, host: str, expose: bool, username: str | None, password: str | None, keep: int) -> None:
    """Imitate Butter's API on this machine, with a page that shows each record when it arrives.

    Set BUTTER_BASE_URL in a shop to its address, and check out. Nothing leaves this machine.
    """
    if expose and is_loopback(host):
        msg = "--expose alone changes nothing. Say where to listen too: --host 0.0.0.0 --expose"
        raise click.UsageError(msg)
    if not expose and not is_loopback(host):
        msg = (
            f"--host {host} would let other machines read the records and set the switches. If that is what you want, "
            f"say it twice: --host {host} --expose"
        )
        raise click.UsageError(msg)
    if (username is None) is not (password is None):
        msg = "--username and --password go together. Leave both out to accept any credentials."
        raise click.UsageError(msg)
    server = load_server()
    from butter_middleware.sandbox import Sandbox  # noqa: PLC0415 - not for --help

    try:
        listener = server.listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else PORT  # noqa: PLR2004 - the largest port
            msg = (
                f"port {port} is in use, perhaps by another sandbox. Stop that one, or take another port: "
                f"butter-middleware sandbox --port {other}"
            )
            raise Failure(msg, ExitCode.BUSY) from error
        msg = (
            f"cannot listen at {host}, port {port} ({error.strerror}). Use an address of this machine and a port above "
            f"1023: --host 127.0.0.1 --port {PORT}"
        )
        raise Failure(msg) from error
    names = () if is_loopback(host) else (host, socket.gethostname())
    app = Sandbox(username=username, password=password, keep=keep, exposed=not is_loopback(host), names=names)
    stop, failures = Stop(), list[BaseException]()

    def fail(error: BaseException) -> None:
        failures.append(error)
        stop.set()

    with stop_signals(stop.set), server.serving(app, listener, fail):
        _introduce(listener, host, username)
        while not stop.wait(1.0):  # Windows handles no signal during a wait
            pass
    if failures:
        msg = f"the sandbox's server failed ({type(failures[0]).__name__}: {failures[0]}). Start it again."
        raise Failure(msg) from failures[0]
    click.echo(f"\nStopped. Arrived: {app.inbox.arrived}.")


def load_server() -> ModuleType:
    """Return the server's module. Fail if the extra is not installed."""
    return load_extra("butter_middleware.sandbox.server", "sandbox", "the sandbox", {"uvicorn", "h11"})


def _introduce(listener: socket.socket, host: str, username: str | None) -> None:
    """Tell where the page is, and what to set in the shop."""
    port = listener.getsockname()[1]
    here = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - requested twice
    url = f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"
    credentials = "BUTTER_USERNAME=sandbox BUTTER_PASSWORD=sandbox"
    any_credentials = "Any credentials are accepted. "
    if username is not None:
        credentials, any_credentials = f"BUTTER_USERNAME={shlex.quote(username)} BUTTER_PASSWORD=...", ""
    click.echo(
        f"The inbox:    {url}\n"
        f"For scripts:  {url}/api/records\n\n"
        "In the shell that starts the shop:\n\n"
        f"  export BUTTER_BASE_URL={url}\n"
        f"  export {credentials}\n"
        "  export BUTTER_ENVIRONMENT=staging\n\n"
        f"{any_credentials}In staging, this machine's own address counts.\n"
    )
    if not is_loopback(host):
        click.echo(f"Exposed: everyone who reaches port {port} of this machine can read the records.\n", err=True)
    if not is_loopback(here):
        click.echo("The middleware sends plain http to loopback only: listen at 0.0.0.0 for a shop here.\n", err=True)
    click.echo("Ctrl-C ends it.")
