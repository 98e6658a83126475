"""`/v1/responses`, asked by the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from baton.errors import WorkerLost
from baton.text import load_text
from tests.support.fake_gateway import ANSWER, FakeGateway
from tests.support.openai_door import Door, open_door
from tests.support.tool_model import CALL, TOOLS, write_tool_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLAT_TOOLS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]


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
    ids = door.gateway.commands[-1].token_ids
    return door.gateway.text_of_model.decode(ids, skip_special_tokens=False)


async def test_text_in_gives_text_out(door: Door) -> None:
    response = await door.client.responses.create(
        model="toy", input="hello", instructions="be kind", max_output_tokens=100, temperature=0.5
    )

    assert response.output_text == ANSWER
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == len(door.gateway.text_of_model.encode(ANSWER))
    assert door.gateway.commands[0].sampling.temperature == 0.5
    assert prompt_of(door).startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")


async def test_a_stream_tells_every_step_and_ends_with_the_whole(door: Door) -> None:
    door.gateway.answer = lambda *_: f"<think>hm</think>So.{CALL}"
    stream = await door.client.responses.create(
        model="toy", input="hello", tools=FLAT_TOOLS, stream=True
    )

    events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    steps = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert steps == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["reasoning", "message", "function_call"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.response.output
    assert last.response.output_text == "So."


async def test_calls_and_their_results_go_on(door: Door) -> None:
    door.gateway.answer = lambda *_: CALL
    first = await door.client.responses.create(model="toy", input="hello", tools=FLAT_TOOLS)
    (call,) = first.output
    assert call.type == "function_call"
    history: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]

    await door.client.responses.create(
        model="toy",
        input=history,
        tools=FLAT_TOOLS,
        tool_choice={"type": "function", "name": "time"},
    )

    assert CALL in prompt_of(door)
    assert "<tool_response>\nsunny" in prompt_of(door)
    assert door.gateway.commands[-1].sampling.guide is not None


class City(BaseModel):
    """What the client wants to be told."""

    name: str
    age: int


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_official_client_reads_what_it_gave_a_schema_for(
    door: Door, is_stream: bool
) -> None:
    door.gateway.answer = lambda *_: '{"name": "Köln", "age": 2000}'
    asked: dict[str, Any] = {"model": "toy", "input": "hello", "text_format": City}

    if is_stream:
        async with door.client.responses.stream(**asked) as stream:
            response = await stream.get_final_response()
    else:
        response = await door.client.responses.parse(**asked)

    assert response.output_parsed == City(name="Köln", age=2000)
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
    guide = door.gateway.commands[0].sampling.guide
    assert guide is not None
    assert '"age"' in guide.source


async def test_a_schema_that_cannot_be_used_is_refused_by_name(door: Door) -> None:
    form: Any = {"type": "json_schema", "name": "it", "schema": {"type": "bad"}}

    with pytest.raises(openai.BadRequestError) as raised:
        await door.client.responses.create(model="toy", input="x", text={"format": form})

    assert raised.value.param == "text.format.schema"
    assert raised.value.message.count("text.format.schema") == 1


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_that_is_cut_off_says_so(door: Door, is_stream: bool) -> None:
    options: dict[str, Any] = {"model": "toy", "input": "hello", "max_output_tokens": 2}

    if is_stream:
        stream = await door.client.responses.create(**options, stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "response.incomplete"
        response = last.response
    else:
        response = await door.client.responses.create(**options)

    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_an_error_in_mid_stream_is_the_last_event(door: Door) -> None:
    door.gateway.error = WorkerLost("the worker is gone")
    door.gateway.fail_at = 3
    stream = await door.client.responses.create(model="toy", input="hello", stream=True)

    events = [event async for event in stream]

    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.message == "the worker is gone"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", True),
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("conversation", "c"),
        ("truncation", "auto"),
        ("include", ["reasoning.encrypted_content"]),
        ("text", {"format": {"type": "yaml"}}),
        ("text", {"verbosity": "high"}),
        ("response_format", {"type": "json_object"}),
        ("max_tokens", 5),
        ("max_output_tokens", 0),
        ("n", 2),
        ("input", ""),
        ("input", []),
        ("input", [{"type": "item_reference", "id": "x"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image"}]}]),
        ("input", [{"role": "wizard", "content": "x"}]),
        ("tools", [{"type": "web_search"}]),
        ("tool_choice", "maybe"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    door: Door, field: str, value: object
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await door.client.responses.create(
            **{"model": "toy", "input": "x"}, extra_body={field: value}
        )

    assert (raised.value.param or "").startswith(field)
    assert field in raised.value.message
    assert door.gateway.commands == []
