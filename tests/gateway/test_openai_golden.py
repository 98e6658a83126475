"""Recorded answers of the OpenAI door, compared, and read strictly by the official client's types.

With BATON_RECORD=1 in the environment, golden/ is written anew; read the difference.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from baton.errors import WorkerLost
from baton.text import load_text
from tests.support.fake_gateway import FakeGateway
from tests.support.openai_door import Door, open_door
from tests.support.tool_model import ASK, CALL, TOOLS, write_tool_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOLDEN = Path(__file__).parent / "golden"
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
USAGE = {"include_usage": True}
THOUGHT = f"<think>hm</think>So: {CALL}"
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]
NOT_OPENAIS = {"reasoning_content"}
"""Members that other servers have, too, and the official types do not know."""

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chat_tools": (CHAT, f"Let me see.\n{CALL}\n{CALL}", {"messages": ASK, "tools": TOOLS}),
    "chat_reasoning": (CHAT, "<think>\nhm\n</think>\n\n4 😀", {"messages": ASK}),
    "chat_both": (CHAT, THOUGHT, {"messages": ASK, "tools": TOOLS}),
    "chat_plain": (CHAT, "4 😀", {"messages": ASK, "logprobs": True, "top_logprobs": 2}),
    "completion_logprobs": (TEXT, "4 é", {"prompt": ["one", "two"], "logprobs": 2}),
    "response_tools": (RESPONSES, THOUGHT, {"input": "hello", "tools": FLAT}),
    "response_cut": (RESPONSES, "one two three", {"input": "hello", "max_output_tokens": 2}),
}
ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "error_before": (CHAT, {"messages": []}),
    "error_between": (CHAT, {"messages": ASK, "stream": True}),
}
TYPES: dict[str, tuple[Any, Any]] = {
    CHAT: (ChatCompletion, ChatCompletionChunk),
    TEXT: (Completion, Completion),
    RESPONSES: (Response, ResponseStreamEvent),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def golden_door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """The door in front of a model that calls tools and thinks."""
    text = load_text(write_tool_folder(tmp_path_factory.mktemp("tools")))
    async with open_door(FakeGateway(text, context_len=4096)) as door:
        yield door


@pytest.fixture
def door(golden_door: Door) -> Door:
    """Nobody has asked it yet."""
    golden_door.gateway.reset()
    golden_door.gateway.context_len = 4096
    return golden_door


def fixed(text: str) -> str:
    """What differs from run to run, made equal."""
    text = re.sub(r'"(created|created_at)":\d+', r'"\1":0', text)
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"call_{len(names)}")

    return re.sub(r"call_[0-9a-f]{24}", name, text)


def compare(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("BATON_RECORD"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def read_strictly(kind: Any, value: Any) -> None:
    """Fails on a member that is missing or has another type, and on one that nobody knows."""
    for part in _parts(TypeAdapter(kind).validate_python(value)):
        assert not (part.model_extra or {}).keys() - NOT_OPENAIS, part


def _parts(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        value = dict(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _parts(part)


def data_of(text: str) -> list[Any]:
    """All events but the mark of the end."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def saying(answer: str) -> Callable[..., str]:
    return lambda *_: answer


@pytest.mark.parametrize("name", CASES)
async def test_whole_answers_are_as_recorded(door: Door, name: str) -> None:
    path, answer, body = CASES[name]
    door.gateway.answer = saying(answer)

    response = await door.http.post(path, json=body, headers={"x-request-id": "golden"})

    assert response.status_code == 200
    compare(f"{name}.json", fixed(response.text))
    read_strictly(TYPES[path][0], response.json())


@pytest.mark.parametrize("name", CASES)
async def test_streams_are_as_recorded(door: Door, name: str) -> None:
    path, answer, body = CASES[name]
    door.gateway.answer = saying(answer)
    options = {"stream": True, **({} if path == RESPONSES else {"stream_options": USAGE})}

    response = await door.http.post(path, json={**body, **options}, headers={"x-request-id": "g"})

    compare(f"{name}.sse", fixed(response.text))
    events = data_of(response.text)
    assert events
    for event in events:
        for choice in event.get("choices", []) if path == TEXT else []:
            # The type has no null here, which OpenAI's own streams send.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        read_strictly(TYPES[path][1], event)


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_are_as_recorded(door: Door, name: str) -> None:
    path, body = ERRORS[name]
    door.gateway.answer = saying("4 and some more")
    door.gateway.error, door.gateway.fail_at = WorkerLost("the worker is gone"), 2

    response = await door.http.post(path, json=body, headers={"x-request-id": "golden"})

    compare(f"{name}.{'sse' if body.get('stream') else 'json'}", fixed(response.text))
