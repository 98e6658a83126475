"""Runs the jobs one by one and says what each took."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import torch

import kernels
from bench.failure import BenchFailed
from bench.kernels import attending, mixing, moving, rows
from bench.kernels.job import Call, Job, Planned, Setting
from bench.kernels.rates import Rates
from bench.kernels.timing import Stopwatch
from bench.options import Run

_LIKENESS = {torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest gap to torch's composition, which itself rounds where it likes: a check of the bench
itself. The kernels' own tests are far stricter."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One job's figures."""

    op: str
    shape: str
    implementation: str
    seconds: float
    num_bytes: float
    flops: float
    floor_s: float
    torch_s: float | None
    peers_s: dict[str, float]


def plan(setting: Setting, only: tuple[str, ...]) -> list[Planned]:
    """The jobs whose `op/shape` matches one of the patterns; all of them without patterns."""
    found = [
        planned
        for part in (rows, attending, moving, mixing)
        for planned in part.plan(setting)
        if not only or any(fnmatch(f"{planned.op}/{planned.shape}", each) for each in only)
    ]
    if not found:
        raise BenchFailed(f"no job matches {', '.join(only)}; names are like rms_norm/8 x 1024.")
    return found


def measure(
    run: Run,
    setting: Setting,
    jobs: list[Planned],
    watch: Stopwatch,
    rates: Rates,
    until: float | None = None,
) -> Iterator[Measured]:
    """In order; each job's memory is free before the next. None is begun after `until`, in
    monotonic seconds."""
    ops = kernels.load(setting.device)  # checks each op against its reference first
    run.steps.begin("Kernels", len(jobs))
    for planned in jobs:
        if until is not None and time.monotonic() > until:
            return
        run.steps.next(f"{planned.op} {planned.shape}")
        with torch.inference_mode():
            yield _measure(ops, planned, planned.make(), watch, rates)
        gc.collect()


def _measure(
    ops: kernels.Ops, planned: Planned, job: Job, watch: Stopwatch, rates: Rates
) -> Measured:
    run = getattr(ops, planned.op)

    def ours() -> object:
        return run(*job.arguments)

    _require_alike(planned, job, ours)
    implementation = ops.chosen[planned.op]
    # References may read on the host whatever they like.
    in_graph = implementation == "cuda" and not job.is_on_host
    composed = [job.composed] if job.composed else []
    if watch.device == "cpu":
        seconds, *torch_s = watch.measure([ours, *composed], in_graph=False)
    else:
        (seconds,) = watch.measure([ours], in_graph=in_graph)
        is_on_host = job.is_on_host or job.composed_is_on_host
        torch_s = watch.measure(composed, in_graph=not is_on_host)
    peers = {name: watch.measure([call], in_graph=True)[0] for name, call in job.peers.items()}
    return Measured(
        planned.op,
        planned.shape,
        implementation,
        seconds,
        job.num_bytes,
        job.flops,
        rates.floor_s(job),
        torch_s[0] if torch_s else None,
        peers,
    )


def _require_alike(planned: Planned, job: Job, ours: Call) -> None:
    """BenchFailed if ours and torch's differ: then one of them does not do the job."""
    if job.composed is None:
        return
    got, wanted = job.result(ours()), job.result(job.composed())
    if got is None or wanted is None:
        return
    likeness = _LIKENESS[got.dtype]
    gap = (got.float() - wanted.float()).abs() - likeness * wanted.float().abs()
    if gap.max().item() > likeness:
        raise BenchFailed(
            f"{planned.op} {planned.shape} is off torch's composition by {gap.max().item():.3g}."
        )
