"""`python -m bench.routing`: the routing policy's goodput on traces, and what a decision costs."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.machine import describe_machine, load_average
from bench.options import Run
from bench.progress import Steps
from bench.report import PartResult, Report, Table, to_terminal, write
from bench.routing import goodput, processes, speed

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Part(StrEnum):
    """What can be measured alone."""

    GOODPUT = "goodput"
    SPEED = "speed"
    PROCESSES = "processes"


def main(
    *,
    only: Annotated[
        list[Part] | None, typer.Option(help="Measure only this; repeatable.", show_default="all")
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="A trace besides the made-up ones, as JSON lines; repeatable."),
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="Requests taken of each trace.")] = 400,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run: shows that it works, not how fast.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure routing: goodput of policies on traces, decisions per second, real processes.

    Prints tables and writes them as markdown and JSON. Goodput is simulated and the same on any
    machine; the other two depend on it.
    """
    console = Console(width=None if sys.stdout.isatty() else 200)
    parts = list(dict.fromkeys(only or Part))
    done = [_measure(part, console, trace or [], requests, quick) for part in parts]
    report = Report(describe_machine(), quick, tuple(done), "Routing benchmark")
    stem = "routing" if parts == list(Part) else f"routing-{'-'.join(parts)}"
    write(report, out, f"{stem}-quick" if quick else stem, console)
    for warning in report.warnings:
        console.print(f"not for quoting: {warning}", style="bold yellow")


def _measure(
    part: Part, console: Console, files: list[Path], num_requests: int, is_quick: bool
) -> PartResult:
    before, began = load_average(), time.monotonic()
    with Steps(console) as steps:
        run = Run(is_quick, steps, console)
        steps.begin(part.value, 1)
        tables: list[Table]
        if part is Part.GOODPUT:
            tables = goodput.measure(run, files, num_requests)
        elif part is Part.SPEED:
            tables = speed.measure(run)
        else:
            tables = processes.measure(run)
    result = PartResult(part.value, time.monotonic() - began, before, load_average(), tuple(tables))
    console.print(to_terminal(result))
    return result


if __name__ == "__main__":
    typer.run(main)
