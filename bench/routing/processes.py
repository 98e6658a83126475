"""The same comparison on real processes: workers that sleep as long as a table says."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.cli.topology import STEP_TIMES
from baton.engine.step_times import AXES, VALUE
from baton.request import PrefillMode
from bench.client import BusyMeter, GatewayClient, Prompts, Reply, new_reply
from bench.failure import task_group
from bench.options import Run
from bench.report import Cell, Table
from bench.stats import percentile
from bench.system import SystemSpec, running_system

SLOWER = 4
"""The table's times are multiplied by it, so that few cores can carry all processes."""
TTFT_MS, ITL_MS = 2000.0, 80.0
NUM_TOKENS = 40
MAX_PROMPT = 1900
LOADS = (0.6, 0.9, 1.3)
ARMS = {
    "always local": ("--no-remote-prefill",),
    "always remote": ("--remote-prefill-tokens=0",),
    "ours": (),
}
PROMPT_TOKENS_PER_S = 2 * 10_500 / SLOWER
"""What two prefill workers compute, by the table."""
NUM_WARM = 20


@dataclass(frozen=True, slots=True)
class _Planned:
    """A request to send."""

    at_s: float
    token_ids: list[int]


def measure(run: Run) -> list[Table]:
    """One table."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "step_times.csv"
        table.write_text(_slower(STEP_TIMES.read_text()))
        rows: list[tuple[Cell, ...]] = []
        for load in run.size(LOADS, LOADS[:1]):
            for name, flags in ARMS.items():
                run.steps.next(f"{name} at load {load:g}")
                rows.append(asyncio.run(_row(run, name, load, table, flags)))
    return [
        Table(
            "Requests that met both targets, on real processes",
            (
                "load",
                "policy",
                "good %",
                "TTFT p50 ms",
                "TTFT p90 ms",
                "TPOT p50 ms",
                "TPOT p90 ms",
                "remote %",
                "client's share of a core",
            ),
            tuple(rows),
            (
                f"2 prefill and 2 decode workers, `--engine emulated` at {SLOWER} times the step "
                "times of examples/step_times.csv, one gateway, Redis; `--no-admission`",
                f"targets: TTFT {TTFT_MS:g} ms, mean time between tokens {ITL_MS:g} ms; prompts of "
                f"50 to {MAX_PROMPT} tokens, mean about 800, none cached, {NUM_TOKENS} tokens out, "
                f"Poisson arrivals, the first {NUM_WARM} requests not counted",
                "load: prompt tokens that arrive over those that the prefill workers can compute",
            ),
        )
    ]


def _slower(table: str) -> str:
    lines = []
    for line in table.splitlines():
        if line.startswith("#") or line == ",".join([*AXES, VALUE]):
            lines.append(line)
        else:
            *point, time_us = line.split(",")
            lines.append(",".join([*point, f"{float(time_us) * SLOWER:g}"]))
    return "\n".join(lines) + "\n"


async def _row(
    run: Run, name: str, load: float, table: Path, flags: Sequence[str]
) -> tuple[Cell, ...]:
    steps = (f"--step-times={table}",)
    targets = (f"--default-ttft-ms={TTFT_MS:g}", f"--default-itl-ms={ITL_MS:g}")
    spec = SystemSpec(
        name,
        2,
        1,
        {"prefill": steps, "decode": steps, "gateway": ("--no-admission", *targets, *flags)},
        decode=2,
        engine="emulated",
    )
    planned = _plan(load, run.size(140, 30))
    async with (
        running_system(spec, run.console) as system,
        GatewayClient(system.address()) as client,
    ):
        meter = BusyMeter()
        replies = await _replay(client, planned)
        _, share = meter.read()
    counted = replies[min(NUM_WARM, len(replies) // 3) :]
    ttfts = [1e3 * reply.answer.ttft_s for reply in counted]
    tpots = [_tpot_ms(reply) for reply in counted]
    good = sum(a <= TTFT_MS and b <= ITL_MS for a, b in zip(ttfts, tpots, strict=True))
    remote = sum(r.timings.prefill_mode == PrefillMode.REMOTE.value for r in counted)
    return (
        load,
        name,
        100 * good / len(counted),
        percentile(ttfts, 50),
        percentile(ttfts, 90),
        percentile(tpots, 50),
        percentile(tpots, 90),
        100 * remote / len(counted),
        share,
    )


def _plan(load: float, count: int) -> list[_Planned]:
    """The same requests for every policy at a load."""
    rng, prompts = random.Random(5), Prompts(seed=5)
    lengths = [min(MAX_PROMPT, 50 + int(rng.expovariate(1 / 800))) for _ in range(count)]
    per_s = load * PROMPT_TOKENS_PER_S / (sum(lengths) / count)
    at_s, planned = 0.0, []
    for length in lengths:
        at_s += rng.expovariate(per_s)
        planned.append(_Planned(at_s, prompts.draw(length)))
    return planned


async def _replay(client: GatewayClient, planned: Sequence[_Planned]) -> list[Reply]:
    began = time.monotonic()
    replies: list[Reply] = []
    async with task_group() as group:
        for request in planned:
            await asyncio.sleep(max(0.0, began + request.at_s - time.monotonic()))
            reply = new_reply()
            replies.append(reply)
            group.create_task(client.ask(request.token_ids, NUM_TOKENS, reply))
    return replies


def _tpot_ms(reply: Reply) -> float:
    arrivals = reply.answer.arrivals
    return 1e3 * (arrivals[-1].at - arrivals[0].at) / max(1, reply.answer.num_tokens - 1)
