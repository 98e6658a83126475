"""Five real processes and a real Redis answer like transformers, through every door."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import grpc
import openai
import oracle
import pytest
from decode_client import make_prompt, until_free
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from baton.client import AsyncClient, Final, Sampling
from baton.request import FinishReason, PrefillMode

pytestmark = pytest.mark.cluster

GREEDY = Sampling(temperature=0.0, max_tokens=20, ignore_eos=True)
SERVICES = {
    "gateway-0": "baton.v1.GatewayService",
    "decode-0": "baton.v1.DecodeService",
    "prefill-0": "baton.v1.PrefillService",
    "kvstore-0": "baton.v1.KvStoreService",
}


async def ask(client: AsyncClient, prompt, sampling: Sampling = GREEDY, **options):
    """All tokens by sample, and the final message."""
    tokens: dict[int, list[int]] = {}
    finals = []
    async for event in client.generate(prompt, sampling, return_token_ids=True, **options):
        if isinstance(event, Final):
            finals.append(event)
        else:
            tokens.setdefault(event.sample_index, []).extend(event.token_ids)
    assert len(finals) == 1
    return tokens, finals[0]


async def test_long_prompts_are_handed_off_and_give_the_tokens_of_transformers(cluster, model):
    prompts = [make_prompt(length, seed=60) for length in (1, 16, 65, 100, 200, 301)]

    async with AsyncClient(cluster.address()) as client:
        answers = await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    assert [tokens[0] for tokens, _ in answers] == oracle.greedy(model, prompts, 20)
    modes = {final.samples[0].timings.prefill_mode for _, final in answers[3:]}
    assert modes == {PrefillMode.REMOTE}
    assert {final.samples[0].timings.prefill_worker_id for _, final in answers[3:]} == {"prefill-0"}
    for name in ("decode-0", "prefill-0"):
        await until_free(cluster.address(name), 5)


async def test_samples_differ_and_share_the_prompt(cluster):
    sampling = Sampling(temperature=1.0, seed=5, max_tokens=12, ignore_eos=True)

    async with AsyncClient(cluster.address()) as client:
        tokens, final = await ask(client, make_prompt(90, seed=61), sampling, sample_count=3)
        again, _ = await ask(client, make_prompt(90, seed=61), sampling, sample_count=3)

    assert tokens == again
    assert len({tuple(sample) for sample in tokens.values()}) == 3
    assert final.num_output_tokens == 36
    assert final.seed == 5


async def test_openai_client_streams_and_agrees_with_the_final_text(cluster):
    client = openai.AsyncOpenAI(base_url=f"{cluster.http_url()}/v1", api_key="none")
    messages = [{"role": "user", "content": "héllo 🌍 " * 20}]
    model = (await client.models.list()).data[0].id
    arguments = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0}

    whole = await client.chat.completions.create(**arguments)
    stream = await client.chat.completions.create(
        **arguments, stream=True, stream_options={"include_usage": True}
    )
    parts = [part async for part in stream]
    await client.close()

    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.prompt_tokens > 64


async def test_client_that_leaves_frees_all_blocks(cluster):
    async with AsyncClient(cluster.address()) as client:
        events = client.generate(make_prompt(300, seed=62), Sampling(max_tokens=600))
        await anext(events)
        await events.aclose()
        waiting = client.generate(make_prompt(900, seed=63), Sampling(max_tokens=100))
        first = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0)
        first.cancel()
        await waiting.aclose()

    for name in ("decode-0", "prefill-0"):
        await until_free(cluster.address(name), 5)


async def test_one_trace_covers_gateway_prefill_and_decode(cluster, sink):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace_id}-b7ad6b7169203331-01"
    wanted = {"gateway.request", "gateway.route", "decode.sequence", "decode.handoff"}
    wanted |= {"decode.generate", "prefill.session"}

    async with AsyncClient(cluster.address()) as client:
        _, final = await ask(client, make_prompt(150, seed=64), traceparent=parent)
    async with asyncio.timeout(10):
        while True:
            spans = [span for _, span in list(sink.spans) if span.trace_id.hex() == trace_id]
            if wanted <= {span.name for span in spans}:
                break
            await asyncio.sleep(0.02)

    by_id = {span.span_id: span for span in spans}
    named = {span.name: span for span in spans}
    assert final.trace_id == trace_id
    assert named["gateway.request"].parent_span_id.hex() == "b7ad6b7169203331"
    assert by_id[named["prefill.session"].parent_span_id].name == "decode.handoff"
    assert by_id[named["decode.handoff"].parent_span_id].name == "decode.sequence"


@pytest.mark.parametrize("name", SERVICES)
def test_reflection_lists_each_service_for_outside_clients(cluster, name):
    with grpc.insecure_channel(cluster.address(name)) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert {SERVICES[name], "grpc.health.v1.Health"} <= services


@pytest.mark.parametrize("name", SERVICES)
def test_metrics_are_served_by_each_process(cluster, name):
    with urllib.request.urlopen(cluster.metrics_url(name), timeout=10) as answer:
        text = answer.read().decode()

    assert "baton_build_info{" in text


async def test_length_finish_is_told_as_such(cluster):
    async with AsyncClient(cluster.address()) as client:
        _, final = await ask(client, "abc", Sampling(max_tokens=3, ignore_eos=True))

    assert final.samples[0].finish_reason is FinishReason.LENGTH
    assert final.num_output_tokens == 3


def test_every_process_ends_cleanly_on_sigterm(start_cluster, model: Path):
    # With an interpreter of their own, which has to end as well.
    cluster = start_cluster(model=model, is_warm=False)

    codes = {name: cluster.terminate(name) for name in reversed(cluster.names)}

    assert codes == dict.fromkeys(codes, 0)
