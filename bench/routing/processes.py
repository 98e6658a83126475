"""The same comparison on real processes: workers that sleep as long as a table says."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from baton.cli.topology import STEP_TIMES
from baton.engine.step_times import AXES, VALUE
from baton.request import PrefillMode
from bench.client import BusyMeter, GatewayClient, Reply, new_reply
from bench.failure import task_group
from bench.options import Run
from bench.report import Cell, Table
from bench.routing import workloads
from bench.routing.policies import LOCAL, OURS, REMOTE, RULES
from bench.routing.workloads import Planned, Point, points
from bench.stats import percentile
from bench.system import System, SystemSpec, running_system

SLOWER = 2
"""The table's times are multiplied by it, so that few cores can carry all processes."""
TTFT_MS, ITL_MS = 1000.0, 40.0
NUM_BLOCKS = 1024
"""Of each worker, 16,384 tokens: less than what all prompts of a trace have in them."""
PROMPT_TOKENS_PER_S = 2 * 10_500 / SLOWER
"""What two prefill workers compute, by the table."""
NUM_WARM = 20
START_S, DRAIN_S = 5.0, 4.0
"""What an arm takes to start, and a point behind its last request, about."""
TWO_GATEWAYS = f"{OURS}, 2 gateways"
QUICK = ("longest prefix", OURS, TWO_GATEWAYS)


@dataclass(frozen=True, slots=True)
class _Arm:
    """A policy, as gateways know it."""

    flags: tuple[str, ...] = ()
    gateways: int = 1


ARMS = {
    **{name: _Arm((f"--routing={rule.value}",)) for name, rule in RULES.items()},
    LOCAL: _Arm(("--no-remote-prefill",)),
    REMOTE: _Arm(("--remote-prefill-tokens=16",)),
    OURS: _Arm(),
    TWO_GATEWAYS: _Arm(gateways=2),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy made of one point."""

    num_requests: int
    num_good: int
    """That met both targets."""
    ttft_ms: tuple[float, float]
    """Median and 90th percentile."""
    tpot_ms: tuple[float, float]
    remote_share: float
    cached_share: float
    """Of prompt tokens: what a worker that computed the rest had cached."""
    system_cores: float
    client_cores: float

    @property
    def good_percent(self) -> float:
        """Of those counted."""
        return 100 * self.num_good / self.num_requests


Outcomes = Mapping[str, Outcome]
"""By arm."""


def measure(run: Run, files: Sequence[Path], num_requests: int) -> list[Table]:
    """Every arm starts its processes once and gets all points, the same for each of them."""
    todo = points(files, run.size(num_requests, 30), PROMPT_TOKENS_PER_S)
    todo = run.size(todo, todo[1::2])
    arms = run.size(ARMS, {name: ARMS[name] for name in QUICK})
    plan = _Progress(run, todo, len(arms))
    found: list[dict[str, Outcome]] = [{} for _ in todo]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "step_times.csv"
        table.write_text(_slower(STEP_TIMES.read_text()))
        for name, arm in arms.items():
            outcomes = asyncio.run(_measure_arm(plan, name, arm, table))
            for at, outcome in enumerate(outcomes):
                found[at][name] = outcome
    return [
        goodput_table(todo, found),
        verdict_table(todo, found),
        _detail_table(todo, found),
    ]


class _Progress:
    """Says what is measured and how long all of it will take."""

    def __init__(self, run: Run, todo: Sequence[Point], num_arms: int) -> None:
        self.run, self.todo = run, todo
        self._left_s = num_arms * (START_S + sum(p.span_s + DRAIN_S for p in todo))
        run.steps.begin("processes", num_arms * len(todo))

    def next(self, arm: str, point: Point) -> None:
        """A point begins."""
        left = f"about {self._left_s / 60:.1f} min left"
        self.run.steps.next(f"{arm}: {point.name} at load {point.load:g}, {left}")
        self._left_s -= point.span_s + DRAIN_S + START_S / len(self.todo)


async def _measure_arm(plan: _Progress, name: str, arm: _Arm, table: Path) -> list[Outcome]:
    worker = (f"--step-times={table}", f"--num-blocks={NUM_BLOCKS}")
    targets = (f"--default-ttft-ms={TTFT_MS:g}", f"--default-itl-ms={ITL_MS:g}")
    spec = SystemSpec(
        name,
        2,
        1,
        {"prefill": worker, "decode": worker, "gateway": ("--no-admission", *targets, *arm.flags)},
        decode=2,
        gateways=arm.gateways,
        engine="emulated",
    )
    async with running_system(spec, plan.run.console) as system, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(GatewayClient(address))
            for address in system.grpc_addresses
        ]
        outcomes = []
        for point in plan.todo:
            plan.next(name, point)
            outcomes.append(await _measure_point(system, clients, point))
        return outcomes


async def _measure_point(system: System, clients: Sequence[GatewayClient], point: Point) -> Outcome:
    before_s, meter = sum(system.cpu_seconds().values()), BusyMeter()
    replies = await _replay(clients, point.requests)
    wall_s, client_cores = meter.read()
    system_s = sum(system.cpu_seconds().values()) - before_s
    warm = min(NUM_WARM, len(replies) // 3)
    counted, requests = replies[warm:], point.requests[warm:]
    ttfts = [1e3 * reply.answer.ttft_s for reply in counted]
    tpots = [1e3 * (reply.answer.tpot_s or 0.0) for reply in counted]
    timings = [reply.timings for reply in counted]
    cached = sum(max(t.cached_token_count, t.prefill_cached_token_count) for t in timings)
    return Outcome(
        num_requests=len(counted),
        num_good=sum(a <= TTFT_MS and b <= ITL_MS for a, b in zip(ttfts, tpots, strict=True)),
        ttft_ms=(percentile(ttfts, 50) or 0.0, percentile(ttfts, 90) or 0.0),
        tpot_ms=(percentile(tpots, 50) or 0.0, percentile(tpots, 90) or 0.0),
        remote_share=sum(t.prefill_mode == PrefillMode.REMOTE.value for t in timings)
        / len(counted),
        cached_share=cached / sum(len(request.token_ids) for request in requests),
        system_cores=system_s / wall_s,
        client_cores=client_cores,
    )


async def _replay(clients: Sequence[GatewayClient], requests: Sequence[Planned]) -> list[Reply]:
    """Sends each at its time, to the gateways in turn."""
    began = time.monotonic()
    replies: list[Reply] = []
    async with task_group() as group:
        for number, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began + request.at_s - time.monotonic()))
            reply = new_reply()
            replies.append(reply)
            client = clients[number % len(clients)]
            group.create_task(client.ask(request.token_ids, request.num_output, reply))
    return replies


def _slower(table: str) -> str:
    lines = []
    for line in table.splitlines():
        if line.startswith("#") or line == ",".join([*AXES, VALUE]):
            lines.append(line)
        else:
            *point, time_us = line.split(",")
            lines.append(",".join([*point, f"{float(time_us) * SLOWER:g}"]))
    return "\n".join(lines) + "\n"


def goodput_table(todo: Sequence[Point], found: Sequence[Outcomes]) -> Table:
    """A row for each point, a column for each arm."""
    rows: list[tuple[Cell, ...]] = [
        (
            point.name,
            f"{point.load:g}",
            len(point.requests) / point.span_s,
            *(outcome.good_percent for outcome in outcomes.values()),
        )
        for point, outcomes in zip(todo, found, strict=True)
    ]
    num = next(iter(found[0].values())).num_requests
    return Table(
        "Percent that met both targets, on real processes",
        ("requests", "load", "req/s", *found[0]),
        tuple(rows),
        (
            f"2 prefill and 2 decode workers of {NUM_BLOCKS} blocks, `--engine emulated` at "
            f"{SLOWER} times the step times of examples/step_times.csv, Redis; `--no-admission`",
            f"targets: TTFT {TTFT_MS:g} ms, mean time between tokens {ITL_MS:g} ms",
            f"{num} requests counted at each point, behind up to {NUM_WARM} that are not: "
            f"1 % is {num / 100:.1f} requests. One run each: a share of 90 % is uncertain by "
            f"{100 * (0.09 / num) ** 0.5:.1f} points (standard error)",
            "load: prompt tokens that arrive over those that the prefill workers can compute, "
            "caches left out",
            f"uncached: Poisson arrivals, prompts of 50 to {workloads.MAX_PROMPT} tokens, mean "
            f"about 800, {workloads.NUM_OUTPUT} tokens out. Traces: lengths divided by a whole "
            f"number so that {workloads.FITTING:.0%} of the prompts fit into "
            f"{workloads.MAX_PROMPT} tokens, others cut; 2 to {workloads.MAX_OUTPUT} tokens out",
            "round robin, least load and longest prefix: `--routing`; always local: "
            "`--no-remote-prefill`; always remote: `--remote-prefill-tokens=16`",
            "each arm starts its processes once and gets all points in this order; of two "
            "gateways, requests are dealt in turn",
        ),
    )


def verdict_table(todo: Sequence[Point], found: Sequence[Outcomes]) -> Table:
    """Ours against the best of the others, point by point; notes say where it loses."""
    rows: list[tuple[Cell, ...]] = []
    losses = []
    for point, outcomes in zip(todo, found, strict=True):
        ours = outcomes[OURS]
        others = {name: o for name, o in outcomes.items() if name not in (OURS, TWO_GATEWAYS)}
        best = max(others, key=lambda name: others[name].num_good)
        fixed = [others[name].num_good for name in (LOCAL, REMOTE) if name in others]
        rows.append(
            (
                point.name,
                f"{point.load:g}",
                ours.num_good - max(fixed) if fixed else None,
                best,
                ours.num_good - others[best].num_good,
                outcomes[TWO_GATEWAYS].num_good - ours.num_good,
            )
        )
        for name, other in others.items():
            if other.num_good > ours.num_good:
                losses.append(
                    f"ours loses: {point.name} at load {point.load:g}, {name} had "
                    f"{other.num_good - ours.num_good} more of {ours.num_requests} in time"
                )
    return Table(
        "Requests that ours had in time more than others (fewer: below 0)",
        (
            "requests",
            "load",
            "than the better of local and remote",
            "best of all others",
            "than it",
            "2 gateways than 1",
        ),
        tuple(rows),
        tuple(losses) or ("ours loses at no point",),
    )


def _detail_table(todo: Sequence[Point], found: Sequence[Outcomes]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            point.name,
            f"{point.load:g}",
            name,
            *outcome.ttft_ms,
            *outcome.tpot_ms,
            100 * outcome.remote_share,
            100 * outcome.cached_share,
            outcome.system_cores,
            outcome.client_cores,
        )
        for point, outcomes in zip(todo, found, strict=True)
        for name, outcome in outcomes.items()
    ]
    return Table(
        "Real processes in detail",
        (
            "requests",
            "load",
            "policy",
            "TTFT p50 ms",
            "TTFT p90 ms",
            "TPOT p50 ms",
            "TPOT p90 ms",
            "remote %",
            "cached %",
            "cores of all processes",
            "client's share of a core",
        ),
        tuple(rows),
        ("cached: prompt tokens that whoever computed the rest had in its own cache",),
    )
