"""Guided answers over real processes: handed off, local, moved from worker to worker."""

from __future__ import annotations

import asyncio
import json
import re

import jsonschema
import openai
import pytest
from decode_client import make_prompt, worker_facts

from baton import guides
from baton.client import AsyncClient, Final, Sampling
from baton.errors import InvalidRequest
from baton.request import FinishReason, PrefillMode

pytestmark = pytest.mark.cluster

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["a", "ü", "😀"]}, "maxItems": 3},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "tags", "age"],
    "additionalProperties": False,
}


async def ask(client: AsyncClient, prompt, sampling: Sampling, **options):
    """Text by sample, tokens by sample, and the final message."""
    texts: dict[int, str] = {}
    tokens: dict[int, list[int]] = {}
    async for event in client.generate(prompt, sampling, return_token_ids=True, **options):
        if isinstance(event, Final):
            return texts, tokens, event
        texts[event.sample_index] = texts.get(event.sample_index, "") + event.text
        tokens.setdefault(event.sample_index, []).extend(event.token_ids)
    raise AssertionError("no final")


@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 83), (1.0, 84), (2.0, 85)])
async def test_each_handed_off_sample_meets_its_schema(cluster, temperature, seed):
    sampling = Sampling(
        temperature=temperature, seed=4, max_tokens=200, guide=guides.of_schema(SCHEMA)
    )

    async with AsyncClient(cluster.address()) as client:
        texts, _, final = await ask(client, make_prompt(100, seed=seed), sampling, sample_count=3)

    assert final.samples[0].timings.prefill_mode is PrefillMode.REMOTE
    for sample in final.samples:
        if sample.finish_reason is FinishReason.STOP:
            jsonschema.validate(json.loads(texts[sample.sample_index]), SCHEMA)
        else:
            assert sample.finish_reason is FinishReason.LENGTH
    # Greedy samples are all the same one, and a random model's may go round in circles.
    reasons = {sample.finish_reason for sample in final.samples}
    assert temperature == 0.0 or FinishReason.STOP in reasons


async def test_a_short_answer_keeps_its_last_token(cluster):
    guide = guides.of_choices(["yes", "no", "café 😀"])
    sampling = Sampling(seed=4, max_tokens=50, guide=guide, ignore_eos=True, min_tokens=30)

    async with AsyncClient(cluster.address()) as client:
        texts, _, final = await ask(client, make_prompt(100, seed=81), sampling, sample_count=5)

    assert {*texts.values()} <= {"yes", "no", "café 😀"}
    assert {sample.finish_reason for sample in final.samples} == {FinishReason.STOP}


async def test_the_openai_client_gets_json(cluster):
    client = openai.AsyncOpenAI(base_url=f"{cluster.http_url()}/v1", api_key="none")
    form = {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": SCHEMA}}
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "héllo 🌍 " * 20}]}

    answer = await client.chat.completions.create(
        **asked, response_format=form, max_tokens=200, temperature=1, seed=3
    )
    choice = await client.chat.completions.create(
        **asked, extra_body={"guided_regex": "[a-c]{5}"}, max_tokens=50
    )
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(**asked, extra_body={"guided_regex": "[a-c"})
    await client.close()

    if answer.choices[0].finish_reason == "stop":
        jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
    assert re.fullmatch("[a-c]{5}", choice.choices[0].message.content)
    assert refused.value.param == "guided_regex"
    assert "unclosed character class" in refused.value.message


async def test_a_guide_that_cannot_be_used_is_named(cluster):
    async with AsyncClient(cluster.address()) as client:
        with pytest.raises(InvalidRequest, match="guide cannot be compiled") as caught:
            await ask(client, "abc", Sampling(guide=guides.of_schema({"type": "nothing"})))

    assert caught.value.field == "guide"


async def test_a_guided_answer_survives_the_death_of_its_worker(start_cluster, model):
    cluster = start_cluster(model=model, decode=2)
    guide = guides.of_regex("[a-z0-9 ]{1200}")
    sampling = Sampling(temperature=1.0, seed=9, max_tokens=900, guide=guide)
    prompt = make_prompt(100, seed=82)
    async with AsyncClient(cluster.address()) as client:
        _, unbroken, _ = await ask(client, prompt, sampling)
        texts, tokens, has_killed = "", [], False
        async for event in client.generate(prompt, sampling, return_token_ids=True):
            if isinstance(event, Final):
                final = event
                continue
            texts += event.text
            tokens += event.token_ids
            if tokens and not has_killed:
                # Whoever has it; the other goes on.
                has_killed = True
                [busy] = [
                    name
                    for name in ("decode-0", "decode-1")
                    if (await worker_facts(cluster.address(name))).sequence_count
                ]
                await asyncio.to_thread(cluster.kill, busy)

    assert final.samples[0].num_migrations == 1
    assert tokens == unbroken[0]
    assert re.fullmatch("[a-z0-9 ]{1200}", texts)
