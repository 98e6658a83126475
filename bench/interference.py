"""What long prompts do to streams that are already running: the case prefill moves out for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.arms import Arm
from bench.client import BusyMeter, Prompts, Reply, new_reply
from bench.failure import BenchFailed, task_group
from bench.options import Run
from bench.report import Cell, Table
from bench.stats import Answer, gaps_between, milliseconds, tokens_between

NUM_STREAMS = 4
STREAM_PROMPT_LEN = 32
STREAM_OUTPUT_LEN = 512
LONG_PROMPT_LEN = 1536
LONG_OUTPUT_LEN = 4
PERIOD_S = 1.5
"""One long prompt per period, whatever became of the one before: an open loop."""
READING_MS = 170
"""A token every so often is as fast as people read."""


@dataclass(slots=True)
class _Seen:
    """What one arm's clients saw over all rounds; gaps in seconds."""

    calm_gaps: list[float] = field(default_factory=list)
    loaded_gaps: list[float] = field(default_factory=list)
    long_ttfts: list[float] = field(default_factory=list)
    num_tokens: int = 0
    loaded_s: float = 0.0
    client_share: float = 0.0


async def measure_interference(run: Run, arms: Sequence[Arm], num_rounds: int) -> Table:
    """The same scene for every arm, in turn: calm first, then a long prompt per period."""
    calm_s, num_long = run.size((4.0, 8), (1.5, 2))
    prompts = Prompts(seed=2)
    seen = {arm.title: _Seen() for arm in arms}
    for number in range(1, num_rounds + 1):
        for arm in arms:
            run.steps.next(f"{arm.title}, long prompts beside streams, round {number}")
            await _play(arm, prompts, seen[arm.title], calm_s, num_long)
    return _table(seen)


async def _play(arm: Arm, prompts: Prompts, seen: _Seen, calm_s: float, num_long: int) -> None:
    streams: list[Answer] = []
    longs = [new_reply() for _ in range(num_long)]
    meter = BusyMeter()
    async with task_group() as group:
        running = [
            group.create_task(_keep_streaming(arm, prompts, streams)) for _ in range(NUM_STREAMS)
        ]
        await _until_all_run(streams)
        began = time.monotonic()
        await asyncio.sleep(calm_s)
        loaded_at = time.monotonic()
        sending = []
        for at, reply in enumerate(longs):
            await asyncio.sleep(max(0.0, loaded_at + at * PERIOD_S - time.monotonic()))
            prompt = prompts.draw(LONG_PROMPT_LEN)
            sending.append(group.create_task(arm.client.ask(prompt, LONG_OUTPUT_LEN, reply)))
        await asyncio.sleep(max(0.0, loaded_at + num_long * PERIOD_S - time.monotonic()))
        await asyncio.gather(*sending)
        ended = time.monotonic()
        for task in running:
            task.cancel()
    arm.require_modes(longs)
    seen.client_share = max(seen.client_share, meter.read()[1])
    seen.calm_gaps += gaps_between(streams, began, loaded_at)
    seen.loaded_gaps += gaps_between(streams, loaded_at, ended)
    seen.long_ttfts += [reply.answer.ttft_s for reply in longs]
    seen.num_tokens += tokens_between(streams, loaded_at, ended)
    seen.loaded_s += ended - loaded_at


async def _keep_streaming(arm: Arm, prompts: Prompts, streams: list[Answer]) -> None:
    """One user who asks again at once, until cancelled."""
    while True:
        reply: Reply = new_reply()
        streams.append(reply.answer)
        await arm.client.ask(prompts.draw(STREAM_PROMPT_LEN), STREAM_OUTPUT_LEN, reply)


async def _until_all_run(streams: Sequence[Answer]) -> None:
    try:
        async with asyncio.timeout(60):
            while len(streams) < NUM_STREAMS or any(s.num_tokens < 8 for s in streams):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise BenchFailed(f"{NUM_STREAMS} streams were not running after 60 s.") from None


def _table(seen: dict[str, _Seen]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for title, of in seen.items():
        rows.append(
            (
                title,
                milliseconds(of.calm_gaps, 50),
                milliseconds(of.calm_gaps, 99),
                milliseconds(of.loaded_gaps, 50),
                milliseconds(of.loaded_gaps, 99),
                milliseconds(of.loaded_gaps, 100),
                of.num_tokens / of.loaded_s,
                milliseconds(of.long_ttfts, 50),
                milliseconds(of.long_ttfts, 99),
                len(of.loaded_gaps),
                round(100 * of.client_share),
            )
        )
    return Table(
        f"{NUM_STREAMS} running streams while {LONG_PROMPT_LEN}-token prompts arrive",
        (
            "system",
            "calm ITL p50 ms",
            "calm ITL p99 ms",
            "ITL p50 ms",
            "ITL p99 ms",
            "ITL max ms",
            "stream tokens/s",
            "long TTFT p50 ms",
            "long TTFT p99 ms",
            "gaps",
            "client % of a core",
        ),
        tuple(rows),
        (
            f"one {LONG_PROMPT_LEN}-token prompt every {PERIOD_S} s, sent whether or not the one "
            "before was answered; ITL is that of the streams, which computed their short prompts "
            "where they run",
            "calm: the same streams before the first long prompt",
            f"people read a token in about {READING_MS} ms",
        ),
    )
