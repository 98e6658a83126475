"""Brings the loads to running systems, in turns, and notes what each process used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench.child import Child
from bench.failure import BenchFailed
from bench.frontdoor.cells import Cell, Group
from bench.frontdoor.messages import Door, Load, Seen, Shape
from bench.frontdoor.prompts import make_prompts, token_ids
from bench.frontdoor.targets import Target
from bench.worker_stream import WorkerStream

CELL_LIMIT_S = 120.0
"""For one repetition of one cell; it takes a second or a few."""
_WARM_SHARE = 0.2


@dataclass(slots=True)
class Measured:
    """All repetitions of a cell on one target."""

    cell: Cell
    target: str
    seen: list[Seen] = field(default_factory=list)
    cpu_s: list[dict[str, float]] = field(default_factory=list)
    """By kind of process, per repetition."""

    @property
    def ttfts_s(self) -> list[float]:
        """Of all repetitions."""
        return [ttft for seen in self.seen for ttft in seen.ttfts_s]

    @property
    def requests_per_s(self) -> list[float]:
        """Per repetition."""
        return [len(seen.ttfts_s) / seen.wall_s for seen in self.seen]

    @property
    def tokens_per_s(self) -> float:
        """Median of the repetitions."""
        return median(seen.num_tokens / seen.wall_s for seen in self.seen)

    @property
    def tokens_per_event(self) -> float:
        """Of all repetitions."""
        return sum(s.num_tokens for s in self.seen) / sum(s.num_events for s in self.seen)

    @property
    def client_share(self) -> float:
        """The busiest repetition's."""
        return max(seen.client_share for seen in self.seen)

    def cpu_per_1000(self, kind: str) -> float | None:
        """CPU seconds per 1,000 requests, median of the repetitions; `client` is the client's."""
        if kind == "client":
            return median(1e3 * seen.cpu_s / len(seen.ttfts_s) for seen in self.seen)
        used = [
            1e3 * cpu_s[kind] / len(seen.ttfts_s)
            for seen, cpu_s in zip(self.seen, self.cpu_s, strict=True)
            if kind in cpu_s
        ]
        return median(used) if used else None


class Bench:
    """The clients' processes, and the source of prompts that nobody has seen."""

    def __init__(self, model: Path, http: Child, grpc: Child) -> None:
        self._tokenizer = model / "tokenizer.json"
        self._model = model.name
        self._http, self._grpc = http, grpc
        self._seed = 0

    async def bring(self, target: Target, cell: Cell) -> Seen:
        """One load. Raises `BenchFailed` where an answer is wrong or it takes far too long."""
        self._seed += 1
        load = Load(
            cell.door,
            target.addresses(cell.door),
            self._model,
            self._tokenizer,
            cell.shape,
            cell.num_requests,
            cell.num_clients,
            self._seed,
        )
        child = self._http if cell.door.is_http else self._grpc
        try:
            async with asyncio.timeout(CELL_LIMIT_S):
                seen: Seen = await child.ask(load)
        except TimeoutError:
            raise BenchFailed(
                f"{cell.name}: {cell.num_requests} requests were not answered within "
                f"{CELL_LIMIT_S:.0f} s."
            ) from None
        return seen

    async def warm(self, target: Target, cell: Cell) -> None:
        """Brings a part of a cell's load; all clients at least once."""
        count = max(cell.num_clients, int(_WARM_SHARE * cell.num_requests))
        await self.bring(target, replace(cell, num_requests=count))

    async def repeat(self, target: Target, into: Measured) -> None:
        """One repetition."""
        cell, before = into.cell, target.cpu_seconds()
        seen = await self.bring(target, cell)
        after = target.cpu_seconds()
        into.seen.append(seen)
        into.cpu_s.append({kind: after[kind] - before[kind] for kind in after})

    async def first_token_s(self, target: Target, group: Group) -> float:
        """From the order to start to the end of an answer of one token."""
        await self.bring(target, Cell(group, 1, Shape(16, 1), Door.QUICK, 1))
        return time.monotonic() - target.began

    async def stream_ttfts(self, address: str, cell: Cell) -> list[float]:
        """TTFTs of one client on a decode worker's stream, without a gateway; warmed up."""
        self._seed += 1
        shape, num_warm = cell.shape, int(_WARM_SHARE * cell.num_requests)
        prompts = make_prompts(self._tokenizer, shape, num_warm + cell.num_requests, self._seed)
        ids = [token_ids(self._tokenizer, prompt) for prompt in prompts]
        async with WorkerStream(address) as stream:
            answers = [await stream.answer(prompt, shape.output_len) for prompt in ids]
        return [answer.ttft_s for answer in answers[num_warm:]]


@dataclass(slots=True)
class GroupResult:
    """What was measured on one group's systems."""

    group: str
    measured: list[Measured] = field(default_factory=list)
    stream_ttfts_s: dict[Shape, list[float]] = field(default_factory=dict)
    """One client on a worker's stream alone; ours only."""
    first_token_s: dict[str, float] = field(default_factory=dict)
    idle_mib: dict[str, Mapping[str, float]] = field(default_factory=dict)
    end_mib: dict[str, Mapping[str, float]] = field(default_factory=dict)
    """By target and kind of process."""


def targets_with(targets: Sequence[Target], door: Door) -> list[Target]:
    """Those that have a door."""
    return [target for target in targets if target.addresses(door)]
