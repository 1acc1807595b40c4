"""`butter-middleware demo`: a shop, shoppers behind a proxy, and the sandbox instead of Butter, on this machine."""

import json
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import click
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as ShopRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from butter_middleware import client_ip, extract
from butter_middleware.butter import Butter
from butter_middleware.capture.annotations import annotate
from butter_middleware.capture.middleware import ButterMiddleware
from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import command, listening
from butter_middleware.cli.output import Mark, Output, Row
from butter_middleware.cli.sandbox import PORT as INBOX_PORT
from butter_middleware.cli.sandbox import load_server

SHOP_PORT: Final = 8000
DELIVERY_SECONDS: Final = 10.0
COLUMNS: Final = {
    "shopper": "Shopper",
    "address": "From",
    "invoice": "Invoice",
    "ipv4_address": "ipv4_address",
    "invoice_id": "invoice_id",
    "state": "",
}
USERNAME: Final = "demo-merchant"
PASSWORD: Final = "demo-password"  # noqa: S105 - only for the shop and the sandbox of the demo


class Shopper(NamedTuple):
    """One shopper: the cart, the e-mail, the address, and the X-Forwarded-For header that the request sends."""

    cart: str
    email: str
    address: str
    claimed: str = ""


SHOPPERS: Final = [
    Shopper("cart-1", "ada@example.com", "81.2.69.142"),
    Shopper("cart-2", "grace@example.com", "89.160.20.112", "1.2.3.4"),
    Shopper("cart-3", "tony@example.com", "175.16.199.37", "8.8.8.8, 10.0.0.1"),
    Shopper("cart-4", "alan@example.com", "216.160.83.56", '"unclosed'),
    Shopper("cart-2", "grace@example.com", "89.160.20.112", "a reload of the page"),
]


@command("demo", ok="each checkout is one record with the shopper's own address", attention="shop and records differ")
@click.option("--once", is_flag=True, help="Compare both sides and end, instead of staying for a look.")
def demo(output: Output, *, once: bool) -> ExitCode:
    """Run a shop and the sandbox on this machine, check out five times, and compare both sides.

    Four shoppers come through a proxy. Some forge their address, and one reloads the page. Each checkout becomes one
    record with the address that the proxy saw. Then the sandbox's page stays open for a look, until Ctrl-C. Nothing
    leaves this machine, and no account is needed.
    """
    if output.as_json and not once:
        msg = "--json shows one comparison. Add --once."
        raise Failure(msg, ExitCode.USAGE)
    server = load_server()
    if not once:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    from butter_middleware.sandbox import Sandbox  # noqa: PLC0415 - not for --help

    sandbox = Sandbox(username=USERNAME, password=PASSWORD)
    try:
        with (
            server.serving(sandbox, _listener(0 if once else INBOX_PORT)) as inbox,
            server.serving(shop(inbox), _listener(0 if once else SHOP_PORT)) as url,
        ):
            agree = _compare(Output(output.as_json, reveal=True), *_buy(url, inbox))
            if not once:
                _stay(url, inbox)
    except KeyboardInterrupt:
        if once:
            raise
        click.echo("\nEnded: the shop, then the sandbox.")
        return ExitCode.OK
    return ExitCode.OK if agree else ExitCode.ATTENTION


def shop(inbox: str, username: str = USERNAME) -> Starlette:
    """Return a shop behind a proxy at 127.0.0.1, which sends to the sandbox."""
    with listening([]):  # hides the warning that records are in memory, which is sufficient for a demo
        butter = Butter(
            username=username,
            password=PASSWORD,
            environment="production",  # whatever the environment has
            base_url=inbox,
            client_ip=client_ip.nginx(["127.0.0.1"]),
            routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
        )

    async def checkout(request: ShopRequest) -> JSONResponse:
        annotate(request, customer_email=(await request.json())["email"])
        return JSONResponse({"status": "paid", "invoice": f"in_{request.path_params['cart_id']}"})

    return Starlette(
        routes=[Route("/checkout/{cart_id}", checkout, methods=["POST"])],
        middleware=[Middleware(ButterMiddleware, butter=butter)],
    )


def _listener(wanted: int) -> socket.socket:
    """Listen at a port of this machine: the given one, if it is free."""
    listen: Callable[[str, int], socket.socket] = load_server().listen
    try:
        return listen("127.0.0.1", wanted)
    except OSError as error:
        if wanted:
            return _listener(0)
        msg = f"the demo cannot listen at any port of 127.0.0.1 ({error.strerror}). Free a port, then run it again."
        raise Failure(msg) from error


def _fetch(url: str, body: Mapping[str, str] | None = None, **headers: str) -> Any:  # noqa: ANN401 - JSON
    """Send a request to a server on this machine, without the environment's proxies."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", **headers})  # noqa: S310 - always http, to loopback
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=DELIVERY_SECONDS) as response:
            return json.load(response)
    except HTTPError as error:
        error.close()
        msg = f"{url} answered {error.code} {HTTPStatus(error.code).phrase}"
        raise Failure(msg, ExitCode.ATTENTION) from None


def _buy(url: str, inbox: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Check out as each shopper. Return the shop's invoices by cart, and the records that arrived."""
    invoices: dict[str, str] = {}
    for shopper in SHOPPERS:
        # The proxy appends the address that it sees to the shopper's header.
        header = ", ".join(filter(None, (shopper.claimed, shopper.address)))
        answer = _fetch(f"{url}/checkout/{shopper.cart}", {"email": shopper.email}, **{"X-Forwarded-For": header})
        invoices[shopper.cart] = answer["invoice"]
    deadline = time.monotonic() + DELIVERY_SECONDS
    state = _fetch(f"{inbox}/api/records")
    while state["arrived"] < len(invoices) and time.monotonic() < deadline:
        time.sleep(0.05)
        state = _fetch(f"{inbox}/api/records")
    return invoices, [entry["record"] for entry in state["records"] if entry["status"] == HTTPStatus.OK]


def _compare(output: Output, invoices: Mapping[str, str], arrived: Sequence[Mapping[str, str]]) -> bool:
    """Show both sides. Return whether each checkout is one record with the shopper's own address and invoice.

    Nothing is masked: no person has these addresses.
    """
    records = {record["customer_email"]: record for record in arrived}
    rows: list[Row] = []
    for shopper in {shopper.cart: shopper for shopper in SHOPPERS}.values():
        sold = {"shopper": shopper.email, "address": shopper.address, "invoice": invoices[shopper.cart]}
        record = records.get(shopper.email, {})
        arrived_with = {name: record.get(name) for name in ("ipv4_address", "invoice_id")}
        same = [*arrived_with.values()] == [sold["address"], sold["invoice"]]
        rows.append({**sold, **arrived_with, "state": Mark.OK if same else Mark.FAILED})
    agree = len(arrived) == len(invoices) and all(row["state"] is Mark.OK for row in rows)
    claims = ", ".join(shopper.claimed.split(",")[0] for shopper in SHOPPERS[1:3])
    output.show(
        {"checkouts": len(SHOPPERS), "records": len(arrived), "agree": agree, "rows": rows},
        f"Five checkouts through a proxy. Some requests claim another address, such as {claims}. On the left what the "
        "shop saw, on the right the record that Butter would have.\n",
        output.table(rows, COLUMNS),
        f"\n{len(SHOPPERS)} checkouts, one of them a reload; {len(arrived)} records. "
        + ("They agree." if agree else "They differ."),
    )
    return agree


def _stay(url: str, inbox: str) -> None:
    """Tell where to look and what to try, until Ctrl-C."""
    click.echo(
        f"\nThe inbox:  {inbox}\n\n"
        "One more shopper, to watch it arrive:\n\n"
        f"  curl {url}/checkout/cart-9 \\\n"
        "    -H 'X-Forwarded-For: 81.2.69.160' -H 'Content-Type: application/json' \\\n"
        """    -d '{"email": "you@example.com"}'\n\n"""
        "Ctrl-C ends it."
    )
    while True:
        time.sleep(3600)  # a signal ends it. Not every system has signal.pause().
