"""Disaggregated against one local engine: TTFT, ITL and tokens per second at three loads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench.arms import Arm, arm_specs
from bench.client import GatewayClient, Load, Prompts, run_closed_loop
from bench.interference import measure_interference
from bench.options import Run, total_threads, worker_threads
from bench.report import Cell, Table
from bench.stats import BURST_S, milliseconds, ratio
from bench.system import running_system

PROMPT_LEN = 256
OUTPUT_LEN = 64
CONCURRENCIES = (1, 8, 32)


@dataclass(slots=True)
class _Point:
    """All rounds of one arm at one concurrency."""

    loads: list[Load] = field(default_factory=list)
    idle_share: float = 0.0
    """Most CPU the arms that were not asked used meanwhile, in cores."""


async def run(run: Run) -> list[Table]:
    """Runs all systems side by side, asks them in turn, and compares."""
    num_rounds = run.size(3, 1)
    specs = arm_specs()
    num_steps = len(specs) + 2 * num_rounds * len(CONCURRENCIES) + num_rounds * len(specs)
    run.steps.begin("latency", num_steps)
    async with AsyncExitStack() as stack:
        arms = []
        for spec, mode in specs:
            run.steps.next(f"starting {spec.title}")
            system = await stack.enter_async_context(running_system(spec, run.console))
            client = await stack.enter_async_context(GatewayClient(system.address()))
            arms.append(Arm(system, client, mode))
        # Closed loops compare defaults; small chunks matter where prompts meet running streams.
        points = await _measure(run, arms, arms[:2], num_rounds)
        tables = [_table(points), _ratios(points)]
        tables.append(await measure_interference(run, arms, num_rounds))
    return tables


async def _measure(
    run: Run, arms: Sequence[Arm], asked: Sequence[Arm], num_rounds: int
) -> dict[tuple[str, int], _Point]:
    prompts = Prompts(seed=1)
    points = {(arm.title, count): _Point() for arm in asked for count in CONCURRENCIES}
    for concurrency in CONCURRENCIES:
        num_requests = run.size(max(30, 7 * concurrency), max(3, concurrency))
        for arm in asked:
            warm = prompts.draw_many(min(2 * concurrency, 16), PROMPT_LEN)
            await run_closed_loop(arm.client, warm, 8, concurrency)
        for number in range(1, num_rounds + 1):
            for arm in asked:
                run.steps.next(f"{arm.title}, {concurrency} at a time, round {number}")
                point = points[arm.title, concurrency]
                others = [other for other in arms if other is not arm]
                before = _total_cpu_s(others)
                load = await run_closed_loop(
                    arm.client,
                    prompts.draw_many(num_requests, PROMPT_LEN),
                    OUTPUT_LEN,
                    concurrency,
                )
                idle = (_total_cpu_s(others) - before) / load.wall_s
                point.idle_share = max(point.idle_share, idle)
                arm.require_modes(load.replies)
                point.loads.append(load)
    return points


def _total_cpu_s(arms: Sequence[Arm]) -> float:
    return sum(sum(arm.system.cpu_seconds().values()) for arm in arms)


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a point comes to, milliseconds but for the rate."""

    num_answers: int
    ttft_p50: float | None
    ttft_p99: float | None
    itl_p50: float | None
    itl_p99: float | None
    tpot_p50: float | None
    tokens_per_burst: float | None
    tokens_per_s: float
    client_percent: float


def _figures(point: _Point) -> _Figures:
    answers = [answer for load in point.loads for answer in load.answers]
    ttfts = [answer.ttft_s for answer in answers]
    gaps = [gap for answer in answers for gap in answer.gaps_s]
    tpots = [answer.tpot_s for answer in answers if answer.tpot_s is not None]
    num_tokens = sum(answer.num_tokens for answer in answers)
    return _Figures(
        num_answers=len(answers),
        ttft_p50=milliseconds(ttfts, 50),
        ttft_p99=milliseconds(ttfts, 99),
        itl_p50=milliseconds(gaps, 50),
        itl_p99=milliseconds(gaps, 99),
        tpot_p50=milliseconds(tpots, 50),
        tokens_per_burst=ratio(num_tokens, len(gaps) + len(answers)),
        tokens_per_s=num_tokens / sum(load.wall_s for load in point.loads),
        client_percent=100 * max(load.client_share for load in point.loads),
    )


def _table(points: dict[tuple[str, int], _Point]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for concurrency in CONCURRENCIES:
        for (title, at), point in points.items():
            if at != concurrency:
                continue
            f = _figures(point)
            times = (f.ttft_p50, f.ttft_p99, f.itl_p50, f.itl_p99, f.tpot_p50)
            rate = (f.tokens_per_burst, f.tokens_per_s, round(f.client_percent))
            rows.append((concurrency, title, f.num_answers, *times, *rate))
    idle = 100 * max(point.idle_share for point in points.values())
    return Table(
        f"{PROMPT_LEN} tokens in, {OUTPUT_LEN} out, closed loop through the gateway's gRPC",
        (
            "at a time",
            "system",
            "answers",
            "TTFT p50 ms",
            "TTFT p99 ms",
            "ITL p50 ms",
            "ITL p99 ms",
            "TPOT p50 ms",
            "tokens/burst",
            "out tokens/s",
            "client % of a core",
        ),
        tuple(rows),
        (*_notes(), f"systems that were not being asked used at most {idle:.0f} % of a core"),
    )


def _notes() -> tuple[str, ...]:
    each, whole = worker_threads(), total_threads()
    return (
        f"disaggregated: 1 prefill and 1 decode worker, {each} thread(s) each; one engine: 1 decode"
        f" worker, {whole} threads, prompts computed there in chunks of up to 512 tokens",
        "both share the same cores with their gateway, Redis and this client: no worker has "
        "hardware of its own, so what disaggregation gains in tokens/s here is that two "
        "one-threaded workers use two cores better than one two-threaded engine with so small "
        "a model",
        "random prompts, none asked twice; greedy; end-of-sequence ignored; rounds of the two "
        "systems take turns",
        "TTFT: from sending the request to the first chunk that holds a token. ITL: gap between "
        f"chunks; a chunk of several tokens is one gap, and chunks within {1e3 * BURST_S:g} ms are "
        "one burst, counted as one chunk. TPOT: (last chunk - first) / (tokens - 1). tokens/s: "
        "from the first request sent to the last one ended",
    )


def _ratios(points: dict[tuple[str, int], _Point]) -> Table:
    titles = list(dict.fromkeys(title for title, _ in points))
    rows: list[tuple[Cell, ...]] = []
    for concurrency in CONCURRENCIES:
        ours, theirs = (_figures(points[title, concurrency]) for title in titles)
        spread = [_round_ratio(points, titles, concurrency, number) for number in _rounds(points)]
        rows.append(
            (
                concurrency,
                ratio(ours.ttft_p50, theirs.ttft_p50),
                ratio(ours.ttft_p99, theirs.ttft_p99),
                ratio(ours.itl_p50, theirs.itl_p50),
                ratio(ours.itl_p99, theirs.itl_p99),
                ratio(ours.tpot_p50, theirs.tpot_p50),
                ratio(ours.tokens_per_s, theirs.tokens_per_s),
                f"{min(spread):.2f} to {max(spread):.2f}",
            )
        )
    return Table(
        "Disaggregated over one engine (below 1: disaggregated is faster; tokens/s: above 1)",
        (
            "at a time",
            "TTFT p50",
            "TTFT p99",
            "ITL p50",
            "ITL p99",
            "TPOT p50",
            "tokens/s",
            "tokens/s by round",
        ),
        tuple(rows),
    )


def _rounds(points: dict[tuple[str, int], _Point]) -> range:
    return range(len(next(iter(points.values())).loads))


def _round_ratio(
    points: dict[tuple[str, int], _Point], titles: Sequence[str], concurrency: int, number: int
) -> float:
    ours, theirs = (points[title, concurrency].loads[number] for title in titles)
    return _rate(ours) / _rate(theirs)


def _rate(load: Load) -> float:
    return sum(answer.num_tokens for answer in load.answers) / load.wall_s
