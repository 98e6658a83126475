"""From a request's body and headers to commands for the gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from baton.errors import InvalidRequest
from baton.request import Guide
from baton.text import ModelText
from services.gateway.fields import NO_BIAS, GenerateFields
from services.gateway.openai.bodies import ChatBody, CompletionBody, GenerateBody, Prompt
from services.gateway.openai.guided import NamedGuide, guide_of, response_guide_of
from services.gateway.openai.reading import parsed
from services.gateway.openai.replies import (
    AUTO,
    NewReply,
    ReplySettings,
    check_tools,
    forcing_guide,
    new_reply,
    thinking_guide,
)
from services.gateway.openai.response_bodies import ResponsesBody
from services.gateway.openai.tools import NO_TOOLS, ToolUse, tool_use
from services.gateway.openai.unsupported import refuse_unsupported
from services.gateway.types import NO_HINTS, Gateway, GenerateCommand, SloHints
from services.gateway.validation import MAX_LOGIT_BIAS, MAX_SAMPLES, resolve

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for `/v1/completions`; chat answers are as long as the context allows."""

MAX_ID_DIGITS = 10
RETRY_HEADER = "Idempotency-Key"

_NAMES = {
    "logprobs_count": "logprobs",
    "prompt": "prompt",
    "request_id": "x-request-id",
    "retry_key": RETRY_HEADER,
    "sample_count": "n",
    "slo.expected_output_count": "x-baton-expected-output-tokens",
    "slo.target_itl_ms": "x-baton-target-itl-ms",
    "slo.target_ttft_ms": "x-baton-target-ttft-ms",
    "stop_strings": "stop",
    "template_arguments": "chat_template_kwargs",
    "tenant": "x-baton-tenant",
    "text": "prompt",
    "token_ids": "prompt",
}

_SLO_HEADERS = {
    "target_ttft_ms": "x-baton-target-ttft-ms",
    "target_itl_ms": "x-baton-target-itl-ms",
    "expected_output_count": "x-baton-expected-output-tokens",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """What the headers say."""

    request_id: str = ""
    traceparent: str = ""
    tenant: str = ""
    retry_key: str = ""
    slo: SloHints = NO_HINTS
    api_key: str = ""


def slo_of(headers: Mapping[str, str]) -> SloHints:
    """What the headers hope for. Raises `InvalidRequest` for what is no number."""
    values = {}
    for name, header in _SLO_HEADERS.items():
        value = headers.get(header)
        if value is None:
            continue
        if not (value.isascii() and value.isdecimal() and len(value) <= MAX_ID_DIGITS):
            raise InvalidRequest(
                f"{header} is {value[:80]!r}; it must be a number of at most {MAX_ID_DIGITS} "
                "digits.",
                field=header,
            )
        values[name] = int(value)
    return SloHints(**values) if values else NO_HINTS


@dataclass(frozen=True, slots=True)
class Call:
    """A checked HTTP request: one command per prompt, and how to answer."""

    commands: tuple[GenerateCommand, ...]
    text: ModelText
    is_stream: bool
    includes_usage: bool
    echoes: tuple[str, ...]
    """What precedes the answer to each prompt; empty: nothing does."""
    new_reply: NewReply | None = None
    """Makes what parses the text of a choice; None: it is all text."""
    thinks: bool = False
    """Whether usage tells how many tokens were reasoning."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Checks bodies against the gateway's models."""

    gateway: Gateway
    max_timeout_s: float = 600.0
    replies: ReplySettings = AUTO

    async def chat(self, content: bytes, caller: Caller) -> Call:
        """`/v1/chat/completions`."""
        body = await parsed(ChatBody, content)
        _check(body)
        named = guide_of(body.model_extra or {})
        if body.top_logprobs is not None and not body.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", field="top_logprobs")
        limit = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        fields = _fields(
            body,
            caller,
            max_tokens=_max_tokens(limit, getattr(body, limit)),
            messages=[message.as_template_sees_it() for message in body.messages],
            logprobs_count=(body.top_logprobs or 0) if body.logprobs else None,
            template_arguments=body.chat_template_kwargs or {},
        )
        names = {**_names(named), "max_tokens": limit, "logprobs_count": "top_logprobs"}
        use = tool_use(body.tools, body.tool_choice, body.parallel_tool_calls)
        return await self.reply(body, _guided(fields, named), names, use)

    async def reply(
        self,
        body: GenerateBody,
        fields: GenerateFields,
        names: Mapping[str, str],
        use: ToolUse = NO_TOOLS,
    ) -> Call:
        """A call for one reply of the assistant, which may be parsed."""
        if use.tools:
            fields = await self._with_tools(fields, names, use)
        if fields.guide is not None and not use.forced:
            fields = await self._with_thought(fields, fields.guide)
        command = await self._resolve(fields, names)
        _, text = await self.gateway.text(command.model)
        dialect = self.replies.dialect(text)
        return replace(
            _call(body, (command,), text),
            new_reply=new_reply(dialect, use, text, command),
            thinks=dialect.thinks,
        )

    async def response(self, content: bytes, caller: Caller) -> tuple[ResponsesBody, Call]:
        """`/v1/responses`."""
        body = await parsed(ResponsesBody, content)
        _check(body)
        body.refuse_unsupported()
        named = response_guide_of(body.model_extra or {})
        fields = _fields(
            body,
            caller,
            max_tokens=_max_tokens("max_output_tokens", body.max_output_tokens),
            messages=body.messages(),
        )
        names = {**_names(named), "max_tokens": "max_output_tokens", "messages": "input"}
        tools = [tool.as_chat_tool() for tool in body.tools or ()]
        use = tool_use(tools, body.chat_choice, body.parallel_tool_calls)
        return body, await self.reply(body, _guided(fields, named), names, use)

    async def completion(self, content: bytes, caller: Caller) -> Call:
        """`/v1/completions`."""
        body = await parsed(CompletionBody, content)
        _check(body)
        _check_completion(body)
        named = guide_of(body.model_extra or {})
        names = _names(named)
        commands = []
        for index, prompt in enumerate(body.prompt):
            fields = _guided(_completion_fields(body, caller, prompt, index), named)
            commands.append(await self._resolve(fields, names))
        _, text = await self.gateway.text(commands[0].model)
        return _call(body, tuple(commands), text, body.prompt if body.echo else ())

    async def _with_tools(
        self, fields: GenerateFields, names: Mapping[str, str], use: ToolUse
    ) -> GenerateFields:
        info, text = await self.gateway.text(fields.model)
        dialect = self.replies.dialect(text)
        check_tools(dialect, use, info.name)
        fields = replace(fields, tools=use.shown)
        if not use.forced:
            return fields
        if fields.guide is not None:
            raise InvalidRequest(
                f"{names['guide']} cannot be met by a reply that must call a tool, as tool_choice "
                "wants it.",
                field=names["guide"],
            )
        guide = forcing_guide(dialect, use, _rendered(fields, text), text)
        return replace(fields, guide=guide)

    async def _with_thought(self, fields: GenerateFields, guide: Guide) -> GenerateFields:
        """Models that think do so before an answer that a guide holds."""
        info, text = await self.gateway.text(fields.model)
        # A guide that is refused is refused in the client's own words.
        if (
            not self.replies.dialect(text).thinks
            or not fields.messages
            or await self.gateway.guide_fault(info.name, guide)
        ):
            return fields
        return replace(fields, guide=thinking_guide(guide, _rendered(fields, text), text))

    async def _resolve(self, fields: GenerateFields, names: Mapping[str, str]) -> GenerateCommand:
        return await resolve(self.gateway, fields, max_timeout_s=self.max_timeout_s, names=names)


def _call(
    body: GenerateBody,
    commands: tuple[GenerateCommand, ...],
    text: ModelText,
    echoed: Sequence[Prompt] = (),
) -> Call:
    return Call(
        commands=commands,
        text=text,
        is_stream=bool(body.stream),
        includes_usage=bool(body.stream_options and body.stream_options.include_usage),
        echoes=tuple(_echo(prompt, text) for prompt in echoed) if echoed else (),
    )


def _echo(prompt: Prompt, text: ModelText) -> str:
    return prompt if isinstance(prompt, str) else text.decode(prompt)


def _rendered(fields: GenerateFields, text: ModelText) -> str:
    return text.render_chat(
        fields.messages or (), tools=fields.tools, arguments=fields.template_arguments
    )


def _guided(fields: GenerateFields, named: NamedGuide | None) -> GenerateFields:
    return fields if named is None else replace(fields, guide=named.guide)


def _names(named: NamedGuide | None) -> Mapping[str, str]:
    return _NAMES if named is None else {**_NAMES, "guide": named.field}


def _check(body: GenerateBody) -> None:
    if extra := body.model_extra:
        refuse_unsupported(extra)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream to be true.", field="stream_options")
    if body.n is not None and not 1 <= body.n <= MAX_SAMPLES:
        raise InvalidRequest(f"n is {body.n}; it must lie from 1 to {MAX_SAMPLES}.", field="n")


def _check_completion(body: CompletionBody) -> None:
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise InvalidRequest(
            f"best_of is {body.best_of}; only the value of n, {n}, is supported.", field="best_of"
        )
    if body.echo and body.logprobs is not None:
        raise InvalidRequest(
            "echo cannot be combined with logprobs: those of a prompt are not supported.",
            field="echo",
        )
    if len(body.prompt) * n > MAX_SAMPLES:
        raise InvalidRequest(
            f"prompt holds {len(body.prompt)} prompts with n {n}; at most {MAX_SAMPLES} answers "
            "are given at once.",
            field="prompt",
        )


def _completion_fields(
    body: CompletionBody, caller: Caller, prompt: Prompt, index: int
) -> GenerateFields:
    # Every prompt is a request of its own in logs and traces.
    suffix = f"-{index}" if index and caller.request_id else ""
    return _fields(
        body,
        caller,
        request_id=caller.request_id + suffix,
        retry_key=f"{caller.retry_key}-{index}" if index and caller.retry_key else caller.retry_key,
        text=prompt if isinstance(prompt, str) else None,
        token_ids=None if isinstance(prompt, str) else prompt,
        max_tokens=_max_tokens("max_tokens", body.max_tokens),
        fallback_max_tokens=COMPLETION_MAX_TOKENS,
        logprobs_count=body.logprobs,
    )


def _max_tokens(name: str, value: int | None) -> int:
    # 0 means "as many as fit" further in, and has to be asked for by leaving the field out.
    if value is not None and value < 1:
        raise InvalidRequest(f"{name} is {value}; it must be at least 1.", field=name)
    return value or 0


def _fields(body: GenerateBody, caller: Caller, **own: Any) -> GenerateFields:
    """The fields that all endpoints share, and an endpoint's own."""
    ids = {"request_id": caller.request_id, "retry_key": caller.retry_key}
    return GenerateFields(
        **(ids | own),
        traceparent=caller.traceparent,
        tenant=caller.tenant,
        api_key=caller.api_key,
        slo=caller.slo,
        model=body.model or "",
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        min_tokens=body.min_tokens or 0,
        stop_token_ids=body.stop_token_ids or (),
        stop_strings=body.stop or (),
        ignore_eos=bool(body.ignore_eos),
        seed=None if body.seed is None else _unsigned(body.seed),
        logit_bias=_logit_bias(body.logit_bias) if body.logit_bias else NO_BIAS,
        sample_count=body.n or 0,
        cache_salt=body.cache_salt or "",
        priority=body.priority or 0,
    )


def _unsigned(seed: int) -> int:
    """OpenAI's seeds are signed 64-bit numbers, ours unsigned ones of the same width."""
    return seed + 2**64 if -(2**63) <= seed < 0 else seed


def _logit_bias(entries: Mapping[str, Any]) -> dict[int, float]:
    if len(entries) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias has {len(entries):,} entries; at most {MAX_LOGIT_BIAS:,} are allowed.",
            field="logit_bias",
        )
    bias = {}
    for key, value in entries.items():
        if not key.isascii() or not key.isdecimal() or len(key) > MAX_ID_DIGITS:
            raise InvalidRequest(
                f"logit_bias has the key {key[:80]!r}; keys must be token ids.", field="logit_bias"
            )
        bias[int(key)] = value
    return bias
