"""`python -m bench.admission.simulated`: admission's own code before simulated workers, on a
virtual clock: what it does under load without a machine's noise, or with as much as is asked for.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from baton.engine.step_times import read_step_times
from baton.errors import Overloaded
from baton.policy.admission import Patience, Pool
from baton.policy.shares import Line
from baton.request import SamplingParams
from baton.tokens import TokenIds
from bench.admission.load import Due, Outcome, Targets, poisson
from bench.routing.fleet import Clock, Fleet, FleetSpec, Flight
from bench.routing.traces import TraceRequest
from services.gateway.halls import Hall, Ticket
from services.gateway.pools import AHEAD_S, BEGINNING_SHARE, STEPS_AHEAD, tokens_per_s
from services.gateway.tenants import Tenants
from services.gateway.types import GenerateCommand

TARGETS = Targets()
TIMES = Path(__file__).parents[2] / "examples" / "step_times.csv"
LOADS = (0.7, 1.0, 1.1, 1.25, 1.5, 2.0)
SATURATION = 18.75
"""Answers a second of 48 clients without a pause, without noise."""
POLL_S = 0.25
SLOW_S = 2.0
"""How long a machine stays as slow as it is."""


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing: it moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is due any more")
        self.now += timeout
        return super().select(0)


class _LoopClock(Clock):
    """A fleet's clock that is an event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def at(self, time_s: float, run: Callable[[], None]) -> None:
        self._loop.call_at(time_s, self._call, run)

    def after(self, seconds: float, run: Callable[[], None]) -> None:
        self._loop.call_later(seconds, self._call, run)

    def _call(self, run: Callable[[], None]) -> None:
        self.now = self._loop.time()
        run()


class _World:
    """One gateway's hall and one decode worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, noise: float, seed: int) -> None:
        self._loop = loop
        self._spec = FleetSpec(num_prefill=0, num_decode=1)
        self._fleet = Fleet(self._spec, _LoopClock(loop), read_step_times(TIMES), 16)
        self._rng = random.Random(seed)
        self._noise, self._slow, self._slow_at = noise, 0.0, 0.0
        self._num = 0
        [worker] = self._fleet.workers.values()
        steady = worker._step_us
        worker._step_us = lambda *work: steady(*work) * self._factor()
        self._word = worker.published
        self._hall = Hall("m", self._look, Tenants(), loop.time)
        self._poll()

    async def bring(self, dues: Sequence[Due]) -> list[Outcome]:
        """Sends each when it is due; returns those behind the warm-up."""
        began, tasks = self._loop.time(), []
        for due in dues:
            await asyncio.sleep(began + due.at_s - self._loop.time())
            tasks.append(asyncio.create_task(self._request(due)))
        outcomes = await asyncio.gather(*tasks)
        return [outcome for outcome in outcomes if outcome.due.at_s >= 0.2 * dues[-1].at_s]

    def _factor(self) -> float:
        """By how much a step is slower than the table says."""
        now = self._loop.time()
        kept = math.exp((self._slow_at - now) / SLOW_S)
        drawn = self._rng.gauss(0, self._noise)
        self._slow = kept * self._slow + math.sqrt(1 - kept * kept) * drawn
        self._slow_at = now
        return math.exp(self._slow + self._rng.gauss(0, self._noise))

    def _poll(self) -> None:
        [worker] = self._fleet.workers.values()
        self._word = worker.published
        self._loop.call_later(POLL_S, self._poll)

    def _look(self, model: str, own_sequences: int, own_tokens: float, line: Line) -> Pool:
        rate = tokens_per_s(self._word.learned)
        num_tokens = max(STEPS_AHEAD * self._spec.max_batch_tokens, round(AHEAD_S * rate))
        return Pool(1, round(self._spec.max_sequences * (1 + BEGINNING_SHARE)), num_tokens, rate)

    async def _request(self, due: Due) -> Outcome:
        hall, now = self._hall, self._loop.time()
        outcome = Outcome(due, now)
        patience = Patience(TARGETS.ttft_s, TARGETS.ttft_s)
        command = GenerateCommand(
            request_id="",
            model="m",
            token_ids=TokenIds.of(due.prompt),
            sampling=SamplingParams(max_tokens=due.num_outputs),
            arrived_at=now,
        )
        demand = hall.forecast.demand(len(due.prompt), 1, due.num_outputs)
        ticket = Ticket(hall, command, demand, patience)
        try:
            if hall.queue:
                hall.check_early("", 0, patience)
            if not hall.take(ticket):
                hall.join(ticket, 600.0)
                await ticket.wait()
        except Overloaded:
            outcome.error, outcome.is_done = "OVERLOADED", True
            return outcome
        await self._serve(outcome, ticket)
        return outcome

    async def _serve(self, outcome: Outcome, ticket: Ticket) -> None:
        self._num += 1
        num_tokens, due = len(outcome.due.prompt), outcome.due
        blocks = tuple(range(1000 * self._num, 1000 * self._num + num_tokens // 16))
        flight = Flight(TraceRequest(0.0, num_tokens, due.num_outputs, blocks), self._loop.time())
        ended = self._loop.create_future()

        def first_token() -> None:
            outcome.arrivals.append(self._loop.time())
            ticket.started()

        def end() -> None:
            outcome.arrivals.append(self._loop.time())
            outcome.is_done = True
            ticket.leave(due.num_outputs)
            ended.set_result(None)

        flight.on_first_token, flight.on_end = first_token, end
        ticket.placed(num_tokens)
        self._fleet.submit(flight, "d0", "")
        await ended


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one load: per second but `late`, a share of what was asked."""

    asked: float
    good: float
    good_tokens: float
    late: float


def simulate(load: float, noise: float, seed: int, seconds: float = 15.0) -> Sums:
    """One load on a system that was warmed up at 0.9."""
    selector = _Skipping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]

    async def run() -> Sums:
        world = _World(loop, noise, seed)
        await world.bring(poisson(0.9 * SATURATION, 5.0, seed))
        dues = poisson(load * SATURATION * math.exp(-noise * noise), seconds, 1000 * seed + 1)
        outcomes = await world.bring(dues)
        span_s = 0.8 * dues[-1].at_s
        good = [outcome for outcome in outcomes if outcome.is_good(TARGETS)]
        num_late = sum(not o.error and not o.is_good(TARGETS) for o in outcomes)
        num_tokens = sum(len(outcome.due.prompt) for outcome in good)
        return Sums(
            len(outcomes) / span_s,
            len(good) / span_s,
            num_tokens / span_s,
            num_late / len(outcomes),
        )

    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def main(
    *,
    noise: Annotated[float, typer.Option(help="Spread of step times, in the logarithm.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Runs to average.")] = 4,
) -> None:
    """Print good answers over load, simulated. About half a second a load and seed."""
    print("load  asked/s  good/s  good prompt tokens/s  late %")
    for load in LOADS:
        runs = [simulate(load, noise, seed) for seed in range(seeds)]
        asked, good, tokens, late = (
            sum(values) / seeds
            for values in zip(
                *((r.asked, r.good, r.good_tokens, r.late) for r in runs), strict=True
            )
        )
        print(f"{load:4.2f} {asked:8.2f} {good:7.2f} {tokens:21.0f} {100 * late:7.1f}")


if __name__ == "__main__":
    typer.run(main)
