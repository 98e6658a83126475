"""`python -m bench.engine`: measures the engine on a CPU, beside transformers and other peers."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench.engine.checkpoint import SMALL, TINY, write_checkpoint
from bench.engine.errors import measure_errors
from bench.engine.floors import measure_floors
from bench.engine.run import run_cells
from bench.engine.subjects import TRANSFORMERS, SubjectSpec, openvino, our_subjects
from bench.engine.tables import error_table, tables
from bench.failure import BenchFailed
from bench.machine import describe_machine, is_busy, load_average, num_cores
from bench.options import Run
from bench.progress import Steps
from bench.report import PartResult, Report, Table, to_terminal, write
from kernels.native import NativeUnavailable

LIMIT_S = 1800.0
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model: shows that it works, not how fast.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Times that every cell is measured.")] = 3,
    threads: Annotated[int, typer.Option(min=0, help="Of every engine; 0: the cores.")] = 0,
    ablate: Annotated[
        bool, typer.Option(help="Also with other weights, and with parts left out.")
    ] = True,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps the checkpoint, and peers' forms of it beside it."),
    ] = None,
    peer_openvino: Annotated[
        Path | None,
        typer.Option(help="Virtual environment with openvino-genai and optimum-intel."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure the engine by itself: decode steps and prefill in float32, on a checkpoint made here.

    Prints tables and writes them as markdown and JSON. A full run takes about four minutes.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    ours = our_subjects() if ablate else our_subjects()[:1]
    specs = [*ours, *_peers(peer_openvino, console)]

    async def work() -> int:
        plan = Plan(tuple(specs), checkpoint, threads or num_cores(), rounds)
        report = await _measure(plan, console, is_quick=quick)
        write(report, out, _stem(is_quick=quick, is_part=not ablate), console)
        for warning in report.warnings:
            console.print(f"not for quoting: {warning}", style="bold yellow")
        return 0

    try:
        code = run_until_signal(work)
    except (BenchFailed, BatonError, NativeUnavailable) as error:
        console.print(f"\nbenchmark failed: {error}", style="bold red", markup=False)
        code = 1
    sys.exit(code)


def _stem(*, is_quick: bool, is_part: bool) -> str:
    """A partial or quick run must not take the place of a whole one."""
    return "-".join(["engine", *(["part"] if is_part else []), *(["quick"] if is_quick else [])])


def _peers(venv: Path | None, console: Console) -> list[SubjectSpec]:
    peers = []
    if importlib.util.find_spec("transformers") is None:
        console.print("transformers skipped: it is not installed (make install-dev)")
    else:
        peers.append(TRANSFORMERS)
    if venv is None:
        console.print("OpenVINO skipped: no --peer-openvino was given")
    else:
        peers.append(openvino(venv))
    return peers


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    specs: tuple[SubjectSpec, ...]
    checkpoint: Path | None
    threads: int
    rounds: int


async def _measure(plan: Plan, console: Console, *, is_quick: bool) -> Report:
    machine = describe_machine()
    machine["command"] = " ".join(["python -m bench.engine", *sys.argv[1:]])
    machine["threads"] = str(plan.threads)
    for name, value in machine.items():
        console.print(f"{name:9} {value}", highlight=False, markup=False)
    load, began = load_average(), time.monotonic()
    if is_busy(load):
        console.print(f"the machine is busy: load average {load:.2f}", style="yellow")
    found: list[Table] = []
    with tempfile.TemporaryDirectory() as scratch, Steps(console) as steps:
        model = plan.checkpoint or Path(scratch) / "small"
        config = write_checkpoint(model, TINY if is_quick else SMALL)
        floors = measure_floors(plan.threads)
        run = Run(is_quick, steps, console)
        try:
            async with asyncio.timeout(LIMIT_S):
                measured = await run_cells(
                    run, plan.specs, model, config, (plan.threads, plan.rounds)
                )
        except TimeoutError:
            raise BenchFailed(f"the run was not done within {LIMIT_S:.0f} s.") from None
        found += tables(measured, [spec.title for spec in plan.specs], floors, config)
        found.append(error_table(measure_errors()))
    seconds = time.monotonic() - began
    part = PartResult("Engine on a CPU", seconds, load, load_average(), tuple(found))
    console.print(to_terminal(part))
    return Report(machine, is_quick, (part,), "The engine on a CPU")


if __name__ == "__main__":
    typer.run(main)
