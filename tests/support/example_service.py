"""A small service over real stubs, with a handler of every kind, for the tests beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic_settings import SettingsConfigDict

from baton.errors import InvalidRequest, Overloaded
from baton.rpc.serve import Process
from baton.rpc.settings import ServiceSettings
from baton.v1 import decode_pb2, decode_pb2_grpc, kvstore_pb2, kvstore_pb2_grpc

NAMES = ("baton.v1.KvStoreService", "baton.v1.DecodeService")


class Settings(ServiceSettings):
    """Settings of the example."""

    model_config = SettingsConfigDict(env_prefix="BATON_EXAMPLE_")

    listen: str = "127.0.0.1:0"
    """Address to serve on."""


class Example(kvstore_pb2_grpc.KvStoreServiceServicer, decode_pb2_grpc.DecodeServiceServicer):
    """Fails as its requests ask, and streams until it is told to end."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        self.num_streams = 0
        self.num_left = 0

    def register(self, process: Process) -> None:
        """Puts both services into the process."""
        process.register(
            NAMES,
            lambda server: (
                kvstore_pb2_grpc.add_KvStoreServiceServicer_to_server(self, server),
                decode_pb2_grpc.add_DecodeServiceServicer_to_server(self, server),
            ),
        )

    async def FindMissing(self, request: Any, context: Any) -> Any:
        """Unary. The keys choose what goes wrong."""
        if request.keys == b"invalid":
            raise InvalidRequest("keys has 7 bytes; the limit is 0", field="keys")
        if request.keys == b"quoting":
            raise InvalidRequest("😀" * 100_000, field="größe\n" * 1000)
        if request.keys == b"full":
            raise Overloaded("no room", retry_after_s=1.5)
        if request.keys == b"defect":
            raise ZeroDivisionError("secret detail")
        return kvstore_pb2.FindMissingResponse(missing=[7])

    async def Get(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Streams one message, then an error."""
        yield kvstore_pb2.GetResponse(index=1)
        raise InvalidRequest("no more", field="namespace")

    async def Put(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Takes a stream and refuses it."""
        async for _ in requests:
            raise InvalidRequest("too large", field="data")

    async def GetStats(self, request: Any, context: Any) -> Any:
        """Waits until the example leaves."""
        await self.leave.wait()
        return kvstore_pb2.GetStatsResponse(block_count=1)

    async def Connect(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Streams one frame, then waits until the example leaves."""
        self.num_streams += 1
        try:
            yield decode_pb2.DecodeConnectResponse(epoch="e1")
            await self.leave.wait()
            yield decode_pb2.DecodeConnectResponse(epoch="last")
        finally:
            self.num_left += 1
