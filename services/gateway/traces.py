"""The spans of one request at the gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping

from baton.errors import BatonError
from baton.rpc.telemetry import NOTHING, Span, start_span
from services.gateway.types import GenerateCommand


class RequestTrace:
    """`gateway.request`, and below it tokenize, route, first_token. Free when none is exported."""

    def __init__(self, command: GenerateCommand, arrived_at: float) -> None:
        arrived_ns = _unix_ns(arrived_at)
        self._root = start_span(
            "gateway.request", command.traceparent, kind="server", start_ns=arrived_ns
        )
        if self._root.is_recording:
            self._describe(command)
        self._is_on = bool(self._root.traceparent)
        self._wait: Span | None = None
        self._has_answer = False
        if command.tokenize_us:
            tokenize = start_span("gateway.tokenize", self.traceparent, start_ns=arrived_ns)
            tokenize.end(arrived_ns + command.tokenize_us * 1000)

    @property
    def trace_id(self) -> str:
        """Hexadecimal; empty when not traced."""
        return self._root.trace_id

    @property
    def traceparent(self) -> str:
        """What goes to workers."""
        return self._root.traceparent

    def route(self) -> Span:
        """A span for choosing workers; its attributes say what was chosen and why."""
        return start_span("gateway.route", self.traceparent) if self._is_on else NOTHING

    def submitted(self, worker_id: str) -> None:
        """The wait for a first token begins."""
        if self._is_on and not self._has_answer:
            if self._wait is not None:  # in vain: another worker is asked
                self._wait.end()
            self._wait = start_span("gateway.first_token", self.traceparent)
            self._wait.set("baton.decode_worker_id", worker_id)

    def answered(self) -> None:
        """A worker has sent something."""
        if not self._has_answer:
            self._has_answer = True
            if self._wait is not None:
                self._wait.end()

    def event(self, name: str) -> None:
        """Marks a moment in the request's span."""
        self._root.event(name)

    def judged(self, targets: Mapping[str, bool]) -> None:
        """Which of the client's targets were met."""
        for target, met in targets.items():
            self._root.set(f"baton.{target}_met", met)

    def end(self, num_output_tokens: int, error: BatonError | None, at: float) -> None:
        """Ends all that is open, as of then, in seconds of the monotonic clock."""
        at_ns = _unix_ns(at)
        if self._wait is not None:
            self._wait.end(at_ns)
        self._root.set("baton.output_tokens", num_output_tokens)
        if error is not None:
            self._root.fail(f"{error.status.reason}: {error.message}")
        self._root.end(at_ns)

    def _describe(self, command: GenerateCommand) -> None:
        self._root.set("baton.request_id", command.request_id)
        self._root.set("baton.model", command.model)
        self._root.set("baton.prompt_tokens", len(command.token_ids))
        hints: dict[str, str | int] = {
            "baton.tenant": command.tenant,
            "baton.target_ttft_ms": command.slo.target_ttft_ms,
            "baton.target_itl_ms": command.slo.target_itl_ms,
            "baton.expected_output_tokens": command.slo.expected_output_count,
        }
        for name, value in hints.items():
            if value:
                self._root.set(name, value)


def _unix_ns(at: float) -> int:
    return time.time_ns() - round((time.monotonic() - at) * 1e9)
