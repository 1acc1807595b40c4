"""Reports to OpenTelemetry, with its API only. Without the merchant's SDK, it does nothing.

The API is not a dependency. If it is missing, or with `Butter(telemetry=False)`, nothing is reported. A worker thread
loads it, never `import butter_middleware` or a checkout.
"""

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref

from butter_middleware.events import Delivered, Event, Faulted
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.models.reasons import missed

if TYPE_CHECKING:
    from opentelemetry import metrics, trace
    from opentelemetry.util.types import AttributeValue

_SCOPE: Final = "butter_middleware"
_COUNTERS: Final = {
    "captured": ("butter.captured", "{response}", "Responses on checkout routes that were captured"),
    "covered": ("butter.covered", "{response}", "Responses that became what they should: records, or parts of one"),
    "skipped": ("butter.skipped", "{response}", "Responses that became no record, by reason"),
    "recorded": ("butter.recorded", "{record}", "Records made, by the IDs that they carry"),
    "delivered": ("butter.delivered", "{record}", "Records accepted"),
    "retried": ("butter.retried", "{record}", "Records not accepted, to be sent again"),
    "died": ("butter.dead", "{record}", "Records that Butter will never accept as they are"),
    "lost": ("butter.lost", "{record}", "Captures and records that are gone for good"),
    "faulted": ("butter.faults", "{fault}", "Failures of the middleware and of on_event"),
}
"""The metrics of the counts: name, unit and description."""
_DELAYS: Final = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 259200.0]
"""Seconds. A record may wait for days."""
_STATES: Final = ("ok", "open", "half_open", "paused", "hold", "unknown")


@dataclass(frozen=True, slots=True)
class Gauges:
    """The current state on this host."""

    coverage: float | None
    """The coverage of the last one to two hours."""
    endpoint: str
    pending: int
    parked: int
    dead: int
    oldest_pending_age: float | None
    """Seconds since the checkout of the oldest pending record."""


class Source(Protocol):
    """Gives the numbers to report."""

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return the counts by name, route and reason."""
        ...

    def levels(self) -> Gauges | None:
        """Return the current state if this process delivers. Does not block: an exporter may run on an event loop."""
        ...


_sources: Final[dict[ref[Source], None]] = {}
"""All sources of this process. There is one instrument for each name, and it shows all sources.

A dict needs no lock. A forked child, or a signal handler that closes a `Butter`, could find a lock held.
"""
_lock: Final = Lock()


class Telemetry:
    """The reports of one `Butter`. Before `load`, and if the API is missing, it does nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._tracer: trace.Tracer | None = None
        self._delay: metrics.Histogram | None = None

    def load(self, source: Source, tell: Callable[[Faulted], object]) -> None:
        """Load the API, and report `source` until `forget`. `tell` gets a failure. The first call takes a moment."""
        if not self._enabled:
            return
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415 - loaded by a worker's thread only

            own = version("butter-middleware")
            with _lock:
                meter = metrics.get_meter(_SCOPE, own)
                self._tracer = trace.get_tracer(_SCOPE, own)
                self._delay = meter.create_histogram(
                    "butter.delivery.delay",
                    "s",
                    "From a checkout's request to the acceptance of its record",
                    explicit_bucket_boundaries_advisory=_DELAYS,
                )
                _observe(meter)
            _sources[ref(source, _sources.pop)] = None
        except ImportError:
            return
        except Exception as error:  # noqa: BLE001 - another version of the API, or the merchant's SDK
            kind = type(error).__name__
            said = (
                f"OpenTelemetry gets no data: {kind}. Bring opentelemetry-api up to date, or set "
                "Butter(telemetry=False). Records are still sent."
            )
            tell(Faulted(reason=f"telemetry:{kind}", message=said))

    def forget(self, source: Source) -> None:
        """Stop the reports."""
        _sources.pop(ref(source), None)

    def observe(self, event: Event) -> None:
        """Take an event for a histogram. All other numbers come from the source."""
        if self._delay is not None and isinstance(event, Delivered):
            with suppress(Exception):  # the merchant's SDK may raise
                self._delay.record(event.seconds)

    def traceparent(self) -> str:
        """Return the current span as W3C's traceparent, or an empty text. A checkout calls it, so it loads nothing."""
        current = sys.modules.get("opentelemetry.context") if self._enabled else None
        if current is None:
            return ""
        try:
            if not current.get_current():  # the expensive part runs only with tracing
                return ""
            context: trace.SpanContext = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
            if context.is_valid:
                return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        except Exception:  # noqa: BLE001, S110 - the merchant's tracer, or a module that is still being loaded
            pass
        return ""

    def sending(self, record: Record, attempts: int) -> "AbstractContextManager[Callable[[Answer], None]]":
        """Return a context manager with a span for sending a record. The span is linked to the checkout's span.

        It gives a function, which must be called with the answer.
        """
        trace = sys.modules.get("opentelemetry.trace")
        if self._tracer is None or trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return nullcontext(lambda _answer: None)  # no SDK was set up
        return _span(self._tracer, record, attempts)


def untraced() -> AbstractContextManager[object]:
    """Within the block, hide requests from the instrumentations of HTTP clients, so that they add no headers."""
    instrumentation = sys.modules.get("opentelemetry.instrumentation.utils")  # loaded with each of them
    # An old version does not have the function, nor does a module that another thread is still loading.
    suppress_instrumentation: Callable[[], AbstractContextManager[object]]
    suppress_instrumentation = getattr(instrumentation, "suppress_instrumentation", nullcontext)
    return suppress_instrumentation()


@contextmanager
def _span(tracer: "trace.Tracer", record: Record, attempts: int) -> Generator[Callable[[Answer], None]]:
    from opentelemetry import trace  # noqa: PLC0415 - loaded already

    span: trace.Span = trace.INVALID_SPAN
    links: list[trace.Link] = []
    with suppress(ValueError):  # it may come from a damaged file
        _version, trace_id, span_id, flags = (int(part, 16) for part in record.traceparent.split("-"))
        context = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
        links.append(trace.Link(context))
    # The merchant's sampler or processor may raise, but a sent record must be settled.
    with suppress(Exception):
        span = tracer.start_span(
            "butter.deliver",
            kind=trace.SpanKind.CLIENT,
            links=links,
            attributes={"butter.attempts": attempts},
        )

    def answered(answer: Answer) -> None:
        with suppress(Exception):
            span.set_attribute("butter.answer", answer.kind.name.lower())
            if answer.status is not None:
                span.set_attribute("http.response.status_code", answer.status)
            if answer.kind is not AnswerKind.DELIVERED:
                span.set_attribute("error.type", answer.code)
                span.set_status(trace.StatusCode.ERROR)

    try:
        yield answered
    finally:
        with suppress(Exception):
            span.end()


def _observe(meter: "metrics.Meter") -> None:
    """Make the instruments that read the sources. The meter makes each of them once."""
    for name, (metric, unit, description) in _COUNTERS.items():
        meter.create_observable_counter(metric, [partial(_counted, name)], unit, description)
    for metric, unit, description, read in _GAUGES:
        meter.create_observable_gauge(metric, [partial(_gauged, read)], unit, description)


def _told() -> "list[Source]":
    return [source for known in list(_sources) if (source := known()) is not None]


_Attributes = dict[str, "AttributeValue"]
_Reading = Iterable[tuple[float, _Attributes]]


def _counted(name: str, _options: "metrics.CallbackOptions") -> "list[metrics.Observation]":
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - loaded already

    totals: Counter[tuple[str, str]] = Counter()
    for source in _told():
        for (counted, route, reason), count in source.counts().items():
            if counted == name or (name, counted) == ("skipped", "parked"):
                why = f"parked:{reason}" if counted == "parked" and ":" not in reason else reason
                totals[route, why] += count
    return [Observation(count, _attributes(name, *key)) for key, count in totals.items()]


def _attributes(name: str, route: str, reason: str) -> _Attributes:
    found: _Attributes = {}
    if route:
        found["butter.route"] = route
    if reason:
        found["butter.ids" if name == "recorded" else "butter.reason"] = reason
    if name == "skipped":
        found["butter.missed"] = missed(reason)
    return found


def _gauged(
    read: Callable[[list[Gauges]], _Reading], _options: "metrics.CallbackOptions"
) -> "list[metrics.Observation]":
    from opentelemetry.metrics import Observation  # noqa: PLC0415 - loaded already

    led = [levels for source in _told() if (levels := source.levels()) is not None]
    return [Observation(value, attributes) for value, attributes in read(led)] if led else []


def _coverage(led: list[Gauges]) -> _Reading:
    known = [levels.coverage for levels in led if levels.coverage is not None]
    return [(min(known), {})] if known else []


def _total(field: str, led: list[Gauges]) -> _Reading:
    return [(sum(getattr(levels, field) for levels in led), {})]


def _endpoint(led: list[Gauges]) -> _Reading:
    endpoints = [levels.endpoint for levels in led]
    return [(endpoints.count(state), {"butter.endpoint.state": state}) for state in _STATES]


_GAUGES: Final[tuple[tuple[str, str, str, Callable[[list[Gauges]], _Reading]], ...]] = (
    ("butter.coverage", "1", "Of the checkouts of the last hour or two, those that became records", _coverage),
    ("butter.pending", "{record}", "Records that wait to be sent", partial(_total, "pending")),
    ("butter.parked", "{response}", "Captures that wait for a person", partial(_total, "parked")),
    ("butter.dead_letters", "{record}", "Dead records that wait for a person", partial(_total, "dead")),
    (
        "butter.oldest_pending_age",
        "s",
        "Since the checkout of the oldest pending record",
        lambda led: [(max(levels.oldest_pending_age or 0.0 for levels in led), {})],
    ),
    ("butter.endpoint", "1", "1 for the state that Butter is in, 0 for the others", _endpoint),
)
