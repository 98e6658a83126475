"""A real kvstore process and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import ByteSize
from service_process import ServiceProcess

from baton.rpc.channels import open_channel
from baton.rpc.serve import Process
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_node import Timeouts
from baton.v1 import kvstore_pb2_grpc
from services.kvstore.__main__ import build
from services.kvstore.settings import Settings

QUICK = Timeouts(find_s=2.0, put_s=10.0, get_s=10.0, stall_s=1.0)
Start = Callable[..., ServiceProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts kvstores; they end with the test."""
    with ExitStack() as stack:

        def make(*flags: str) -> ServiceProcess:
            base = ("-m", "services.kvstore", "--listen", "127.0.0.1:0")
            return stack.enter_context(ServiceProcess(*base, *flags))

        yield make


@pytest.fixture
def kvstore(start: Start) -> ServiceProcess:
    """A kvstore of 64 MB."""
    return start("--capacity-bytes", "64MiB")


@pytest.fixture(params=["memory", "stream"])
async def client(
    kvstore: ServiceProcess, request: pytest.FixtureRequest
) -> AsyncIterator[KvStoreClient]:
    """A worker's client of it, on both paths of blocks."""
    may_share = request.param == "memory"
    client = KvStoreClient([kvstore.address], timeouts=QUICK, share_memory=may_share)
    yield client
    await client.close()


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    """The bare RPCs of a kvstore of 64 MB in this process: quick to have."""
    settings = Settings(listen="127.0.0.1:0", capacity_bytes=ByteSize(64 << 20))
    process = Process("kvstore", settings)
    await build(process, settings)
    await process.start()
    async with open_channel(process.address) as channel:
        make: Any = kvstore_pb2_grpc.KvStoreServiceStub
        yield make(channel)
    await process.stop()
