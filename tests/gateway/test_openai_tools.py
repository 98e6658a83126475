"""Tool calls and reasoning at the OpenAI door, asked by the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from baton.request import GuideKind
from baton.text import load_text
from services.gateway.openai.app import HttpLimits
from services.gateway.openai.replies import ReplySettings
from tests.support.fake_gateway import FakeGateway
from tests.support.openai_door import Door, open_door, sse_events
from tests.support.tool_model import ASK, CALL, TOOLS, write_tool_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tool_door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """The door in front of a model that calls tools and thinks."""
    text = load_text(write_tool_folder(tmp_path_factory.mktemp("tools")))
    async with open_door(FakeGateway(text, context_len=4096)) as door:
        yield door


@pytest.fixture
def door(tool_door: Door) -> Door:
    """Nobody has asked it yet."""
    tool_door.gateway.reset()
    tool_door.gateway.context_len = 4096
    return tool_door


def prompt_of(door: Door) -> str:
    (command,) = door.gateway.commands
    return door.gateway.text_of_model.decode(command.token_ids, skip_special_tokens=False)


async def ask(door: Door, is_stream: bool, **options: Any) -> list[dict[str, Any]]:
    """The choices: message, finish_reason; put together where they were streamed."""
    options = {"model": "toy", "messages": ASK, **options}
    if not is_stream:
        answer = await door.client.chat.completions.create(**options)
        return [choice.model_dump(exclude_none=True) for choice in answer.choices]
    choices: dict[int, dict[str, Any]] = {}
    async for chunk in await door.client.chat.completions.create(**options, stream=True):
        (choice,) = chunk.choices
        delta = choice.delta.model_dump(exclude_none=True)
        assert delta.keys() & {"content", "reasoning_content", "tool_calls"} or choice.finish_reason
        known = choices.setdefault(choice.index, {"message": {}, "index": choice.index})
        _add(known["message"], delta)
        if choice.finish_reason:
            known["finish_reason"] = choice.finish_reason
    return [choices[index] for index in sorted(choices)]


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for call in delta.pop("tool_calls", []):
        calls = message.setdefault("tool_calls", [])
        if call.pop("index") == len(calls):
            calls.append(call)
        else:
            calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    for name, value in delta.items():
        message[name] = message.get(name, "") + value


@pytest.mark.parametrize("is_stream", [False, True])
async def test_calls_come_with_the_text_before_them(door: Door, is_stream: bool) -> None:
    door.gateway.answer = lambda *_: f"Let me look.\n{CALL}\n{CALL}"

    (choice,) = await ask(door, is_stream, tools=TOOLS)

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "Let me look."
    calls = choice["message"]["tool_calls"]
    assert [call["type"] for call in calls] == ["function", "function"]
    assert [call["function"]["name"] for call in calls] == ["weather", "weather"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Köln 😀"}
    assert len({call["id"] for call in calls}) == 2
    assert '"name": "weather"' in prompt_of(door)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_samples_are_parsed_each_for_itself(door: Door, is_stream: bool) -> None:
    door.gateway.answer = lambda _, index: [CALL, "words", "<tool_call>{broken"][index]

    choices = await ask(door, is_stream, tools=TOOLS, n=3)

    assert [choice["finish_reason"] for choice in choices] == ["tool_calls", "stop", "stop"]
    assert "content" not in choices[0]["message"]
    assert choices[1]["message"]["content"] == "words"
    assert choices[2]["message"]["content"] == "<tool_call>{broken"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_one_call_is_told_when_only_one_is_wanted(door: Door, is_stream: bool) -> None:
    door.gateway.answer = lambda *_: CALL + CALL

    (choice,) = await ask(door, is_stream, tools=TOOLS, parallel_tool_calls=False)

    assert len(choice["message"]["tool_calls"]) == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_reasoning_is_apart_and_counted(door: Door, is_stream: bool) -> None:
    door.gateway.answer = lambda *_: f"<think>\nhm\n</think>\n\nSo: {CALL}"

    (choice,) = await ask(door, is_stream, tools=TOOLS)
    answer = await door.client.chat.completions.create(model="toy", messages=ASK)

    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["content"] == "So:"
    assert choice["finish_reason"] == "tool_calls"
    # Without tools nothing is looked for behind the reasoning.
    assert answer.choices[0].message.content == f"So: {CALL}"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    thought = door.gateway.text_of_model.encode("<think>\nhm\n</think>", add_special_tokens=False)
    assert answer.usage.completion_tokens_details.reasoning_tokens == len(thought)


async def test_a_prompt_that_opens_the_thought_is_heeded(door: Door) -> None:
    door.gateway.answer = lambda *_: "hm</think>4"

    (choice,) = await ask(door, True, extra_body={"chat_template_kwargs": {"opens_thought": True}})

    assert prompt_of(door).endswith("<think>\n")
    assert choice["message"] == {"role": "assistant", "reasoning_content": "hm", "content": "4"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}])
async def test_a_required_call_is_enforced_by_a_guide(door: Door, choice: Any) -> None:
    await ask(door, False, tools=TOOLS, tool_choice=choice)

    (command,) = door.gateway.commands
    guide = command.sampling.guide
    assert guide is not None
    assert guide.kind is GuideKind.LARK
    assert "time" in guide.source
    assert ("weather" in guide.source) is (choice == "required")


SCHEMA_FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": {}}}
TEXT_FORM = {"format": {"type": "json_schema", "name": "it", "schema": {}}}


@pytest.mark.parametrize(
    ("path", "extra", "field"),
    [
        ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        (
            "chat/completions",
            {"response_format": SCHEMA_FORM},
            "response_format.json_schema.schema",
        ),
        ("chat/completions", {"guided_regex": "a"}, "guided_regex"),
        ("chat/completions", {"structured_outputs": {"json": {}}}, "structured_outputs.json"),
        ("responses", {"text": TEXT_FORM}, "text.format.schema"),
        ("responses", {"guided_choice": ["a"]}, "guided_choice"),
    ],
)
@pytest.mark.parametrize("is_named", [False, True])
async def test_a_forced_call_and_a_guide_are_refused_by_the_field_that_was_used(
    door: Door, path: str, extra: dict[str, Any], field: str, is_named: bool
) -> None:
    named: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
    tools, asked = TOOLS, {"messages": ASK}
    if path == "responses":
        named = {"type": "function", "name": "time"}
        tools, asked = [{"type": "function", **tool["function"]} for tool in TOOLS], {"input": "x"}
    choice = {"tools": tools, "tool_choice": named if is_named else "required"}

    refused = await door.http.post(f"/v1/{path}", json={**asked, **choice, **extra})
    free = await door.http.post(f"/v1/{path}", json={**asked, "tools": tools, **extra})

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field
    assert refused.json()["error"]["message"].startswith(f"{field} cannot be met")
    assert free.status_code == 200


@pytest.mark.parametrize("opens_thought", [False, True])
async def test_a_guide_begins_behind_the_thought(door: Door, opens_thought: bool) -> None:
    opening = "" if opens_thought else "<think>"
    door.gateway.answer = lambda *_: opening + 'hm</think>{"x": 3}'
    extra = {"chat_template_kwargs": {"opens_thought": opens_thought}}

    (choice,) = await ask(door, False, response_format=SCHEMA_FORM, extra_body=extra)

    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["content"] == '{"x": 3}'
    guide = door.gateway.commands[0].sampling.guide
    assert guide is not None
    assert guide.kind is GuideKind.LARK
    first = "start: thought spaced" if opens_thought else "start: answer | thought spaced"
    assert guide.source.startswith(first + "\n")


async def test_a_guide_that_cannot_be_used_is_refused_as_it_came(door: Door) -> None:
    body = {"messages": ASK, "guided_json": '{"bad'}

    refused = await door.http.post("/v1/chat/completions", json=body)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "guided_json"
    assert {guide.kind for guide in door.gateway.guides} == {GuideKind.JSON_SCHEMA}


async def test_where_reasoning_is_not_parsed_a_guide_begins_at_once(tmp_path: Path) -> None:
    gateway = FakeGateway(load_text(write_tool_folder(tmp_path)), context_len=4096)
    plain = HttpLimits(replies=ReplySettings("auto", "none"))

    async with open_door(gateway, plain) as door:
        await ask(door, False, response_format=SCHEMA_FORM)

    guide = gateway.commands[0].sampling.guide
    assert guide is not None
    assert guide.kind is GuideKind.JSON_SCHEMA


async def test_tools_that_must_not_be_called_are_not_shown(door: Door) -> None:
    door.gateway.answer = lambda *_: CALL

    (choice,) = await ask(door, False, tools=TOOLS, tool_choice="none")

    assert choice["message"]["content"] == CALL
    assert '"weather"' not in prompt_of(door)
    assert door.gateway.commands[0].sampling.guide is None


async def test_earlier_calls_and_their_results_reach_the_template(door: Door) -> None:
    door.gateway.answer = lambda *_: CALL
    first = await door.client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    message = first.choices[0].message
    assert message.tool_calls is not None
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    door.gateway.commands.clear()

    await door.client.chat.completions.create(
        model="toy", messages=[*ASK, message.model_dump(), result], tools=TOOLS
    )

    prompt = prompt_of(door)
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln 😀"}}' in prompt
    assert "<tool_response>\nsunny" in prompt


async def test_a_gateway_can_be_told_which_parsers_to_use(tmp_path: Path) -> None:
    text = load_text(write_tool_folder(tmp_path))
    gateway = FakeGateway(text, context_len=4096, answer=lambda *_: f"<think>a</think>{CALL}")
    none = HttpLimits(replies=ReplySettings("none", "none"))
    llama = HttpLimits(replies=ReplySettings("llama3", "none"))

    async with open_door(gateway, none) as door:
        (plain,) = await ask(door, False)
        refused = await door.http.post(
            "/v1/chat/completions", json={"messages": ASK, "tools": TOOLS}
        )
    gateway.answer = lambda *_: '{"name": "time", "parameters": {}}'
    async with open_door(gateway, llama) as door:
        (called,) = await ask(door, False, tools=TOOLS)

    assert plain["message"]["content"] == f"<think>a</think>{CALL}"
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert called["message"]["tool_calls"][0]["function"]["name"] == "time"


async def test_log_probabilities_come_with_parsed_replies_too(door: Door) -> None:
    door.gateway.answer = lambda *_: f"a {CALL}"
    body = {"messages": ASK, "tools": TOOLS, "logprobs": True, "stream": True}

    response = await door.http.post("/v1/chat/completions", json=body)

    choices = [json.loads(event)["choices"][0] for event in sse_events(response.text)[:-1]]
    tokens = [
        entry["token"]
        for choice in choices
        for entry in (choice["logprobs"] or {}).get("content", [])
    ]
    assert len(tokens) == len(door.gateway.text_of_model.encode(f"a {CALL}"))
