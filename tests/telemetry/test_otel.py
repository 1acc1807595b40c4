"""What OpenTelemetry gets, read back through its SDK, and what it must not get or do."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from outboxes import capture
from processes import served, until
from shops import CREDENTIALS, SHOPPER
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, Record
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.models.http import Capture
from butter_middleware.outbox.sqlite import schema
from butter_middleware.telemetry import otel
from butter_middleware.telemetry.otel import untraced
from butter_middleware.testing import FakeButter

CHECKOUT = Checkout(customer_email="shopper@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_secret")
WHERE = "POST /checkout/{cart_id}"
Points = dict[str, dict[tuple[tuple[str, Any], ...], Any]]


class Reader:
    """The only SDK of the process, because OpenTelemetry's providers can be set once."""

    def __init__(self) -> None:
        self.metrics = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        metrics.set_meter_provider(MeterProvider([self.metrics]))
        provider = TracerProvider()
        self.broken = Broken()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        provider.add_span_processor(self.broken)
        trace.set_tracer_provider(provider)

    def points(self) -> Points:
        """Return this package's values, by metric and attributes."""
        data = self.metrics.get_metrics_data()
        found: Points = {}
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics if scope.scope.name == "butter_middleware" else ():
                    for point in metric.data.data_points:
                        key = tuple(sorted((point.attributes or {}).items()))
                        found.setdefault(metric.name, {})[key] = getattr(point, "value", point)
        return found

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture(scope="module")
def sdk() -> Reader:
    return Reader()


@pytest.fixture
def reader(sdk: Reader) -> Iterator[Reader]:
    otel._sources.clear()  # tests of other modules may have left some
    sdk.exporter.clear()
    yield sdk
    sdk.exporter.clear()


async def pay(request: Request) -> Response:
    cart = request.path_params["cart"]
    if cart == "text":
        return PlainTextResponse("thanks")
    with trace.get_tracer("shop").start_as_current_span("pay"):
        invoice = {} if cart == "free" else {"invoice": f"in_secret{cart}"}
        return JSONResponse({"customer": {"email": "shopper@example.com"}} | invoice)


class Traced:
    """Opens a span around each request, as an instrumentation of the shop does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with trace.get_tracer("shop").start_as_current_span("request"):
            await self.app(scope, receive, send)


def buy(butter: Butter, *carts: str) -> None:
    shop = Starlette(routes=[Route("/checkout/{cart}", pay, methods=["POST"])])
    client = TestClient(Traced(ButterMiddleware(shop, butter)))
    for cart in carts:
        client.post(f"/checkout/{cart}", headers={"x-forwarded-for": SHOPPER})
    butter.flush()


def test_the_metrics(reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Counts, the delay and the gauges have OpenTelemetry's names and units, and no personal data."""
    before = reader.points().get("butter.delivery.delay", {})
    butter = make_butter()
    fake.respond_with(422)
    buy(butter, "1", "2", "3", "text", "free")
    until(lambda: reader.points().get("butter.coverage") == {(): 0.6}, "the leader's look at the counts")
    points = reader.points()
    route = ("butter.route", WHERE)
    assert points["butter.captured"] == {(route,): 4}
    assert points["butter.covered"] == {(route,): 3}
    assert points["butter.recorded"] == {(("butter.ids", "invoice_id"), route): 3}
    assert points["butter.skipped"] == {
        (("butter.missed", True), ("butter.reason", "not_json"), route): 1,
        (("butter.missed", True), ("butter.reason", "parked:invalid"), route): 1,
    }
    assert points["butter.delivered"] == {(): 2}
    assert points["butter.dead"] == {(("butter.reason", "422"),): 1}
    delay = points["butter.delivery.delay"][()]
    assert delay.count - (before[()].count if before else 0) == 2
    assert (points["butter.pending"], points["butter.dead_letters"], points["butter.parked"]) == (
        {(): 0},
        {(): 1},
        {(): 1},
    )
    assert points["butter.oldest_pending_age"] == {(): 0.0}
    assert [key[0][1] for key, value in points["butter.endpoint"].items() if value] == ["ok"]
    assert not any(secret in repr(points) for secret in ("shopper@", SHOPPER, "in_secret"))


def test_only_the_process_that_delivers_reports_the_outbox(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """Two Butters share a file in which records wait. Only one of them reports these."""
    first, second = (make_butter(outbox=tmp_path / "butter.db", password="wrong") for _ in range(2))
    first.record(CHECKOUT)
    first.flush(5)
    second.record(CHECKOUT.model_copy(update={"invoice_id": "in_2"}))
    second.flush(1)
    until(lambda: reader.points()["butter.pending"] == {(): 2}, "the first has heard of both")
    points = reader.points()
    assert points["butter.oldest_pending_age"][()] > 0
    assert [key[0][1] for key, value in points["butter.endpoint"].items() if value] == ["hold"]
    first.close()
    second.close()
    assert "butter.pending" not in reader.points()


def test_a_process_that_only_appends_is_measured_too(
    reader: Reader, make_butter: Callable[..., Butter], tmp_path: Path
) -> None:
    """It has no sender, whose thread would load OpenTelemetry. It reports nothing after it is closed."""
    butter = make_butter(outbox=tmp_path / "butter.db", delivery="external")
    buy(butter, "1")
    until(lambda: reader.points().get("butter.captured") == {(("butter.route", WHERE),): 1}, "the count")
    butter.close()
    assert "butter.captured" not in reader.points()


def test_the_deliverys_span_is_linked_to_the_checkouts(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """A delivery is a separate trace that links to the request's span. It has Butter's answer."""
    fake.respond_with(409)
    butter = make_butter()
    buy(butter, "1")
    (request,) = reader.spans("request")
    span = reader.spans("butter.deliver")[0]
    assert span.parent is None
    (link,) = span.links
    assert request.context is not None
    assert (link.context.trace_id, link.context.span_id) == (request.context.trace_id, request.context.span_id)
    assert dict(span.attributes or {}) == {
        "butter.attempts": 0,
        "butter.answer": "busy",
        "http.response.status_code": 409,
        "error.type": "409",
    }
    assert not any(secret in span.to_json() for secret in ("shopper@", SHOPPER, "in_secret"))


def test_the_link_outlives_the_process(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """A record that waited in the file until the next start still has its link."""
    fake.respond_with(401)
    first = make_butter(outbox=tmp_path / "butter.db")
    buy(first, "1")
    first.close()
    reader.exporter.clear()
    second = make_butter(outbox=tmp_path / "butter.db")
    second.record(CHECKOUT)
    until(lambda: len(reader.spans("butter.deliver")) == 2, "both records")
    links = [len(span.links) for span in reader.spans("butter.deliver")]
    assert sorted(links) == [0, 1]


@pytest.mark.parametrize("traceparent", ["", "x", "00-x-y-z", "00-1-2-3-4"])
def test_a_malformed_traceparent_gives_no_link(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter, traceparent: str
) -> None:
    """The record is sent, even if its traceparent is malformed."""
    butter = make_butter()
    butter.pipeline.add_records([Record.of(CHECKOUT, 0.0, traceparent)])
    assert butter.flush()
    (span,) = reader.spans("butter.deliver")
    assert span.links == ()
    assert len(fake.records) == 1


class Spy:
    """Keeps the header names of each request to Butter."""

    def __init__(self, fake: FakeButter) -> None:
        self.fake = fake
        self.headers: list[set[str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.headers.append({name.decode() for name, _value in scope["headers"]})
        await self.fake(scope, receive, send)


@pytest.mark.server
def test_an_instrumented_http_client_does_not_see_the_post(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """The post to Butter gives no span of httpx's instrumentation, and has no trace header."""
    spy = Spy(fake)
    HTTPXClientInstrumentor().instrument()
    try:
        with served(spy) as url, trace.get_tracer("shop").start_as_current_span("outside"):
            httpx.get(url)  # a control: this one is instrumented
            butter = make_butter(base_url=url, transport=None)
            butter.record(CHECKOUT)
            assert butter.flush()
            butter.close()
    finally:
        HTTPXClientInstrumentor().uninstrument()
    assert len(reader.spans("GET")) == 1
    assert reader.spans("POST") == []
    assert "traceparent" in spy.headers[0]
    assert spy.headers[1] <= {
        *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"),
        *("user-agent", "butter-sandbox-sources"),  # the second on loopback only
    }


def test_it_can_be_switched_off(reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """With `telemetry=False` there is no metric, no span, and no trace ID in the store."""
    butter = make_butter(telemetry=False)
    buy(butter, "1")
    assert len(fake.records) == 1
    assert set(reader.points()) <= {"butter.delivery.delay"}  # left by earlier tests
    assert reader.spans("butter.deliver") == []
    assert butter.pipeline.traceparent() == ""


def test_without_the_api_records_are_sent() -> None:
    """If OpenTelemetry is not installed, nothing is reported and nothing fails."""
    code = f"""
import sys
sys.modules["opentelemetry"] = None
from butter_middleware import Butter, Checkout, client_ip
from butter_middleware.testing import FakeButter
fake = FakeButter(**{CREDENTIALS})
butter = Butter(client_ip=client_ip.direct(), transport=fake.transport(), **{CREDENTIALS})
butter.record(Checkout(customer_email="a@example.com", ipv4_address="{SHOPPER}", psp="stripe", invoice_id="in_1"))
print(butter.flush(), len(fake.records), butter.status().faults)
"""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "True 1 {}\n", ran.stderr


def test_older_and_newer_captures_can_be_read() -> None:
    """A stored capture may lack the trace ID, and may have fields that this version does not know."""
    head, body = capture(1).head(), b"{}"
    older = head.replace(',"traceparent":""', "")
    assert older != head
    assert Capture.from_head(older, body, None).traceparent == ""
    newer = head.replace('"traceparent":""', '"traceparent":"00-1-2-01","more":1')
    assert Capture.from_head(newer, body, None).traceparent == "00-1-2-01"
    assert "traceparent" not in Record.of(CHECKOUT, 0.0).to_json()
    traced = Record.of(CHECKOUT, 0.0, "00-1-2-01")
    assert Record.from_json(traced.to_json()) == traced


def test_a_file_of_an_earlier_version_gets_the_column(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """The file's version number stays, so that an earlier version of the package can still use the file."""
    path = tmp_path / "butter.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as earlier:
        earlier.execute("PRAGMA journal_mode = WAL")
        for statement in (*schema.MIGRATIONS[0], *schema.MIGRATIONS[1]):
            earlier.execute(statement)
        earlier.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        earlier.execute("PRAGMA user_version = 2")
    butter = make_butter(outbox=path)
    butter.record(CHECKOUT)
    assert butter.flush()
    assert len(fake.records) == 1


def test_suppression_needs_no_instrumentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """If none is loaded, there is nothing to suppress."""
    monkeypatch.delitem(sys.modules, "opentelemetry.instrumentation.utils", raising=False)
    with untraced():
        pass


def test_a_half_loaded_api_stops_no_checkout(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may load OpenTelemetry while the first checkout answers. The record is still made."""
    butter = make_butter()
    with monkeypatch.context() as half:
        half.setitem(sys.modules, "opentelemetry.context", ModuleType("opentelemetry.context"))
        buy(butter, "1")
    assert len(fake.records) == 1


class Broken(SpanProcessor):
    """A span processor of the merchant. It raises for this package's spans, if a test sets `where`."""

    where = ""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's signature
        self._fail("start", span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end", span.name)

    def _fail(self, where: str, name: str) -> None:
        if (where, name) == (self.where, "butter.deliver"):
            raise RuntimeError


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_tracer_that_raises_stops_no_delivery(
    reader: Reader, make_butter: Callable[..., Butter], fake: FakeButter, where: str
) -> None:
    """The record is sent once and settled."""
    reader.broken.where = where
    try:
        butter = make_butter()
        butter.record(CHECKOUT)
        assert butter.flush()
    finally:
        reader.broken.where = ""
    assert len(fake.records) == 1
    assert (butter.status().delivered, butter.status().faults) == (1, {})


def test_an_api_that_is_too_old_stops_no_delivery(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 1.31 a histogram took no boundaries. Records are still sent, and the fault is counted."""

    class Old(metrics.NoOpMeter):
        def create_histogram(self, name: str, unit: str = "", description: str = "") -> Any:  # type: ignore[override]
            return super().create_histogram(name, unit, description)

    monkeypatch.setattr(metrics, "get_meter", lambda name, _version: Old(name))
    butter = make_butter()
    butter.record(CHECKOUT)
    assert butter.flush()
    assert len(fake.records) == 1
    assert butter.status().faults == {"telemetry:TypeError": 1}
    assert butter.pipeline.dead_threads == []


def test_an_instrumentation_without_suppression_stops_no_delivery(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be old, or another thread may still be loading it. The record is sent."""
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.utils", ModuleType("utils"))
    butter = make_butter()
    butter.record(CHECKOUT)
    assert butter.flush()
    assert len(fake.records) == 1
