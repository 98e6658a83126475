"""Traces: W3C context on every hop, spans by OpenTelemetry when an OTLP endpoint is configured.

Without one nothing is recorded and the OpenTelemetry packages stay unloaded; a trace context that
comes in still goes out, so that a trace passes through us unbroken.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from baton.rpc.tracing import Exporter

Value = str | int | float | bool
# version-trace-parent-flags; later versions may say more behind them. All zeros means nothing.
_FORM = re.compile(
    r"(?:00(?!.{53}.)|(?!00|ff)[0-9a-f]{2})"
    r"-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_exporter: Exporter | None = None


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace a call belongs: the content of a W3C `traceparent`."""

    trace_id: str
    span_id: str
    is_sampled: bool = True

    @classmethod
    def parse(cls, traceparent: str | None) -> TraceContext | None:
        """None for an empty or malformed header, which the standard says to ignore."""
        match = _FORM.fullmatch(traceparent or "")
        if match is None:
            return None
        trace_id, span_id, flags = match.groups()
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))

    @classmethod
    def new(cls) -> TraceContext:
        """The start of a trace."""
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        """The header."""
        return f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}"


class Span:
    """A piece of work in a trace. This one records nothing and passes its parent on."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    @property
    def trace_id(self) -> str:
        """Hexadecimal trace id; empty: not traced."""
        return self.traceparent[3:35]

    @property
    def is_recording(self) -> bool:
        """Whether attributes are worth computing."""
        return False

    def set(self, key: str, value: Value) -> None:
        """Adds an attribute."""

    def event(self, name: str, at_ns: int | None = None) -> None:
        """Marks a moment; Unix nanoseconds, now when not given."""

    def fail(self, message: str) -> None:
        """Marks the work as failed."""

    def end(self, end_ns: int | None = None) -> None:
        """Ends the span; Unix nanoseconds, now when not given. The first call counts."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(f"{type(error).__name__}: {error}")
        self.end()


NOTHING = Span()
"""Of what is not traced."""


def setup(service_name: str, worker_id: str = "") -> bool:
    """Starts exporting if the environment names an OTLP endpoint; says whether it does."""
    global _exporter
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_disabled or not any(os.environ.get(name) for name in names):
        return False
    if _exporter is None:
        from baton.rpc.tracing import Exporter

        _exporter = Exporter(service_name, worker_id)
    return True


def start_span(
    name: str,
    parent: str | None = None,
    *,
    kind: str = "internal",
    start_ns: int | None = None,
    attributes: Mapping[str, Value] | None = None,
) -> Span:
    """A span below the traceparent `parent`, or a new trace. Kinds: internal, server, client."""
    if _exporter is not None:
        return _exporter.start_span(
            name, TraceContext.parse(parent), kind=kind, start_ns=start_ns, attributes=attributes
        )
    if not parent or _FORM.fullmatch(parent) is None:
        return NOTHING
    return Span(parent)


def flush(timeout_s: float = 2.0) -> None:
    """Sends what is recorded; blocks, so call it off the event loop."""
    if _exporter is not None:
        _exporter.flush(timeout_s)


def shutdown() -> None:
    """Sends what is recorded and stops exporting."""
    global _exporter
    if _exporter is not None:
        exporter, _exporter = _exporter, None
        exporter.shutdown()
