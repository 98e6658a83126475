"""What each hop adds to the first token: engine, worker's stream, gateway's two doors, hand-off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench.child import Child
from bench.client import GatewayClient, Prompts
from bench.http_door import HttpDoor
from bench.messages import Ran, RunPrompts
from bench.options import Run, worker_threads
from bench.report import Cell, Table
from bench.stats import milliseconds, percentile
from bench.system import System, SystemSpec, running_system
from bench.worker_stream import PrefillAt, WorkerStream

LENGTHS = (1, 8, 16)
"""Up to one block: always computed where it is needed."""
LONGER = 32
"""Two blocks: the least that may be handed off."""
_WARM = 5
_PROCESSES = ("gateway", "decode", "prefill", "redis")

Asker = Callable[[Sequence[Sequence[int]]], Awaitable[list[float]]]
"""Runs prompts one after the other for one token each; returns the times to it in seconds."""


@dataclass(slots=True)
class _Path:
    """One way to a first token, and what was seen of it."""

    title: str
    num_tokens: str
    lengths: Sequence[int]
    ask: Asker
    ttfts_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def median_s(self) -> float:
        return percentile(self.ttfts_s, 50) or 0.0


async def run(run: Run) -> list[Table]:
    """All ways in turn, several rounds, one request at a time."""
    num_rounds, per_round = run.size((6, 30), (2, 5))
    # A hand-off of two blocks pays nowhere; here it shows what the hop costs.
    flags = {"gateway": ("--remote-prefill-tokens=16",)}
    spec = SystemSpec("disaggregated", 1, worker_threads(), flags)
    async with AsyncExitStack() as stack:
        run.steps.begin("hops", 2 + num_rounds)
        run.steps.next(f"starting {spec.title}")
        system = await stack.enter_async_context(running_system(spec, run.console))
        engine = await stack.enter_async_context(
            Child("bench.lone_engine", "serve", worker_threads())
        )
        paths = await _paths(stack, system, engine)
        prompts = Prompts(seed=3)
        run.steps.next("warming up")
        for path in paths:
            await path.ask(_draw(prompts, path, _WARM))
        for path in paths:
            path.cpu_s.clear()
        for number in range(1, num_rounds + 1):
            run.steps.next(f"round {number}")
            for path in paths:
                before = system.cpu_seconds()
                path.ttfts_s += await path.ask(_draw(prompts, path, per_round))
                _add_used(path, before, system.cpu_seconds())
    return [_table(paths)]


def _draw(prompts: Prompts, path: _Path, count: int) -> list[list[int]]:
    return [prompts.draw(path.lengths[at % len(path.lengths)]) for at in range(count)]


def _add_used(path: _Path, before: dict[str, float], after: dict[str, float]) -> None:
    for name in _PROCESSES:
        path.cpu_s[name] = path.cpu_s.get(name, 0.0) + after[name] - before[name]


async def _paths(stack: AsyncExitStack, system: System, engine: Child) -> list[_Path]:
    stream = await stack.enter_async_context(WorkerStream(system.address("decode")))
    client = await stack.enter_async_context(GatewayClient(system.address()))
    facts = await system.worker("decode")
    door = HttpDoor(system.http_address, facts.model)
    stack.callback(door.close)
    there = await system.worker("prefill")
    prefill = PrefillAt(there.worker_id, system.address("prefill"))

    def over_stream(to: PrefillAt | None) -> Asker:
        async def ask(prompts: Sequence[Sequence[int]]) -> list[float]:
            return [(await stream.answer(prompt, 1, to)).ttft_s for prompt in prompts]

        return ask

    async def over_grpc(prompts: Sequence[Sequence[int]]) -> list[float]:
        return [(await client.answer(prompt, 1)).answer.ttft_s for prompt in prompts]

    async def over_http(prompts: Sequence[Sequence[int]]) -> list[float]:
        return await asyncio.to_thread(
            lambda: [door.answer(prompt, 1).ttft_s for prompt in prompts]
        )

    short, longer = "1 to 16", str(LONGER)
    return [
        *_engine_paths(engine, short, longer),
        _Path("decode worker's stream", short, LENGTHS, over_stream(None)),
        _Path("gateway, Baton gRPC", short, LENGTHS, over_grpc),
        _Path("gateway, OpenAI HTTP", short, LENGTHS, over_http),
        _Path("decode worker's stream, local", longer, (LONGER,), over_stream(None)),
        _Path("decode worker's stream, handed off", longer, (LONGER,), over_stream(prefill)),
        _Path("gateway, Baton gRPC, handed off", longer, (LONGER,), over_grpc),
    ]


def _engine_paths(engine: Child, short: str, longer: str) -> list[_Path]:
    def make(num_tokens: str, lengths: Sequence[int]) -> _Path:
        async def ask(prompts: Sequence[Sequence[int]]) -> list[float]:
            ran: Ran = await engine.ask(RunPrompts(prompts, 1))
            path.cpu_s["engine"] = path.cpu_s.get("engine", 0.0) + ran.cpu_s
            return ran.ttfts_s

        path = _Path("engine alone, in process", num_tokens, lengths, ask)
        return path

    return [make(short, LENGTHS), make(longer, (LONGER,))]


def _table(paths: list[_Path]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for path in sorted(paths, key=lambda path: path.num_tokens):
        floor = next(p for p in paths if p.num_tokens == path.num_tokens).median_s()
        count = len(path.ttfts_s)
        is_floor = "engine" in path.cpu_s
        shown = ("engine",) if is_floor else _PROCESSES
        cpu = [
            1e3 * path.cpu_s[name] / count if name in shown else None
            for name in ("engine", *_PROCESSES)
        ]
        rows.append(
            (
                path.num_tokens,
                path.title,
                count,
                milliseconds(path.ttfts_s, 50),
                milliseconds(path.ttfts_s, 99),
                None if is_floor else 1e3 * (path.median_s() - floor),
                *cpu,
            )
        )
    return Table(
        "First token of an idle system, one request at a time, one token each",
        (
            "prompt tokens",
            "path",
            "n",
            "TTFT p50 ms",
            "TTFT p99 ms",
            "over engine ms",
            *(f"{name} CPU ms" for name in ("engine", *_PROCESSES)),
        ),
        tuple(rows),
        (
            f"workers and the engine alone compute with {worker_threads()} thread(s)",
            "CPU per request from /proc, idle time's heartbeats included; steps of 10 ms, spread "
            "over all requests of a path",
            "prompts of up to one block are never handed off: 32 tokens are the shortest that are",
        ),
    )
