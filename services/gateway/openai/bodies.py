"""What clients send: bodies of the two generating endpoints, checked for form only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SkipValidation, field_validator

from services.gateway.openai.messages import ChatMessage
from services.gateway.openai.tools import Tool

Prompt = str | list[int]
Prompts = str | list[str] | list[int] | list[list[int]]


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class GenerateBody(BaseModel):
    """Fields of both endpoints. Ranges are for `validation.resolve`, which both doors use.

    Unknown fields are kept: some of them must be refused (see `unsupported.py`), all others are
    ignored. From `ignore_eos` on the fields are not OpenAI's.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    cache_salt: str | None = None
    priority: int | None = None

    @field_validator("stop", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if value is None or (
            isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        ):
            return value
        if isinstance(value, str):
            return [value]
        raise ValueError("should be a string or a list of strings")


class CompletionBody(GenerateBody):
    """`/v1/completions`."""

    prompt: SkipValidation[list[Prompt]]
    """Validated by `_prompts` alone: once is enough for a hundred thousand ids."""
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None

    @field_validator("prompt", mode="before", json_schema_input_type=Prompts)
    @classmethod
    def _prompts(cls, value: object) -> object:
        match value:
            case str():
                return [value]
            case list() if value:
                kinds = set(map(type, value))  # in C: there may be a hundred thousand ids
                if kinds == {int}:
                    return [value]
                if kinds == {str} or (kinds == {list} and all(map(_is_token_ids, value))):
                    return value
        raise ValueError(
            "should be a string, a list of token ids, or a list with at least one of either kind"
        )


class ChatBody(GenerateBody):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def _is_token_ids(value: list[object]) -> bool:
    return set(map(type, value)) <= {int}
