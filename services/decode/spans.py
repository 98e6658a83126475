"""The trace of one sample on a decode worker: what it waited for, and for how long."""

from __future__ import annotations

import time

from baton.request import SequenceTimings
from baton.rpc import telemetry


class SampleSpans:
    """A span for the sample and one per phase, made when it ends. Free when not exported."""

    def __init__(self, request_id: str, traceparent: str) -> None:
        self._root = telemetry.start_span(
            "decode.sequence", traceparent, attributes={"request.id": request_id}
        )
        self._marks = [("submitted", time.time_ns())]

    @property
    def traceparent(self) -> str:
        """Parent for spans on other workers."""
        return self._root.traceparent

    @property
    def trace_id(self) -> str:
        """For log lines; empty: not traced."""
        return self._root.trace_id

    def mark(self, name: str) -> None:
        """Remembers that a phase ended now."""
        if self._root.is_recording:
            self._marks.append((name, time.time_ns()))

    def end(self, timings: SequenceTimings, error: str) -> None:
        """Ends the sample's span and makes those of its phases."""
        root = self._root
        if not root.is_recording:
            return
        self._marks.append(("end", time.time_ns()))
        phases = {
            "reserved": "decode.reserve",
            "first token": "decode.prefill",
            "end": "decode.generate",
        }
        for (_, start), (name, stop) in zip(self._marks, self._marks[1:], strict=False):
            phase = telemetry.start_span(phases[name], root.traceparent, start_ns=start)
            phase.end(stop)
        root.set("prefill.mode", timings.prefill_mode.name.lower())
        root.set("prefill.worker", timings.prefill_worker_id)
        root.set("tokens.cached", timings.cached_token_count)
        root.set("tokens.fetched", timings.fetched_token_count)
        root.set("handoff.exposed_us", timings.handoff_us)
        root.set("queue_us", timings.queue_us)
        if error:
            root.fail(error)
        root.end()
