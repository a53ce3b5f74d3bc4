"""Exports OpenTelemetry traces to a collector over OTLP/HTTP when one is configured; otherwise OpenTelemetry is not
imported.

A request continues the trace of its `traceparent` (W3C Trace Context) and is sampled if the caller sampled it; without
one, a share of `trace_ratio` is sampled. The exporter is created in the serving process, never at import: its thread
does not survive a fork.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from importlib import metadata
from typing import TYPE_CHECKING

from app.settings import Settings
from services import metrics, tracing
from services.errors import SettingsInvalid
from services.tracing import NOTHING, Value

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as TelemetrySpan
    from opentelemetry.trace import SpanKind

SERVICE_NAME = "ltrr"
ATTRIBUTE_NAMES = {
    "engine": "db.system.name",
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
}
"""OpenTelemetry's names of attributes; others become ltrr.<name>."""
EXPORT_SECONDS = 3.0
"""Timeout of one export, and of the last one at the end of the process."""

_tracer: Telemetry | None = None


@asynccontextmanager
async def exporting(settings: Settings) -> AsyncIterator[None]:
    """Export traces of this process to the collector while the context lasts; remaining ones are sent at its end.

    Raises SettingsInvalid when a collector is set and the packages of the extra "tracing" are not installed.
    """
    if settings.otlp_endpoint is None:
        yield
        return
    try:
        telemetry = Telemetry(settings.otlp_endpoint, settings.trace_ratio)
    except ImportError as error:
        raise SettingsInvalid("LTRR_OTLP_ENDPOINT: tracing needs `pip install 'ltrr[tracing]'`") from error
    _begin(telemetry)
    try:
        yield
    finally:
        _begin(None)
        await asyncio.to_thread(telemetry.close)


def _begin(telemetry: Telemetry | None) -> None:
    global _tracer
    _tracer = telemetry
    tracing.install(telemetry)
    metrics.trace_stages(tracing.span if telemetry is not None else None)


def request(headers: Mapping[bytes, bytes], method: str) -> AbstractContextManager[tracing.Span]:
    """The span of a request, in the caller's trace if its headers name one."""
    return NOTHING if _tracer is None else _tracer.request(headers, method)


def active() -> bool:
    """Whether traces are exported."""
    return _tracer is not None


class Telemetry:
    """services.tracing.Tracer with OpenTelemetry. Raises ImportError when it is not installed."""

    def __init__(self, endpoint: str, ratio: float) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": SERVICE_NAME, "service.version": metadata.version(SERVICE_NAME)})
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(SERVICE_NAME)
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = SpanKind

    def span(self, name: str, attributes: Mapping[str, Value]) -> AbstractContextManager[tracing.Span]:
        """A span below the current one; a call to an engine when it has the attribute `engine`."""
        kind = self._kinds.CLIENT if "engine" in attributes else self._kinds.INTERNAL
        return self._entered(name, kind, attributes, None)

    def request(self, headers: Mapping[bytes, bytes], method: str) -> AbstractContextManager[tracing.Span]:
        """The span of a request, in the caller's trace if its headers name one."""
        carrier = {
            name: headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in headers
        }
        parent = self._propagator.extract(carrier)
        return self._entered(method, self._kinds.SERVER, {"method": method}, parent)

    def headers(self) -> dict[str, str]:
        """Headers that pass the current trace on."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def close(self) -> None:
        """Send remaining spans; blocks for EXPORT_SECONDS at most."""
        timer = threading.Timer(EXPORT_SECONDS, self._exporter.shutdown)
        timer.start()
        self._provider.shutdown()
        timer.cancel()

    @contextmanager
    def _entered(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Value], parent: Context | None
    ) -> Iterator[tracing.Span]:
        with self._tracer.start_as_current_span(
            name, parent, kind, record_exception=False, set_status_on_exception=False
        ) as current:
            span = _Span(current, name)
            for key, value in attributes.items():
                span.set(key, value)
            try:
                yield span
            except BaseException as error:
                # Without its message, which may quote the request.
                current.set_attribute("error.type", type(error).__name__)
                if isinstance(error, Exception):
                    span.fail()
                raise


class _Span:
    def __init__(self, span: TelemetrySpan, name: str) -> None:
        self._span = span
        self._name = name

    def set(self, name: str, value: Value) -> None:
        """Set an attribute; some also set the span's name or status."""
        self._span.set_attribute(ATTRIBUTE_NAMES.get(name, f"{SERVICE_NAME}.{name}"), value)
        if name == "route":
            self._span.update_name(f"{self._name} {value}")
        if (name == "outcome" and value not in ("ok", "cancelled")) or (name == "status" and int(value) >= 500):
            self.fail()

    def fail(self) -> None:
        """Mark the span as failed."""
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)
