"""The Baton gRPC door: checks, converts, asks the gateway, converts back."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc

from baton import convert
from baton.errors import DeadlineExceeded, InvalidRequest
from baton.request import TokenLogprobs
from baton.rpc.handlers import Context
from baton.text import ModelText
from baton.tokens import TokenIds
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from baton.v1 import types_pb2
from services.gateway.types import Chunk, Final, Gateway, SampleSummary
from services.gateway.validation import GenerateFields, check_token_ids, resolve

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GatewayService"].full_name
REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
UNARY_SECONDS = 30.0
"""The most a unary call takes, tokenising a whole context included."""
# Ids travel in headers and log lines: printable ASCII without spaces.
_REQUEST_ID_FORM = re.compile(r"[\x21-\x7e]{1,128}")


class GatewayService(stubs.GatewayServiceServicer):
    """`baton.v1.GatewayService`."""

    def __init__(self, gateway: Gateway, max_timeout_s: float) -> None:
        self._gateway = gateway
        self._max_timeout_s = max_timeout_s

    def register(self, server: grpc.aio.Server) -> None:
        """Puts the service into a server."""
        stubs.add_GatewayServiceServicer_to_server(self, server)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Streams chunks, then one final. While the client is slow, its next chunk grows."""
        request_id = _request_id(request)
        await context.send_initial_metadata(((REQUEST_ID, request_id),))
        command = await resolve(
            self._gateway,
            _fields(request, request_id, context),
            max_timeout_s=self._max_timeout_s,
        )
        _, text = await self._gateway.text(command.model)
        writer = _Writer(request, text)
        async with aclosing(self._gateway.generate(command)) as events:
            async for event in events:
                response = writer.response(event)
                if response is not None:
                    yield response

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Text or a conversation to token ids."""
        async with _bounded():
            _, text = await self._gateway.text(request.model)
            if request.WhichOneof("input") == "text":
                ids = await self._gateway.encode(text, request.text)
            elif request.chat.messages:
                prompt = text.render_chat(_messages(request.chat))
                ids = await self._gateway.encode(text, prompt, add_special_tokens=False)
            else:
                raise InvalidRequest("input is empty; text or chat is needed.", field="input")
        return pb.TokenizeResponse(token_ids=ids)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Token ids to text."""
        async with _bounded():
            _, text = await self._gateway.text(request.model)
            check_token_ids(text, request.token_ids)
            skips = not request.keep_special_tokens
            plain = await asyncio.to_thread(text.decode, list(request.token_ids), skips)
        return pb.DetokenizeResponse(text=plain)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Models that live workers serve."""
        return pb.ListModelsResponse(
            models=[
                pb.Model(
                    name=info.name,
                    context_len=info.context_len,
                    decode_worker_count=info.num_decode_workers,
                    prefill_worker_count=info.num_prefill_workers,
                )
                for info in self._gateway.models()
            ]
        )


class _Writer:
    """Turns what the gateway yields into messages, as this request wants them."""

    def __init__(self, request: pb.GenerateRequest, text: ModelText) -> None:
        self._returns_tokens = request.return_token_ids
        self._text = text

    def response(self, event: Chunk | Final) -> pb.GenerateResponse | None:
        """The message; None when it would say nothing."""
        if isinstance(event, Final):
            return pb.GenerateResponse(final=_final(event))
        is_empty = not event.text and not event.logprobs and event.finish_reason is None
        if is_empty and not self._returns_tokens:
            return None
        return pb.GenerateResponse(chunk=self._chunk(event))

    def _chunk(self, chunk: Chunk) -> pb.GenerateChunk:
        reason = chunk.finish_reason
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


def _request_id(request: pb.GenerateRequest) -> str:
    request_id: str = request.request_id
    if not request_id:
        return secrets.token_hex(16)
    if len(request_id) > 128:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters; at most 128 are allowed.",
            field="request_id",
        )
    if not _REQUEST_ID_FORM.fullmatch(request_id):
        raise InvalidRequest(
            f"request_id is {request_id!r}; only printable ASCII without spaces is allowed.",
            field="request_id",
        )
    return request_id


def _fields(request: pb.GenerateRequest, request_id: str, context: Context) -> GenerateFields:
    prompt, sampling = request.WhichOneof("prompt"), request.sampling

    def given(name: str) -> bool:
        return bool(sampling.HasField(name))

    return GenerateFields(
        request_id=request_id,
        model=request.model,
        text=request.text if prompt == "text" else None,
        messages=_messages(request.chat) if prompt == "chat" else None,
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
        cache_salt=request.cache_salt,
        priority=request.priority,
        timeout_s=_timeout_s(request, context),
        want_text=not request.omit_text,
        traceparent=_traceparent(context),
    )


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


def _timeout_s(request: pb.GenerateRequest, context: Context) -> float:
    """The shorter of what the request and the call's deadline allow; 0: neither says."""
    limits = [request.timeout_ms / 1000] if request.timeout_ms else []
    left_s = context.time_remaining()
    if left_s is not None:
        limits.append(max(left_s, 0.001))
    return min(limits, default=0.0)


def _traceparent(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return str(value)
    return ""


def _messages(chat: pb.ChatPrompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in chat.messages]


def _final(final: Final) -> pb.GenerateFinal:
    return pb.GenerateFinal(
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
    )


def _summary(sample: SampleSummary) -> pb.SampleSummary:
    return pb.SampleSummary(
        sample_index=sample.sample_index,
        finish_reason=convert.finish_to_pb(sample.finish_reason),
        output_token_count=sample.num_output_tokens,
        timings=convert.timings_to_pb(sample.timings),
        decode_worker_id=sample.decode_worker_id,
        migration_count=sample.num_migrations,
    )


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(UNARY_SECONDS):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"the call took longer than {UNARY_SECONDS:g} s") from None
