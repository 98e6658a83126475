"""A failure of prefill, hand-off or kvstore ends in recompute: the same answer, late."""

from __future__ import annotations

import signal

import oracle
import pytest
from broken_prefill import FAULTS, BrokenPrefill
from decode_client import DecodeClient, make_prompt, until_free, worker_facts
from kvstore_blocks import until_stored
from tcp_proxy import TcpProxy

from baton.v1 import types_pb2

REMOTE, FALLBACK = types_pb2.PREFILL_MODE_REMOTE, types_pb2.PREFILL_MODE_FALLBACK


async def until_some_landed(address: str) -> None:
    """Waits until the prefill worker is in the middle of a prompt."""
    while not (await worker_facts(address)).sequence_count:
        pass


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_prefill_killed_in_mid_prompt_gives_the_same_answer(start, model, transport):
    decode = start("decode", "--transports", transport)
    prefill = start("prefill", "--max-batch-tokens", "1")
    prompt = make_prompt(900, seed=40)

    async with DecodeClient(decode.address, prefill.address) as client:
        [answer] = client.submit(prompt)
        await until_some_landed(prefill.address)
        prefill.signal(signal.SIGKILL)
        await answer.ended()

        assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
        assert answer.end.timings.prefill_mode == FALLBACK
        assert answer.num_ends == 1
    await until_free(decode.address, 5.0)


async def test_what_a_dead_prefill_did_not_bring_is_fetched(start, model, kvstore):
    prompt = make_prompt(900, seed=43)
    first = start("decode", "--kvstore", kvstore.address)
    async with DecodeClient(first.address) as client:
        await client.ask(prompt)
        await until_stored(kvstore.address, num_blocks=57)
    first.signal(signal.SIGKILL)

    decode = start("decode", "--kvstore", kvstore.address)
    prefill = start("prefill", "--max-batch-tokens", "1")
    async with DecodeClient(decode.address, prefill.address) as client:
        [answer] = client.submit(prompt)
        await until_some_landed(prefill.address)
        prefill.signal(signal.SIGKILL)
        await answer.ended()

    timings = answer.end.timings
    assert timings.prefill_mode == FALLBACK
    assert 0 < timings.fetched_token_count <= 896
    assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
    await until_free(decode.address, 5.0)


async def test_hung_prefill_is_given_up_and_its_late_bytes_harm_nobody(start, model):
    decode = start("decode", "--handoff-stall-seconds", "1", "--verify-transfers")
    prefill = start("prefill", "--max-batch-tokens", "1")
    prompts = [make_prompt(900, seed=41), *(make_prompt(300, seed=seed) for seed in (42, 43))]

    async with DecodeClient(decode.address, prefill.address) as client:
        [answer] = client.submit(prompts[0])
        await until_some_landed(prefill.address)
        prefill.signal(signal.SIGSTOP)
        await answer.ended()
        decode.wait_for("blocks quarantined")
        while_hung = await worker_facts(decode.address)
        others = [await client.ask(prompt, is_remote=False) for prompt in prompts[1:]]
        prefill.signal(signal.SIGCONT)

        assert while_hung.free_block_count < while_hung.block_count
        assert answer.end.timings.prefill_mode == FALLBACK
        answers = [entry.token_ids for entry in (answer, *others)]
        assert answers == oracle.greedy(model, prompts, 24)
        await until_free(decode.address, 5.0)
        assert (await client.ask(make_prompt(300, seed=50))).end.timings.prefill_mode == REMOTE


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_lost_connection_between_live_workers_costs_no_answer_and_no_block(
    start, model, transport
):
    decode = start("decode", "--transports", transport)
    prefill = start("prefill", "--max-batch-tokens", "1")
    prompt = make_prompt(900, seed=42)

    async with (
        TcpProxy(prefill.address) as wire,
        DecodeClient(decode.address, wire.address) as client,
    ):
        [answer] = client.submit(prompt)
        await until_some_landed(prefill.address)
        wire.cut()
        await answer.ended()

        assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
        assert answer.end.timings.prefill_mode == FALLBACK
        await until_free(decode.address, 10.0)
        await until_free(prefill.address, 10.0)


@pytest.mark.parametrize("fault", FAULTS)
async def test_prefill_that_misbehaves_is_worked_around(start, model, fault):
    decode = start("decode", "--handoff-stall-seconds", "1")
    prompt = make_prompt(100, seed=43)

    async with BrokenPrefill(fault) as prefill, DecodeClient(decode.address, prefill) as client:
        answer = await client.ask(prompt)

    assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
    assert answer.end.timings.prefill_mode == FALLBACK
    await until_free(decode.address, 5.0)


async def test_peers_that_disagree_about_blocks_do_not_exchange_any(start, model):
    decode = start("decode", "--block-size", "32")
    prefill = start("prefill")
    prompt = make_prompt(100, seed=44)

    async with DecodeClient(decode.address, prefill.address) as client:
        answer = await client.ask(prompt)

    assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
    assert answer.end.timings.prefill_mode == FALLBACK
    assert "layout" in decode.wait_for("hand-off failed, computing here")["reason"]


async def test_kvstore_killed_at_any_time_gives_the_same_answer(start, model, kvstore):
    prefill = start("prefill", "--kvstore", kvstore.address)
    decode = start("decode", "--kvstore", kvstore.address)
    prompts = [make_prompt(200, seed=46 + index) for index in range(4)]

    async with DecodeClient(decode.address, prefill.address) as client:
        before = await client.ask(prompts[0])
        [during] = client.submit(prompts[1])
        kvstore.signal(signal.SIGKILL)
        await during.ended()
        after = [await client.ask(prompt) for prompt in prompts[2:]]

    answers = [answer.token_ids for answer in (before, during, *after)]
    assert answers == oracle.greedy(model, prompts, 24)
    assert all(answer.end.timings.prefill_mode == REMOTE for answer in (before, during, *after))
