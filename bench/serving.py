"""`python -m bench.serving`: measures a served model on this machine, one table per question."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from baton.cli.errors import CommandError
from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench import cancel, handoff, hops, latency, startup
from bench.entry import RESULTS, Opening, conclude, fail, introduce, open_console
from bench.failure import BenchFailed
from bench.machine import describe_machine
from bench.options import Run
from bench.progress import Steps
from bench.report import Report, Table, to_terminal

PART_LIMIT_S = 600.0
"""A part takes a minute or a few; one that takes so long measures a machine in trouble."""


class Part(StrEnum):
    """What can be measured alone."""

    LATENCY = "latency"
    HOPS = "hops"
    HANDOFF = "handoff"
    STARTUP = "startup"
    CANCEL = "cancel"


_PARTS: dict[Part, Callable[[Run], Awaitable[list[Table]]]] = {
    Part.LATENCY: latency.run,
    Part.HOPS: hops.run,
    Part.HANDOFF: handoff.run,
    Part.STARTUP: startup.run,
    Part.CANCEL: cancel.run,
}


def main(
    only: Annotated[
        list[Part] | None, typer.Option(help="Measure only this; repeatable.", show_default="all")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run: shows that it works, not how fast.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure Baton on this machine: latency, hops, hand-off, start-up, cancel.

    Prints tables and writes them as markdown and JSON. A full run takes about ten minutes.
    """
    console = open_console()
    parts = list(dict.fromkeys(only or _PARTS))

    async def work() -> int:
        report = await _measure(parts, console, is_quick=quick)
        conclude(report, out, [(file_stem(parts, is_quick=quick), True)], console)
        return 0

    try:
        code = run_until_signal(work)
    except (BenchFailed, BatonError, CommandError) as error:
        fail(error, console)
        code = 1
    else:
        if code:
            console.print("\ninterrupted: nothing was written")
    sys.exit(code)


async def _measure(parts: Sequence[Part], console: Console, *, is_quick: bool) -> Report:
    machine = describe_machine()
    introduce(machine, console)
    results = []
    with Steps(console) as steps:
        run = Run(is_quick, steps, console)
        for part in parts:
            opening = Opening()
            tables = await _within_limit(part, _PARTS[part](run))
            result = opening.result(part.value, tables)
            console.print(to_terminal(result))
            results.append(result)
    return Report(machine, is_quick, tuple(results))


async def _within_limit(part: Part, work: Awaitable[list[Table]]) -> list[Table]:
    try:
        async with asyncio.timeout(PART_LIMIT_S):
            return await work
    except TimeoutError:
        raise BenchFailed(f"{part.value} was not done within {PART_LIMIT_S:.0f} s.") from None


def file_stem(parts: Sequence[Part], *, is_quick: bool) -> str:
    """A partial or quick run must not take the place of a whole one."""
    words = ["serving"]
    if len(parts) < len(_PARTS):
        words += [part.value for part in parts]
    return "-".join([*words, *(["quick"] if is_quick else [])])


if __name__ == "__main__":
    typer.run(main)
