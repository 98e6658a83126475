"""Workers and a real kvstore: whatever happens to it, a worker only gets fewer blocks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from kvstore_blocks import Sink, blocks_of, data_of, key_of
from service_process import ServiceProcess

from baton.blocks import checksum
from baton.rpc.channels import open_channel
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_memory import OfferedBlock
from baton.transfer.kvstore_node import Timeouts
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc

QUICK = Timeouts(find_s=2.0, put_s=10.0, get_s=10.0, stall_s=1.0)
PIECE = 512 * 1024


@pytest.mark.parametrize("size", [1, 100, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_blocks_of_any_size_come_back_as_they_were(client: KvStoreClient, size: int) -> None:
    blocks = blocks_of(range(5), size)
    keys = [block.key for block in blocks]

    missing_before = await client.find_missing(keys)
    num_stored = await client.put(blocks, "ns")
    missing_after = await client.find_missing(keys)
    sink = Sink()
    num_read = await client.get(keys, "ns", size, sink)

    assert (missing_before, num_stored, missing_after, num_read) == (keys, 5, [], 5)
    assert sink.blocks == [(index, data_of(index, size)) for index in range(5)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_buffer_can_be_stored(client: KvStoreClient, kind: Any) -> None:
    data = data_of(1, PIECE + 10)

    num_stored = await client.put([OfferedBlock(key_of(1), kind(data))], "ns")
    sink = Sink()
    await client.get([key_of(1)], "ns", len(data), sink)

    assert num_stored == 1
    assert sink.blocks == [(0, data)]


async def test_reading_stops_at_the_first_missing_block(client: KvStoreClient) -> None:
    await client.put(blocks_of([0, 1, 3], 100), "ns")

    sink = Sink()
    num_read = await client.get([key_of(number) for number in range(4)], "ns", 100, sink)

    assert num_read == 2
    assert [index for index, _ in sink.blocks] == [0, 1]


async def test_blocks_of_another_namespace_or_size_are_not_delivered(client: KvStoreClient) -> None:
    await client.put(blocks_of([0], 100), "ns")

    sink = Sink()
    read = [
        await client.get([key_of(0)], "other", 100, sink),
        await client.get([key_of(0)], "ns", 99, sink),
        await client.get([key_of(0)], "ns", 101, sink),
    ]

    assert read == [0, 0, 0]
    assert sink.blocks == []


async def test_storing_twice_stores_once(kvstore: ServiceProcess, client: KvStoreClient) -> None:
    first = await client.put(blocks_of(range(3), 100), "ns")
    second = await client.put(blocks_of(range(4), 100), "ns")

    async with open_channel(kvstore.address) as channel:
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        stats = await stub(channel).GetStats(pb.GetStatsRequest(), timeout=5)
    assert (first, second) == (3, 4)
    assert (stats.block_count, stats.used_bytes) == (4, 400)


async def test_nothing_to_do_needs_no_kvstore() -> None:
    client = KvStoreClient(["127.0.0.1:1"])

    results = (
        await client.find_missing([]),
        await client.put([], "ns"),
        await client.get([], "ns", 100, Sink()),
    )
    await client.close()

    assert results == ([], 0, 0)


async def test_eviction_keeps_the_budget_and_the_beginning_of_chains(
    start: Callable[..., ServiceProcess],
) -> None:
    kvstore = start("--capacity-bytes", "1MiB")
    client = KvStoreClient([kvstore.address], timeouts=QUICK)
    size = 100 * 1024
    await client.put(blocks_of(range(10), size), "ns")

    num_stored = await client.put(blocks_of(range(20, 24), size), "ns")
    num_read = await client.get([key_of(number) for number in range(10)], "ns", size, Sink())
    missing = await client.find_missing([key_of(number) for number in range(20, 24)])
    await client.close()

    assert (num_stored, num_read, missing) == (4, 6, [])


async def test_memory_stays_near_the_budget_whatever_is_put(
    start: Callable[..., ServiceProcess],
) -> None:
    kvstore = start("--capacity-bytes", "16MiB")
    client = KvStoreClient([kvstore.address], timeouts=QUICK)
    await client.put(blocks_of(range(4), 1 << 20), "ns")
    before = _resident_bytes(kvstore.pid)

    for first in range(100, 228, 16):
        await client.put(blocks_of(range(first, first + 16), 1 << 20), "ns")
    grown = _resident_bytes(kvstore.pid) - before
    await client.close()

    # 12 MiB more of blocks; the rest is messages under way and the allocator's slack.
    assert grown < 40 << 20, f"{grown >> 20} MiB for 12"


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_kvstore_killed_while_it_sends_gives_a_shorter_run_and_then_silence(
    kvstore: ServiceProcess, client: KvStoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    size, count = 1 << 20, 40
    keys = [key_of(number) for number in range(count)]
    assert await client.put(blocks_of(range(count), size), "ns") == count
    sink = Sink()

    def write(index: int, data: bytes | memoryview) -> None:
        sink(index, data)
        if index == 1:
            kvstore.signal(signal.SIGKILL)
            kvstore.wait()

    num_read = await client.get(keys, "ns", size, write)
    began = time.monotonic()
    after = [await client.get(keys, "ns", size, sink) for _ in range(50)]
    after += [await client.put(blocks_of([1], size), "ns")]
    missing = await client.find_missing(keys)
    taken_s = time.monotonic() - began

    assert 2 <= num_read < count
    assert sink.blocks == [(index, data_of(index, size)) for index in range(num_read)]
    assert (set(after), missing) == ({0}, [])
    assert taken_s < 0.5, "an open breaker costs nothing"
    outages = [record for record in caplog.records if "going on without it" in record.getMessage()]
    assert len(outages) == 1


async def test_a_frozen_kvstore_costs_one_stall_and_is_found_again(
    kvstore: ServiceProcess, client: KvStoreClient
) -> None:
    await client.put(blocks_of([0], 100), "ns")
    kvstore.signal(signal.SIGSTOP)

    began = time.monotonic()
    frozen = await client.get([key_of(0)], "ns", 100, Sink())
    taken_s = time.monotonic() - began
    kvstore.signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while not await client.get([key_of(0)], "ns", 100, Sink()):
            await asyncio.sleep(0.05)

    assert frozen == 0
    assert 0.9 < taken_s < 3.0


async def test_a_kvstore_that_never_was_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    client = KvStoreClient(["127.0.0.1:1"], timeouts=QUICK)

    results = (
        await client.get([key_of(0)], "ns", 100, Sink()),
        await client.put(blocks_of([0], 100), "ns"),
        await client.find_missing([key_of(0)]),
    )
    await client.close()

    assert results == (0, 0, [])
    assert len(caplog.records) == 1


async def test_several_nodes_share_the_keys_and_one_is_enough(
    start: Callable[..., ServiceProcess],
) -> None:
    nodes = [start("--capacity-bytes", "8MiB") for _ in range(2)]
    client = KvStoreClient([node.address for node in nodes], timeouts=QUICK)
    keys = [key_of(number) for number in range(40)]
    blocks = blocks_of(range(40), 1000)

    stored = await client.put(blocks, "ns")
    sink = Sink()
    read = await client.get(keys, "ns", 1000, sink)
    nodes[0].signal(signal.SIGKILL)
    nodes[0].wait()
    shorter = await client.get(keys, "ns", 1000, Sink())
    stored_again = await client.put(blocks, "ns")
    read_again = await client.get(keys, "ns", 1000, Sink())
    await client.close()

    assert (stored, read) == (40, 40)
    assert sorted(sink.blocks) == [(index, data_of(index, 1000)) for index in range(40)]
    assert shorter < 40
    assert (stored_again, read_again) == (40, 40)


async def test_addresses_can_change(start: Callable[..., ServiceProcess]) -> None:
    first, second = start(), start()
    client = KvStoreClient([first.address], timeouts=QUICK)
    await client.put(blocks_of([0], 100), "ns")

    client.set_addresses([second.address])
    moved = await client.find_missing([key_of(0)])
    client.set_addresses([])
    nowhere = await client.find_missing([key_of(0)])
    await client.close()

    assert (moved, nowhere) == ([key_of(0)], [])


class Liar:
    """A kvstore that answers a Get with what a test tells it to."""

    def __init__(self, *answers: pb.GetResponse, waits: bool = False) -> None:
        self.answers = answers
        self.waits = waits

    async def Get(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Streams the answers."""
        for answer in self.answers:
            yield answer
        if self.waits:
            await asyncio.Event().wait()

    async def Attach(self, request: Any, context: Any) -> Any:
        """It has no memory to share."""
        return pb.AttachResponse()


@asynccontextmanager
async def lying(liar: Liar) -> AsyncIterator[KvStoreClient]:
    """A client of it."""
    server = grpc.aio.server()
    add: Any = kvstore_pb2_grpc.add_KvStoreServiceServicer_to_server
    for name in ("FindMissing", "Put", "GetStats", "PutShared", "Lease", "Release"):
        setattr(liar, name, None)
    add(liar, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = KvStoreClient([f"127.0.0.1:{port}"], timeouts=QUICK)
    yield client
    await client.close()
    await server.stop(None)


def answer(index: int, data: bytes, offset: int = 0, total: bytes | None = None) -> pb.GetResponse:
    whole = data if total is None else total
    return pb.GetResponse(
        index=index, offset_bytes=offset, data=data, checksum=checksum(whole) if whole else 0
    )


GOOD = answer(0, b"a" * 100)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(answer(1, b"b" * 100, total=b"other"), id="wrong checksum"),
        pytest.param(answer(2, b"b" * 100), id="skips a block"),
        pytest.param(GOOD, id="repeats a block"),
        pytest.param(answer(1, b"b" * 101), id="too long"),
        pytest.param(answer(1, b"b" * 50, offset=50), id="begins in the middle"),
        pytest.param(answer(1, b""), id="empty piece"),
    ],
)
async def test_a_block_that_is_not_right_ends_the_run(bad: pb.GetResponse) -> None:
    sink = Sink()
    async with lying(Liar(GOOD, bad, answer(1, b"b" * 100))) as client:
        num_read = await client.get([key_of(n) for n in range(3)], "ns", 100, sink)
        again = await client.get([key_of(0)], "ns", 100, Sink())

    assert (num_read, sink.blocks) == (1, [(0, b"a" * 100)])
    assert again == 1, "a bad block is no outage"


async def test_blocks_behind_the_last_key_are_not_delivered() -> None:
    sink = Sink()
    async with lying(Liar(GOOD, answer(1, b"b" * 100))) as client:
        num_read = await client.get([key_of(0)], "ns", 100, sink)

    assert (num_read, len(sink.blocks)) == (1, 1)


async def test_a_block_torn_in_the_middle_is_not_delivered() -> None:
    half = pb.GetResponse(index=0, data=b"a" * 50)
    sink = Sink()
    async with lying(Liar(half)) as client:
        num_read = await client.get([key_of(0)], "ns", 100, sink)

    assert (num_read, sink.blocks) == (0, [])


async def test_a_cancelled_read_writes_nothing_more() -> None:
    sink = Sink()
    async with lying(Liar(GOOD, waits=True)) as client:
        reading = asyncio.create_task(client.get([key_of(0), key_of(1)], "ns", 100, sink))
        async with asyncio.timeout(5):
            while not sink.blocks:
                await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert len(sink.blocks) == 1
