"""Protobuf at the door: messages to Baton's types and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from baton import errors
from baton.blocks import KvLayout
from baton.request import (
    FinishReason,
    Guide,
    GuideKind,
    PrefillMode,
    Role,
    SamplingParams,
    SequenceTimings,
    TokenLogprobs,
)
from baton.v1 import types_pb2 as pb

_PREFILL_MODES: Mapping[int, PrefillMode] = {mode.value: mode for mode in PrefillMode}
_FINISH_REASONS: Mapping[int, FinishReason] = {reason.value: reason for reason in FinishReason}
# Looked up, since an enum's `value` takes two calls.
_MODES_TO_PB = {mode: cast("pb.PrefillMode", mode.value) for mode in PrefillMode}
_REASONS_TO_PB = {reason: cast("pb.FinishReason", reason.value) for reason in FinishReason}


def sampling_to_pb(params: SamplingParams) -> pb.SamplingParams:
    """Fully resolved parameters: every optional field but `logprobs_count` is set."""
    return pb.SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
        stop_strings=params.stop_strings,
        ignore_eos=params.ignore_eos,
        seed=params.seed,
        logprobs_count=params.logprobs_count,
        logit_bias=params.logit_bias or None,
        guide=guide_to_pb(params.guide) if params.guide is not None else None,
    )


def sampling_from_pb(message: pb.SamplingParams) -> SamplingParams:
    """The inverse of `sampling_to_pb`; checks nothing, the gateway did."""
    return SamplingParams(
        temperature=message.temperature,
        top_p=message.top_p,
        top_k=message.top_k,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        max_tokens=message.max_tokens,
        min_tokens=message.min_tokens,
        stop_token_ids=tuple(message.stop_token_ids),
        stop_strings=tuple(message.stop_strings),
        ignore_eos=message.ignore_eos,
        seed=message.seed,
        logprobs_count=message.logprobs_count if message.HasField("logprobs_count") else None,
        logit_bias=dict(message.logit_bias) if message.logit_bias else {},
        guide=guide_from_pb(message.guide) if message.HasField("guide") else None,
    )


def guide_to_pb(guide: Guide) -> pb.Guide:
    """The inverse of `guide_from_pb`."""
    return pb.Guide(kind=cast("pb.GuideKind", guide.kind.value), source=guide.source)


def guide_from_pb(message: pb.Guide) -> Guide:
    """A guide as it came. Raises ValueError for an unknown kind."""
    return Guide(GuideKind(message.kind), message.source)


def logprobs_to_pb(position: TokenLogprobs) -> pb.PositionLogprobs:
    """One position's log-probabilities, without text."""
    return pb.PositionLogprobs(
        chosen=pb.TokenLogprob(token_id=position.token_id, logprob=position.logprob),
        top=[pb.TokenLogprob(token_id=token, logprob=value) for token, value in position.top],
    )


def logprobs_from_pb(message: pb.PositionLogprobs) -> TokenLogprobs:
    """The inverse of `logprobs_to_pb`."""
    return TokenLogprobs(
        token_id=message.chosen.token_id,
        logprob=message.chosen.logprob,
        top=tuple((entry.token_id, entry.logprob) for entry in message.top),
    )


def timings_to_pb(timings: SequenceTimings) -> pb.SequenceTimings:
    """Where a sample's time went."""
    return pb.SequenceTimings(
        queue_us=timings.queue_us,
        prefill_us=timings.prefill_us,
        handoff_us=timings.handoff_us,
        decode_us=timings.decode_us,
        cached_token_count=timings.cached_token_count,
        fetched_token_count=timings.fetched_token_count,
        prefill_cached_token_count=timings.prefill_cached_token_count,
        prefill_mode=_MODES_TO_PB[timings.prefill_mode],
        prefill_worker_id=timings.prefill_worker_id,
        handoff_bytes=timings.handoff_bytes,
        preemption_count=timings.preemption_count,
        transport=timings.transport,
    )


def timings_from_pb(message: pb.SequenceTimings) -> SequenceTimings:
    """The inverse of `timings_to_pb`. A mode that only newer processes know is told as LOCAL."""
    return SequenceTimings(
        queue_us=message.queue_us,
        prefill_us=message.prefill_us,
        handoff_us=message.handoff_us,
        decode_us=message.decode_us,
        cached_token_count=message.cached_token_count,
        fetched_token_count=message.fetched_token_count,
        prefill_cached_token_count=message.prefill_cached_token_count,
        prefill_mode=_PREFILL_MODES.get(message.prefill_mode, PrefillMode.LOCAL),
        prefill_worker_id=message.prefill_worker_id,
        handoff_bytes=message.handoff_bytes,
        preemption_count=message.preemption_count,
        transport=message.transport,
    )


def layout_to_pb(layout: KvLayout) -> pb.KvLayout:
    """How blocks lie."""
    return pb.KvLayout(
        block_size=layout.block_size,
        layer_count=layout.num_layers,
        kv_head_count=layout.num_kv_heads,
        head_dim=layout.head_dim,
        dtype=layout.dtype,
        version=layout.version,
        namespace=layout.namespace,
    )


def layout_from_pb(message: pb.KvLayout) -> KvLayout:
    """The inverse of `layout_to_pb`."""
    return KvLayout(
        block_size=message.block_size,
        num_layers=message.layer_count,
        num_kv_heads=message.kv_head_count,
        head_dim=message.head_dim,
        dtype=message.dtype,
        namespace=message.namespace,
        version=message.version,
    )


def error_to_pb(error: errors.BatonError) -> pb.Error:
    """An error as it crosses a stream."""
    status = error.status
    delay_s = error.retry_after_s
    return pb.Error(
        code=status.grpc_code,
        reason=status.reason,
        message=error.message,
        field=error.field,
        retry_delay_ms=None if delay_s is None else round(delay_s * 1000),
    )


def error_from_pb(message: pb.Error) -> errors.BatonError:
    """The exception that the other side raised."""
    error = errors.from_reason(message.reason, message.message, message.field)
    if message.HasField("retry_delay_ms"):
        error.retry_after_s = message.retry_delay_ms / 1000
    return error


def finish_to_pb(reason: FinishReason) -> pb.FinishReason:
    """Why a sample ended."""
    return _REASONS_TO_PB[reason]


def finish_from_pb(value: int) -> FinishReason:
    """The inverse of `finish_to_pb`. Raises `EngineFailed` for an unknown one."""
    reason = _FINISH_REASONS.get(value)
    if reason is None:
        raise errors.EngineFailed(
            f"finish_reason is {value}, which is unknown here: its sender is of another version"
        )
    return reason


def role_to_pb(role: Role) -> pb.WorkerRole:
    """What a process is."""
    return cast("pb.WorkerRole", role.value)
