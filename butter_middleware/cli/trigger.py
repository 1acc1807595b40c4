"""`butter-middleware trigger`: one test record, sent as the records of checkouts are."""

import json
import secrets
import time

import anyio
import click

from butter_middleware import config
from butter_middleware.cli.check import refusal
from butter_middleware.cli.failure import ExitCode, Failure, exit_codes
from butter_middleware.cli.options import app_option, listening, load
from butter_middleware.cli.output import Output, output_options
from butter_middleware.cli.queue import confirm
from butter_middleware.delivery.clients import Client
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Checkout, Record
from butter_middleware.pipeline import components


@click.command(
    epilog=exit_codes(ok="the record was accepted", attention="it was not accepted, which it explains, or you said no")
)
@app_option
@click.option("--yes", is_flag=True, help="Do not ask before a test record goes to production.")
@output_options()
def trigger(output: Output, *, app: str | None, yes: bool) -> None:
    """Send one test record end to end, to the sandbox or to Butter.

    It goes where your records go, with the same credentials: those of --app, or of BUTTER_BASE_URL, BUTTER_USERNAME,
    BUTTER_PASSWORD and BUTTER_ENVIRONMENT. The record is of test@example.com at 192.0.2.1, an address for documentation
    that no shopper has. Your outbox is not touched. Before it sends to production, it asks.

    \b
      butter-middleware sandbox
      BUTTER_BASE_URL=http://127.0.0.1:8025 butter-middleware trigger
    """  # noqa: D301 - click's mark
    output = Output(output.as_json, reveal=True)  # the record is of no person
    client, environment, url = _destination(app)
    host = config.host(url)
    place = f"the sandbox at {url}" if config.is_sandbox(url) else f"Butter {environment} ({host})"
    if environment == "production" and not config.is_sandbox(url) and not yes:
        confirm(f"Send a test record to {place}? It stays there.", output)
    checkout = Checkout(
        customer_email="test@example.com",
        ipv4_address="192.0.2.1",
        psp="stripe",
        invoice_id=f"butter-test-{secrets.token_hex(4)}",
    )
    began = time.monotonic()
    answer = anyio.run(_post, client, Record.of(checkout, time.time()))
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
    output.result(document, text)
    if not accepted:
        raise click.exceptions.Exit(ExitCode.ATTENTION)


def _destination(app: str | None) -> tuple[Client, str, str]:
    """Return what sends, and where to."""
    if app is None:
        with listening([]):  # the text says where it goes
            url = config.base_url(None)
        return components.client(url, None, None, None, needed=True)(), config.environment(None), url
    butter = load(app)
    if butter.dry_run:
        msg = f"--app {app}: this Butter sends nothing: dry_run=True. Take that out."
        raise Failure(msg)
    return butter.client(), butter.environment, butter.base_url


async def _post(client: Client, record: Record) -> Answer:
    try:
        return await client.post(record)
    finally:
        await client.aclose()
