"""Whatever ends a sequence early frees its blocks within a second, in any phase."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decode_client import GREEDY, DecodeClient, make_prompt, until_free, worker_facts

from baton.v1 import types_pb2

LONG = replace(GREEDY, max_tokens=500)
# The promise is a second; the margin is for a machine that is busy with other tests.
LIMIT_S = 5.0


async def until_busy(address: str) -> None:
    """Waits until a worker has a sequence."""
    while not (await worker_facts(address)).sequence_count:
        pass


@pytest.mark.parametrize("is_remote", [True, False])
async def test_cancel_while_decoding_frees_blocks(pair, is_remote):
    decode, prefill = (process.address for process in pair)

    async with DecodeClient(decode, prefill) as client:
        [answer] = client.submit(make_prompt(60, seed=20), LONG, is_remote=is_remote)
        await answer.until(lambda: len(answer.token_ids) > 3)
        client.cancel_last()
        await answer.ended()

        assert answer.end.finish_reason == types_pb2.FINISH_REASON_CANCELLED
        assert answer.num_ends == 1
        await until_free(decode, LIMIT_S)
        await until_free(prefill, LIMIT_S)


async def test_cancel_while_prefill_computes_frees_blocks_of_both(pair, slow_prefill):
    decode, prefill = pair[0].address, slow_prefill.address

    async with DecodeClient(decode, prefill) as client:
        [answer] = client.submit(make_prompt(900, seed=21), LONG)
        await until_busy(prefill)
        client.cancel_last()
        await answer.ended()

        assert answer.end.finish_reason == types_pb2.FINISH_REASON_CANCELLED
        assert not answer.token_ids
        await until_free(decode, LIMIT_S)
        await until_free(prefill, LIMIT_S)


async def test_cancel_of_one_sample_leaves_the_others(pair):
    decode, prefill = (process.address for process in pair)

    async with DecodeClient(decode, prefill) as client:
        answers = client.submit(make_prompt(40, seed=22), LONG, sample_count=2, is_remote=False)
        await answers[1].until(lambda: answers[1].token_ids)
        client.cancel_last(sample_index=0)
        await answers[0].ended()

        assert answers[0].end.finish_reason == types_pb2.FINISH_REASON_CANCELLED
        assert (await answers[1].ended()).end.finish_reason == types_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("is_remote", [True, False])
async def test_gateway_that_leaves_frees_blocks(pair, slow_prefill, is_remote):
    decode, prefill = pair[0].address, slow_prefill.address

    async with DecodeClient(decode, prefill) as client:
        for seed in range(4):
            client.submit(make_prompt(700, seed=23 + seed), LONG, is_remote=is_remote)
        await until_busy(prefill if is_remote else decode)

    await until_free(decode, LIMIT_S)
    await until_free(prefill, LIMIT_S)


async def test_deadline_ends_a_request_with_an_error_and_frees_blocks(pair):
    decode, prefill = (process.address for process in pair)

    async with DecodeClient(decode, prefill) as client:
        answer = await client.ask(make_prompt(900, seed=30), LONG, timeout_ms=40)

    assert answer.end.finish_reason == types_pb2.FINISH_REASON_ERROR
    assert answer.end.error.reason == "DEADLINE_EXCEEDED"
    await until_free(decode, LIMIT_S)
    await until_free(prefill, LIMIT_S)


async def test_submission_that_makes_no_sense_ends_alone(pair):
    decode, prefill = (process.address for process in pair)
    half_a_token = {"token_ids": b"abc"}

    async with DecodeClient(decode, prefill) as good, DecodeClient(decode) as bad:
        [running] = good.submit(make_prompt(40, seed=32), LONG)
        [refused] = bad.submit([8], is_remote=False, **half_a_token)
        refusal = await refused.ended()
        answer = await bad.ask(make_prompt(40, seed=33), is_remote=False)

        assert refusal.end.error.field == "token_ids"
        assert answer.end.finish_reason == types_pb2.FINISH_REASON_LENGTH
        assert (await running.ended()).token_ids
    pair[0].wait_for("submission refused")
    await until_free(decode, LIMIT_S)


async def test_request_that_can_never_fit_ends_with_an_error_that_names_the_limit(pair):
    decode, prefill = (process.address for process in pair)

    async with DecodeClient(decode, prefill) as client:
        answer = await client.ask(make_prompt(1100, seed=31))

    assert answer.end.error.reason == "INVALID_REQUEST"
    assert "1100" in answer.end.error.message
    assert "1024" in answer.end.error.message
