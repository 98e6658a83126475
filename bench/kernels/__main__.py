"""`python -m bench.kernels`: measures each op against the floor and torch's own composition."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from bench.entry import RESULTS, conclude, fail, introduce, open_console
from bench.failure import BenchFailed
from bench.kernels import peers
from bench.kernels.job import CPU_SIZES, GPU_SIZES, Setting
from bench.kernels.rates import measure_rates
from bench.kernels.run import measure, plan
from bench.kernels.tables import tables
from bench.kernels.timing import Budget, Stopwatch
from bench.machine import describe_machine, num_cores
from bench.options import Run
from bench.progress import Steps
from bench.report import Report, to_terminal


class DType(StrEnum):
    """What the tensors hold."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def main(
    *,
    device: Annotated[str, typer.Option(help="cpu or cuda.", show_default="what there is")] = "",
    dtype: Annotated[
        DType | None,
        typer.Option(help="Type of tensors.", show_default="float32 on a CPU, else bfloat16"),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Of a CPU run.", show_default="the cores")
    ] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Jobs, as op/shape with wildcards, such as 'pack_blocks/*'; repeatable.",
            show_default="all",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="No job is begun after so many.", show_default="no limit")
    ] = 0.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run: shows that it works, not how fast.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure every op of kernels/: time, bytes, FLOPs and share of the machine's floor.

    Prints tables and writes them as markdown and JSON. A full run takes about two minutes.
    """
    console = open_console()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = dtype or (DType.FLOAT32 if device == "cpu" else DType.BFLOAT16)
    sizes = CPU_SIZES if device == "cpu" else GPU_SIZES
    setting = Setting(device, getattr(torch, chosen.value), sizes)
    torch.set_num_threads(threads or num_cores())
    try:
        report = _run(setting, tuple(only or ()), console, seconds, is_quick=quick)
    except BenchFailed as error:
        fail(error, console)
        sys.exit(1)
    kinds = (
        ("kernels", True),
        (device, True),
        (f"{threads}-threads", threads),
        ("part", only),
        ("quick", quick),
        (chosen.value, dtype),
    )
    conclude(report, out, kinds, console)


def _run(
    setting: Setting, only: tuple[str, ...], console: Console, limit_s: float, *, is_quick: bool
) -> Report:
    until = time.monotonic() + limit_s if limit_s else None
    machine = _describe(setting)
    opening = introduce(machine, console)
    torch.manual_seed(1)
    jobs = plan(setting, only)
    budget = Budget(0.01, 0.1, 2, 3) if is_quick else Budget(0.2, 1.5, 5, 40)
    watch = Stopwatch(setting.device, budget)
    rates = measure_rates(watch, setting.device, setting.dtype)
    with Steps(console) as steps:
        run = Run(is_quick, steps, console)
        results = list(measure(run, setting, jobs, watch, rates, until))
    if len(results) < len(jobs):
        console.print(f"{len(jobs) - len(results)} jobs were left out: no time", style="yellow")
        machine["left out"] = ", ".join(f"{j.op}/{j.shape}" for j in jobs[len(results) :])
    part = opening.result("Kernels", tables(results, rates))
    console.print(to_terminal(part))
    return Report(machine, is_quick, (part,), "Kernels")


def _describe(setting: Setting) -> dict[str, str]:
    facts = describe_machine() | {"command": " ".join(["python -m bench.kernels", *sys.argv[1:]])}
    facts["sizes"] = f"{setting.sizes.name}; {str(setting.dtype).removeprefix('torch.')}"
    if setting.device == "cpu":
        return facts | {"threads": str(torch.get_num_threads())}
    facts["device"] = torch.cuda.get_device_name(setting.device)
    return facts | {"peers": ", ".join(peers.found()) or "none in this run"}


if __name__ == "__main__":
    typer.run(main)
