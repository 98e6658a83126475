"""`python -m bench.frontdoor`: measures the control path alone, beside a peer if there is one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from baton.cli.app import EngineKind
from baton.cli.errors import CommandError
from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench.entry import RESULTS, conclude, fail, introduce, open_console
from bench.failure import BenchFailed
from bench.frontdoor.cells import choose_cells
from bench.frontdoor.peer import Peer, find_peer
from bench.frontdoor.run import Plan, run_plan
from bench.frontdoor.tables import tables
from bench.frontdoor.targets import Options
from bench.machine import describe_machine
from bench.options import Run
from bench.progress import Steps
from bench.report import Report, to_terminal
from bench.sampler import print_profile

LIMIT_S = 1800.0
"""A full run takes some minutes; one that takes so long measures a machine in trouble."""


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
    console = open_console(260)

    async def work() -> int:
        peer = _find_peer(peer_dynamo, peer_router, console)
        if profile and gateways > 1:
            raise BenchFailed(f"--profile samples one gateway, --gateways asks for {gateways}.")
        options = Options(engine.value, gateways, kvstores, out if profile else None)
        plan = Plan(choose_cells(only or (), is_quick=quick), options, peer)
        report = await _measure(plan, console, is_quick=quick)
        kinds = (("frontdoor", True), ("part", only), ("quick", quick), ("profiled", profile))
        conclude(report, out, kinds, console)
        for group in dict.fromkeys(cell.group for cell in plan.cells):
            if path := options.profile_path(group):
                print_profile(path, f"Gateway of {group.name}", console)
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
    opening = introduce(machine, console)
    with Steps(console) as steps:
        try:
            async with asyncio.timeout(LIMIT_S):
                results = await run_plan(Run(is_quick, steps, console), plan)
        except TimeoutError:
            raise BenchFailed(f"the run was not done within {LIMIT_S:.0f} s.") from None
    part = opening.result("Control path", tables(results))
    console.print(to_terminal(part))
    return Report(machine, is_quick, (part,), "The control path alone")


if __name__ == "__main__":
    typer.run(main)
