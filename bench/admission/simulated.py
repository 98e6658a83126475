"""`python -m bench.admission.simulated`: admission's own code before simulated workers, on a
virtual clock: what it does under load without a machine's noise, or with as much as is asked for.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, TypeVar

import typer

from baton.engine.step_times import read_step_times
from baton.errors import Overloaded
from baton.policy.admission import Patience, Pool
from baton.policy.shares import Line
from baton.request import SamplingParams
from baton.tokens import TokenIds
from bench.admission.load import PLAIN, Due, Mix, Outcome, Targets, poisson
from bench.entry import open_console
from bench.report import PartResult, Table, to_terminal
from bench.routing.fleet import Clock, Fleet, FleetSpec, Flight
from bench.routing.traces import TraceRequest
from services.gateway.halls import Hall, Ticket
from services.gateway.pools import AHEAD_S, BEGINNING_SHARE, STEPS_AHEAD, tokens_per_s
from services.gateway.tenants import Tenants
from services.gateway.types import GenerateCommand

TARGETS = Targets()
TIMES = Path(__file__).parents[2] / "examples" / "step_times.csv"
LOADS = (0.7, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
MIXES = {
    "plain": PLAIN,
    "some long": Mix((32, 256), (8, 32), 0.1, (1500, 2500)),
    "long answers": Mix((16, 256), (32, 128)),
}
NUM_CLIENTS = 96
"""Without a pause: enough to fill an engine's steps, whose pace is saturation."""
PATIENT_S = 600.0
POLL_S = 0.25
SLOW_S = 2.0
"""How long a machine stays as slow as it is."""

Result = TypeVar("Result")


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


class _Machine:
    """By how much steps are slower than a table says: alike for a while, and each by itself."""

    def __init__(self, noise: float, seed: int, clock: Callable[[], float]) -> None:
        self._noise, self._clock = noise, clock
        self._rng = random.Random(seed)
        self._slow, self._slow_at = 0.0, 0.0

    def slowness(self) -> float:
        """Of the next step."""
        if not self._noise:
            return 1.0
        now = self._clock()
        kept = math.exp((self._slow_at - now) / SLOW_S)
        drawn = self._rng.gauss(0, self._noise)
        self._slow = kept * self._slow + math.sqrt(1 - kept * kept) * drawn
        self._slow_at = now
        return math.exp(self._slow + self._rng.gauss(0, self._noise))


class _World:
    """One gateway's hall and one decode worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, noise: float, seed: int) -> None:
        self._loop = loop
        self._spec = FleetSpec(num_prefill=0, num_decode=1)
        machine = _Machine(noise, seed, loop.time)
        times = read_step_times(TIMES)
        self._fleet = Fleet(self._spec, _LoopClock(loop), times, 16, machine.slowness)
        self._num = 0
        [self._worker] = self._fleet.workers.values()
        self._word = self._worker.published
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

    async def saturate(self, dues: Iterator[Due], seconds: float) -> float:
        """Answers a second of patient clients without a pause."""
        began, ends = self._loop.time(), []

        async def ask() -> None:
            while self._loop.time() < began + seconds:
                await self._request(next(dues), PATIENT_S)
                ends.append(self._loop.time() - began)

        await asyncio.gather(*(ask() for _ in range(NUM_CLIENTS)))
        return sum(0.2 * seconds <= end < seconds for end in ends) / (0.8 * seconds)

    def _poll(self) -> None:
        self._word = self._worker.published
        self._loop.call_later(POLL_S, self._poll)

    def _look(self, model: str, own_sequences: int, own_tokens: float, line: Line) -> Pool:
        rate = tokens_per_s(self._word.learned)
        num_tokens = max(STEPS_AHEAD * self._spec.max_batch_tokens, round(AHEAD_S * rate))
        return Pool(1, round(self._spec.max_sequences * (1 + BEGINNING_SHARE)), num_tokens, rate)

    async def _request(self, due: Due, target_s: float = TARGETS.ttft_s) -> Outcome:
        hall, now = self._hall, self._loop.time()
        outcome = Outcome(due, now)
        patience = Patience(target_s, target_s)
        command = GenerateCommand(
            request_id="",
            model="m",
            token_ids=TokenIds.of(due.prompt),
            sampling=SamplingParams(max_tokens=due.num_outputs),
            arrived_at=now,
            tenant=due.tenant,
            priority=due.priority,
        )
        demand = hall.forecast.demand(len(due.prompt), 1, due.num_outputs)
        ticket = Ticket(hall, command, demand, patience)
        try:
            if hall.queue:
                hall.check_early(due.tenant, due.priority, patience)
            if not hall.take(ticket):
                hall.join(ticket, PATIENT_S)
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
            ticket.started(self._loop.time())

        def end() -> None:
            outcome.arrivals.append(self._loop.time())
            outcome.is_done = True
            ticket.leave(due.num_outputs)
            ended.set_result(None)

        flight.on_first_token, flight.on_end = first_token, end
        ticket.placed(num_tokens)
        self._fleet.submit(flight, "d0", "")
        await ended


def _simulated(noise: float, seed: int, bring: Callable[[_World], Awaitable[Result]]) -> Result:
    """What comes of a world of its own."""
    selector = _Skipping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]

    async def run() -> Result:
        return await bring(_World(loop, noise, seed))

    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def saturation(mix: Mix, noise: float, seed: int, seconds: float) -> float:
    """Answers a second of clients without a pause."""
    dues = iter(poisson(1000.0, 10.0, seed, mix=mix))
    return _simulated(noise, seed, lambda world: world.saturate(dues, seconds))


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one load, per second but `late`, a share of what was asked."""

    asked: float
    asked_tokens: float
    good: float
    good_tokens: float
    """Prompt tokens of good answers."""
    late: float


def outcomes_of(dues: Sequence[Due], noise: float = 0.0, seed: int = 0) -> list[Outcome]:
    """What becomes of requests on a system of their own, those of the warm-up left out."""
    return _simulated(noise, seed, lambda world: world.bring(dues))


def simulate(
    rate: float, mix: Mix = PLAIN, noise: float = 0.0, seed: int = 0, seconds: float = 15.0
) -> Sums:
    """So many requests a second."""
    drawn = poisson(rate, seconds, 1000 * seed + 1, mix=mix)
    # Exactly the rate: a few per cent more or less are all that matters around saturation.
    stretch = len(drawn) / (rate * seconds)
    dues = [replace(due, at_s=stretch * due.at_s) for due in drawn]
    outcomes = outcomes_of(dues, noise, seed)
    span_s = 0.8 * dues[-1].at_s
    good = [outcome for outcome in outcomes if outcome.is_good(TARGETS)]
    num_late = sum(not o.error and not o.is_good(TARGETS) for o in outcomes)
    return Sums(
        len(outcomes) / span_s,
        sum(len(outcome.due.prompt) for outcome in outcomes) / span_s,
        len(good) / span_s,
        sum(len(outcome.due.prompt) for outcome in good) / span_s,
        num_late / len(outcomes),
    )


def goodput(
    mix: Mix, loads: Sequence[float], noise: float, seeds: Sequence[int], seconds: float = 15.0
) -> list[Sums]:
    """At each load, a share of saturation: means over seeds."""
    rate = fmean(saturation(mix, noise, seed, seconds) for seed in seeds)
    found = []
    for load in loads:
        runs = [simulate(load * rate, mix, noise, seed, seconds) for seed in seeds]
        found.append(
            Sums(
                fmean(run.asked for run in runs),
                fmean(run.asked_tokens for run in runs),
                fmean(run.good for run in runs),
                fmean(run.good_tokens for run in runs),
                fmean(run.late for run in runs),
            )
        )
    return found


COLUMNS = (
    "load",
    "asked/s",
    "good/s",
    "% of peak",
    "prompt tokens asked/s",
    "good prompt tokens/s",
    "% of peak",
    "late %",
)


def table(name: str, noise: float, num_seeds: int) -> Table:
    """One mix, all loads."""
    sums = goodput(MIXES[name], LOADS, noise, range(num_seeds))
    peak, peak_tokens = max(s.good for s in sums), max(s.good_tokens for s in sums)
    rows = tuple(
        (
            load,
            s.asked,
            s.good,
            100 * s.good / peak,
            s.asked_tokens,
            s.good_tokens,
            100 * s.good_tokens / peak_tokens,
            100 * s.late,
        )
        for load, s in zip(LOADS, sums, strict=True)
    )
    return Table(f"Simulated goodput over load: {name}, noise {noise:g}", COLUMNS, rows)


def main(
    *,
    mix: Annotated[list[str] | None, typer.Option(help="One of the mixes; all.")] = None,
    noise: Annotated[float, typer.Option(help="Spread of step times, in the logarithm.")] = 0.0,
    seeds: Annotated[int, typer.Option(help="Runs to average.")] = 4,
) -> None:
    """Print good answers over load, simulated. About half a second a load and seed."""
    tables = tuple(table(name, noise, seeds) for name in mix or MIXES)
    open_console().print(to_terminal(PartResult("simulated", 0.0, 0.0, 0.0, tables)))


if __name__ == "__main__":
    typer.run(main)
