"""Traces: W3C context, nothing when off, real export when on."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from collections.abc import Iterator

import pytest
from otlp_sink import OtlpSink

from baton.rpc import telemetry
from baton.rpc.telemetry import TraceContext

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        for name, value in sink.environment.items():
            monkeypatch.setenv(name, value)
        assert telemetry.setup("example", "example-1")
        yield sink
        telemetry.shutdown()


@pytest.fixture
def _no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)


def test_a_header_survives_parsing_and_formatting() -> None:
    context = TraceContext.parse(PARENT)

    assert context == TraceContext(TRACE_ID, SPAN_ID, True)
    assert context.traceparent == PARENT


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        PARENT[:-1],
        f"{PARENT}-extra",
        f"{PARENT}\n",
    ],
)
def test_a_malformed_header_is_ignored(header: str | None) -> None:
    assert TraceContext.parse(header) is None


def test_a_header_of_a_later_version_may_be_longer() -> None:
    assert TraceContext.parse(f"01-{TRACE_ID}-{SPAN_ID}-00-more") == TraceContext(
        TRACE_ID, SPAN_ID, False
    )


@pytest.mark.usefixtures("_no_endpoint")
def test_without_an_endpoint_a_trace_passes_through() -> None:
    assert not telemetry.setup("example")

    assert telemetry.start_span("work", PARENT).traceparent == PARENT
    assert telemetry.start_span("work", PARENT).trace_id == TRACE_ID
    assert telemetry.start_span("work", "garbage").traceparent == ""
    assert telemetry.start_span("work") is telemetry.start_span("other")


def test_without_an_endpoint_a_span_costs_nothing() -> None:
    def work() -> None:
        span = telemetry.start_span("work")
        span.set("key", 1)
        span.end()

    best_s = min(timeit.repeat(work, number=1000, repeat=20)) / 1000

    assert best_s < 1e-6, f"{best_s * 1e6:.2f} us"


def test_without_an_endpoint_the_sdk_is_not_loaded() -> None:
    program = (
        "import sys; from baton.rpc import telemetry, serve; telemetry.setup('x');"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    assert (
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONPATH": os.pathsep.join(sys.path)}
        ).returncode
        == 0
    )


def test_a_span_arrives_below_its_parent(sink: OtlpSink) -> None:
    span = telemetry.start_span("work", PARENT, kind="server", start_ns=1_000, attributes={"n": 3})
    span.set("answer", "yes")
    span.event("half")
    span.end(end_ns=5_000)
    span.end(end_ns=9_000)

    [(service, received)] = sink.wait(1)
    values = {item.key: item.value for item in received.attributes}
    assert service == "example"
    assert received.trace_id.hex() == TRACE_ID
    assert received.parent_span_id.hex() == SPAN_ID
    assert received.span_id.hex() == span.traceparent.split("-")[2]
    assert (received.start_time_unix_nano, received.end_time_unix_nano) == (1_000, 5_000)
    assert (values["n"].int_value, values["answer"].string_value) == (3, "yes")
    assert [event.name for event in received.events] == ["half"]


def test_a_span_without_parent_starts_a_trace_and_errors_show(sink: OtlpSink) -> None:
    def work() -> None:
        with telemetry.start_span("work") as span:
            telemetry.start_span("inner", span.traceparent).end()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()

    received = {item.name: item for _, item in sink.wait(2)}
    assert received["inner"].parent_span_id == received["work"].span_id
    assert received["work"].parent_span_id == b""
    assert received["work"].status.message == "ValueError: broken"


def test_an_unsampled_parent_is_obeyed(sink: OtlpSink) -> None:
    span = telemetry.start_span("work", PARENT[:-2] + "00")
    span.end()
    telemetry.start_span("seen").end()

    assert [received.name for _, received in sink.wait(1)] == ["seen"]
    assert not span.is_recording
    assert span.trace_id == TRACE_ID
    assert span.traceparent.endswith("-00")
