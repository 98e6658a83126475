"""Recent decisions and what became of them: for whoever asks why, and to learn from."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from baton.policy.decision import Decision
from services.gateway import metrics

if TYPE_CHECKING:
    from baton.request import SequenceTimings
    from services.gateway.requests import Request

MAX_REQUESTS = 512
"""Requests whose decisions are kept: about 3 MB."""
MEAN_SHARE = 0.02
"""Weight of one request in running means: about the last fifty count."""
CLIP = 5.0
"""A value beyond so many means counts as that many."""


# Not frozen: there is one per request, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Placed:
    """One decision, and when it was taken."""

    decision: Decision
    num_tokens: int
    unix_s: float
    at: float
    """Seconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What really happened, of the request's first sample."""

    result: str
    """`ok`, or the reason of the request's error."""
    first_token_ms: float | None
    """From the last decision before it; None: no token came."""
    itl_ms: float | None
    timings: SequenceTimings
    num_output_tokens: int


@dataclass(slots=True)
class Story:
    """One request's decisions, more than one where samples moved, and its outcome."""

    request_id: str
    placed: list[Placed] = field(default_factory=list)
    outcome: Outcome | None = None


class DecisionLog:
    """The newest requests' decisions by request id. Lives on the event loop."""

    def __init__(self) -> None:
        self._stories: OrderedDict[str, Story] = OrderedDict()
        self._overhead_ms = 1.0
        self._output_tokens = 0.0

    @property
    def overhead_ms(self) -> float:
        """Running mean of what first tokens took beyond the prediction: queues and roads."""
        return self._overhead_ms

    @property
    def output_tokens(self) -> float:
        """Running mean of tokens per sample; 0: no request has ended yet."""
        return self._output_tokens

    def find(self, request_id: str) -> Story | None:
        """What is still known of a request."""
        return self._stories.get(request_id)

    def placed(self, request_id: str, decision: Decision, num_tokens: int) -> None:
        """A request, or a sample that moves, goes to workers."""
        story = self._stories.get(request_id)
        if story is None or story.outcome is not None:  # an id may be used again
            story = self._stories[request_id] = Story(request_id)
            self._stories.move_to_end(request_id)
        story.placed.append(Placed(decision, num_tokens, time.time(), time.monotonic()))
        while len(self._stories) > MAX_REQUESTS:
            self._stories.popitem(last=False)

    def ended(self, request: Request, result: str) -> None:
        """A request is over: what came of its decisions, and what that teaches."""
        story = self._stories.get(request.command.request_id)
        if story is None or story.outcome is not None:
            return
        sample = request.samples[0]
        first_token_ms = None
        before = [placed for placed in story.placed if placed.at <= sample.first_token_at]
        if before:
            first_token_ms = 1e3 * (sample.first_token_at - before[-1].at)
            self._learn(before[-1].decision, first_token_ms)
        if result == "ok":
            length = request.num_output_tokens / len(request.samples)
            known = self._output_tokens
            self._output_tokens = known + MEAN_SHARE * (length - known) if known else length
        itl_s = request.attainment.mean_itl_s
        story.outcome = Outcome(
            result=result,
            first_token_ms=first_token_ms,
            itl_ms=None if itl_s is None else 1e3 * itl_s,
            timings=sample.timings,
            num_output_tokens=request.num_output_tokens,
        )

    def _learn(self, decision: Decision, first_token_ms: float) -> None:
        late_ms = first_token_ms - decision.ttft_ms
        metrics.prediction_error.observe(abs(late_ms) / 1e3)
        limit = CLIP * max(self._overhead_ms, 1.0)
        clipped = min(max(late_ms, -limit), limit)
        self._overhead_ms = max(0.0, self._overhead_ms + MEAN_SHARE * (clipped - self._overhead_ms))
        metrics.route_overhead.set(self._overhead_ms / 1e3)
