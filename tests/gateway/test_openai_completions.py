"""`/v1/completions`, asked by the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from baton.text import ModelText
from services.gateway.types import GenerateCommand
from tests.support.fake_gateway import ANSWER
from tests.support.openai_door import Door, normalised, sse_events

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def complete(door: Door, is_stream: bool = False, **options: Any) -> list[str]:
    """The texts of all choices."""
    options = {"model": "toy", "max_tokens": 100, **options}
    if not is_stream:
        answer = await door.client.completions.create(**options)
        return [choice.text for choice in answer.choices]
    texts: dict[int, str] = {}
    async for chunk in await door.client.completions.create(**options, stream=True):
        choice = chunk.choices[0]
        assert choice.text, "no event is empty"
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    return [text for _, text in sorted(texts.items())]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("form", ["string", "strings", "ids", "lists of ids"])
async def test_a_prompt_comes_in_four_forms(
    door: Door, toy_text: ModelText, form: str, is_stream: bool
) -> None:
    ids = toy_text.encode("the fox")
    prompt = {
        "string": "the fox",
        "strings": ["the fox", "hello"],
        "ids": ids,
        "lists of ids": [ids, [5]],
    }[form]

    texts = await complete(door, is_stream, prompt=prompt)

    num_prompts = 1 if form in ("string", "ids") else 2
    assert texts == [ANSWER] * num_prompts
    assert door.gateway.commands[0].token_ids == tuple(ids)
    assert len(door.gateway.commands) == num_prompts


@pytest.mark.parametrize("is_stream", [False, True])
async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(
    door: Door, toy_text: ModelText, is_stream: bool
) -> None:
    def answer(command: GenerateCommand, index: int) -> str:
        return f"{toy_text.decode(command.token_ids)} {index}"

    door.gateway.answer = answer

    texts = await complete(door, is_stream, prompt=["fox", "dog"], n=2, best_of=2)

    assert texts == ["fox 0", "fox 1", "dog 0", "dog 1"]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_text", [True, False])
async def test_echo_puts_the_prompt_in_front(
    door: Door, toy_text: ModelText, is_text: bool, is_stream: bool
) -> None:
    prompt = "the fox" if is_text else toy_text.encode("the fox")

    assert await complete(door, is_stream, prompt=prompt, echo=True, n=2) == [
        f"the fox{ANSWER}",
        f"the fox{ANSWER}",
    ]


async def test_sixteen_tokens_are_the_default_as_far_as_they_fit(door: Door) -> None:
    door.gateway.answer = lambda command, index: "fox " * 100

    answer = await door.client.completions.create(model="toy", prompt="hello")
    await door.client.completions.create(model="toy", prompt=[5] * 250)

    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"
    assert [command.sampling.max_tokens for command in door.gateway.commands] == [16, 6]


async def test_usage_counts_all_prompts(door: Door, toy_text: ModelText) -> None:
    num_tokens = len(toy_text.encode(ANSWER))

    answer = await door.client.completions.create(
        model="toy", prompt=[[1, 2], [3, 4, 5]], max_tokens=50, n=2
    )

    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 4 * num_tokens


async def test_prompts_of_one_call_are_requests_of_their_own(door: Door) -> None:
    await complete(door, prompt=["a", "b"], extra_headers={"x-request-id": "r"})

    assert [command.request_id for command in door.gateway.commands] == ["r", "r-1"]


async def test_logprobs_wait_for_the_text_they_belong_to(door: Door) -> None:
    door.gateway.answer = lambda command, index: "a ?! fox ?"
    body = {"prompt": "x", "logprobs": 0, "stop": ["?!!"], "stream": True}

    response = await door.http.post("/v1/completions", json=body)

    choices = [json.loads(event)["choices"][0] for event in sse_events(response.text)[:-1]]
    assert all(choice["text"] for choice in choices)
    tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert "".join(tokens) == "a ?! fox ?"
    assert offsets == [sum(map(len, tokens[:index])) for index in range(len(tokens))]


async def test_the_events_of_a_stream_are_these(door: Door) -> None:
    door.gateway.answer = lambda command, index: "A\n"

    response = await door.http.post(
        "/v1/completions",
        json={"prompt": "hello", "stream": True, "logprobs": 1},
        headers={"x-request-id": "golden"},
    )

    head = '{"id":"cmpl-golden","object":"text_completion","created":0,"model":"toy","choices":['
    assert [normalised(event) for event in sse_events(response.text)] == [
        head + '{"index":0,"text":"A","logprobs":{"tokens":["A"],"token_logprobs":[-0.5],'
        '"top_logprobs":[{"A":-0.5}],"text_offset":[0]},"finish_reason":null}]}',
        head + '{"index":0,"text":"\\n","logprobs":{"tokens":["\\n"],"token_logprobs":[-0.5],'
        '"top_logprobs":[{"\\n":-0.5}],"text_offset":[1]},"finish_reason":"stop"}]}',
        "[DONE]",
    ]


async def test_an_answer_without_text_still_ends(door: Door) -> None:
    door.gateway.answer = lambda command, index: ""

    whole = await door.client.completions.create(model="toy", prompt="hello")
    stream = await door.client.completions.create(model="toy", prompt="hello", stream=True)
    events = [event async for event in stream]

    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("", "stop")
    assert [event.choices[0].finish_reason for event in events] == ["stop"]
