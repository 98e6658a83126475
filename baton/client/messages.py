"""The client's types as protobuf messages, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message

from baton import convert
from baton.client.types import (
    Chunk,
    Final,
    Model,
    Options,
    PositionLogprobs,
    Prompt,
    SampleSummary,
    Sampling,
    Slo,
    TokenLogprob,
)
from baton.errors import BatonError, InvalidRequest
from baton.rpc.channels import MAX_MESSAGE_BYTES
from baton.tokens import TokenIds
from baton.v1 import gateway_pb2 as pb
from baton.v1 import types_pb2

MessageT = TypeVar("MessageT", bound=Message)

MAX_REQUEST_BYTES = MAX_MESSAGE_BYTES - 64
"""A frame of a session adds a few bytes to a request that is alone in it."""


def generate_request(prompt: Prompt, sampling: Sampling, options: Options) -> pb.GenerateRequest:
    """Raises `InvalidRequest` for what cannot be written; limits are the gateway's affair."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        # A misspelt option, or one of `Sampling`'s, would otherwise be lost in silence.
        known = ", ".join(sorted(Options.__annotations__))
        raise TypeError(f"generate has no option {unknown[0]!r}; it has {known}")
    with _writing():
        request = pb.GenerateRequest(
            request_id=options.get("request_id", ""),
            model=options.get("model", ""),
            sampling=_sampling(sampling),
            sample_count=options.get("sample_count", 1),
            cache_salt=options.get("cache_salt", ""),
            tenant=options.get("tenant", ""),
            slo=_slo(options.get("slo")),
            priority=options.get("priority", 0),
            timeout_ms=round(options.get("timeout_s", 0.0) * 1000),
            return_token_ids=options.get("return_token_ids", False),
            omit_text=options.get("omit_text", False),
            **_prompt(prompt),
        )
    return sendable(request)


def sendable(message: MessageT, field: str = "prompt") -> MessageT:
    """The message. Raises `InvalidRequest` for one that is too long for a call or a frame."""
    num_bytes = message.ByteSize()
    if num_bytes > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"{field} is too long: the request has {num_bytes:,} bytes, at most "
            f"{MAX_REQUEST_BYTES:,} can be sent.",
            field=field,
        )
    return message


def tokenize_request(prompt: Prompt, model: str) -> pb.TokenizeRequest:
    """A text or a conversation to tokenise."""
    with _writing():
        members = _prompt(prompt)
        if "packed_token_ids" in members:
            raise InvalidRequest("prompt holds token ids already; a text or messages are needed.")
        request = pb.TokenizeRequest(model=model, **members)
    return sendable(request)


def detokenize_request(
    token_ids: Sequence[int], model: str, keep_special_tokens: bool
) -> pb.DetokenizeRequest:
    """Token ids to turn into text."""
    with _writing():
        request = pb.DetokenizeRequest(
            model=model, token_ids=token_ids, keep_special_tokens=keep_special_tokens
        )
    return sendable(request, "token_ids")


def event(response: pb.GenerateResponse) -> Chunk | Final:
    """One message of an answer."""
    if response.HasField("final"):
        return _final(response.final)
    return _chunk(response.chunk)


def session_event(event: pb.SessionEvent) -> Chunk | Final | BatonError:
    """One message of a session."""
    match event.WhichOneof("event"):
        case "final":
            return _final(event.final)
        case "error":
            return convert.error_from_pb(event.error)
    return _chunk(event.chunk)


def model(message: pb.Model) -> Model:
    """A model served."""
    return Model(
        name=message.name,
        context_len=message.context_len,
        num_decode_workers=message.decode_worker_count,
        num_prefill_workers=message.prefill_worker_count,
    )


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise InvalidRequest(f"A message lacks {error}.", field="messages") from error
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The request cannot be written: {error}.") from error


def _prompt(prompt: Prompt) -> dict[str, Any]:
    match prompt:
        case str():
            return {"text": prompt}
        case [Mapping(), *_]:
            messages: Any = prompt
            turns = [
                pb.ChatMessage(role=turn["role"], content=turn["content"]) for turn in messages
            ]
            return {"chat": pb.ChatPrompt(messages=turns)}
        case [_, *_]:
            ids: Any = prompt
            return {"packed_token_ids": _packed(ids)}
    raise InvalidRequest(
        "prompt is empty; it must hold text, messages or token ids.", field="prompt"
    )


def _packed(ids: Sequence[int]) -> bytes:
    try:
        return TokenIds.of(ids).packed
    except OverflowError as error:
        raise ValueError(f"a token id is no unsigned 32-bit number: {error}") from error


def _slo(slo: Slo | None) -> pb.SloHints | None:
    if slo is None:
        return None
    return pb.SloHints(
        target_ttft_ms=slo.target_ttft_ms,
        target_itl_ms=slo.target_itl_ms,
        expected_output_count=slo.expected_output_count,
    )


def _sampling(sampling: Sampling) -> types_pb2.SamplingParams:
    return types_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=sampling.max_tokens or 0,
        min_tokens=sampling.min_tokens,
        stop_token_ids=sampling.stop_token_ids,
        stop_strings=sampling.stop_strings,
        ignore_eos=sampling.ignore_eos,
        seed=sampling.seed,
        logprobs_count=sampling.logprobs_count,
        logit_bias=sampling.logit_bias,
        guide=convert.guide_to_pb(sampling.guide) if sampling.guide is not None else None,
    )


def _chunk(chunk: pb.GenerateChunk) -> Chunk:
    return Chunk(
        sample_index=chunk.sample_index,
        text=chunk.text,
        token_ids=tuple(chunk.token_ids),
        logprobs=tuple(map(_position, chunk.logprobs)),
        finish_reason=convert.finish_from_pb(chunk.finish_reason) if chunk.finish_reason else None,
        stop_string=chunk.stop_string,
        stop_token_id=chunk.stop_token_id if chunk.HasField("stop_token_id") else None,
    )


def _position(message: types_pb2.PositionLogprobs) -> PositionLogprobs:
    return PositionLogprobs(_token(message.chosen), tuple(map(_token, message.top)))


def _token(message: types_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(message.token_id, message.logprob, message.text)


def _final(final: pb.GenerateFinal) -> Final:
    return Final(
        request_id=final.request_id,
        model=final.model,
        num_prompt_tokens=final.prompt_token_count,
        num_output_tokens=final.output_token_count,
        num_cached_tokens=final.cached_token_count,
        samples=tuple(map(_summary, final.samples)),
        ttft_us=final.ttft_us,
        total_us=final.total_us,
        tokenize_us=final.tokenize_us,
        route_us=final.route_us,
        seed=final.seed,
        trace_id=final.trace_id,
        mean_itl_us=final.mean_itl_us,
        ttft_met=final.ttft_met if final.HasField("ttft_met") else None,
        itl_met=final.itl_met if final.HasField("itl_met") else None,
    )


def _summary(sample: pb.SampleSummary) -> SampleSummary:
    return SampleSummary(
        sample_index=sample.sample_index,
        finish_reason=convert.finish_from_pb(sample.finish_reason),
        num_output_tokens=sample.output_token_count,
        timings=convert.timings_from_pb(sample.timings),
        decode_worker_id=sample.decode_worker_id,
        num_migrations=sample.migration_count,
    )
