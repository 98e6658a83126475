"""`/v1/chat/completions`, asked by the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from baton.text import ModelText
from tests.support.fake_gateway import ANSWER
from tests.support.openai_door import Door, normalised, sse_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
PROMPT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


async def test_an_answer_comes_whole(door: Door, toy_text: ModelText) -> None:
    door.gateway.num_cached_tokens = 4

    answer = await door.client.chat.completions.create(model="toy", messages=MESSAGES)

    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    num_prompt_tokens = len(toy_text.encode(PROMPT, add_special_tokens=False))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == num_prompt_tokens
    assert answer.usage.completion_tokens == len(toy_text.encode(ANSWER))
    assert answer.usage.total_tokens == num_prompt_tokens + len(toy_text.encode(ANSWER))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def test_a_stream_says_what_the_whole_answer_says(door: Door) -> None:
    stream = await door.client.chat.completions.create(model="toy", messages=MESSAGES, stream=True)

    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.role for chunk in chunks[1:]] == [None] * (len(chunks) - 1)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_a_stream_ends_with_usage_when_asked(door: Door) -> None:
    stream = await door.client.chat.completions.create(
        model="toy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )

    *chunks, last = [chunk async for chunk in stream]

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


GOLDEN_STREAM = [
    '{"id":"chatcmpl-golden","object":"chat.completion.chunk","created":0,"model":"toy","choices":'
    '[{"index":0,"delta":{"role":"assistant","content":"A"},"logprobs":null,'
    '"finish_reason":null}],"usage":null}',
    '{"id":"chatcmpl-golden","object":"chat.completion.chunk","created":0,"model":"toy","choices":'
    '[{"index":0,"delta":{"content":"😀"},"logprobs":null,"finish_reason":null}],"usage":null}',
    '{"id":"chatcmpl-golden","object":"chat.completion.chunk","created":0,"model":"toy","choices":'
    '[{"index":0,"delta":{"content":"\\n"},"logprobs":null,'
    '"finish_reason":"stop"}],"usage":null}',
    '{"id":"chatcmpl-golden","object":"chat.completion.chunk","created":0,"model":"toy","choices":'
    '[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,'
    '"prompt_tokens_details":{"cached_tokens":0}}}',
    "[DONE]",
]


async def test_the_events_of_a_stream_are_these(door: Door) -> None:
    door.gateway.answer = lambda command, index: "A😀\n"
    body = {
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["\n\n"],
    }

    response = await door.http.post(
        "/v1/chat/completions", json=body, headers={"x-request-id": "golden"}
    )

    events = sse_events(response.text)
    assert [normalised(event) for event in events] == GOLDEN_STREAM
    for event in events[:-1]:
        ChatCompletionChunk.model_validate_json(event)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_the_body_of_a_whole_answer_is_this(door: Door) -> None:
    door.gateway.answer = lambda command, index: "A\n"

    response = await door.http.post(
        "/v1/chat/completions",
        json={"model": "toy", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2},
        headers={"x-request-id": "golden"},
    )

    letter = {"token": "A", "logprob": -0.5, "bytes": [65]}
    line = {"token": "\n", "logprob": -0.5, "bytes": [10]}
    bang = {"token": "!", "logprob": -9999.0, "bytes": [33]}
    assert json.loads(normalised(response.text)) == {
        "id": "chatcmpl-golden",
        "object": "chat.completion",
        "created": 0,
        "model": "toy",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A\n", "refusal": None},
                "logprobs": {
                    "content": [
                        {**letter, "top_logprobs": [letter, bang]},
                        {**line, "top_logprobs": [line, bang]},
                    ],
                    "refusal": None,
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "total_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    ChatCompletion.model_validate_json(response.text)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_samples_are_kept_apart(door: Door, is_stream: bool) -> None:
    door.gateway.answer = lambda command, index: f"answer number {index}" * (index + 1)
    options: dict[str, Any] = {"model": "toy", "messages": MESSAGES, "n": 3}

    if is_stream:
        texts = ["", "", ""]
        roles = []
        stream = await door.client.chat.completions.create(**options, stream=True)
        async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
            roles.append(chunk.choices[0].delta.role)
        assert roles.count("assistant") == 3
    else:
        answer = await door.client.chat.completions.create(**options)
        texts = [choice.message.content or "" for choice in answer.choices]

    assert texts == ["answer number 0", "answer number 1" * 2, "answer number 2" * 3]


async def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(door: Door) -> None:
    answer = await door.client.chat.completions.create(
        model="toy", messages=MESSAGES, stop="passed"
    )

    assert answer.choices[0].message.content == "The baton is "
    assert answer.choices[0].finish_reason == "stop"


async def test_every_field_reaches_the_gateway(door: Door) -> None:
    await door.client.chat.completions.create(
        model="toy",
        messages=MESSAGES,
        max_completion_tokens=11,
        temperature=0.25,
        top_p=0.5,
        n=2,
        stop=["a\n", "b\n"],
        seed=-1,
        presence_penalty=-1.5,
        frequency_penalty=1.5,
        logit_bias={"7": -100, "8": 2.5},
        logprobs=True,
        extra_body={
            "ignore_eos": True,
            "min_tokens": 3,
            "top_k": 9,
            "min_p": 0.125,
            "repetition_penalty": 1.25,
            "stop_token_ids": [4, 5],
            "cache_salt": "tenant",
            "priority": -7,
        },
        extra_headers={"x-request-id": "r1", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
    )

    (command,) = door.gateway.commands
    sampling = command.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 9)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.25)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1.5, 1.5)
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (11, 3, True)
    assert (sampling.stop_strings, sampling.stop_token_ids) == (("a\n", "b\n"), (4, 5))
    assert sampling.seed == 2**64 - 1
    assert dict(sampling.logit_bias) == {7: -100.0, 8: 2.5}
    assert sampling.logprobs_count == 0
    assert (command.sample_count, command.cache_salt, command.priority) == (2, "tenant", -7)
    assert (command.request_id, command.model) == ("r1", "toy")
    assert command.traceparent == f"00-{'1' * 32}-{'2' * 16}-01"


async def test_what_is_left_open_takes_the_models_defaults(door: Door, toy_text: ModelText) -> None:
    nulls = dict.fromkeys(["temperature", "n", "stop", "seed", "stream", "logprobs", "max_tokens"])

    response = await door.http.post("/v1/chat/completions", json={"messages": MESSAGES, **nulls})

    assert response.status_code == 200
    (command,) = door.gateway.commands
    assert command.sampling.temperature == 1.0
    assert command.sampling.max_tokens == door.gateway.context_len - len(command.token_ids)
    assert command.token_ids == tuple(toy_text.encode(PROMPT, add_special_tokens=False))
    assert command.sampling.logprobs_count is None


async def test_text_parts_and_the_developer_role_are_understood(
    door: Door, toy_text: ModelText
) -> None:
    await door.client.chat.completions.create(
        model="toy",
        messages=[
            {"role": "developer", "content": "be kind"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            },
        ],
    )

    prompt = toy_text.decode(door.gateway.commands[0].token_ids, skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\none\ntwo<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_fields_nobody_knows_are_ignored(door: Door) -> None:
    answer = await door.client.chat.completions.create(
        model="toy",
        messages=MESSAGES,
        user="someone",
        metadata={"a": "b"},
        response_format={"type": "text"},
        tools=[],
        extra_body={"whatever": {"nested": [1]}},
    )

    assert answer.choices[0].message.content == ANSWER
