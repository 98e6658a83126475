"""Turns the raw fields of either front door into a checked `GenerateCommand`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from baton.errors import InvalidRequest
from baton.request import SamplingParams
from baton.text import ModelText
from baton.tokens import TokenIds
from services.gateway import identity
from services.gateway.fields import NO_BIAS, GenerateFields
from services.gateway.types import (
    MAX_PRIORITY,
    NO_HINTS,
    Gateway,
    GenerateCommand,
    SloHints,
    Visitor,
)

MAX_SAMPLES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_LEN = 256
MAX_STOP_TOKENS = 1024
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_REQUEST_ID_LEN = 128
MAX_CACHE_SALT_LEN = 256
MAX_TENANT_LEN = 128
MAX_TARGET_TTFT_MS = 3_600_000
MAX_TARGET_ITL_MS = 60_000
MAX_EXPECTED_OUTPUT = 1_000_000
MAX_SEED = 2**64 - 1
QUICK_MESSAGES = 256
"""More are rendered in a thread."""

NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Writes the sentence of an `InvalidRequest` in the words of the door that was taken."""

    names: Mapping[str, str]

    def of(self, name: str, complaint: str) -> InvalidRequest:
        shown = self.names.get(name, name)
        return InvalidRequest(f"{shown} {complaint}.", field=shown)

    def unless_within(self, name: str, value: float | None, low: float, high: float) -> None:
        """Passes None. NaN lies nowhere, so the comparison is written to refuse it."""
        if value is not None and not low <= value <= high:
            raise self.of(name, f"is {value}; it must lie from {low:g} to {high:g}")

    def unless_above_zero(self, name: str, value: float | None, high: float) -> None:
        if value is not None and not 0 < value <= high:
            raise self.of(name, f"is {value}; it must lie above 0 and at most {high:g}")

    def if_longer(self, name: str, count: int, limit: int, unit: str) -> None:
        if count > limit:
            raise self.of(name, f"has {count:,} {unit}; at most {limit:,} are allowed")

    def unless_printable(self, name: str, text: str, limit: int) -> None:
        """For what travels in headers and log lines."""
        self.if_longer(name, len(text), limit, "characters")
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise self.of(name, f"is {text!r}; only printable ASCII without spaces is allowed")

    def unless_tokens(self, name: str, ids: Iterable[int], vocab_size: int) -> None:
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                raise self.of(
                    name, f"holds {token_id}; the model's ids go from 0 to {vocab_size - 1}"
                )


async def resolve(
    gateway: Gateway,
    fields: GenerateFields,
    *,
    max_timeout_s: float = 600.0,
    names: Mapping[str, str] = NO_NAMES,
) -> GenerateCommand:
    """Checks, tokenises and fills in what the client left open.

    Most clients leave most of it open: what is empty or None is passed by without a call.
    Raises `InvalidRequest` that names field, value and limit, `UnknownModel` or `NoWorker`. `names`
    maps field names to those that the client knows.
    """
    arrived_at = time.monotonic()
    refusal = _Refusal(names)
    _check_envelope(fields, refusal)
    _check_sampling(fields, refusal)
    info, text = await gateway.text(fields.model)
    visitor = gateway.welcome(
        info.name,
        Visitor(
            fields.tenant,
            fields.api_key,
            fields.priority,
            fields.slo.target_ttft_ms,
            fields.retry_key,
            names.get("tenant", "tenant"),
        ),
    )
    token_ids, tokenize_us = await _prompt(gateway, text, fields, refusal)
    _check_tokens(fields, text, token_ids, refusal)
    max_tokens = _max_tokens(fields, len(token_ids), info.context_len, refusal)
    if fields.guide is not None:
        fault = await gateway.guide_fault(info.name, fields.guide)
        if fault:
            raise refusal.of("guide", fault)
    return GenerateCommand(
        request_id=fields.request_id or identity.new_request_id(),
        model=info.name,
        token_ids=token_ids,
        sampling=_sampling(fields, text, max_tokens, visitor.tenant),
        sample_count=fields.sample_count or 1,
        cache_salt=identity.cache_salt(visitor.tenant, fields.cache_salt),
        tenant=visitor.tenant,
        retry_key=fields.retry_key,
        slo=fields.slo,
        priority=visitor.priority,
        timeout_s=min(fields.timeout_s or max_timeout_s, max_timeout_s),
        want_text=fields.want_text,
        traceparent=fields.traceparent,
        arrived_at=arrived_at,
        tokenize_us=tokenize_us,
    )


def check_token_ids(
    text: ModelText,
    ids: Sequence[int],
    name: str = "token_ids",
    names: Mapping[str, str] = NO_NAMES,
) -> None:
    """Raises `InvalidRequest` for an id that is no token of the model."""
    _Refusal(names).unless_tokens(name, ids, text.vocab_size)


def check_request_id(request_id: str) -> None:
    """Raises `InvalidRequest` for an id that cannot travel in headers and log lines."""
    _Refusal(NO_NAMES).unless_printable("request_id", request_id, MAX_REQUEST_ID_LEN)


def _check_envelope(fields: GenerateFields, refusal: _Refusal) -> None:
    forms = (fields.text, fields.messages, fields.token_ids)
    if forms.count(None) != 2:
        num_forms = 3 - forms.count(None)
        raise refusal.of("prompt", f"must come in exactly one form, and came in {num_forms}")
    if fields.sample_count:
        refusal.unless_within("sample_count", fields.sample_count, 0, MAX_SAMPLES)
    if fields.priority:
        refusal.unless_within("priority", fields.priority, -MAX_PRIORITY, MAX_PRIORITY)
    refusal.unless_printable("request_id", fields.request_id, MAX_REQUEST_ID_LEN)
    if fields.retry_key:
        refusal.unless_printable("retry_key", fields.retry_key, MAX_REQUEST_ID_LEN)
    if fields.tenant:
        refusal.unless_printable("tenant", fields.tenant, MAX_TENANT_LEN)
    if fields.slo is not NO_HINTS:
        _check_hints(fields.slo, refusal)
    if fields.cache_salt:
        refusal.if_longer("cache_salt", len(fields.cache_salt), MAX_CACHE_SALT_LEN, "characters")
    if not fields.timeout_s >= 0:
        raise refusal.of("timeout_s", f"is {fields.timeout_s}; it must not be negative")


def _check_hints(slo: SloHints, refusal: _Refusal) -> None:
    refusal.unless_within("slo.target_ttft_ms", slo.target_ttft_ms, 0, MAX_TARGET_TTFT_MS)
    refusal.unless_within("slo.target_itl_ms", slo.target_itl_ms, 0, MAX_TARGET_ITL_MS)
    expected = slo.expected_output_count
    refusal.unless_within("slo.expected_output_count", expected, 0, MAX_EXPECTED_OUTPUT)


def _check_sampling(fields: GenerateFields, refusal: _Refusal) -> None:
    if fields.temperature is not None:
        refusal.unless_within("temperature", fields.temperature, 0, 2)
    if fields.top_k is not None:
        refusal.unless_within("top_k", fields.top_k, 0, 2**31 - 1)
    if fields.min_p is not None:
        refusal.unless_within("min_p", fields.min_p, 0, 1)
    if fields.presence_penalty:
        refusal.unless_within("presence_penalty", fields.presence_penalty, -2, 2)
    if fields.frequency_penalty:
        refusal.unless_within("frequency_penalty", fields.frequency_penalty, -2, 2)
    if fields.logprobs_count is not None:
        refusal.unless_within("logprobs_count", fields.logprobs_count, 0, MAX_LOGPROBS)
    if fields.top_p is not None:
        refusal.unless_above_zero("top_p", fields.top_p, 1)
    if fields.repetition_penalty is not None:
        refusal.unless_above_zero("repetition_penalty", fields.repetition_penalty, 2)
    if fields.seed is not None and not 0 <= fields.seed <= MAX_SEED:
        raise refusal.of("seed", f"is {fields.seed}; it must lie from 0 to 2**64 - 1")
    if fields.stop_strings:
        _check_stop_strings(fields.stop_strings, refusal)
    if fields.stop_token_ids:
        refusal.if_longer("stop_token_ids", len(fields.stop_token_ids), MAX_STOP_TOKENS, "ids")
    if fields.logit_bias:
        _check_logit_bias(fields.logit_bias, refusal)


def _check_stop_strings(stops: Sequence[str], refusal: _Refusal) -> None:
    refusal.if_longer("stop_strings", len(stops), MAX_STOP_STRINGS, "strings")
    if "" in stops:
        raise refusal.of("stop_strings", "holds an empty string, which would end every answer")
    for stop in stops:
        if len(stop) > MAX_STOP_STRING_LEN:
            raise refusal.of(
                "stop_strings",
                f"holds a string of {len(stop):,} characters; at most {MAX_STOP_STRING_LEN} are "
                "allowed",
            )


def _check_logit_bias(logit_bias: Mapping[int, float], refusal: _Refusal) -> None:
    refusal.if_longer("logit_bias", len(logit_bias), MAX_LOGIT_BIAS, "entries")
    for token_id, bias in logit_bias.items():
        if not -100 <= bias <= 100:
            raise refusal.of(
                "logit_bias", f"gives token {token_id} {bias}; it must lie from -100 to 100"
            )


async def _prompt(
    gateway: Gateway, text: ModelText, fields: GenerateFields, refusal: _Refusal
) -> tuple[TokenIds, int]:
    """The prompt's token ids, and how many microseconds they took to make."""
    if fields.token_ids is not None:
        if not fields.token_ids:
            raise refusal.of("token_ids", "is empty; at least one token is needed")
        return _packed(fields.token_ids, text.vocab_size, refusal), 0
    started = time.perf_counter()
    if fields.messages is not None:
        if not fields.messages:
            raise refusal.of("messages", "is empty; at least one message is needed")
        _check_template_arguments(fields, text, refusal)
        prompt = await _rendered(text, fields, fields.messages)
        token_ids = await gateway.encode(text, prompt, add_special_tokens=False)
    else:
        if not fields.text:
            raise refusal.of("text", "is empty; at least one character is needed")
        token_ids = await gateway.encode(text, fields.text)
    if not token_ids:
        name = "messages" if fields.messages is not None else "text"
        raise refusal.of(name, "yields no tokens; at least one token is needed")
    return token_ids, int((time.perf_counter() - started) * 1e6)


async def _rendered(
    text: ModelText, fields: GenerateFields, messages: Sequence[Mapping[str, Any]]
) -> str:
    render = partial(
        text.render_chat, messages, tools=fields.tools, arguments=fields.template_arguments
    )
    # What rendering takes depends on how many messages there are, not on how long they are.
    return await asyncio.to_thread(render) if len(messages) > QUICK_MESSAGES else render()


def _check_template_arguments(fields: GenerateFields, text: ModelText, refusal: _Refusal) -> None:
    for name in fields.template_arguments:
        if name in text.reserved_arguments:
            raise refusal.of(
                "template_arguments", f"holds {name!r}, which is not for clients to give"
            )


def _packed(token_ids: Sequence[int], vocab_size: int, refusal: _Refusal) -> TokenIds:
    try:
        return TokenIds.of(token_ids)
    except OverflowError:
        refusal.unless_tokens("token_ids", token_ids, vocab_size)
        raise


def _check_tokens(
    fields: GenerateFields, text: ModelText, token_ids: TokenIds, refusal: _Refusal
) -> None:
    vocab_size = text.vocab_size
    # Ids that our own tokeniser made need no look, if it knows no others.
    is_sure = fields.token_ids is None and text.is_within_vocab
    if not is_sure and token_ids.highest >= vocab_size:
        name = "token_ids" if fields.token_ids is not None else "text"
        refusal.unless_tokens(name, token_ids, vocab_size)
    if fields.stop_token_ids:
        refusal.unless_tokens("stop_token_ids", fields.stop_token_ids, vocab_size)
    if fields.logit_bias:
        refusal.unless_tokens("logit_bias", fields.logit_bias, vocab_size)


def _max_tokens(
    fields: GenerateFields, prompt_len: int, context_len: int, refusal: _Refusal
) -> int:
    room = context_len - prompt_len
    if room < 1:
        prompt_name = next(
            name for name in ("text", "messages", "token_ids") if getattr(fields, name) is not None
        )
        raise refusal.of(
            prompt_name,
            f"has {prompt_len:,} tokens; the model's context of {context_len:,} tokens "
            "must hold them and at least one more",
        )
    if not 0 <= fields.max_tokens <= room:
        raise refusal.of(
            "max_tokens",
            f"is {fields.max_tokens:,}; with a prompt of {prompt_len:,} tokens the context of "
            f"{context_len:,} leaves 1 to {room:,}",
        )
    max_tokens = fields.max_tokens or min(fields.fallback_max_tokens or room, room)
    if not 0 <= fields.min_tokens <= max_tokens:
        raise refusal.of(
            "min_tokens", f"is {fields.min_tokens}; it must lie from 0 to max_tokens, {max_tokens}"
        )
    return max_tokens


def _sampling(
    fields: GenerateFields, text: ModelText, max_tokens: int, tenant: str
) -> SamplingParams:
    usual = text.generation_defaults
    temperature, penalty = fields.temperature, fields.repetition_penalty
    return SamplingParams(
        temperature=usual.temperature if temperature is None else temperature,
        top_p=usual.top_p if fields.top_p is None else fields.top_p,
        top_k=usual.top_k if fields.top_k is None else fields.top_k,
        min_p=fields.min_p or 0.0,
        repetition_penalty=usual.repetition_penalty if penalty is None else penalty,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens,
        stop_token_ids=tuple(dict.fromkeys(fields.stop_token_ids)) if fields.stop_token_ids else (),
        stop_strings=tuple(dict.fromkeys(fields.stop_strings)) if fields.stop_strings else (),
        ignore_eos=fields.ignore_eos,
        seed=_seed(fields, tenant),
        logprobs_count=fields.logprobs_count,
        logit_bias=MappingProxyType(dict(fields.logit_bias)) if fields.logit_bias else NO_BIAS,
        guide=fields.guide,
    )


def _seed(fields: GenerateFields, tenant: str) -> int:
    if fields.seed is not None:
        return fields.seed
    if fields.retry_key:
        return identity.seed(tenant, fields.retry_key)
    return identity.new_seed()
