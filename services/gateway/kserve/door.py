"""The KServe v2 door: checks, converts, asks the gateway, converts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc

from baton.errors import InvalidRequest
from baton.kserve.v2 import inference_pb2 as pb
from baton.kserve.v2 import inference_pb2_grpc as stubs
from baton.rpc.handlers import Context
from services.gateway import identity
from services.gateway.kserve import facts
from services.gateway.kserve.answers import Responses
from services.gateway.kserve.parameters import NAMES
from services.gateway.kserve.requests import VERSION, Origin, Question, check_version, read
from services.gateway.kserve.stream import InferStream
from services.gateway.types import Chunk, Gateway, GenerateCommand
from services.gateway.validation import resolve

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
REQUEST_ID = "x-request-id"
TRACEPARENT, AUTHORIZATION = "traceparent", "authorization"


class InferenceService(stubs.GRPCInferenceServiceServicer):
    """`inference.GRPCInferenceService`. Calls that our proto lacks are answered UNIMPLEMENTED."""

    def __init__(self, gateway: Gateway, max_timeout_s: float, draining: asyncio.Event) -> None:
        self._gateway = gateway
        self._max_timeout_s = max_timeout_s
        self._draining = draining

    def register(self, server: grpc.aio.Server) -> None:
        """Puts the service into a server."""
        stubs.add_GRPCInferenceServiceServicer_to_server(self, server)

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Whether the process runs: it does, if it answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Whether some model can be asked."""
        is_ready = bool(self._gateway.models()) and not self._draining.is_set()
        return pb.ServerReadyResponse(ready=is_ready)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Whether a model can be asked; false for one that nobody knows."""
        names = {model.name for model in self._gateway.models()}
        is_ready = request.name in names and request.version in ("", VERSION)
        return pb.ModelReadyResponse(ready=is_ready and not self._draining.is_set())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """What the server is."""
        return facts.server_metadata()

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """A model's tensors."""
        check_version(request.version)
        return facts.model_metadata(facts.find(self._gateway.models(), request.name))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """How a model is served."""
        check_version(request.version)
        return facts.model_config(facts.find(self._gateway.models(), request.name))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Models that live workers serve."""
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name=model.name, version=VERSION, state="READY")
                for model in self._gateway.models()
            ]
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answers whole."""
        question = read(request, _origin(context))
        if question.streams:
            raise InvalidRequest(
                "stream is true; ModelInfer answers whole, ModelStreamInfer streams.",
                field="stream",
            )
        await context.send_initial_metadata(((REQUEST_ID, question.fields.request_id),))
        command = await self._resolve(question)
        return await self._whole(command, Responses(question, command, is_stream=False))

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        """Answers requests side by side, as their parts are ready."""

        def answer(request: pb.ModelInferRequest) -> AsyncGenerator[pb.ModelInferResponse, None]:
            return self._parts(request, _origin(context))

        await InferStream(answer, context, self._draining).run(requests)

    async def _parts(
        self, request: pb.ModelInferRequest, origin: Origin
    ) -> AsyncGenerator[pb.ModelInferResponse, None]:
        question = read(request, origin)
        command = await self._resolve(question)
        responses = Responses(question, command, is_stream=True)
        if question.streams is False:
            yield await self._whole(command, responses)
        else:
            async with aclosing(self._gateway.generate(command)) as events:
                async for event in events:
                    response = responses.part(event) if isinstance(event, Chunk) else None
                    if response is not None:
                        yield response
        end = responses.end()
        if end is not None:
            yield end

    async def _whole(self, command: GenerateCommand, responses: Responses) -> pb.ModelInferResponse:
        async with aclosing(self._gateway.generate(command)) as events:
            chunks = [event async for event in events if isinstance(event, Chunk)]
        return responses.whole(chunks)

    async def _resolve(self, question: Question) -> GenerateCommand:
        return await resolve(
            self._gateway, question.fields, max_timeout_s=self._max_timeout_s, names=NAMES
        )


def _origin(context: Context) -> Origin:
    traceparent = authorization = ""
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            traceparent = str(value)
        elif key == AUTHORIZATION:
            authorization = str(value)
    return Origin(traceparent, context.time_remaining(), identity.api_key(authorization))
