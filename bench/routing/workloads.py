"""Requests for real processes: prompts nobody has seen, and traces whose prompts share prefixes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import Prompts
from bench.routing.traces import Trace, made_up, mean_tokens, read_trace

MAX_PROMPT = 1900
"""What the demo model's context leaves beside an answer."""
NUM_OUTPUT, MAX_OUTPUT = 40, 64
FITTING = 0.9
"""Share of a trace's prompts that are not cut."""
POISSON_LOADS, TRACE_LOADS = (0.7, 1.3), (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """A request to send."""

    at_s: float
    token_ids: list[int]
    num_output: int


@dataclass(frozen=True, slots=True)
class Point:
    """Requests at a load: prompt tokens that arrive over those that prefill can compute."""

    name: str
    load: float
    requests: tuple[Planned, ...]

    @property
    def span_s(self) -> float:
        """Until the last request is sent."""
        return self.requests[-1].at_s


def points(files: Sequence[Path], count: int, tokens_per_s: float) -> list[Point]:
    """All that each policy gets, `count` requests a point.

    `tokens_per_s`: what all prefill workers compute. Without files a made-up trace has the shared
    prefixes.
    """
    traces = [read_trace(path, count, MAX_PROMPT, fitting=FITTING) for path in files]
    made = [_poisson(load, count, tokens_per_s) for load in POISSON_LOADS]
    for trace in traces or [made_up("chat", count)]:
        made += [_of_trace(trace, load, tokens_per_s) for load in TRACE_LOADS]
    return made


def _poisson(load: float, count: int, tokens_per_s: float) -> Point:
    """50 to `MAX_PROMPT` tokens that nobody has cached."""
    rng, prompts = random.Random(5), Prompts(seed=round(1000 * load))
    lengths = [min(MAX_PROMPT, 50 + int(rng.expovariate(1 / 800))) for _ in range(count)]
    per_s = load * tokens_per_s / (sum(lengths) / count)
    at_s, planned = 0.0, []
    for length in lengths:
        at_s += rng.expovariate(per_s)
        planned.append(Planned(at_s, prompts.draw(length), NUM_OUTPUT))
    return Point("uncached", load, tuple(planned))


def _of_trace(trace: Trace, load: float, tokens_per_s: float) -> Point:
    """A trace sped up to the load. Each load has tokens of its own: no cache knows them yet."""
    wanted = load * tokens_per_s / mean_tokens(trace.requests)
    faster = trace.sped_up(wanted * trace.span_s / len(trace.requests))
    prompts = Prompts(seed=round(1000 * load) + 1)
    blocks: dict[int, list[int]] = {}
    planned = []
    for request in faster.requests:
        token_ids: list[int] = []
        for block in request.blocks:
            if block not in blocks:
                blocks[block] = prompts.draw(trace.block_tokens)
            token_ids += blocks[block]
        length = min(MAX_PROMPT, request.num_tokens)
        token_ids += prompts.draw(max(0, length - len(token_ids)))
        num_output = max(2, min(MAX_OUTPUT, request.num_output_tokens // trace.shrink))
        planned.append(Planned(request.at_s, token_ids[:length], num_output))
    return Point(trace.name, load, tuple(planned))
