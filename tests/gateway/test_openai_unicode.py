"""Text of every script, with a token's border at every byte, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from baton.text import load_text
from tests.support.fake_gateway import FakeGateway
from tests.support.openai_door import Door, open_door, sse_events
from tests.support.tokenizers_made import byte_level_tokenizer, write_folder

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [
    "Größe, naïve café",
    "e\u0301 n\u0303 a\u0323\u0302",  # combining marks
    "你好, こんにちは, привет, שלום, नमस्ते",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 👍🏽 1️⃣",  # joined, flags, skin tones, keycaps
    "\u200f\u202eabc\u202c \ufeff \u2028 \u0000",
    "𝔘𝔫𝔦 \U0010ffff",  # noqa: RUF001
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def byte_door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """The door in front of a model whose every token is one byte."""
    folder: Path = tmp_path_factory.mktemp("bytes")
    text = load_text(write_folder(folder, byte_level_tokenizer(vocab_size=256)))
    assert len(text.encode("né", add_special_tokens=False)) == 3
    async with open_door(FakeGateway(text)) as door:
        yield door


async def streamed(door: Door, path: str, body: dict[str, Any]) -> str:
    response = await door.http.post(path, json={**body, "stream": True})
    choices = [json.loads(event)["choices"][0] for event in sse_events(response.text)[:-1]]
    if path == "/v1/completions":
        return "".join(choice["text"] for choice in choices)
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("text", TEXTS)
async def test_characters_come_whole_at_every_border(byte_door: Door, text: str) -> None:
    byte_door.gateway.reset()
    byte_door.gateway.answer = lambda *_: text
    messages = [{"role": "user", "content": text}]

    completion = await byte_door.http.post(
        "/v1/completions", json={"prompt": text, "max_tokens": 99}
    )

    assert completion.json()["choices"][0]["text"] == text
    body = {"prompt": text, "max_tokens": 99}
    assert await streamed(byte_door, "/v1/completions", body) == text
    assert await streamed(byte_door, "/v1/chat/completions", {"messages": messages}) == text
    sent = byte_door.gateway.commands[0].token_ids
    assert byte_door.gateway.text_of_model.decode(sent) == text


@pytest.mark.parametrize("text", TEXTS)
async def test_a_stop_string_may_begin_at_any_character(byte_door: Door, text: str) -> None:
    byte_door.gateway.reset()
    byte_door.gateway.answer = lambda *_: text
    for start in range(len(text) - 1):
        stop = text[start : start + 3]
        body = {"prompt": "x", "max_tokens": 99, "stop": stop}

        assert await streamed(byte_door, "/v1/completions", body) == text[: text.index(stop)]
