"""`/tokenize` and `/detokenize`: text and conversations to tokens and back, in vLLM's form."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from baton.errors import InvalidRequest
from baton.text import ModelText
from baton.tokens import TokenIds
from services.gateway.openai.messages import ChatMessage
from services.gateway.openai.reading import parsed
from services.gateway.openai.tools import Tool
from services.gateway.types import Gateway
from services.gateway.validation import check_token_ids


class TokenizeBody(BaseModel):
    """`/tokenize`: either a prompt or messages."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    """Open: for a prompt, not for messages, whose template writes them."""
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_one_input(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("must have either prompt or messages")
        return self


class DetokenizeBody(BaseModel):
    """`/detokenize`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    tokens: list[int]


async def tokenize(gateway: Gateway, content: bytes) -> dict[str, Any]:
    """The answer's body."""
    body = await parsed(TokenizeBody, content)
    info, text = await gateway.text(body.model or "")
    prompt = _rendered(body, text) if body.prompt is None else body.prompt
    adds_special = body.add_special_tokens
    if adds_special is None:
        adds_special = body.prompt is not None
    ids = list(await gateway.encode(text, prompt, adds_special))
    return {
        "count": len(ids),
        "max_model_len": info.context_len,
        "tokens": ids,
        "token_strs": [text.token_text(i) for i in ids] if body.return_token_strs else None,
    }


async def detokenize(gateway: Gateway, content: bytes) -> dict[str, Any]:
    """The answer's body. Special tokens are written out."""
    body = await parsed(DetokenizeBody, content)
    _, text = await gateway.text(body.model or "")
    return {"prompt": await asyncio.to_thread(_decoded, text, body.tokens)}


def _decoded(text: ModelText, tokens: list[int]) -> str:
    check_token_ids(text, tokens, names={"token_ids": "tokens"})
    return text.decode(TokenIds.of(tokens), False)


def _rendered(body: TokenizeBody, text: ModelText) -> str:
    if not body.messages:
        raise InvalidRequest("messages is empty; at least one is needed.", field="messages")
    arguments = body.chat_template_kwargs or {}
    for name in arguments.keys() & text.reserved_arguments:
        raise InvalidRequest(
            f"chat_template_kwargs holds {name!r}, which is not for clients to give.",
            field="chat_template_kwargs",
        )
    return text.render_chat(
        [message.as_template_sees_it() for message in body.messages],
        body.add_generation_prompt,
        [tool.as_template_sees_it() for tool in body.tools or ()],
        arguments,
    )
