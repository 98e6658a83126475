"""The client for asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Self, TypeVar, Unpack

import grpc

from baton.client import messages
from baton.client.sessions import AsyncSession
from baton.client.types import Chunk, Final, Model, Options, Prompt, Sampling
from baton.errors import WorkerLost
from baton.rpc.channels import TlsFiles, open_channel
from baton.rpc.status import from_rpc_error
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs

UNARY_SECONDS = 30.0
DEADLINE_SLACK_SECONDS = 1.0
"""So that the gateway, which can say more about it, is the first to notice that time is up."""

ResponseT = TypeVar("ResponseT")


class AsyncEvents:
    """Chunks as they come, then one `Final`. Closing it, or dropping it, cancels the request."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]
    ) -> None:
        self._call = call
        self._responses = aiter(call)
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk | Final:
        if self._is_over:
            raise StopAsyncIteration
        try:
            event = messages.event(await anext(self._responses))
        except grpc.aio.AioRpcError as failure:
            self._is_over = True
            raise from_rpc_error(failure) from failure
        except StopAsyncIteration:
            self._is_over = True
            raise WorkerLost("The answer broke off without an end.") from None
        if isinstance(event, Final):
            self._is_over = True
            # The status behind the final; without reading it the call would count as cancelled.
            await self._call.code()
        return event

    async def aclose(self) -> None:
        """Cancels the request unless it has ended."""
        self._is_over = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncClient:
    """Speaks to one gateway; connects when first used. Use it from one event loop."""

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        self._channel = open_channel(address, tls)
        self._stub: Any = stubs.GatewayServiceStub(self._channel)

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> AsyncEvents:
        """Streams the samples for a prompt. What is wrong is raised where the events are read."""
        request = messages.generate_request(prompt, sampling or Sampling(), options)
        return AsyncEvents(
            self._stub.Generate(
                request, timeout=call_timeout_s(options), metadata=call_metadata(options)
            )
        )

    def session(self) -> AsyncSession:
        """Many requests on one stream; use it with `async with`."""
        return AsyncSession(self._stub)

    async def tokenize(self, prompt: Prompt, model: str = "") -> tuple[int, ...]:
        """Token ids of a text, special tokens included, or of a conversation."""
        request = messages.tokenize_request(prompt, model)
        response = await _answer(self._stub.Tokenize(request, timeout=UNARY_SECONDS))
        return tuple(response.token_ids)

    async def detokenize(
        self, token_ids: Sequence[int], model: str = "", keep_special_tokens: bool = False
    ) -> str:
        """Text of token ids."""
        request = messages.detokenize_request(token_ids, model, keep_special_tokens)
        response = await _answer(self._stub.Detokenize(request, timeout=UNARY_SECONDS))
        return str(response.text)

    async def list_models(self) -> tuple[Model, ...]:
        """Models that are served now."""
        call = self._stub.ListModels(pb.ListModelsRequest(), timeout=UNARY_SECONDS)
        return tuple(map(messages.model, (await _answer(call)).models))

    async def close(self) -> None:
        """Closes the connection; requests that still run are cancelled."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def call_timeout_s(options: Options) -> float | None:
    """The deadline of a call to generate; None: only the gateway's limit holds."""
    timeout_s = options.get("timeout_s", 0.0)
    return timeout_s + DEADLINE_SLACK_SECONDS if timeout_s else None


def call_metadata(options: Options) -> tuple[tuple[str, str], ...]:
    """What travels beside the request."""
    traceparent = options.get("traceparent", "")
    return (("traceparent", traceparent),) if traceparent else ()


async def _answer(call: Awaitable[ResponseT]) -> ResponseT:
    try:
        return await call
    except grpc.aio.AioRpcError as failure:
        raise from_rpc_error(failure) from failure
