"""`python -m bench.kvstore`: bytes per second, hit rates on traces, recovery after a kill."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench.entry import RESULTS, Opening, conclude, fail, open_console
from bench.failure import BenchFailed
from bench.kvstore.blocks import measure_blocks
from bench.kvstore.hits import measure_hits, read_trace
from bench.kvstore.recovery import measure_recovery
from bench.machine import describe_machine
from bench.options import Run
from bench.progress import Steps
from bench.report import Report, Table, to_terminal

PARTS = ("bytes", "hits", "recovery")
Part = Callable[[Run], Awaitable[list[Table]]]


def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Parts: {', '.join(PARTS)}; repeatable.")
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="Trace of JSON lines with hash_ids, for hits; repeatable."),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Most requests of a trace.")] = 10_000,
    disk_gb: Annotated[float, typer.Option(min=0.02, help="Size of the disk tier.")] = 10.0,
    disk: Annotated[Path | None, typer.Option(help="Where; a folder of its own is made.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shows that it works only.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for results.")] = RESULTS,
) -> None:
    """Measure the kvstore: GB/s beside memcpy and Redis, hits on traces, recovery after kill -9."""
    console = open_console()

    async def hits(run: Run) -> list[Table]:
        traces = [read_trace(path, run.size(requests, 300)) for path in trace or ()]
        return measure_hits(run, traces)

    async def recovery(run: Run) -> list[Table]:
        return await measure_recovery(run, int(run.size(disk_gb, 0.3) * 1e9), disk)

    parts: dict[str, Part] = {"bytes": measure_blocks, "hits": hits, "recovery": recovery}
    chosen = {name: part for name, part in parts.items() if not only or name in only}
    if not trace:
        console.print("hits skipped: no --trace was given", highlight=False)
        chosen.pop("hits", None)

    async def work() -> int:
        report = await _measure(chosen, console, is_quick=quick)
        # Parts may run at different times: hits need no quiet machine, the others do.
        words = ["kvstore", *(only or ()), *(["quick"] if quick else ())]
        conclude(report, out, ((word, True) for word in words), console)
        return 0

    try:
        sys.exit(run_until_signal(work))
    except (BenchFailed, BatonError) as error:
        fail(error, console)
        sys.exit(1)


async def _measure(parts: dict[str, Part], console: Console, *, is_quick: bool) -> Report:
    machine = describe_machine() | {"command": " ".join(["python -m bench.kvstore", *_words()])}
    results = []
    with Steps(console) as steps:
        for name, part in parts.items():
            opening = Opening()
            tables = await part(Run(is_quick, steps, console))
            results.append(opening.result(name, tables))
            await asyncio.sleep(0)
    for result in results:
        console.print(to_terminal(result))
    return Report(machine, is_quick, tuple(results), "The kvstore")


def _words() -> list[str]:
    """The command line, traces by their names."""
    return [Path(word).name if word.endswith(".jsonl") else word for word in sys.argv[1:]]


if __name__ == "__main__":
    typer.run(main)
