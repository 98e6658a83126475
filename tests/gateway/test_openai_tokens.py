"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.openai_door import Door

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_prompt_and_a_conversation_become_tokens_and_text_again(door: Door) -> None:
    text = door.gateway.text_of_model
    messages = [{"role": "user", "content": "hello"}]

    plain = (await door.http.post("/tokenize", json={"prompt": "the fox 😀"})).json()
    chat = await door.http.post(
        "/tokenize", json={"model": "toy", "messages": messages, "return_token_strs": True}
    )
    again = await door.http.post("/detokenize", json={"tokens": chat.json()["tokens"]})

    ids = text.encode("the fox 😀")
    assert plain == {"count": len(ids), "max_model_len": 256, "tokens": ids, "token_strs": None}
    assert "".join(chat.json()["token_strs"]) == text.render_chat(messages)
    assert again.json() == {"prompt": text.render_chat(messages)}


@pytest.mark.parametrize(
    ("path", "body", "phrase"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": []}, "either prompt or messages"),
        ("/tokenize", {"messages": []}, "empty"),
        ("/tokenize", {"prompt": 1}, "prompt is 1"),
        ("/tokenize", {"messages": [{"role": "x"}]}, "one of system"),
        (
            "/tokenize",
            {"messages": [{"role": "user"}], "chat_template_kwargs": {"tools": 1}},
            "'tools'",
        ),
        ("/detokenize", {}, "tokens is missing"),
        ("/detokenize", {"tokens": [-1]}, "tokens holds -1"),
        ("/detokenize", {"tokens": [10**30]}, "tokens holds 1000"),
    ],
)
async def test_bad_input_is_refused(door: Door, path: str, body: Any, phrase: str) -> None:
    response = await door.http.post(path, json=body)

    assert response.status_code == 400
    assert phrase in response.json()["error"]["message"]
