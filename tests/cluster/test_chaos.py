"""Processes die and hang at random under load: every answer is right, and nothing is lost or kept.

Fourteen seconds by default; for a longer look:
`BATON_CHAOS_SECONDS=150 make test ARGS=tests/cluster/test_chaos.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import oracle
import pytest
from cluster import Cluster
from decode_client import make_prompt, until_free

from baton.client import AsyncClient, Final, Sampling

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("BATON_CHAOS_SECONDS", "14"))
CALM_SECONDS = 4.0
"""Clients go on for so long behind the last fault."""
MIN_FAULTS = 3
NUM_CLIENTS = 12
MAX_TOKENS = 60
WORKERS = ("prefill-0", "prefill-1", "decode-0", "decode-1")
VICTIMS = (*WORKERS, "kvstore-0", "redis")
FLAGS = {
    # Prompts take several steps; the arena is too small for all, so that sequences are preempted.
    "prefill": ["--max-batch-tokens=32"],
    "decode": ["--num-blocks=220", "--verify-transfers", "--handoff-stall-seconds=1"],
}


@dataclass
class Load:
    """Clients that ask, compare, and sometimes leave in the middle of an answer."""

    client: AsyncClient
    prompts: list[list[int]]
    expected: list[list[int]]
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)

    async def run(self, is_over: asyncio.Event) -> None:
        """One client."""
        while not is_over.is_set():
            self.outcomes[await self._ask()] += 1

    async def _ask(self) -> str:
        index = self.random.randrange(len(self.prompts))
        max_tokens = self.random.randrange(1, MAX_TOKENS)
        leaves_at = self.random.randrange(1, 100)
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        events = self.client.generate(
            self.prompts[index],
            sampling,
            return_token_ids=True,
            timeout_s=60.0,
            cache_salt=self.random.choice(["", "a", "b"]),
        )
        tokens: list[int] = []
        num_finals = 0
        async for event in events:
            if isinstance(event, Final):
                num_finals += 1
            else:
                tokens += event.token_ids
            if len(tokens) >= leaves_at and not num_finals:
                await events.aclose()
                return "left"
        is_right = tokens == self.expected[index][:max_tokens] and num_finals == 1
        return "right" if is_right else f"wrong: prompt {index}, {tokens}"


async def break_things(cluster: Cluster, source: random.Random, until: float) -> int:
    """Kills and restarts, or stops and continues, one process after the other.

    On a busy machine a restart takes long: it goes on until there were `MIN_FAULTS`.
    """
    num_faults = 0
    while num_faults < MIN_FAULTS or time.monotonic() < until:
        await asyncio.sleep(source.uniform(0.5, 2.0))
        victim = source.choice(VICTIMS)
        if source.random() < 0.7:
            cluster.kill(victim)
            await asyncio.sleep(source.uniform(0.0, 1.0))
            # The new process ends with the thread that started it: the loop keeps its threads.
            await asyncio.to_thread(cluster.restart, victim)
        else:
            cluster.pause(victim)
            await asyncio.sleep(source.uniform(0.2, 3.0))
            cluster.resume(victim)
        num_faults += 1
    return num_faults


async def test_every_answer_is_right_while_processes_die_and_hang(start_cluster, model):
    lengths = (5, 17, 33, 64, 90, 130, 200, 260, 400, 600)
    prompts = [make_prompt(length, seed=90) for length in lengths]
    expected = oracle.greedy(model, prompts, MAX_TOKENS)
    cluster = start_cluster(model=model, prefill=2, decode=2, extra=FLAGS)
    source = random.Random(7)

    async with AsyncClient(cluster.address()) as client:
        load = Load(client, prompts, expected, source)
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_CLIENTS):
                group.create_task(load.run(is_over))
            until = time.monotonic() + SECONDS - CALM_SECONDS
            num_faults = await break_things(cluster, source, until)
            await asyncio.sleep(CALM_SECONDS)
            is_over.set()

    print(f"{dict(load.outcomes)} with {num_faults} faults in {SECONDS:.0f} s")
    assert load.outcomes.keys() <= {"right", "left"}
    assert load.outcomes["right"] > 50
    for name in WORKERS:
        await until_free(cluster.address(name), 10)
