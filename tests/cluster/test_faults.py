"""What a client sees when a process dies: the same answer, late."""

from __future__ import annotations

import asyncio

import oracle
import pytest
from decode_client import make_prompt, until_free, worker_facts

from baton.client import AsyncClient, Final, Sampling
from baton.request import PrefillMode

pytestmark = pytest.mark.cluster

GREEDY = Sampling(temperature=0.0, max_tokens=120, ignore_eos=True)
SLOW_PREFILL = {"prefill": ["--max-batch-tokens=1"]}


class Stream:
    """An answer that gathers in the background."""

    def __init__(self, client: AsyncClient, prompt: list[int], sampling: Sampling = GREEDY) -> None:
        self.token_ids: list[int] = []
        self.final: Final | None = None
        self._events = client.generate(prompt, sampling, return_token_ids=True)
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def has(self, num_tokens: int) -> None:
        """Waits until so many tokens came."""
        while len(self.token_ids) < num_tokens:
            self._changed.clear()
            await self._changed.wait()

    async def _read(self) -> None:
        async for event in self._events:
            if isinstance(event, Final):
                self.final = event
            else:
                self.token_ids += event.token_ids
            self._changed.set()


async def until_busy(address: str) -> None:
    """Waits until a worker has a sequence."""
    while not (await worker_facts(address)).sequence_count:
        pass


async def busier_first(cluster, *worker_ids: str) -> list[str]:
    """Workers, the one with the most sequences first: streams may all be on one."""
    facts = [await worker_facts(cluster.address(worker_id)) for worker_id in worker_ids]
    counts = {
        worker_id: fact.sequence_count for worker_id, fact in zip(worker_ids, facts, strict=True)
    }
    return sorted(worker_ids, key=counts.__getitem__, reverse=True)


async def test_prefill_killed_in_mid_prompt(start_cluster, model):
    cluster = start_cluster(model=model, extra=SLOW_PREFILL)
    prompt = make_prompt(700, seed=70)

    async with AsyncClient(cluster.address()) as client:
        stream = Stream(client, prompt)
        await until_busy(cluster.address("prefill-0"))
        cluster.kill("prefill-0")
        await stream.task
        after = Stream(client, make_prompt(200, seed=71))
        await after.task

    assert stream.token_ids == oracle.greedy(model, [prompt], 120)[0]
    assert stream.final.samples[0].timings.prefill_mode is PrefillMode.FALLBACK
    assert after.token_ids == oracle.greedy(model, [make_prompt(200, seed=71)], 120)[0]
    await until_free(cluster.address("decode-0"), 5)


async def test_decode_killed_in_mid_answer_moves_to_another(start_cluster, model):
    cluster = start_cluster(model=model, decode=2, prefill=1)
    prompts = [make_prompt(40 + 50 * index, seed=72) for index in range(4)]
    seeded = Sampling(temperature=0.8, seed=3, max_tokens=800, ignore_eos=True)

    async with AsyncClient(cluster.address()) as client:
        reference = [Stream(client, prompt, seeded) for prompt in prompts]
        await asyncio.gather(*(stream.task for stream in reference))
        streams = [Stream(client, prompt, seeded) for prompt in prompts]
        await asyncio.gather(*(stream.has(20) for stream in streams))
        victim, other = await busier_first(cluster, "decode-0", "decode-1")
        cluster.kill(victim)
        await asyncio.gather(*(stream.task for stream in streams))

    answers = [stream.token_ids for stream in streams]
    assert answers == [stream.token_ids for stream in reference]
    assert {stream.final.samples[0].decode_worker_id for stream in streams} == {other}
    assert any(stream.final.samples[0].num_migrations for stream in streams)


async def test_redis_killed_and_restarted_empty(start_cluster, model):
    cluster = start_cluster(model=model)
    prompts = [make_prompt(100, seed=73 + index) for index in range(4)]
    expected = oracle.greedy(model, prompts, 120)

    async with AsyncClient(cluster.address()) as client:
        during = Stream(client, prompts[0])
        await during.has(5)
        cluster.kill("redis")
        await during.task
        without = Stream(client, prompts[1])
        await without.task
        cluster.restart("redis")
        back = Stream(client, prompts[2])
        await back.task

    assert [s.token_ids for s in (during, without, back)] == expected[:3]
    assert without.final.samples[0].timings.prefill_mode is PrefillMode.REMOTE


async def test_kvstore_killed_while_requests_run(start_cluster, model):
    cluster = start_cluster(model=model)
    prompts = [make_prompt(300, seed=80 + index) for index in range(3)]

    async with AsyncClient(cluster.address()) as client:
        streams = [Stream(client, prompt) for prompt in prompts[:2]]
        await streams[0].has(1)
        cluster.kill("kvstore-0")
        streams.append(Stream(client, prompts[2]))
        await asyncio.gather(*(stream.task for stream in streams))

    assert [s.token_ids for s in streams] == oracle.greedy(model, prompts, 120)
