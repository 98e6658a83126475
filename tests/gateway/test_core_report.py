"""What a request leaves behind: spans, metrics, and one log line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from baton.errors import NoWorker, WorkerLost
from baton.request import FinishReason, PrefillMode, SequenceTimings
from baton.rpc import metrics as exposed
from baton.rpc import telemetry
from services.gateway import report
from tests.support.fake_decode import eventually
from tests.support.gateway_world import World
from tests.support.otlp_sink import OtlpSink

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        for name, value in sink.environment.items():
            monkeypatch.setenv(name, value)
        telemetry.setup("baton-gateway")
        yield sink
        telemetry.shutdown()


def value(name: str, **labels: str) -> float:
    """A sample of the process's metrics; 0 when there is none yet."""
    return exposed.REGISTRY.get_sample_value(f"baton_{name}", labels) or 0.0


async def answered(world: World, **changes: Any) -> None:
    """One good request."""
    worker = world.workers[0]
    task = world.start(**changes)
    submission = await worker.submitted(len(worker.submissions) + 1)
    timings = SequenceTimings(
        prefill_mode=PrefillMode.REMOTE, prefill_worker_id="prefill-0", cached_token_count=1
    )
    await submission.send(world.ids("the"))
    await submission.send(world.ids("fox"), end=FinishReason.LENGTH, timings=timings)
    await task


async def test_spans_of_a_request_hang_below_the_clients(world, sink):
    worker = await world.add()
    await answered(world, traceparent=PARENT, tokenize_us=250)
    spans = {span.name: span for _, span in await asyncio.to_thread(sink.wait, 4)}

    request = spans["gateway.request"]
    assert spans.keys() == {
        "gateway.request",
        "gateway.tokenize",
        "gateway.route",
        "gateway.first_token",
    }
    assert {span.trace_id.hex() for span in spans.values()} == {PARENT.split("-")[1]}
    assert request.parent_span_id.hex() == PARENT.split("-")[2]
    for name, span in spans.items():
        if name != "gateway.request":
            assert span.parent_span_id == request.span_id
            assert request.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= request.end_time_unix_nano
    tokenize = spans["gateway.tokenize"]
    assert tokenize.end_time_unix_nano - tokenize.start_time_unix_nano == 250_000
    [submitted] = worker.submissions
    assert submitted.message.traceparent.split("-")[2] == request.span_id.hex()
    route = {item.key: item.value for item in spans["gateway.route"].attributes}
    assert route["route.decode.worker_id"].string_value == "decode-0"


async def test_a_migration_is_an_event_of_the_requests_span(world, sink):
    worker = await world.add()
    task = world.start()
    await (await worker.submitted()).fail(WorkerLost("gone"))
    await (await worker.submitted(2)).send(end=FinishReason.LENGTH)
    answer = await task
    spans = [span for _, span in await asyncio.to_thread(sink.wait, 5)]

    [request] = [span for span in spans if span.name == "gateway.request"]
    assert ["WORKER_LOST" in event.name for event in request.events] == [True]
    assert sum(span.name == "gateway.route" for span in spans) == 2
    assert answer.final.trace_id == request.trace_id.hex()


async def test_without_an_exporter_a_trace_passes_through(world):
    worker = await world.add()
    await answered(world, traceparent=PARENT)

    assert worker.submissions[0].message.traceparent == PARENT


async def test_a_good_request_is_one_log_line_with_all_that_matters(world):
    await world.add()
    with structlog.testing.capture_logs() as lines:
        began = time.monotonic()
        await answered(world, request_id="the-one", traceparent=PARENT)
        took_ms = 1000 * (time.monotonic() - began)
        await world.core.drained()

    [line] = [line for line in lines if line["event"] == "request ended"]
    assert line["request_id"] == "the-one"
    assert line["trace_id"] == PARENT.split("-")[1]
    assert (line["outcome"], line["finish_reasons"]) == ("ok", "LENGTH")
    assert line["prompt_tokens"] == len(world.ids("Hello"))
    assert line["output_tokens"] == len(world.ids("the")) + len(world.ids("fox"))
    assert line["cached_tokens"] == 1
    assert (line["decode_workers"], line["prefill_workers"]) == ("decode-0", "prefill-0")
    assert line["prefill_modes"] == "REMOTE"
    # Up to its end, not to when it is told; rounded to a tenth.
    assert 0 < line["ttft_ms"] <= line["total_ms"] <= took_ms + 0.1


async def test_a_failed_request_says_why(world):
    worker = await world.add()
    with structlog.testing.capture_logs() as lines:
        task = world.start(timeout_s=0.1)
        await worker.submitted()
        await task
        await world.core.drained()

    [line] = [line for line in lines if line["event"] == "request ended"]
    assert line["outcome"] == "DEADLINE_EXCEEDED"
    assert line["ttft_ms"] is None
    assert "0.1" in line["error"]


async def test_a_record_that_fails_is_told_and_keeps_no_other_back(world, monkeypatch):
    worker = await world.add()
    worker.script = lambda submission, sample: world.ids("the")
    good = report.ended
    calls = []

    def ended(request):
        calls.append(request)
        if len(calls) == 1:
            raise RuntimeError("no room for the record")
        return good(request)

    monkeypatch.setattr(report, "ended", ended)
    with structlog.testing.capture_logs() as lines:
        await asyncio.gather(*(world.ask(request_id=f"r{index}") for index in range(40)))
        await world.core.drained()

    assert len(calls) == 40
    events = [line["event"] for line in lines]
    assert events.count("request ended") == 39
    assert events.count("a request's end could not be recorded") == 1


async def test_metrics_count_requests_by_how_they_ended(world):
    worker = await world.add()
    before = {
        outcome: value("gateway_requests_total", outcome=outcome)
        for outcome in ("ok", "CANCELLED", "NO_WORKER")
    }
    names = (
        "gateway_ttft_seconds_count",
        "gateway_itl_seconds_count",
        "gateway_cancellations_total",
    )
    counts = {name: value(name) for name in names}
    tokens = value("gateway_output_tokens_total"), value("gateway_prompt_tokens_total")

    await answered(world)
    task = world.start()
    await worker.submitted(2)
    during = value("gateway_requests_in_flight")
    task.cancel()
    await asyncio.wait([task])
    world.is_draining = True
    refused = await world.ask()
    await world.core.drained()

    assert isinstance(refused.error, NoWorker)
    for outcome, count in before.items():
        assert value("gateway_requests_total", outcome=outcome) == count + 1
    assert (during, value("gateway_requests_in_flight")) == (1, 0)
    assert value("gateway_ttft_seconds_count") == counts["gateway_ttft_seconds_count"] + 1
    assert value("gateway_itl_seconds_count") == counts["gateway_itl_seconds_count"] + 1
    assert value("gateway_cancellations_total") == counts["gateway_cancellations_total"] + 1
    drawn = len(world.ids("the")) + len(world.ids("fox"))
    assert value("gateway_output_tokens_total") == tokens[0] + drawn
    assert value("gateway_prompt_tokens_total") == tokens[1] + 2 * len(world.ids("Hello"))


async def test_a_workers_link_shows_in_a_metric_for_as_long_as_the_worker_is_known(world):
    worker = await world.add("decode-7")
    up = value("gateway_decode_link_up", worker_id="decode-7")

    await worker.stop()
    await eventually(lambda: not world.usable)
    down = exposed.REGISTRY.get_sample_value(
        "baton_gateway_decode_link_up", {"worker_id": "decode-7"}
    )
    world.directory.down("decode-7")

    assert (up, down) == (1.0, 0.0)
    await eventually(lambda: b"decode-7" not in exposed.render())
