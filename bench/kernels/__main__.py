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

from bench.failure import BenchFailed
from bench.kernels import peers
from bench.kernels.job import CPU_SIZES, GPU_SIZES, Setting
from bench.kernels.rates import measure_rates
from bench.kernels.run import measure, plan
from bench.kernels.tables import tables
from bench.kernels.timing import Budget, Stopwatch
from bench.machine import describe_machine, is_busy, load_average, num_cores
from bench.options import Run
from bench.progress import Steps
from bench.report import PartResult, Report, to_terminal, write

RESULTS = Path(__file__).resolve().parents[1] / "results"


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
    console = Console(width=None if sys.stdout.isatty() else 200)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = dtype or (DType.FLOAT32 if device == "cpu" else DType.BFLOAT16)
    sizes = CPU_SIZES if device == "cpu" else GPU_SIZES
    setting = Setting(device, getattr(torch, chosen.value), sizes)
    torch.set_num_threads(threads or num_cores())
    try:
        report = _run(setting, tuple(only or ()), console, is_quick=quick)
    except BenchFailed as error:
        console.print(f"\nbenchmark failed: {error}", style="bold red", markup=False)
        sys.exit(1)
    kinds = (
        (f"{threads}-threads", threads),
        ("part", only),
        ("quick", quick),
        (chosen.value, dtype),
    )
    stem = "-".join(["kernels", device, *(word for word, is_so in kinds if is_so)])
    write(report, out, stem, console)
    for warning in report.warnings:
        console.print(f"not for quoting: {warning}", style="bold yellow")


def _run(setting: Setting, only: tuple[str, ...], console: Console, *, is_quick: bool) -> Report:
    load, began = load_average(), time.monotonic()
    if is_busy(load):
        console.print(f"the machine is busy: load average {load:.2f}", style="yellow")
    machine = _describe(setting)
    for name, value in machine.items():
        console.print(f"{name:9} {value}", highlight=False, markup=False)
    torch.manual_seed(1)
    jobs = plan(setting, only)
    budget = Budget(0.01, 0.1, 2, 3) if is_quick else Budget(0.2, 1.5, 5, 40)
    watch = Stopwatch(setting.device, budget)
    rates = measure_rates(watch, setting.device, setting.dtype)
    with Steps(console) as steps:
        run = Run(is_quick, steps, console)
        results = list(measure(run, setting, jobs, watch, rates))
    seconds = time.monotonic() - began
    made = tuple(tables(results, rates))
    part = PartResult("Kernels", seconds, load, load_average(), made)
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
