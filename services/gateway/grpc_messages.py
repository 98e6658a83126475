"""Messages of the Baton gRPC door as the gateway's types, and back: for Generate and Session."""

from __future__ import annotations

from dataclasses import dataclass

from baton import convert
from baton.errors import InvalidRequest
from baton.request import Guide, GuideKind, TokenLogprobs
from baton.rpc.handlers import Context
from baton.text import ModelText
from baton.tokens import TokenIds
from baton.v1 import gateway_pb2 as pb
from baton.v1 import types_pb2
from services.gateway import identity
from services.gateway.fields import GenerateFields
from services.gateway.types import Chunk, Final, SampleSummary, SloHints
from services.gateway.validation import check_request_id

TRACEPARENT, AUTHORIZATION = "traceparent", "authorization"


class Writer:
    """Turns what the gateway yields into messages, as this request wants them."""

    def __init__(self, request: pb.GenerateRequest, text: ModelText) -> None:
        self._returns_tokens = request.return_token_ids
        self._text = text

    def response(self, event: Chunk | Final) -> pb.GenerateResponse | None:
        """The message; None when it would say nothing."""
        if isinstance(event, Final):
            return pb.GenerateResponse(final=final_to_pb(event))
        chunk = self.chunk(event)
        return pb.GenerateResponse(chunk=chunk) if chunk is not None else None

    def chunk(self, chunk: Chunk) -> pb.GenerateChunk | None:
        """The message; None when it would say nothing."""
        reason = chunk.finish_reason
        is_empty = not chunk.text and not chunk.logprobs and reason is None
        if is_empty and not self._returns_tokens:
            return None
        return pb.GenerateChunk(
            sample_index=chunk.sample_index,
            text=chunk.text,
            token_ids=chunk.token_ids if self._returns_tokens else (),
            logprobs=[self._logprobs(position) for position in chunk.logprobs],
            finish_reason=convert.finish_to_pb(reason) if reason is not None else None,
            stop_string=chunk.stop_string,
            stop_token_id=chunk.stop_token_id,
        )

    def _logprobs(self, position: TokenLogprobs) -> types_pb2.PositionLogprobs:
        message = convert.logprobs_to_pb(position)
        for entry in (message.chosen, *message.top):
            entry.text = self._text.token_text(entry.token_id)
        return message


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What comes beside a request: the call's deadline, its trace, the caller's key."""

    left_s: float | None = None
    """Seconds until the call's deadline; None: it has none."""
    traceparent: str = ""
    api_key: str = ""

    @classmethod
    def of(cls, context: Context) -> Surroundings:
        """Those of a call."""
        traceparent = authorization = ""
        for key, value in context.invocation_metadata() or ():
            if key == TRACEPARENT:
                traceparent = str(value)
            elif key == AUTHORIZATION:
                authorization = str(value)
        return cls(context.time_remaining(), traceparent, identity.api_key(authorization))


def request_id_of(request: pb.GenerateRequest) -> str:
    """The client's id, or one made for it. Raises `InvalidRequest` for one that cannot be used."""
    request_id: str = request.request_id
    check_request_id(request_id)
    return request_id or identity.new_request_id()


def fields_of(request: pb.GenerateRequest, request_id: str, around: Surroundings) -> GenerateFields:
    """A request as it came."""
    prompt, sampling = request.WhichOneof("prompt"), request.sampling

    def given(name: str) -> bool:
        return bool(sampling.HasField(name))

    return GenerateFields(
        request_id=request_id,
        # An id that nobody knew before can't be sent again.
        retry_key=request.request_id,
        model=request.model,
        text=request.text if prompt == "text" else None,
        messages=messages_of(request.chat) if prompt == "chat" else None,
        token_ids=_token_ids(request),
        temperature=sampling.temperature if given("temperature") else None,
        top_p=sampling.top_p if given("top_p") else None,
        top_k=sampling.top_k if given("top_k") else None,
        min_p=sampling.min_p if given("min_p") else None,
        repetition_penalty=sampling.repetition_penalty if given("repetition_penalty") else None,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop_token_ids=tuple(sampling.stop_token_ids),
        stop_strings=tuple(sampling.stop_strings),
        ignore_eos=sampling.ignore_eos,
        seed=sampling.seed if given("seed") else None,
        logprobs_count=sampling.logprobs_count if given("logprobs_count") else None,
        logit_bias=dict(sampling.logit_bias),
        sample_count=request.sample_count,
        guide=_guide(sampling),
        cache_salt=request.cache_salt,
        tenant=request.tenant,
        api_key=around.api_key,
        slo=SloHints(
            target_ttft_ms=request.slo.target_ttft_ms,
            target_itl_ms=request.slo.target_itl_ms,
            expected_output_count=request.slo.expected_output_count,
        ),
        priority=request.priority,
        timeout_s=_timeout_s(request, around),
        want_text=not request.omit_text,
        traceparent=around.traceparent,
    )


def _guide(sampling: types_pb2.SamplingParams) -> Guide | None:
    if not sampling.HasField("guide"):
        return None
    try:
        return convert.guide_from_pb(sampling.guide)
    except ValueError:
        kinds = ", ".join(f"{kind.value} ({kind.name})" for kind in GuideKind)
        raise InvalidRequest(
            f"guide.kind is {sampling.guide.kind}; it must be one of {kinds}.", field="guide.kind"
        ) from None


def _token_ids(request: pb.GenerateRequest) -> TokenIds | None:
    match request.WhichOneof("prompt"):
        case "token_ids":
            return TokenIds.of(request.token_ids.ids)
        case "packed_token_ids":
            packed: bytes = request.packed_token_ids
            if len(packed) % 4:
                raise InvalidRequest(
                    f"packed_token_ids has {len(packed):,} bytes; token ids take 4 each.",
                    field="packed_token_ids",
                )
            return TokenIds(packed)
    return None


def _timeout_s(request: pb.GenerateRequest, around: Surroundings) -> float:
    """The shorter of what the request and the call's deadline allow; 0: neither says."""
    limits = [request.timeout_ms / 1000] if request.timeout_ms else []
    if around.left_s is not None:
        limits.append(max(around.left_s, 0.001))
    return min(limits, default=0.0)


def messages_of(chat: pb.ChatPrompt) -> list[dict[str, str]]:
    """The turns, as a chat template takes them."""
    return [{"role": message.role, "content": message.content} for message in chat.messages]


def final_to_pb(final: Final) -> pb.GenerateFinal:
    """The end of a request."""
    message = pb.GenerateFinal(
        request_id=final.request_id,
        model=final.model,
        prompt_token_count=final.num_prompt_tokens,
        output_token_count=final.num_output_tokens,
        cached_token_count=final.num_cached_tokens,
        samples=[_summary(sample) for sample in final.samples],
        ttft_us=final.ttft_us,
        total_us=final.total_us,
        tokenize_us=final.tokenize_us,
        route_us=final.route_us,
        seed=final.seed,
        trace_id=final.trace_id,
        mean_itl_us=final.mean_itl_us,
    )
    if final.ttft_met is not None:
        message.ttft_met = final.ttft_met
    if final.itl_met is not None:
        message.itl_met = final.itl_met
    return message


def _summary(sample: SampleSummary) -> pb.SampleSummary:
    return pb.SampleSummary(
        sample_index=sample.sample_index,
        finish_reason=convert.finish_to_pb(sample.finish_reason),
        output_token_count=sample.num_output_tokens,
        timings=convert.timings_to_pb(sample.timings),
        decode_worker_id=sample.decode_worker_id,
        migration_count=sample.num_migrations,
    )
