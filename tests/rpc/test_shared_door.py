"""Several processes behind one gRPC address: who listens when, and what leaving does to calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from example_service import Example, Settings

from baton.cli.ports import PortPicker, is_free
from baton.rpc.channels import open_channel
from baton.rpc.serve import Process
from baton.v1 import decode_pb2_grpc, kvstore_pb2, kvstore_pb2_grpc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections")


@pytest.fixture
def shared() -> str:
    return f"127.0.0.1:{PortPicker().pick()}"


@asynccontextmanager
async def sharing(shared: str, **settings: float) -> AsyncIterator[tuple[Process, Example]]:
    """A process that serves there; stopped in the end."""
    process = Process("example", Settings(**settings))
    example = Example()
    example.register(process)
    process.share(shared)
    try:
        yield process, example
    finally:
        await process.stop()


def find(channel: grpc.aio.Channel) -> Any:
    stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
    return stub.FindMissing(kvstore_pb2.FindMissingRequest(), timeout=5)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def never() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


async def test_the_shared_address_is_listened_on_from_ready_to_draining(shared: str) -> None:
    async with sharing(shared, grace_seconds=5) as (process, example):
        is_able = False
        process.watch(lambda: is_able)
        starting = asyncio.create_task(process.start())
        await asyncio.sleep(0)
        was_free = is_free(port_of(shared))
        is_able = True
        await starting
        async with open_channel(shared) as channel:
            assert (await find(channel)).missing == [7]
            call = decode_pb2_grpc.DecodeServiceStub(channel).Connect(never())
            await call.read()

            stopping = asyncio.create_task(process.stop())
            async with asyncio.timeout(5):
                while not is_free(port_of(shared)):
                    await asyncio.sleep(0.005)
            is_stream_left = not stopping.done()
            example.leave.set()
            last = await call.read()
        await stopping

    assert was_free
    assert is_stream_left
    assert last.epoch == "last"


async def test_clients_of_one_that_leaves_go_on_with_another(shared: str) -> None:
    async with sharing(shared) as (first, _):
        await first.start()
        async with open_channel(shared) as channel:
            await find(channel)
            async with sharing(shared) as (second, _):
                await second.start()
                await first.stop()

                stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
                request = kvstore_pb2.FindMissingRequest()
                answer = await stub.FindMissing(request, timeout=5, wait_for_ready=True)

    assert answer.missing == [7]


async def test_what_begins_in_the_notice_is_served(shared: str) -> None:
    async with sharing(shared, notice_seconds=0.3) as (process, _):
        await process.start()
        async with open_channel(process.address) as channel:
            await find(channel)
            stopping = asyncio.create_task(process.stop())
            await process.draining.wait()

            answer = await find(channel)
            was_closed = process.is_closed
            await stopping

    assert answer.missing == [7]
    assert (was_closed, process.is_closed) == (False, True)


async def test_an_address_of_one_that_does_not_share_is_refused_in_a_sentence() -> None:
    alone = Process("example", Settings())
    async with sharing(alone.address) as (process, _):
        with pytest.raises(OSError, match=f"cannot listen on {alone.address}"):
            await process.start()
    await alone.stop()


async def test_one_that_does_not_share_is_refused_a_shared_address(shared: str) -> None:
    async with sharing(shared) as (process, _):
        await process.start()

        with pytest.raises(OSError, match=f"cannot listen on {shared}"):
            Process("example", Settings(listen=shared))
