"""An OTLP receiver in the test's own process: what an exporter would send to a real collector."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpSink(otlp_grpc.TraceServiceServicer):
    """Collects spans of any number of processes: `with OtlpSink() as sink: ... sink.wait(3)`."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        """(service name, span) in order of arrival."""
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        otlp_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process export to here, soon after a span ends."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def Export(self, request: Any, context: Any) -> Any:
        """Takes one batch."""
        with self._changed:
            for resource in request.resource_spans:
                named = {item.key: item.value.string_value for item in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [(named["service.name"], span) for span in scope.spans]
            self._changed.notify_all()
        return otlp.ExportTraceServiceResponse()

    def wait(self, num_spans: int, timeout_s: float = 10.0) -> list[tuple[str, Span]]:
        """All spans, once there are this many."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.spans) >= num_spans, timeout_s)
            assert came, f"{len(self.spans)} of {num_spans} spans in {timeout_s} s"
            return list(self.spans)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
