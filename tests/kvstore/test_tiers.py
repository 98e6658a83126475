"""Real kvstores with a disk, leases, several nodes: right bytes or none, whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kvstore_blocks import Sink, blocks_of, chain_of, data_of, key_of
from service_process import ServiceProcess

from baton.blocks import BlockKey
from baton.rpc.channels import open_channel
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_node import Timeouts
from baton.transfer.shm import SharedSegment
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc
from services.kvstore import limits
from services.kvstore.leases import Leases
from services.kvstore.store import Offer, StoredBlock

QUICK = Timeouts(find_s=5.0, put_s=20.0, get_s=20.0, stall_s=10.0)
SIZE = 100_000
Start = Callable[..., ServiceProcess]


def keys_of(numbers: range) -> list[BlockKey]:
    return [key_of(number) for number in numbers]


def disk_flags(folder: Path) -> tuple[str, ...]:
    return ("--capacity-bytes", "4MiB", "--disk", str(folder), "--disk-bytes", "64MiB")


async def stats_of(address: str) -> Any:
    async with open_channel(address) as channel:
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        return await stub(channel).GetStats(pb.GetStatsRequest(), timeout=5)


@pytest.mark.parametrize("share", [True, False])
async def test_what_leaves_memory_comes_back_from_disk(
    start: Start, tmp_path: Path, share: bool
) -> None:
    kvstore = start(*disk_flags(tmp_path))
    client = KvStoreClient([kvstore.address], timeouts=QUICK, share_memory=share)
    for first in range(0, 120, 30):
        await client.put(chain_of(range(first, first + 30), SIZE), "ns")

    missing = await client.find_missing(keys_of(range(120)))
    sink = Sink()
    read = [
        await client.get(keys_of(range(first, first + 30)), "ns", SIZE, sink)
        for first in range(0, 120, 30)
    ]
    stats = await stats_of(kvstore.address)
    await client.close()

    assert missing == []
    assert read == [30] * 4
    assert [data for _, data in sink.blocks] == [data_of(number, SIZE) for number in range(120)]
    assert stats.disk_hit_count >= 80
    assert stats.used_bytes <= 4 << 20


async def test_a_restarted_store_serves_what_memory_and_disk_held(
    start: Start, tmp_path: Path
) -> None:
    first = start(*disk_flags(tmp_path))
    client = KvStoreClient([first.address], timeouts=QUICK)
    await client.put(chain_of(range(60), SIZE), "ns")
    await client.close()
    first.signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.wait) == 0

    second = start(*disk_flags(tmp_path))
    client = KvStoreClient([second.address], timeouts=QUICK)
    sink = Sink()
    num_read = await client.get(keys_of(range(60)), "ns", SIZE, sink)
    await client.close()

    assert (
        num_read >= 38
    )  # as much of the chain as memory held, written when the store was told to stop
    assert [data for _, data in sink.blocks] == [data_of(n, SIZE) for n in range(num_read)]


async def test_killed_in_the_middle_of_writing_it_serves_only_whole_blocks(
    start: Start, tmp_path: Path
) -> None:
    kvstore = start(*disk_flags(tmp_path))
    client = KvStoreClient([kvstore.address], timeouts=QUICK)

    async def put_on_and_on() -> None:
        for first in range(0, 100_000, 20):
            await client.put(blocks_of(range(first, first + 20), SIZE), "ns")

    writing = asyncio.create_task(put_on_and_on())
    async with asyncio.timeout(30):
        while (await stats_of(kvstore.address)).disk_write_count < 150:
            await asyncio.sleep(0.01)
    kvstore.signal(signal.SIGKILL)
    kvstore.wait()
    writing.cancel()
    await asyncio.wait([writing])
    await client.close()

    again = start(*disk_flags(tmp_path))
    recovered = await asyncio.to_thread(again.wait_for, "disk tier recovered")
    client = KvStoreClient([again.address], timeouts=QUICK)
    num_right = 0
    for number in range(400):
        sink = Sink()
        if await client.get([key_of(number)], "ns", SIZE, sink):
            assert sink.blocks == [(0, data_of(number, SIZE))]
            num_right += 1
    await client.close()

    assert recovered["blocks"] >= 40
    assert num_right >= 40


async def test_one_of_two_stores_dies_under_load_and_answers_stay_right(start: Start) -> None:
    nodes = [start("--capacity-bytes", "64MiB") for _ in range(2)]
    client = KvStoreClient([node.address for node in nodes], timeouts=QUICK)
    for first in range(0, 320, 32):
        await client.put(chain_of(range(first, first + 32), 10_000), "ns")
    before = await whole_chains(client)

    async def read_on() -> list[int]:
        return [await whole_chains(client) for _ in range(5)]

    reading = asyncio.create_task(read_on())
    await asyncio.sleep(0)
    nodes[0].signal(signal.SIGKILL)
    await asyncio.to_thread(nodes[0].wait)
    counts = await reading
    after = await whole_chains(client)
    await client.close()

    assert before == 10
    assert 1 <= after <= 9, "its chains are gone, those of the other are whole"
    assert min(counts) >= after


async def whole_chains(client: KvStoreClient) -> int:
    """Chains that are read whole; whatever is read is checked."""
    whole = 0
    for first in range(0, 320, 32):
        sink = Sink()
        groups = [key_of(first)] * 32
        count = await client.get(keys_of(range(first, first + 32)), "ns", 10_000, sink, groups)
        assert all(data == data_of(first + index, 10_000) for index, data in sink.blocks)
        whole += count == 32
    return whole


async def test_leased_blocks_stay_until_released(start: Start) -> None:
    kvstore = start("--capacity-bytes", "1MiB", "--no-admission")
    client = KvStoreClient([kvstore.address], timeouts=QUICK)
    await client.put(blocks_of(range(10), SIZE), "ns")
    async with open_channel(kvstore.address) as channel:
        make: Any = kvstore_pb2_grpc.KvStoreServiceStub
        stub = make(channel)
        request = pb.LeaseRequest(keys=b"".join(keys_of(range(10))), namespace="ns")

        lease = await stub.Lease(request, timeout=5)
        await client.put(blocks_of(range(20, 40), SIZE), "ns")
        during = await client.find_missing(keys_of(range(10)))
        await stub.Release(pb.ReleaseRequest(lease_ids=[lease.lease_id, 999]), timeout=5)
        await client.put(blocks_of(range(40, 60), SIZE), "ns")
        after = await client.find_missing(keys_of(range(10)))
    await client.close()

    assert len(lease.offsets) == 5  # half the memory at most
    assert lease.has_more
    assert set(during).isdisjoint(keys_of(range(5)))
    assert set(after) >= set(keys_of(range(5)))


async def test_a_block_that_rots_in_shared_memory_ends_the_run_and_is_dropped(start: Start) -> None:
    kvstore = start("--capacity-bytes", "4MiB")
    client = KvStoreClient([kvstore.address], timeouts=QUICK)
    await client.put(chain_of(range(3), SIZE), "ns")
    async with open_channel(kvstore.address) as channel:
        make: Any = kvstore_pb2_grpc.KvStoreServiceStub
        stub = make(channel)
        store = (await stub.Attach(pb.AttachRequest(), timeout=5)).memory
        request = pb.LeaseRequest(keys=b"".join(keys_of(range(3))), namespace="ns")
        lease = await stub.Lease(request, timeout=5)
        await stub.Release(pb.ReleaseRequest(lease_ids=[lease.lease_id]), timeout=5)
    memory = SharedSegment.open(store.name, store.nonce, store.size_bytes)
    memory.buffer[lease.offsets[1] + 7] ^= 1
    memory.close()
    sink = Sink()

    num_read = await client.get(keys_of(range(3)), "ns", SIZE, sink)
    async with asyncio.timeout(5):
        while await client.find_missing(keys_of(range(3))) != [key_of(1)]:
            await asyncio.sleep(0.01)
    await client.close()

    assert (num_read, sink.blocks) == (1, [(0, data_of(0, SIZE))])


def test_leases_end_by_themselves() -> None:
    unpinned: list[StoredBlock] = []
    leases = Leases(5.0, unpinned.append)
    blocks = [StoredBlock(Offer(key_of(n), "ns", 10, (0, 0)), n) for n in range(3)]

    first, second = leases.grant(blocks[:2], now=0.0), leases.grant(blocks[2:], now=3.0)
    leases.expire(5.0)

    assert unpinned == blocks[:2]
    assert (leases.num_blocks, leases.num_bytes, leases.num_expired) == (1, 10, 1)
    leases.release([first, second])
    assert unpinned == blocks
    assert leases.grant([], now=9.0) == 0


async def test_memory_that_is_not_the_callers_is_refused(start: Start) -> None:
    kvstore = start("--capacity-bytes", "1MiB")
    memory = pb.SharedMemory(name="baton-0123456789abcdef", nonce=bytes(16), size_bytes=1000)
    request = pb.PutSharedRequest(
        memory=memory, namespace="ns", size_bytes=100, keys=key_of(1), parents=bytes(16)
    )
    async with open_channel(kvstore.address) as channel:
        make: Any = kvstore_pb2_grpc.KvStoreServiceStub
        stub = make(channel)
        request.offsets.append(0)
        with pytest.raises(Exception, match="checksums is 0 long"):
            await stub.PutShared(request, timeout=5)
        request.checksums.append(1)
        with pytest.raises(Exception, match="can't be mapped"):
            await stub.PutShared(request, timeout=5)
        request.offsets[0] = 901
        with pytest.raises(Exception, match="offsets is 901; allowed: at most 900"):
            await stub.PutShared(request, timeout=5)


def test_a_lease_lives_longer_than_a_reader_uses_it() -> None:
    assert limits.LEASE_S > 1.0
