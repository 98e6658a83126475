"""Goodput of policies on traces at several loads, simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baton.cli.topology import STEP_TIMES
from baton.engine.step_times import StepTimes, read_step_times
from baton.policy.workers import RoutingConfig
from bench.options import Run as BenchRun
from bench.report import Cell, Table
from bench.routing.fleet import FleetSpec
from bench.routing.policies import policies
from bench.routing.simulator import Result, Run, Targets
from bench.routing.traces import Trace, made_up, mean_tokens, read_trace

MADE_UP = ("chat", "documents", "mixed", "bursts")
HELD_OUT_SEED = 1
"""Made-up traces of this seed were never looked at while the policy's weights were chosen."""
LOADS = (0.5, 0.9, 1.3, 2.0)
"""Prompt tokens that arrive over those that the prefill workers can compute, caches left out."""
MAX_TOKENS = 8000
TWO_GATEWAYS = "ours, 2 gateways"
MAX_WORSE = 0.02
"""By how much of the better one's goodput ours may be worse than always local or always remote."""


@dataclass(frozen=True, slots=True)
class Point:
    """One trace at one load under all policies."""

    trace: str
    load: float
    is_held_out: bool
    per_s: float
    """Requests per second."""
    results: dict[str, Result]

    @property
    def better_fixed(self) -> int:
        """Good requests of the better of always local and always remote."""
        return max(self.results[name].num_good for name in ("always local", "always remote"))

    @property
    def gain(self) -> float:
        """Ours over that, minus 1, relative to the requests where that is very small."""
        base = max(self.better_fixed, 0.01 * self.results["ours"].num_requests)
        return (self.results["ours"].num_good - self.better_fixed) / base


def measure(
    run: BenchRun, files: Sequence[Path], unseen: Sequence[Path], num_requests: int
) -> list[Table]:
    """Tables for made-up traces and those in files, of which `unseen` are held out as a whole."""
    times = read_step_times(STEP_TIMES)
    traces = [made_up(kind, num_requests) for kind in MADE_UP]
    traces += [read_trace(path, num_requests, MAX_TOKENS) for path in files]
    for kind in run.size(MADE_UP, MADE_UP[:1]):
        traces.append(replace(made_up(kind, num_requests, HELD_OUT_SEED), is_held_out=True))
    traces += [
        read_trace(path, num_requests, MAX_TOKENS, is_held_out=True) for path in [*files, *unseen]
    ]
    points: list[Point] = []
    for trace in traces:
        for load in run.size(LOADS, LOADS[1:2]):
            run.steps.next(f"{trace.name} at load {load:g}")
            points.append(_point(trace, load, times))
    seen, held_out = (
        [point for point in points if point.is_held_out is which] for which in (False, True)
    )
    return [
        _verdict({"tuned on": seen, "held out": held_out}),
        _goodput_table("requests that the weights were chosen on", seen, num_requests),
        _goodput_table("requests held out", held_out, num_requests),
        _detail_table(points),
    ]


def _point(trace: Trace, load: float, times: StepTimes) -> Point:
    spec = FleetSpec()
    budget = spec.max_batch_tokens
    per_second = spec.num_prefill * budget / times.step_us(budget, 0, budget) * 1e6
    wanted = load * per_second / mean_tokens(trace.requests)
    faster = trace.sped_up(wanted * trace.span_s / len(trace.requests))
    targets = Targets()
    config = replace(RoutingConfig(), target_ttft_ms=targets.ttft_ms, target_itl_ms=targets.itl_ms)
    runs = {name: (policy, 1) for name, policy in policies().items()}
    runs[TWO_GATEWAYS] = (runs["ours"][0], 2)
    results = {
        name: Run(faster, policy, times, spec=spec, config=config, num_gateways=count).result(
            targets
        )
        for name, (policy, count) in runs.items()
    }
    return Point(trace.name, load, trace.is_held_out, wanted, results)


def _goodput_table(title: str, points: Sequence[Point], num_requests: int) -> Table:
    names = list(points[0].results)
    rows: list[tuple[Cell, ...]] = []
    for point in points:
        shares = [100 * r.num_good / r.num_requests for r in point.results.values()]
        rows.append((point.trace, f"{point.load:g}", point.per_s, *shares))
    targets, spec = Targets(), FleetSpec()
    return Table(
        f"Percent that met both targets: {title}",
        ("trace", "load", "req/s", *names),
        tuple(rows),
        (
            f"simulated: {spec.num_prefill} prefill and {spec.num_decode} decode workers with the "
            f"made-up step times of examples/step_times.csv, chunks of {spec.max_batch_tokens}",
            f"targets: TTFT {targets.ttft_ms:g} ms, mean ITL {targets.itl_ms:g} ms; "
            f"{num_requests} requests of each trace, lengths divided so that none exceeds "
            f"{MAX_TOKENS} tokens, sped up to the load",
            "load: prompt tokens that arrive over those that the prefill workers can compute",
            "held out: made-up traces of another seed, the others from the middle of the file on; "
            "weights were chosen with the beginnings in view",
            "round robin, least load and longest prefix send what exceeds 64 uncached tokens to a "
            "prefill worker; nothing is refused, so above load 1 queues grow",
        ),
    )


def _detail_table(points: Sequence[Point]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for point in points:
        ours = point.results["ours"]
        rows.append(
            (
                point.trace + (", held out" if point.is_held_out else ""),
                f"{point.load:g}",
                ours.ttft_p50_ms,
                ours.ttft_p90_ms,
                ours.itl_p50_ms,
                ours.itl_p90_ms,
                100 * ours.remote_share,
                100 * ours.cached_share,
                ours.prediction_error_ms,
                100 * point.gain,
            )
        )
    return Table(
        "Ours in detail",
        (
            "trace",
            "load",
            "TTFT p50 ms",
            "TTFT p90 ms",
            "ITL p50 ms",
            "ITL p90 ms",
            "remote %",
            "cached %",
            "error p50 ms",
            "gain %",
        ),
        tuple(rows),
        (
            "error: predicted against simulated TTFT; the workers' models are learnt in the run",
            "gain: good requests over those of the better of always local and always remote",
        ),
    )


def _verdict(groups: Mapping[str, Sequence[Point]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, points in groups.items():
        worst = min(points, key=lambda point: point.gain)
        best = max(points, key=lambda point: point.gain)
        rows.append(
            (
                name,
                len(points),
                sum(point.gain < -MAX_WORSE for point in points),
                sum(point.gain >= 0.1 for point in points),
                f"{100 * worst.gain:+.1f} % ({worst.trace} at {worst.load:g})",
                f"{100 * best.gain:+.1f} % ({best.trace} at {best.load:g})",
                max(map(_herding, points)),
            )
        )
    return Table(
        "Choosing per request against the better of always local and always remote",
        (
            "requests",
            "points",
            "worse by over 2 %",
            "better by 10 % or more",
            "worst",
            "best",
            "two gateways worse than one by at most, points",
        ),
        tuple(rows),
    )


def _herding(point: Point) -> float:
    """By how many percent of all requests two gateways that share state are worse than one."""
    one, two = point.results["ours"], point.results[TWO_GATEWAYS]
    return 100 * (one.num_good - two.num_good) / one.num_requests
