"""`butter-middleware explain-ip`: shows the result of each client_ip strategy for one request."""

import ast
import re
from collections.abc import Sequence
from typing import Any, Final

import click

from butter_middleware import client_ip, config
from butter_middleware.cli.failure import ExitCode
from butter_middleware.cli.options import app_option, by_hand, command, load
from butter_middleware.cli.output import Output, Row
from butter_middleware.client_ip import Strategy
from butter_middleware.client_ip.address import parse_host
from butter_middleware.client_ip.explanation import CONFIGURED
from butter_middleware.errors import ConfigurationError

UNIX: Final = "unix:"
_PORT: Final = 50_000
"""Any port but 0, which means that the server replaced the peer."""
_STRATEGIES: Final = {
    name: getattr(client_ip, name)
    for name in client_ip.__all__
    if name not in {"ClientIP", "Explanation", "Reason", "Strategy", "explain"}
}


@command(
    "explain-ip",
    reveal=True,
    ok="shown",
    attention="the strategy of --app or --strategy finds no IPv4 address here",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header line as it reached the app, such as 'X-Forwarded-For: 81.2.69.142, 10.0.0.1'. Again for each line.",
)
@click.option(
    "--peer",
    required=True,
    metavar="ADDRESS",
    help="Who connected to the app: an address, with or without its port, or 'unix:' for a Unix socket.",
)
@app_option
@click.option("--strategy", metavar="STRATEGY", help="The one to judge, such as 'aws_alb()' or 'TrustedHops(2)'.")
def explain_ip(output: Output, *, headers: Sequence[str], peer: str, app: str | None, strategy: str | None) -> ExitCode:
    """Show which address each client_ip strategy finds in one request, or why it finds none and what would help.

    To set up client_ip=, log one request's headers and its peer, as the app sees them, and compare. With
    --app or --strategy, the configured strategy comes first.

    \b
      butter-middleware explain-ip --app shop.main:butter --peer 10.0.0.1 \\
        --header 'X-Forwarded-For: 81.2.69.142'
    """  # noqa: D301 - click's mark
    if strategy is not None and not by_hand("app"):
        app = None
    if app is not None and strategy is not None:
        message = "--app and --strategy both say which strategy is configured. Give one of them"
        raise click.UsageError(message)
    configured = load(app).strategy if app is not None else _strategy(strategy) if strategy is not None else None
    lines: list[tuple[bytes, bytes]] = []
    for text in headers:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            message = f"{text!r} is not a header line. Write it as 'X-Forwarded-For: 81.2.69.142'."
            raise click.BadParameter(message, param_hint="--header")
        lines.append((name.strip().lower().encode("latin-1", "replace"), value.strip().encode("latin-1", "replace")))
    scope: dict[str, Any] = {"type": "http", "headers": lines, "client": _peer(peer)}
    # First the configured strategy, then those that find an address.
    found = sorted(
        client_ip.explain(scope, configured), key=lambda one: (one.name != CONFIGURED, one.result.ipv4 is None)
    )
    rows: list[Row] = [
        {
            "strategy": one.name,
            "address": one.result.ipv4 or one.result.ipv6,
            "reason": one.result.reason.value,
            "remedy": one.remedy,
        }
        for one in found
    ]
    columns = {"strategy": "Strategy", "address": "Address", "reason": "Reason"}
    remedies: dict[str, str] = {}
    for one in filter(lambda one: one.remedy, found):  # one for each reason: the configured strategy is the first
        remedies.setdefault(one.result.reason.value, f"{one.name.partition('(')[0]}: {one.remedy}")
    output.show(
        rows,
        output.table(rows, columns),
        "",
        *(f"{reason}, {remedy}" for reason, remedy in remedies.items()),
        "An address here proves nothing by itself: a header may be the shopper's own.\n"
        "Choose by what is in front of the app: `butter_middleware.client_ip` has a preset for each common platform.",
    )
    judged = found[0] if found[0].name == CONFIGURED else None
    return ExitCode.ATTENTION if judged is not None and judged.result.ipv4 is None else ExitCode.OK


def _peer(text: str) -> tuple[str, int] | None:
    """Return `scope["client"]` as a server gives it."""
    if text == UNIX:
        return None
    is_alone = parse_host(text.strip("[]")) is not None
    host, _colon, port = (text, "", str(_PORT)) if is_alone else text.rpartition(":")
    if parse_host(host.strip("[]")) is not None and re.fullmatch("[0-9]{1,5}", port):
        return host.strip("[]"), int(port)
    # Without an example of an address, because addresses in an error are masked.
    message = f"{text!r} is not an address. Write it alone or with a port (HOST:4711, [HOST]:4711), or unix:."
    raise click.BadParameter(message, param_hint="--peer")


def _strategy(text: str) -> Strategy:
    """Build a strategy that is written as in the configuration: a call with literals only."""
    try:
        call = ast.parse(text.removeprefix("client_ip."), mode="eval").body
        call = call if isinstance(call, ast.Call) else ast.Call(call, [], [])
        name = ast.unparse(call.func)
        arguments = [ast.literal_eval(argument) for argument in call.args]
        options = {str(option.arg): ast.literal_eval(option.value) for option in call.keywords}
    except (SyntaxError, ValueError):
        message = f"{text!r} is not a strategy. Write it as in the configuration, such as 'nginx([\"10.0.0.0/8\"])'."
        raise click.BadParameter(message, param_hint="--strategy") from None
    if name not in _STRATEGIES:
        message = f"client_ip has no strategy {name}. {config.meant(name, _STRATEGIES, 'strategies')}"
        raise click.BadParameter(message, param_hint="--strategy")
    try:
        strategy: Strategy = _STRATEGIES[name](*arguments, **options)
    except (ConfigurationError, TypeError) as error:
        message = f"client_ip.{name}: {error}"
        raise click.BadParameter(message, param_hint="--strategy") from None
    return strategy
