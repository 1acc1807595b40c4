"""`butter-middleware trigger`: sends one test record in the same way as records of checkouts."""

import json
import secrets
import time

import anyio
import click

from butter_middleware import config
from butter_middleware.butter import Butter
from butter_middleware.cli.check import ask, refusal
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import app_option, command, listening, load, refuse_dry_run
from butter_middleware.cli.output import Output
from butter_middleware.client_ip import direct
from butter_middleware.models.answer import AnswerKind
from butter_middleware.models.checkout import Checkout, Record


@command("trigger", ok="the record was accepted", attention="it was not accepted, which it explains, or you said no")
@app_option
@click.option("--yes", is_flag=True, help="Do not ask before a test record goes to production.")
def trigger(output: Output, *, app: str | None, yes: bool) -> ExitCode:
    """Send one test record end to end, to the sandbox or to Butter.

    It goes where your records go, with the same credentials: those of --app, or of BUTTER_BASE_URL, BUTTER_USERNAME,
    BUTTER_PASSWORD and BUTTER_ENVIRONMENT. The record is of test@example.com at 192.0.2.1, an address for documentation
    that no shopper has. Your outbox is not touched. Before it sends to production, it asks.

    \b
      butter-middleware sandbox
      BUTTER_BASE_URL=http://127.0.0.1:8025 butter-middleware trigger
    """  # noqa: D301 - click's mark
    output = Output(output.as_json, reveal=True)  # the record is not about a person
    if app is None:
        _refuse_missing()
        with listening([]):  # hides the warnings: the output names the destination
            butter = Butter(client_ip=direct())
    else:
        butter = load(app)
        refuse_dry_run(butter, app)
    client, environment, url = butter.client(), butter.environment, butter.base_url
    host = config.host(url)
    place = f"the sandbox at {url}" if config.is_sandbox(url) else f"Butter {environment} ({host})"
    if environment == "production" and not config.is_sandbox(url) and not yes:
        output.confirm(f"Send a test record to {place}? It stays there.")
    checkout = Checkout(
        customer_email="test@example.com",
        ipv4_address="192.0.2.1",
        psp="stripe",
        invoice_id=f"butter-test-{secrets.token_hex(4)}",
    )
    began = time.monotonic()
    record = Record.of(checkout, time.time())
    answer = anyio.run(ask, client, lambda: client.post(record))
    accepted = answer.kind is AnswerKind.DELIVERED
    remedy = refusal(answer)
    if config.is_sandbox(url) and answer.kind is AnswerKind.UNREACHABLE:
        remedy = "Is it running? Start it: butter-middleware sandbox."
    document = {
        "accepted": accepted,
        "answer": answer.label,
        "remedy": None if accepted else remedy,
        "base_url": url,
        "environment": environment,
        "milliseconds": round((time.monotonic() - began) * 1000),
        "record": checkout.payload(),
    }
    if accepted:
        text = f"Accepted by {place} in {document['milliseconds']} ms: {json.dumps(document['record'])}"
    else:
        text = f"Not accepted by {place}: {answer.label}. {remedy}"
    output.show(document, text)
    return ExitCode.OK if accepted else ExitCode.ATTENTION


def _refuse_missing() -> None:
    """Fail if the environment has no credentials. `Butter`'s error names options that this command does not have."""
    for name in ("username", "password"):
        if config.credential(name, None) is None:
            variable = f"BUTTER_{name.upper()}"
            msg = (
                f"no {name}: set {variable}, or {variable}_FILE to a mounted secret, or name your Butter: "
                "--app shop.main:butter."
            )
            raise Failure(msg)
