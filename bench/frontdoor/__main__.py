"""`python -m bench.frontdoor`: measures the control path alone, beside a peer if there is one."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from baton.cli.app import EngineKind
from baton.cli.errors import CommandError
from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench.failure import BenchFailed
from bench.frontdoor.cells import choose_cells
from bench.frontdoor.peer import Peer, find_peer
from bench.frontdoor.run import Plan, run_plan
from bench.frontdoor.tables import tables
from bench.frontdoor.targets import Options
from bench.machine import describe_machine, is_busy, load_average
from bench.options import Run
from bench.progress import Steps
from bench.report import PartResult, Report, to_terminal, write
from bench.sampler import print_profile

LIMIT_S = 1800.0
"""A full run takes some minutes; one that takes so long measures a machine in trouble."""
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Cells, as system/clients/in/out/door with wildcards, such as 'agg2/64/*/quick'; "
            "repeatable.",
            show_default="all",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run: shows that it works, not how fast.")
    ] = False,
    engine: Annotated[
        EngineKind, typer.Option(help="The workers' engine; echo takes no time.")
    ] = EngineKind.ECHO,
    gateways: Annotated[int, typer.Option(min=1, help="Gateway processes.")] = 1,
    kvstores: Annotated[int, typer.Option(min=0, help="Kvstore processes.")] = 0,
    peer_dynamo: Annotated[
        Path | None,
        typer.Option(help="Virtual environment with NVIDIA Dynamo, measured in the same run."),
    ] = None,
    peer_router: Annotated[str, typer.Option(help="How the peer's front end routes.")] = "kv",
    profile: Annotated[
        bool, typer.Option("--profile", help="Sample the gateway and print where its CPU goes.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure Baton's control path: doors, gateway, streams, scheduler, block pool; no arithmetic.

    Prints tables and writes them as markdown and JSON. A full run takes about five minutes.
    """
    console = Console(width=None if sys.stdout.isatty() else 260)

    async def work() -> int:
        peer = _find_peer(peer_dynamo, peer_router, console)
        if profile and gateways > 1:
            raise BenchFailed(f"--profile samples one gateway, --gateways asks for {gateways}.")
        options = Options(engine.value, gateways, kvstores, out if profile else None)
        plan = Plan(choose_cells(only or (), is_quick=quick), options, peer)
        report = await _measure(plan, console, is_quick=quick)
        # A partial, quick or slowed run must not take the place of a whole one.
        kinds = (("part", only), ("quick", quick), ("profiled", profile))
        stem = "-".join(["frontdoor", *(word for word, is_so in kinds if is_so)])
        write(report, out, stem, console)
        for group in dict.fromkeys(cell.group for cell in plan.cells):
            if path := options.profile_path(group):
                print_profile(path, f"Gateway of {group.name}", console)
        for warning in report.warnings:
            console.print(f"not for quoting: {warning}", style="bold yellow")
        return 0

    try:
        code = run_until_signal(work)
    except (BenchFailed, BatonError, CommandError) as error:
        console.print(f"\nbenchmark failed: {error}", style="bold red", markup=False)
        code = 1
    else:
        if code:
            console.print("\ninterrupted: nothing was written")
    sys.exit(code)


def _find_peer(venv: Path | None, router: str, console: Console) -> Peer | None:
    if venv is None:
        console.print("peer skipped: no --peer-dynamo was given", highlight=False)
        return None
    found = find_peer(venv, router)
    if isinstance(found, str):
        console.print(f"peer skipped: {found}", style="yellow", highlight=False, markup=False)
        return None
    return found


async def _measure(plan: Plan, console: Console, *, is_quick: bool) -> Report:
    command = " ".join(["python -m bench.frontdoor", *sys.argv[1:]])
    machine = describe_machine() | {"command": command}
    machine["peer"] = plan.peer.title if plan.peer else "none in this run"
    for name, value in machine.items():
        console.print(f"{name:9} {value}", highlight=False, markup=False)
    load, began = load_average(), time.monotonic()
    if is_busy(load):
        console.print(f"the machine is busy: load average {load:.2f}", style="yellow")
    with Steps(console) as steps:
        try:
            async with asyncio.timeout(LIMIT_S):
                results = await run_plan(Run(is_quick, steps, console), plan)
        except TimeoutError:
            raise BenchFailed(f"the run was not done within {LIMIT_S:.0f} s.") from None
    seconds = time.monotonic() - began
    part = PartResult("Control path", seconds, load, load_average(), tuple(tables(results)))
    console.print(to_terminal(part))
    return Report(machine, is_quick, (part,), "The control path alone")


if __name__ == "__main__":
    typer.run(main)
