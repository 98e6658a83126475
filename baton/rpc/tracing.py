"""The recording half of telemetry; loaded only when an OTLP endpoint is configured."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from baton.rpc.telemetry import Span, TraceContext, Value

_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}


class RecordedSpan(Span):
    """A span that is exported when it ends."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        context = span.get_span_context()
        super().__init__(
            TraceContext(
                trace.format_trace_id(context.trace_id),
                trace.format_span_id(context.span_id),
                context.trace_flags.sampled,
            ).traceparent
        )
        self._span = span

    @property
    def is_recording(self) -> bool:
        """False when the parent or the sampler said no."""
        return self._span.is_recording()

    def set(self, key: str, value: Value) -> None:
        """Adds an attribute."""
        self._span.set_attribute(key, value)

    def event(self, name: str, at_ns: int | None = None) -> None:
        """Marks a moment."""
        self._span.add_event(name, timestamp=at_ns)

    def fail(self, message: str) -> None:
        """Marks the work as failed."""
        self._span.set_status(Status(StatusCode.ERROR, message))

    def end(self, end_ns: int | None = None) -> None:
        """Ends the span and queues it for export."""
        if self._span.is_recording():  # the SDK warns about a second end
            self._span.end(end_ns)


class Exporter:
    """Makes spans and sends them in batches from a thread of its own."""

    def __init__(self, service_name: str, worker_id: str) -> None:
        resource = Resource.create(
            {"service.name": service_name, "service.instance.id": worker_id or service_name}
        )
        # Sampler, limits, endpoint, headers and certificates come from the OTEL_ variables.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("baton")

    def start_span(
        self,
        name: str,
        parent: TraceContext | None,
        *,
        kind: str,
        start_ns: int | None,
        attributes: Mapping[str, Value] | None,
    ) -> Span:
        """A span below `parent`, or the root of a new trace."""
        above = trace.set_span_in_context(trace.NonRecordingSpan(_remote(parent)))
        return RecordedSpan(
            self._tracer.start_span(
                name,
                context=above,
                kind=_KINDS[kind],
                start_time=start_ns,
                attributes=attributes,
            )
        )

    def flush(self, timeout_s: float) -> None:
        """Sends what has ended."""
        self._provider.force_flush(round(timeout_s * 1000))

    def shutdown(self) -> None:
        """Sends what has ended and stops the thread."""
        self._provider.shutdown()


def _remote(parent: TraceContext | None) -> trace.SpanContext:
    if parent is None:
        return trace.INVALID_SPAN_CONTEXT
    return trace.SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(parent.is_sampled)),
    )
