"""`butter-middleware explain`: shows what an extractor finds in one response."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final, get_args

import click

from butter_middleware import config, extract
from butter_middleware.capture.routes import CheckoutRoute, RouteTable
from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import app_option, by_hand, command, default_option, field_values, load
from butter_middleware.cli.output import Output, Row
from butter_middleware.cli.text import counted
from butter_middleware.client_ip import Peer
from butter_middleware.client_ip.address import ANYWHERE, NOWHERE
from butter_middleware.errors import ExtractionError
from butter_middleware.extract.explanation import Explaining, Explanation
from butter_middleware.models.checkout import CheckoutFields, Psp
from butter_middleware.models.http import Capture, view
from butter_middleware.models.reasons import Skip
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.reader import Reader, ReadResult

MOST_BYTES: Final = 16 * 1024**2
_PRESETS: Final = {name: getattr(extract, name) for name in get_args(Psp)}
_OPTIONAL: Final = frozenset({"user_agent", "network_transaction_id"})
_RESPONSE: Final = "this response"
_ADDRESS: Final = "192.0.2.1"
"""An address for documentation (RFC 5737), instead of the shopper's, which is not in a response."""


_SKIPPED: Final[dict[str, str]] = {
    Skip.NOT_PAID: "No paid checkout",
    Skip.UNRECOGNISED: "Not recognised",
    Skip.GATED: "No checkout, says the route's when=",
    Skip.NOT_A_CHECKOUT: "No checkout",
    Skip.NOT_ANNOTATED: "No record without annotate(), here --annotate",
}


class _Response(CheckoutRoute):
    def __str__(self) -> str:
        return _RESPONSE


def _sentence(text: str) -> str:
    """Capitalize the first letter, unless the text begins with code."""
    return text if text.startswith("extract.") else text[:1].upper() + text[1:]


def _verdict(reading: ReadResult, explanation: Explanation) -> tuple[str, str, str]:
    """Return the result for the response (record, part, parked or skipped), its reason, and both as a sentence."""
    remedy = "" if reading.everyday else _sentence(reading.remedy.removeprefix(f"{_RESPONSE}: "))
    if reading.records:
        ids = " and ".join(dict.fromkeys(map(ids_of, reading.records)))
        what = "A record" if len(reading.records) == 1 else counted(len(reading.records), "record")
        return "record", "", f"{what}, matched to a dispute by {ids}. {remedy}"
    if reading.part is not None:
        return "part", "", "A part of a checkout: it becomes a record together with its counterpart (join=)."
    if reading.parked is not None:
        return "parked", reading.parked.reason, f"No record: it would be parked. {_sentence(reading.parked.detail)}"
    reason = reading.skipped or ""
    # For these two, the remedy contains what was seen.
    saw = "" if reason in {Skip.TEST_MODE, Skip.UNRECOGNISED} else f" ({explanation.saw})"
    why = "" if reason == Skip.TEST_MODE else f"{_SKIPPED.get(reason, 'No record')}{saw}. "
    return "skipped", reason, why + remedy


@command("explain", reveal=True, ok="a record, or a part of one", attention="no record, and why")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--psp",
    type=click.Choice(list(_PRESETS)),
    help="Read FILE by this PSP's preset, such as extract.stripe(). BUTTER_ENVIRONMENT=staging admits its test mode.",
)
@click.option("--at", metavar="JMESPATH", help="With --psp: the place of its object in the response.")
@app_option
@click.option("--path", help="With --app: the path of the checkout request, such as /checkout/7.")
@default_option("--method", "POST", str, "With --app: its method.")
@click.option(
    "--annotate",
    "notes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="What the endpoint would annotate, such as customer_email=a@example.com. Again for each field.",
)
def explain(
    output: Output,
    *,
    file: BinaryIO,
    psp: Psp | None,
    at: str | None,
    app: str | None,
    path: str | None,
    method: str,
    notes: Sequence[str],
) -> ExitCode:
    """Show what an extractor finds in the JSON body of a checkout's response.

    FILE is the body; '-' is standard input. For each field of the record, it shows the value and the expression that
    gave it, or what was tried and why it gave nothing. Then it says whether the response would become a record, or why
    it is not a paid checkout. Nothing is sent.

    \b
      butter-middleware explain session.json --psp stripe
      butter-middleware explain answer.json --app shop.main:butter \\
        --path /checkout/7
    """  # noqa: D301 - click's mark
    routes, method, path, staging = _routes(psp, at, app, path, method.upper())
    route = routes.find(method, path)
    if route is None:
        known = ", ".join(map(str, routes.routes)) or "none"
        message = f"{method} {path} is not a checkout route of {app}. Its routes: {known}."
        raise Failure(message)
    annotations = field_values(notes, "--annotate", CheckoutFields.__annotations__)
    body = file.read(MOST_BYTES)
    if psp is not None:  # a preset reads JSON only
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            message = f"FILE is not JSON: {error}."
            raise Failure(message) from error
    capture = _capture(route, method, path, body, annotations)
    response = view(capture, route.template.params(path), _ADDRESS, MOST_BYTES, of_request=route.source == "request")
    explanation = Explanation("no extractor", "its records are what the endpoint annotates")
    values: Mapping[str, Any] = {}
    if route.extract is not None:
        explanation = extract.explain(response, route.extract)
    if isinstance(route.extract, Explaining):
        with suppress(ExtractionError):  # an expression failed: the explanation contains it
            values = route.extract.values(response)
    admitted = ANYWHERE if staging else NOWHERE
    somebody = Peer(allow_private=True)
    reader = Reader(somebody, MOST_BYTES, _OPTIONAL, lambda _capture, _ip: None, admitted, staging=staging)
    reading = reader.read(capture, route)
    verdict, reason, text = _verdict(reading, explanation)
    records = [json.loads(record.payload) for record in reading.records]
    if not route.address_from_body:
        records = [{name: value for name, value in record.items() if name != "ipv4_address"} for record in records]
    rows = _rows(route, explanation, values, capture.annotations, records, "the route" if psp is None else "--psp")
    given = [row for row in rows if row["value"] is not None]
    absent = [{**row, "from": str(row["from"]).removeprefix("tried ")} for row in rows if row["value"] is None]
    document = {"extractor": explanation.extractor, "saw": explanation.saw, "fields": rows}
    document |= {"verdict": verdict, "reason": reason, "text": text, "records": records}
    output.show(
        document,
        f"{explanation.extractor}: {explanation.saw.partition('. ')[0]}\n",  # the remedy comes last
        output.table(given, {"field": "Field", "value": "Value", "from": "From"}) if given else "No field was found.",
        # A separate table: the tried expressions are long and need the whole width.
        *(["", output.table(absent, {"field": "Not found", "from": "What was tried"})] if absent else []),
        f"\n{text.strip()}",
    )
    return ExitCode.OK if verdict in {"record", "part"} else ExitCode.ATTENTION


def _routes(
    psp: Psp | None, at: str | None, app: str | None, path: str | None, method: str
) -> tuple[RouteTable, str, str, bool]:
    """Return the chosen routes, and the request of the response."""
    if psp is not None and not by_hand("app"):
        app = None
    if (psp is None) is (app is None):
        message = "say how to read it: either --psp stripe, or --app shop.main:butter --path /checkout/7"
        raise click.UsageError(message)
    if psp is not None:
        preset = _PRESETS[psp](at=at) if at else _PRESETS[psp]()
        staging = config.environment(None) == "staging"
        return RouteTable([_Response("/", psp=psp, extract=preset)]), "POST", "/", staging
    if path is None:
        message = "say by --path which request the response answers, such as --path /checkout/7"
        raise click.UsageError(message)
    butter = load(str(app))
    return butter.routes, method, path, butter.environment == "staging"


def _capture(route: CheckoutRoute, method: str, path: str, body: bytes, notes: Mapping[str, str]) -> Capture:
    """Return the capture that the middleware would make."""
    of_request = route.source == "request"
    return Capture(
        method=method,
        path=path,
        query_string=b"",
        headers=[],
        client=(_ADDRESS, 50_000),
        status_code=200,
        response_headers=[(b"content-type", b"application/json")],
        body=b"" if of_request else body,
        annotations=notes,
        captured_at=time.time(),
        request_body=body if of_request or route.capture_request_body else None,
    )


def _rows(
    route: CheckoutRoute,
    explanation: Explanation,
    values: Mapping[str, Any],
    notes: Mapping[str, str],
    records: Sequence[Mapping[str, str]],
    psp_from: str,
) -> list[Row]:
    """Return the explanation of each field."""
    rows: list[Row] = []
    for field in explanation.fields:
        value = (notes if field.given_by is None else values).get(field.name)
        shown = value if value is None or isinstance(value, str | int | float) else type(value).__name__
        origin = field.given_by or ("annotate()" if field.name in notes else field.tried)
        rows.append({"field": field.name, "value": shown, "from": origin})
    origin = f"{explanation.extractor} or annotate()" if route.extract is not None else "annotate()"
    names = {field.name for field in explanation.fields}
    rows += [
        {"field": name, "value": value, "from": psp_from if name == "psp" else origin}
        for name, value in (records[0] if records else notes).items()
        if name not in names
    ]
    return rows
