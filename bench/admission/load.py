"""An open-loop client: requests leave when they are due, whatever became of those before them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from baton.client import AsyncClient, Chunk, Sampling, Slo
from baton.client.sessions import AsyncSession
from baton.client.types import Options
from baton.errors import BatonError
from bench.failure import BenchFailed

VOCABULARY = range(10, 250)
"""Ids that every model has."""
WARM_SHARE = 0.2
"""Of a load's time; what is due in it isn't counted."""
PATIENT = Slo(target_ttft_ms=600_000)
"""Of those who find out what saturation is."""
LEAVE_S = 30.0
"""Behind the last request's time: what isn't answered by then never is."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What makes an answer a good one."""

    ttft_s: float = 1.0
    """From when the request was due, not from when it was sent."""
    itl_s: float = 0.1
    """Mean over an answer."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How long prompts and answers are, in tokens: uniform, ends included."""

    prompt_lens: tuple[int, int] = (128, 960)
    output_lens: tuple[int, int] = (8, 32)
    long_share: float = 0.0
    """Of requests whose prompts are of `long_lens` instead."""
    long_lens: tuple[int, int] = (0, 0)

    def draw(self, draw: random.Random) -> tuple[int, int]:
        """One request's prompt and answer."""
        is_long = bool(self.long_share) and draw.random() < self.long_share
        lens = self.long_lens if is_long else self.prompt_lens
        return draw.randint(*lens), draw.randint(*self.output_lens)


PLAIN = Mix()


@dataclass(frozen=True, slots=True)
class Due:
    """A request and its time, in seconds from the start."""

    at_s: float
    prompt: tuple[int, ...]
    num_outputs: int
    tenant: str = ""
    priority: int = 0


# Not frozen: filled while its answer comes.
@dataclass(slots=True)
class Outcome:
    """What became of one."""

    due: Due
    due_at: float
    arrivals: list[float] = field(default_factory=list)
    error: str = ""
    retry_after_s: float | None = None
    is_done: bool = False

    @property
    def ttft_s(self) -> float | None:
        """None: no token came."""
        return self.arrivals[0] - self.due_at if self.arrivals else None

    def is_good(self, targets: Targets) -> bool:
        """Whole, and in time."""
        ttft_s = self.ttft_s
        if not self.is_done or self.error or ttft_s is None or ttft_s > targets.ttft_s:
            return False
        gaps = self.due.num_outputs - 1
        return gaps < 1 or (self.arrivals[-1] - self.arrivals[0]) / gaps <= targets.itl_s


def poisson(
    rate: float,
    seconds: float,
    seed: int,
    shares: Sequence[tuple[str, int, float]] = (),
    mix: Mix = PLAIN,
) -> list[Due]:
    """Requests at this rate; `shares` names tenants, priorities and weights among them."""
    draw = random.Random(seed)
    kinds = shares or (("", 0, 1.0),)
    dues, at_s = [], draw.expovariate(rate)
    while at_s < seconds:
        (tenant, priority, _) = draw.choices(kinds, [share for *_, share in kinds])[0]
        prompt_len, num_outputs = mix.draw(draw)
        prompt = tuple(draw.choices(VOCABULARY, k=prompt_len))
        dues.append(Due(at_s, prompt, num_outputs, tenant, priority))
        at_s += draw.expovariate(rate)
    return dues


class Client:
    """One session per gateway, in turn."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._stack = AsyncExitStack()
        self._sessions: list[AsyncSession] = []

    async def __aenter__(self) -> Client:
        for address in self._addresses:
            client = await self._stack.enter_async_context(AsyncClient(address))
            self._sessions.append(await self._stack.enter_async_context(client.session()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def bring(self, dues: Sequence[Due]) -> list[Outcome]:
        """Sends each when it is due; returns what became of those behind the warm-up."""
        parts = [dues[n :: len(self._sessions)] for n in range(len(self._sessions))]
        began = time.monotonic() + 0.1
        brought = await asyncio.gather(
            *(
                _bring(session, part, began)
                for session, part in zip(self._sessions, parts, strict=True)
                if part
            )
        )
        warm_s = WARM_SHARE * dues[-1].at_s
        return [outcome for part in brought for outcome in part if outcome.due.at_s >= warm_s]

    async def saturate(self, num_clients: int, seconds: float, seed: int) -> float:
        """Answers a second when so many clients ask without a pause."""
        # More of them than get answered; their times are of no interest.
        source = iter(poisson(1000.0, 1.0, seed))
        session, running = self._sessions[0], 0
        began = time.monotonic()
        counted = 0
        for _ in range(num_clients):
            _submit(session, next(source), PATIENT)
        running = num_clients
        async for _, event in session.events():
            if isinstance(event, Chunk):
                continue
            if isinstance(event, BatonError):
                raise BenchFailed(f"a request failed below saturation: {event.message}")
            passed_s = time.monotonic() - began
            counted += WARM_SHARE * seconds <= passed_s < seconds
            running -= 1
            if passed_s < seconds:
                _submit(session, next(source), PATIENT)
                running += 1
        return counted / ((1 - WARM_SHARE) * seconds)


async def _bring(session: AsyncSession, dues: Sequence[Due], began: float) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    news = asyncio.Event()

    async def read() -> None:
        while True:
            await news.wait()
            news.clear()
            async for handle, event in session.events():
                _note(outcomes[handle], event)

    reader = asyncio.create_task(read())
    try:
        for due in dues:
            await asyncio.sleep(began + due.at_s - time.monotonic())
            outcomes[_submit(session, due)] = Outcome(due, began + due.at_s)
            news.set()
        async with asyncio.timeout(LEAVE_S):
            while not all(outcome.is_done for outcome in outcomes.values()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    finally:
        reader.cancel()
    return list(outcomes.values())


def _submit(session: AsyncSession, due: Due, slo: Slo | None = None) -> int:
    sampling = Sampling(max_tokens=due.num_outputs, ignore_eos=True)
    options = Options(tenant=due.tenant, priority=due.priority, omit_text=True)
    # Without its tokens a chunk would say nothing, and not come.
    options["return_token_ids"] = True
    if slo is not None:
        options["slo"] = slo
    return session.submit(due.prompt, sampling, **options)


def _note(outcome: Outcome, event: object) -> None:
    if isinstance(event, Chunk):
        outcome.arrivals.append(time.monotonic())
        return
    outcome.is_done = True
    if isinstance(event, BatonError):
        outcome.error = event.status.reason
        outcome.retry_after_s = event.retry_after_s
