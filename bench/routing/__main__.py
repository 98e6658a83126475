"""`python -m bench.routing`: the routing policy's goodput on traces, and what a decision costs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.entry import RESULTS, Opening, conclude, open_console
from bench.machine import describe_machine
from bench.options import Run
from bench.progress import Steps
from bench.report import PartResult, Report, Table, to_terminal
from bench.routing import goodput, processes, speed


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
    unseen_trace: Annotated[
        list[Path] | None,
        typer.Option(help="A trace of which only the held-out half is taken; repeatable."),
    ] = None,
    live_trace: Annotated[
        list[Path] | None,
        typer.Option(help="A trace for the real processes, in place of a made-up one; repeatable."),
    ] = None,
    live_requests: Annotated[
        int, typer.Option(min=30, help="Requests at each point of the real processes.")
    ] = 180,
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
    console = open_console()
    parts = list(dict.fromkeys(only or Part))
    files = _Traces(trace or [], unseen_trace or [], requests, live_trace or [], live_requests)
    done = [_measure(part, console, files, quick) for part in parts]
    report = Report(describe_machine(), quick, tuple(done), "Routing benchmark")
    stem = "routing" if parts == list(Part) else f"routing-{'-'.join(parts)}"
    conclude(report, out, ((stem, True), ("quick", quick)), console)


@dataclass(frozen=True, slots=True)
class _Traces:
    seen: list[Path]
    unseen: list[Path]
    num_requests: int
    live: list[Path]
    num_live_requests: int


def _measure(part: Part, console: Console, traces: _Traces, is_quick: bool) -> PartResult:
    opening = Opening()
    with Steps(console) as steps:
        run = Run(is_quick, steps, console)
        steps.begin(part.value, 1)
        tables: list[Table]
        if part is Part.GOODPUT:
            tables = goodput.measure(run, traces.seen, traces.unseen, traces.num_requests)
        elif part is Part.SPEED:
            tables = speed.measure(run)
        else:
            tables = processes.measure(run, traces.live, traces.num_live_requests)
    result = opening.result(part.value, tables)
    console.print(to_terminal(result))
    return result


if __name__ == "__main__":
    typer.run(main)
