"""`python -m bench.engine`: measures the engine on a CPU, beside transformers and other peers."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import tempfile
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
from bench.entry import RESULTS, conclude, fail, introduce, open_console
from bench.failure import BenchFailed
from bench.machine import describe_machine, num_cores
from bench.options import Run
from bench.progress import Steps
from bench.report import Report, Table, to_terminal
from kernels.native import NativeUnavailable

LIMIT_S = 1800.0


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
    console = open_console()
    ours = our_subjects() if ablate else our_subjects()[:1]
    specs = [*ours, *_peers(peer_openvino, console)]

    async def work() -> int:
        plan = Plan(tuple(specs), checkpoint, threads or num_cores(), rounds)
        report = await _measure(plan, console, is_quick=quick)
        words = (("engine", True), ("part", not ablate), ("quick", quick))
        conclude(report, out, words, console)
        return 0

    try:
        code = run_until_signal(work)
    except (BenchFailed, BatonError, NativeUnavailable) as error:
        fail(error, console)
        code = 1
    sys.exit(code)


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
    opening = introduce(machine, console)
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
        floors = floors.best(measure_floors(plan.threads))
        found += tables(measured, [spec.title for spec in plan.specs], floors, config)
        found.append(error_table(measure_errors()))
    part = opening.result("Engine on a CPU", found)
    console.print(to_terminal(part))
    return Report(machine, is_quick, (part,), "The engine on a CPU")


if __name__ == "__main__":
    typer.run(main)
