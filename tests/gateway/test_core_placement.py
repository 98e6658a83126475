"""Where requests go, what is booked for them, and which prefill workers are avoided."""

from __future__ import annotations

import asyncio

import pytest

from baton.blocks import chain_keys, root_key
from baton.errors import NoWorker
from baton.policy import failures
from baton.policy.learned import Learned, Road
from baton.registry.records import LoadRecord
from baton.request import FinishReason, PrefillMode, SequenceTimings
from services.gateway import metrics, placement
from tests.support.fake_decode import LAYOUT, FakeDecode, eventually
from tests.support.gateway_world import World, prefill_record

LONG = "the quick brown fox jumps over the lazy dog, and again"


def keys_of(world: World, prompt: str, salt: str = "") -> list[bytes]:
    root = root_key(LAYOUT.namespace, salt)
    return list(chain_keys(root, world.ids(prompt), LAYOUT.block_size))


def hold(world: World, worker: FakeDecode, prompt: str, salt: str = "") -> None:
    for key in keys_of(world, prompt, salt):
        world.directory.index.store(worker.worker_id, key)


async def finish(task: asyncio.Task, worker: FakeDecode, **timings: object) -> None:
    await worker.submissions[-1].send(end=FinishReason.LENGTH, timings=SequenceTimings(**timings))
    await task


@pytest.mark.parametrize("holder", [0, 1])
async def test_a_request_goes_where_its_prefix_is_cached(world, holder):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    prompt = LONG * 3
    hold(world, workers[holder], prompt)

    task = world.start(prompt)
    await workers[holder].submitted()
    await finish(task, workers[holder])

    assert workers[1 - holder].submissions == []


async def test_of_a_worker_without_events_the_gateway_guesses_what_it_caches(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    world.directory.change("decode-1", labels={"events": "none"})
    world.directory.loads["decode-0"] = LoadRecord(num_running=60, num_waiting=60)
    prompt = LONG * 3

    task = world.start(prompt)
    await workers[1].submitted()
    await finish(task, workers[1])

    keys = keys_of(world, prompt)
    assert world.directory.index.match(keys) == {"decode-1": len(keys)}
    world.directory.down("decode-1")
    assert world.directory.index.match(keys) == {}


async def test_what_stores_hold_together_is_fetched_where_there_is_a_road_to_them(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    world.directory.loads["decode-1"] = LoadRecord(learned=Learned(fetch=Road(10.0, 1e6)))
    prompt = LONG * 3
    keys, index = keys_of(world, prompt), world.directory.index
    index.set_stores(["kvstore-0", "kvstore-1"])
    for at, key in enumerate(keys):
        index.store(f"kvstore-{at % 2}", key)

    task = world.start(prompt)
    await workers[1].submitted()
    await finish(task, workers[1])

    story = world.placer.decisions.find("request-1")
    chosen = story.placed[0].decision.chosen
    assert chosen.num_fetched_tokens == len(keys) * LAYOUT.block_size
    assert chosen.num_fetched_tokens + chosen.num_computed_tokens == len(world.ids(prompt))


async def test_only_the_tenants_own_cache_counts(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    prompt = LONG * 3
    hold(world, workers[0], prompt, salt="theirs")
    world.directory.loads["decode-0"] = LoadRecord(num_running=1)

    ours = world.start(prompt, cache_salt="ours")
    await workers[1].submitted()
    await finish(ours, workers[1])
    theirs = world.start(prompt, cache_salt="theirs")
    await workers[0].submitted()
    await finish(theirs, workers[0])


async def test_a_long_prompt_is_hashed_to_the_same_keys_off_the_loop(world, monkeypatch):
    monkeypatch.setattr(placement, "LONG_PROMPT_TOKENS", 4)
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    hold(world, workers[1], LONG * 3)

    task = world.start(LONG * 3)
    await workers[1].submitted()
    await finish(task, workers[1])


async def test_requests_underway_count_before_the_worker_reports_them(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]

    tasks = [world.start() for _ in range(6)]
    await eventually(lambda: sum(len(worker.submissions) for worker in workers) == 6)

    assert [len(worker.submissions) for worker in workers] == [3, 3]
    for task in tasks:
        task.cancel()


async def test_tokens_are_promised_until_the_first_one_comes_and_sequences_until_the_end(world):
    worker = await world.add()
    task = world.start("Hello world", sample_count=2)
    submission = await worker.submitted()
    promised = world.board.promised("decode-0")

    await submission.send(world.ids("the"), sample=0)
    await eventually(lambda: world.board.promised("decode-0").num_tokens == 0)
    computed = world.board.promised("decode-0")
    for sample in range(2):
        await submission.send(end=FinishReason.LENGTH, sample=sample)
    await task

    assert promised.num_sequences == computed.num_sequences == 2
    assert promised.num_tokens == len(world.ids("Hello world"))
    assert world.board.promised("decode-0").num_sequences == 0


@pytest.mark.parametrize("how", ["client leaves", "link breaks", "worker fails"])
async def test_a_promise_does_not_outlive_its_request(world, how):
    worker = await world.add()
    task = world.start(timeout_s=0.5)
    submission = await worker.submitted()

    if how == "client leaves":
        task.cancel()
    elif how == "link breaks":
        await worker.stop()
    else:
        await submission.fail(NoWorker("full"))
        task.cancel()
    await asyncio.wait([task])

    assert world.board.promised("decode-0").num_sequences == 0


async def test_a_long_prompt_goes_through_a_prefill_worker(world):
    worker = await world.add()
    world.directory.up(prefill_record("prefill-0"))
    tokens = len(world.ids(LONG))

    task = world.start(LONG)
    submission = await worker.submitted()
    message = submission.message
    promised = world.board.promised("prefill-0").num_tokens
    await finish(task, worker)

    assert (message.prefill_worker_id, message.prefill_address) == (
        "prefill-0",
        "prefill-0.test:1",
    )
    assert promised == tokens
    assert world.board.promised("prefill-0").num_tokens == 0


async def test_a_short_prompt_is_computed_by_the_decode_worker(world):
    worker = await world.add()
    world.directory.up(prefill_record("prefill-0"))

    task = world.start("a")
    submission = await worker.submitted()
    await finish(task, worker)

    assert submission.message.prefill_worker_id == ""


async def test_a_prefill_worker_that_did_not_deliver_is_avoided_for_a_while(world, monkeypatch):
    monkeypatch.setattr(failures, "FAILURE_MS", 10.0)  # forgotten within half a second
    worker = await world.add()
    world.directory.up(prefill_record("prefill-0"))
    before = metrics.fallbacks.labels("prefill-0")._value.get()

    task = world.start(LONG)
    await worker.submitted()
    await finish(task, worker, prefill_mode=PrefillMode.FALLBACK, prefill_worker_id="prefill-0")
    second = world.start(LONG)
    avoided = (await worker.submitted(2)).message
    await finish(second, worker)
    used = ""
    while not used:  # until it has been forgiven
        again = world.start(LONG)
        used = (await worker.submitted(len(worker.submissions) + 1)).message.prefill_worker_id
        await finish(again, worker)

    assert avoided.prefill_worker_id == ""
    assert used == "prefill-0"
    assert metrics.fallbacks.labels("prefill-0")._value.get() == before + 1


async def test_a_worker_that_drains_gets_nothing_new(world):
    first, second = await world.add("decode-0"), await world.add("decode-1")
    world.directory.change("decode-0", is_draining=True)

    tasks = [world.start() for _ in range(4)]
    await second.submitted(4)

    assert first.submissions == []
    for task in tasks:
        task.cancel()
