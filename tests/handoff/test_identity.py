"""The same tokens come out wherever a prompt is computed."""

from __future__ import annotations

import signal
from dataclasses import replace

import oracle
import pytest
from decode_client import GREEDY, DecodeClient, make_prompt, until_free
from kvstore_blocks import until_stored

from baton.request import SamplingParams
from baton.v1 import types_pb2

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 130)
REMOTE, LOCAL = types_pb2.PREFILL_MODE_REMOTE, types_pb2.PREFILL_MODE_LOCAL


@pytest.mark.parametrize("transport", ["shm", "grpc"])
async def test_handed_off_answers_are_those_of_transformers(start_on, any_model, transport):
    decode = start_on(any_model, "decode", "--transports", transport, "--verify-transfers")
    prefill = start_on(any_model, "prefill", "--max-batch-tokens", "24")
    prompts = [make_prompt(length, seed=1) for length in LENGTHS]

    async with DecodeClient(decode.address, prefill.address) as client:
        answers = [client.submit(prompt)[0] for prompt in prompts]
        ended = [await answer.ended() for answer in answers]

    assert [answer.token_ids for answer in ended] == oracle.greedy(any_model, prompts, 24)
    for prompt, answer in zip(prompts, ended, strict=True):
        timings = answer.end.timings
        # A last block's worth is computed where it is needed.
        assert timings.prefill_mode == (REMOTE if len(prompt) > 16 else LOCAL)
        assert timings.transport == (transport if len(prompt) > 16 else "")
        assert answer.num_ends == 1
    for address in (decode.address, prefill.address):
        await until_free(address, 5)


async def test_log_probabilities_are_bit_equal_handed_off_and_in_one_process(pair, start):
    decode, prefill = (process.address for process in pair)
    # The very steps in which the prefill worker computes.
    single = start("decode", "--max-batch-tokens", "16")
    sampling = replace(GREEDY, logprobs_count=0)
    prompt = make_prompt(90, seed=2)

    async with DecodeClient(decode, prefill) as client:
        remote = await client.ask(prompt, sampling, cache_salt="remote")
    async with DecodeClient(single.address) as client:
        local = await client.ask(prompt, sampling)

    assert remote.end.timings.prefill_mode == REMOTE
    assert local.end.timings.prefill_mode == LOCAL
    assert remote.token_ids == local.token_ids
    assert remote.logprobs == local.logprobs


async def test_prefix_held_by_decode_is_neither_computed_nor_moved_again(pair, model):
    decode, prefill = (process.address for process in pair)
    shared, tail = make_prompt(64, seed=3), make_prompt(40, seed=4)

    async with DecodeClient(decode, prefill) as client:
        await client.ask(shared)
        answer = await client.ask(shared + tail)

    block_bytes = 2 * 2 * 1 * 16 * 32 * 4
    assert answer.token_ids == oracle.greedy(model, [shared + tail], 24)[0]
    assert answer.end.timings.cached_token_count == 64
    assert answer.end.timings.handoff_bytes == 3 * block_bytes


async def test_tenants_with_different_salts_share_no_block(pair):
    decode, prefill = (process.address for process in pair)
    prompt = make_prompt(64, seed=5)

    async with DecodeClient(decode, prefill) as client:
        first = await client.ask(prompt, cache_salt="one")
        other = await client.ask(prompt, cache_salt="two")
        again = await client.ask(prompt, cache_salt="one")

    cached = [answer.end.timings.cached_token_count for answer in (first, other, again)]
    assert cached == [0, 0, 48]


async def test_samples_share_the_prompt_and_equal_those_asked_for_one_by_one(pair):
    decode, prefill = (process.address for process in pair)
    sampling = SamplingParams(temperature=1.0, seed=11, max_tokens=12, ignore_eos=True)
    prompt = make_prompt(50, seed=6)

    async with DecodeClient(decode, prefill) as client:
        together = [
            await answer.ended() for answer in client.submit(prompt, sampling, sample_count=4)
        ]
        alone = [await client.ask(prompt, sampling, sample_index=index) for index in range(4)]

    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert len({tuple(answer.token_ids) for answer in together}) == 4
    shared = [answer.end.timings.cached_token_count for answer in together[1:]]
    assert shared == [48, 48, 48]


@pytest.mark.parametrize("is_remote", [True, False])
async def test_answer_continued_elsewhere_is_the_unbroken_one(pair, is_remote):
    decode, prefill = (process.address for process in pair)
    sampling = SamplingParams(
        temperature=0.9, seed=12, max_tokens=20, frequency_penalty=0.4, ignore_eos=True
    )
    prompt = make_prompt(40, seed=7)

    async with DecodeClient(decode, prefill) as client:
        whole = await client.ask(prompt, sampling, cache_salt="a")
        rest = await client.ask(
            prompt + whole.token_ids[:9],
            sampling,
            prompt_len=40,
            cache_salt="b",
            is_remote=is_remote,
        )

    assert whole.token_ids[9:] == rest.token_ids


async def test_blocks_come_back_from_kvstore_after_a_restart(start_on, any_model, kvstore):
    first = start_on(any_model, "decode", "--kvstore", kvstore.address)
    prompt = make_prompt(130, seed=45)
    async with DecodeClient(first.address) as client:
        before = await client.ask(prompt)
        await until_stored(kvstore.address, num_blocks=9)
    first.signal(signal.SIGKILL)

    second = start_on(any_model, "decode", "--kvstore", kvstore.address)
    async with DecodeClient(second.address) as client:
        after = await client.ask(prompt)

    assert after.end.timings.fetched_token_count == 128
    assert before.token_ids == after.token_ids == oracle.greedy(any_model, [prompt], 24)[0]


async def test_what_kvstore_holds_comes_with_the_hand_off(start, model, kvstore):
    flags = ("--kvstore", kvstore.address)
    first = start("decode", *flags)
    head = make_prompt(130, seed=46)
    prompt = head + make_prompt(70, seed=47)
    async with DecodeClient(first.address) as client:
        await client.ask(head)
        await until_stored(kvstore.address, num_blocks=9)
    first.signal(signal.SIGKILL)

    second = start("decode", *flags, "--verify-transfers")
    prefill = start("prefill", *flags, "--max-batch-tokens", "24")
    async with DecodeClient(second.address, prefill.address) as client:
        answer = await client.ask(prompt)

    timings = answer.end.timings
    assert timings.prefill_mode == REMOTE
    # The prefill worker needs it in any case: it is not fetched twice.
    assert (timings.fetched_token_count, timings.prefill_cached_token_count) == (0, 128)
    assert answer.token_ids == oracle.greedy(model, [prompt], 24)[0]
    for process in (second, prefill):
        await until_free(process.address, 5)
