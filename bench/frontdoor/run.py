"""One run over all chosen cells: system after system, its cells in turn with a peer's."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from baton.rpc.runtime import SETTLED_SECONDS
from bench.child import Child
from bench.frontdoor.cells import Cell, Group
from bench.frontdoor.measure import Bench, GroupResult, Measured, targets_with
from bench.frontdoor.messages import Door
from bench.frontdoor.peer import Peer, running_peer
from bench.frontdoor.targets import Baton, Options, Target, running_baton, write_model
from bench.options import Run

NUM_REPETITIONS = (3, 1)
"""Of a full and of a quick run."""
IDLE_S = (SETTLED_SECONDS + 1, 1.0)
"""Between the first token and the look at idle memory: our processes have settled by then."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    cells: Sequence[Cell]
    options: Options
    peer: Peer | None = None


async def run_plan(run: Run, plan: Plan) -> list[GroupResult]:
    """Measures all groups that have cells."""
    groups = list(dict.fromkeys(cell.group for cell in plan.cells))
    repetitions = run.size(*NUM_REPETITIONS)
    run.steps.begin("frontdoor", len(groups) + len(plan.cells) * (1 + repetitions))
    with tempfile.TemporaryDirectory() as scratch:
        # Its name is the model's.
        model = Path(scratch) / "demo"
        model.mkdir()
        write_model(model)
        async with (
            Child("bench.frontdoor.clients", "serve_http") as http,
            Child("bench.frontdoor.clients", "serve_grpc") as grpc,
        ):
            conductor = _Conductor(run, plan, model, Bench(model, http, grpc), repetitions)
            return [await conductor.measure(group) for group in groups]


@dataclass(frozen=True, slots=True)
class _Conductor:
    """Starts systems and has them asked."""

    run: Run
    plan: Plan
    model: Path
    bench: Bench
    repetitions: int

    async def measure(self, group: Group) -> GroupResult:
        """All cells of a group."""
        result = GroupResult(group.name)
        self.run.steps.next(f"starting {group.name}")
        async with self._running(group, result) as targets:
            await asyncio.sleep(self.run.size(*IDLE_S))
            result.idle_mib = {target.title: target.resident_mib() for target in targets}
            for cell in self.plan.cells:
                if cell.group == group:
                    result.measured += await self._measure_cell(targets, cell)
                    await self._measure_stream(targets, cell, result)
            result.end_mib = {target.title: target.resident_mib() for target in targets}
        return result

    @asynccontextmanager
    async def _running(self, group: Group, result: GroupResult) -> AsyncIterator[list[Target]]:
        """Our system and the peer's; one starts after the other."""
        targets: list[Target] = []
        async with AsyncExitStack() as stack:
            ours = running_baton(group, self.plan.options, self.model, self.run.console)
            targets.append(await stack.enter_async_context(ours))
            await self._note_first_token(targets[-1], group, result)
            # A pace of steps is ours alone: the peer's mock has a model of its own for its times.
            if self.plan.peer is not None and not group.step_us:
                theirs = running_peer(self.plan.peer, group, self.model)
                targets.append(await stack.enter_async_context(theirs))
                await self._note_first_token(targets[-1], group, result)
            yield targets

    async def _note_first_token(self, target: Target, group: Group, result: GroupResult) -> None:
        result.first_token_s[target.title] = await self.bench.first_token_s(target, group)

    async def _measure_cell(self, targets: Sequence[Target], cell: Cell) -> list[Measured]:
        asked = targets_with(targets, cell.door)
        found = [Measured(cell, target.title) for target in asked]
        self.run.steps.next(f"{cell.name}, warming up")
        for target in asked:
            await self.bench.warm(target, cell)
        for number in range(1, self.repetitions + 1):
            self.run.steps.next(f"{cell.name}, repetition {number}")
            for target, into in zip(asked, found, strict=True):
                await self.bench.repeat(target, into)
        return found

    async def _measure_stream(
        self, targets: Sequence[Target], cell: Cell, result: GroupResult
    ) -> None:
        """What of a lone client's time is spent behind the gateway."""
        if cell.num_clients > 1 or cell.door is not Door.QUICK or cell.group.prefill:
            return
        ours = next(target for target in targets if isinstance(target, Baton))
        address = ours.system.address("decode")
        result.stream_ttfts_s[cell.shape] = await self.bench.stream_ttfts(address, cell)
