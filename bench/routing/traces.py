"""Request traces: lengths, times and prefix blocks, from a file or made up, scaled to a fleet."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

BLOCK_TOKENS = {"mooncake": 512, "agentic": 64}
"""Tokens of one prefix block in files of these names."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace."""

    at_s: float
    num_tokens: int
    num_output_tokens: int
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's full prefix blocks: equal ids mean equal tokens and equal prefixes."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of time."""

    name: str
    requests: tuple[TraceRequest, ...]
    block_tokens: int = 64
    """Tokens of a prefix block."""
    is_held_out: bool = False
    """Whether no weight of the policy was chosen with these requests in view."""
    shrink: int = 1
    """What lengths of prompts were divided by."""

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return self.requests[-1].at_s - self.requests[0].at_s

    def sped_up(self, factor: float) -> Trace:
        """The same requests in a fraction of the time."""
        faster = tuple(replace(r, at_s=r.at_s / factor) for r in self.requests)
        return replace(self, requests=faster)


def read_trace(
    path: Path, most: int, max_tokens: int, *, is_held_out: bool = False, fitting: float = 1.0
) -> Trace:
    """Requests of a JSON lines file with `timestamp_ms`, `input_length`, `output_length` and, where
    prefixes are known, `hash_ids`: the first ones, or `is_held_out` those from the middle on.

    Lengths are divided by one whole number so that this share of the prompts, `fitting`, has at
    most `max_tokens`; longer ones are cut. Blocks shrink alike. Where arrivals stand on ticks of
    three seconds, they are spread evenly.
    """
    rng = random.Random(0)
    lines = path.read_text().splitlines()
    start = len(lines) // 2 if is_held_out else 0
    rows = [json.loads(line) for line in lines[start : start + most]]
    block = next((size for name, size in BLOCK_TOKENS.items() if name in path.stem), 64)
    lengths = sorted(row["input_length"] for row in rows)
    longest = lengths[round(fitting * (len(lengths) - 1))]
    shrink = max(1, -(-longest // max_tokens))
    has_ticks = all(row["timestamp_ms"] % 3000 == 0 for row in rows)
    requests = [
        TraceRequest(
            at_s=(row["timestamp_ms"] + (rng.uniform(0, 3000) if has_ticks else 0)) / 1e3,
            num_tokens=min(max_tokens, max(1, row["input_length"] // shrink)),
            num_output_tokens=max(2, row["output_length"]),
            blocks=tuple(row.get("hash_ids", ())),
        )
        for row in rows
    ]
    return Trace(path.stem, _in_order(requests), max(1, block // shrink), is_held_out, shrink)


def made_up(kind: str, count: int, seed: int = 0) -> Trace:
    """Traces that are invented, one request a second on average, Poisson arrivals.

    `chat`: conversations that grow; `documents`: long prompts, a third of them about shared texts,
    short answers; `mixed`: short questions beside documents; `bursts`: documents that come at once.
    """
    rng = random.Random(f"{kind} {seed}")
    requests: list[TraceRequest] = []
    chats: list[tuple[int, list[int]]] = []
    at_s, next_block = 0.0, 0
    for _ in range(count):
        at_s += _gap_s(kind, rng)
        is_document = kind in ("documents", "bursts") or (kind == "mixed" and rng.random() < 0.3)
        if is_document:
            num_tokens = int(min(8000, rng.lognormvariate(7.6, 0.7)))
            shared = rng.randrange(20) if rng.random() < 0.33 else None
            num_output = 8 + int(rng.expovariate(1 / 60))
        elif chats and rng.random() < 0.7:
            tokens, history = chats.pop(rng.randrange(len(chats)))
            num_tokens, shared = tokens + rng.randrange(30, 300), None
            num_output = 16 + int(rng.expovariate(1 / 150))
        else:
            num_tokens, history, shared = rng.randrange(40, 900), [], None
            num_output = 16 + int(rng.expovariate(1 / 150))
        num_blocks = num_tokens // 64
        if is_document:
            history = [] if shared is None else [-1 - shared * 1000 - i for i in range(24)]
        history = history[:num_blocks]
        fresh = range(next_block, next_block + num_blocks - len(history))
        next_block += len(fresh)
        blocks = [*history, *fresh]
        requests.append(TraceRequest(at_s, num_tokens, num_output, tuple(blocks)))
        if not is_document and num_tokens < 4000:
            chats.append((num_tokens + num_output, blocks))
            del chats[:-40]
    return Trace(kind, tuple(requests), 64)


def _gap_s(kind: str, rng: random.Random) -> float:
    if kind == "bursts":
        return rng.expovariate(20.0) if rng.random() < 0.9 else rng.expovariate(1 / 9.5)
    return rng.expovariate(1.0)


def _in_order(requests: Iterable[TraceRequest]) -> tuple[TraceRequest, ...]:
    ordered = sorted(requests, key=lambda request: request.at_s)
    first = ordered[0].at_s
    return tuple(replace(request, at_s=request.at_s - first) for request in ordered)


def mean_tokens(requests: Sequence[TraceRequest]) -> float:
    """Prompt tokens per request."""
    return sum(request.num_tokens for request in requests) / len(requests)
