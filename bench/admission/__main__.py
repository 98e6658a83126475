"""`python -m bench.admission`: goodput up to and beyond saturation, with admission and without."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from baton.cli.errors import CommandError
from baton.cli.running import run_until_signal
from baton.errors import BatonError
from bench.admission.load import Client, Outcome, Targets, poisson
from bench.entry import RESULTS, Opening, conclude, fail, open_console
from bench.failure import BenchFailed
from bench.machine import describe_machine
from bench.options import Run
from bench.progress import Steps
from bench.report import Cell, PartResult, Report, Table, to_terminal
from bench.stats import milliseconds
from bench.system import SystemSpec, running_system

LIMIT_S = 400.0
LOADS = (0.7, 1.0, 1.25, 1.5, 2.0)
QUICK_LOADS = (1.0, 1.5)
BESIDE_LOADS = {"1 decode": (1.0, 1.5), "1 prefill, 1 decode": (1.5,)}
"""By shape, where first come, first served is measured too; its lines take long to end."""
SATURATING_CLIENTS = 48
SATURATING_S = 8.0
TARGETS = Targets()
TENANTS = (("many", 0, 0.9), ("few", 0, 0.1))
"""Names, priorities and shares of what is asked for: nine to one, with equal weights."""
ROOM = ("--max-requests=4096", "--max-session-requests=4096")
"""So that nothing but admission refuses."""
FIRST_COME = ("--no-admission",)
ARMS = {
    "admission": (f"--target-ttft-seconds={TARGETS.ttft_s:g}",),
    "first come, first served": FIRST_COME,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A system to load."""

    name: str
    prefill: int
    decode: int
    gateways: int = 1


ONE = Shape("1 decode", 0, 1)
PAIR = Shape("1 prefill, 1 decode", 1, 1)
SHARED = Shape("2 decode, 2 gateways", 0, 2, 2)


@dataclass(frozen=True, slots=True)
class Point:
    """One load on one arm."""

    load: float
    rate: float
    seconds: float
    outcomes: Sequence[Outcome]

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return sum(outcome.is_good(TARGETS) for outcome in self.outcomes) / self.seconds

    @property
    def good_tokens(self) -> float:
        """Prompt tokens of good answers a second."""
        good = (outcome for outcome in self.outcomes if outcome.is_good(TARGETS))
        return sum(len(outcome.due.prompt) for outcome in good) / self.seconds

    def row(self, names: Sequence[Cell], peak: float, peak_tokens: float) -> tuple[Cell, ...]:
        """As a line of a table; peaks of 0: there are none."""
        ends = Counter(
            outcome.error or ("ok" if outcome.is_done else "open") for outcome in self.outcomes
        )
        served = [outcome.ttft_s for outcome in self.outcomes if outcome.ttft_s is not None]
        return (
            *names,
            self.load,
            self.rate,
            len(self.outcomes),
            self.goodput,
            100 * self.goodput / peak if peak else None,
            ends["ok"],
            ends["OVERLOADED"],
            len(self.outcomes) - ends["ok"] - ends["OVERLOADED"],
            milliseconds(served, 50),
            milliseconds(served, 99),
            self.good_tokens,
            100 * self.good_tokens / peak_tokens if peak_tokens else None,
        )


COLUMNS = (
    "load",
    "asked/s",
    "n",
    "goodput/s",
    "% of peak",
    "answered",
    "refused",
    "other ends",
    "TTFT p50 ms",
    "TTFT p99 ms",
    "good prompt tokens/s",
    "% of peak",
)


def system(shape: Shape, arm: str) -> SystemSpec:
    """Emulated workers behind gateways of an arm."""
    return SystemSpec(
        f"{shape.name}, {arm}",
        prefill=shape.prefill,
        decode=shape.decode,
        gateways=shape.gateways,
        threads=1,
        engine="emulated",
        flags={"gateway": [*ROOM, *ARMS[arm]]},
    )


async def measure_shape(run: Run, shape: Shape, loads: Sequence[float]) -> Table:
    """Goodput over load, both arms."""
    seconds = run.size(10.0, 6.0)
    points: dict[str, list[Point]] = {}
    rate = 0.0
    for arm, flags in ARMS.items():
        run.steps.next(f"{shape.name}: {arm}")
        wanted = BESIDE_LOADS.get(shape.name, ()) if flags == FIRST_COME else loads
        if not wanted:
            continue
        async with (
            running_system(system(shape, arm), run.console) as live,
            Client(live.grpc_addresses) as client,
        ):
            await client.saturate(4, 1.0, seed=0)
            # The first arm's is everybody's: the loads must be the same.
            rate = rate or await client.saturate(SATURATING_CLIENTS, SATURATING_S, seed=1)
            points[arm] = [
                await measure_point(client, load, load * rate, seconds) for load in wanted
            ]
    measured = [(arm, point) for arm, found in points.items() for point in found]
    peak = max(point.goodput for _, point in measured)
    peak_tokens = max(point.good_tokens for _, point in measured)
    rows = [point.row((arm,), peak, peak_tokens) for arm, point in measured]
    notes = (
        f"saturation: {rate:.2f} answers/s from {SATURATING_CLIENTS} clients without a pause",
        f"good: first token within {TARGETS.ttft_s:g} s of when the request was due, mean time "
        f"between tokens at most {TARGETS.itl_s * 1e3:g} ms, whole",
        f"Poisson arrivals for {seconds:g} s, the first fifth not counted; prompts of 128 to 960 "
        "random tokens, answers of 8 to 32",
        "% of peak: of the most good answers a second, and of their prompt tokens, at any load",
    )
    return Table(f"Goodput over load: {shape.name}", ("arm", *COLUMNS), tuple(rows), notes)


async def measure_point(client: Client, load: float, rate: float, seconds: float) -> Point:
    """One load."""
    dues = poisson(rate, seconds, seed=round(1000 * load))
    outcomes = await client.bring(dues)
    return Point(load, rate, 0.8 * dues[-1].at_s, outcomes)


async def measure_tenants(run: Run, shape: Shape, load: float) -> Table:
    """Who is served when one tenant asks for nine times as much as the other."""
    seconds = run.size(10.0, 8.0)
    rows: list[tuple[Cell, ...]] = []
    rate = 0.0
    for arm in ARMS:
        run.steps.next(f"tenants: {arm}")
        async with (
            running_system(system(shape, arm), run.console) as live,
            Client(live.grpc_addresses) as client,
        ):
            await client.saturate(4, 1.0, seed=0)
            rate = rate or await client.saturate(SATURATING_CLIENTS, SATURATING_S, seed=1)
            dues = poisson(load * rate, seconds, 7, TENANTS)
            outcomes = await client.bring(dues)
        for tenant, _, _ in TENANTS:
            mine = [outcome for outcome in outcomes if outcome.due.tenant == tenant]
            point = Point(load, len(mine) / (0.8 * seconds), 0.8 * seconds, mine)
            rows.append(point.row((arm, tenant), 0.0, 0.0))
    notes = ("equal weights; a tenant that asks for less than its share gets all it asks for",)
    title = f"Two tenants, nine to one, {shape.name}"
    return Table(title, ("arm", "tenant", *COLUMNS), tuple(rows), notes)


class Part(StrEnum):
    """What can be measured alone."""

    ONE = "one"
    PAIR = "pair"
    SHARED = "shared"
    TENANTS = "tenants"


async def measure(run: Run, part: Part) -> Table:
    """One part's table."""
    loads = run.size(LOADS, QUICK_LOADS)
    match part:
        case Part.ONE:
            return await measure_shape(run, ONE, loads)
        case Part.PAIR:
            return await measure_shape(run, PAIR, QUICK_LOADS)
        case Part.SHARED:
            return await measure_shape(run, SHARED, QUICK_LOADS)
        case Part.TENANTS:
            return await measure_tenants(run, ONE, 3.0)


async def measure_parts(run: Run, parts: Sequence[Part]) -> list[PartResult]:
    """Each with how busy the machine was around it."""
    run.steps.begin("admission", len(ARMS) * len(parts))
    results = []
    for part in parts:
        opening = Opening()
        async with asyncio.timeout(LIMIT_S):
            table = await measure(run, part)
        result = opening.result(part.value, [table])
        run.console.print(to_terminal(result))
        results.append(result)
    return results


def kept(path: Path, measured: Sequence[PartResult]) -> list[PartResult]:
    """The parts of an earlier run that this one has not measured again, and those it has."""
    found = {part.name: part for part in measured}
    if path.exists():
        for raw in json.loads(path.read_text())["parts"]:
            tables = tuple(
                Table(
                    table["title"],
                    tuple(table["columns"]),
                    tuple(map(tuple, table["rows"])),
                    tuple(table["notes"]),
                )
                for table in raw["tables"]
            )
            found.setdefault(raw["name"], PartResult(**{**raw, "tables": tables}))
    return [found[part.value] for part in Part if part.value in found]


def main(
    *,
    only: Annotated[
        list[Part] | None,
        typer.Option(
            help="Measure only this and keep the other results; repeatable.", show_default="all"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run: shows that it works, not how well.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure goodput under overload: real processes, emulated engines, an open-loop client."""
    console = open_console()

    async def work() -> int:
        command = " ".join(["python -m bench.admission", *sys.argv[1:]])
        machine = describe_machine() | {"command": command}
        with Steps(console) as steps:
            parts = await measure_parts(Run(quick, steps, console), only or list(Part))
        stem = "admission-quick" if quick else "admission"
        parts = kept(out / f"{stem}.json", parts)
        report = Report(machine, quick, tuple(parts), "Admission under overload")
        conclude(report, out, [(stem, True)], console)
        return 0

    try:
        code = run_until_signal(work)
    except (BenchFailed, BatonError, CommandError, TimeoutError) as error:
        fail(error, console)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    typer.run(main)
