"""The Baton gRPC door: checks, converts, asks the gateway, converts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc

from baton.errors import DeadlineExceeded, InvalidRequest
from baton.rpc.handlers import Context
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from services.gateway.grpc_messages import (
    Surroundings,
    Writer,
    fields_of,
    messages_of,
    request_id_of,
)
from services.gateway.session_door import SessionDoor
from services.gateway.types import Gateway
from services.gateway.validation import check_token_ids, resolve

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GatewayService"].full_name
REQUEST_ID = "x-request-id"
UNARY_SECONDS = 30.0
"""The most a unary call takes, tokenising a whole context included."""


class GatewayService(stubs.GatewayServiceServicer):
    """`baton.v1.GatewayService`."""

    def __init__(
        self, gateway: Gateway, max_timeout_s: float, max_session_requests: int = 1024
    ) -> None:
        self._gateway = gateway
        self._max_timeout_s = max_timeout_s
        self._sessions = SessionDoor(gateway, max_timeout_s, max_session_requests)

    def register(self, server: grpc.aio.Server) -> None:
        """Puts the service into a server."""
        stubs.add_GatewayServiceServicer_to_server(self, server)

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Streams chunks, then one final. While the client is slow, its next chunk grows."""
        request_id = request_id_of(request)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        await context.send_initial_metadata(((REQUEST_ID, request_id),))
        command = await resolve(
            self._gateway,
            fields_of(request, request_id, Surroundings.of(context)),
            max_timeout_s=self._max_timeout_s,
        )
        _, text = await self._gateway.text(command.model)
        writer = Writer(request, text)
        async with aclosing(self._gateway.generate(command)) as events:
            async for event in events:
                response = writer.response(event)
                if response is not None:
                    yield response

    async def Session(
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: Context
    ) -> AsyncIterator[pb.SessionResponse]:
        """Carries many requests on one stream."""
        frames = self._sessions.serve(request_iterator, Surroundings.of(context))
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    async def drain(self) -> None:
        """Ends the sessions behind the requests that run in them."""
        await self._sessions.drain()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Text or a conversation to token ids."""
        async with _bounded():
            _, text = await self._gateway.text(request.model)
            if request.WhichOneof("input") == "text":
                ids = await self._gateway.encode(text, request.text)
            elif request.chat.messages:
                prompt = text.render_chat(messages_of(request.chat))
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


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(UNARY_SECONDS):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"the call took longer than {UNARY_SECONDS:g} s") from None
