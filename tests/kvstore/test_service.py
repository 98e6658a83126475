"""The RPCs: limits, bad uploads, statistics, life."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from kvstore_blocks import data_of, key_of, piece, stream
from service_process import ServiceProcess

from baton.blocks import checksum
from baton.errors import DeadlineExceeded, InvalidRequest, Overloaded
from baton.rpc import metrics
from baton.rpc.status import from_rpc_error
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_memory import OfferedBlock
from baton.v1 import kvstore_pb2 as pb
from services.kvstore import limits
from services.kvstore.service import KvStoreService
from services.kvstore.store import BlockStore
from services.kvstore.tiers import Tiers


def make_tiers(capacity_bytes: int) -> Tiers:
    tiers = Tiers()
    tiers.store = BlockStore(memoryview(bytearray(capacity_bytes)), tiers)
    return tiers


async def refusal_of(call: Any) -> InvalidRequest:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    error = from_rpc_error(failure.value)
    assert isinstance(error, InvalidRequest), error
    return error


async def is_held(stub: Any, number: int) -> bool:
    answer = await stub.FindMissing(pb.FindMissingRequest(keys=key_of(number)))
    return not answer.missing


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"key": b"short"}, "key", "5 bytes; allowed: exactly 16"),
        ({"namespace": ""}, "namespace", "0 characters; allowed: 1 to 128"),
        ({"namespace": "n" * 129}, "namespace", "129 characters"),
        ({"size_bytes": 0}, "size_bytes", "0; allowed: 1 to 67108864"),
        ({"size_bytes": (64 << 20) + 1}, "size_bytes", "67108865"),
        ({"offset_bytes": 10}, "offset_bytes", "10; allowed: 0"),
        ({"data": b""}, "data", "0 bytes; allowed: 1 to 100"),
        ({"data": bytes(101)}, "data", "101 bytes; allowed: 1 to 100"),
        ({"size_bytes": 1 << 20, "data": bytes(limits.MAX_PIECE_BYTES + 1)}, "data", "524289"),
    ],
)
async def test_a_bad_piece_is_refused_with_field_value_and_limit(
    stub: Any, changes: dict[str, Any], field: str, words: str
) -> None:
    error = await refusal_of(stub.Put(stream(piece(1, **changes)), timeout=5))

    assert error.field == field
    assert words in error.message
    assert (await stub.GetStats(pb.GetStatsRequest())).used_bytes == 0


async def test_pieces_out_of_order_are_refused(stub: Any) -> None:
    first = piece(1, 100, data=data_of(1, 100)[:50])
    skipping = piece(1, 100, offset_bytes=60, data=bytes(40))

    error = await refusal_of(stub.Put(stream(first, skipping), timeout=5))

    assert error.field == "offset_bytes"
    assert "60; allowed: 50" in error.message


async def test_another_size_in_a_namespace_is_refused(stub: Any) -> None:
    error = await refusal_of(stub.Put(stream(piece(1, 100), piece(2, 90)), timeout=5))

    assert error.field == "size_bytes"
    assert "90" in error.message
    assert "100" in error.message
    assert await is_held(stub, 1)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (bytes(17), "17 bytes; allowed: 16 bytes a key"),
        (bytes(16 * 16_385), "at most 16384 keys"),
    ],
)
async def test_bad_keys_are_refused(stub: Any, keys: bytes, words: str) -> None:
    find = await refusal_of(stub.FindMissing(pb.FindMissingRequest(keys=keys), timeout=5))
    call = stub.Get(pb.GetRequest(keys=keys, namespace="ns"), timeout=5)
    get = await refusal_of(call.read())

    assert (find.field, get.field) == ("keys", "keys")
    assert words in find.message
    assert words in get.message


async def test_as_many_keys_as_allowed_are_taken(stub: Any) -> None:
    keys = b"".join(key_of(number) for number in range(16_384))

    answer = await stub.FindMissing(pb.FindMissingRequest(keys=keys), timeout=10)

    assert list(answer.missing) == list(range(16_384))


async def test_a_block_with_a_wrong_checksum_is_dropped_and_the_others_are_kept(stub: Any) -> None:
    bad = piece(2, checksum=1)

    answer = await stub.Put(stream(piece(1), bad, piece(3)), timeout=5)

    assert (answer.stored_count, answer.present_count, answer.refused_count) == (2, 0, 1)
    assert [await is_held(stub, number) for number in (1, 2, 3)] == [True, False, True]


async def test_a_torn_block_is_dropped_and_its_room_given_back(stub: Any) -> None:
    torn = piece(1, 100, data=data_of(1, 100)[:50])

    behind = await stub.Put(stream(torn, piece(2, 100)), timeout=5)
    at_the_end = await stub.Put(stream(piece(3, 100), torn), timeout=5)

    stats = await stub.GetStats(pb.GetStatsRequest())
    assert (behind.stored_count, behind.refused_count) == (1, 1)
    assert (at_the_end.stored_count, at_the_end.refused_count) == (1, 1)
    assert (stats.block_count, stats.used_bytes) == (2, 200)


async def test_a_client_that_leaves_in_the_middle_gives_its_room_back(stub: Any) -> None:
    has_sent = asyncio.Event()

    async def half() -> AsyncIterator[Any]:
        yield piece(1, 1 << 20, data=data_of(1, 1 << 20)[: 1 << 19])
        has_sent.set()
        await asyncio.Event().wait()

    call = stub.Put(half())
    await asyncio.wait_for(has_sent.wait(), 5)
    await _until_used(stub, 1 << 20)

    call.cancel()

    await _until_used(stub, 0)


async def _until_used(stub: Any, num_bytes: int) -> None:
    async with asyncio.timeout(5):
        while (await stub.GetStats(pb.GetStatsRequest())).used_bytes != num_bytes:
            await asyncio.sleep(0.01)


async def test_a_block_larger_than_the_store_is_refused_and_nothing_is_evicted(
    start: Callable[..., ServiceProcess],
) -> None:
    kvstore = start("--capacity-bytes", "1MiB")
    client = KvStoreClient([kvstore.address])
    await client.put([OfferedBlock(key_of(1), bytes(100))], "small")

    num_stored = await client.put([OfferedBlock(key_of(2), bytes(2 << 20))], "big")
    missing = await client.find_missing([key_of(1), key_of(2)])
    await client.close()

    assert num_stored == 0
    assert missing == [key_of(2)]


async def test_statistics_count_hits_misses_and_bytes(stub: Any) -> None:
    await stub.Put(stream(piece(1), piece(2)), timeout=5)
    keys = key_of(1) + key_of(9) + key_of(2)

    call = stub.Get(pb.GetRequest(keys=keys, namespace="ns"), timeout=5)
    answers = [answer async for answer in call]

    stats = await stub.GetStats(pb.GetStatsRequest())
    assert [answer.index for answer in answers] == [0]
    assert answers[0].checksum == checksum(data_of(1, 100))
    assert (stats.hit_count, stats.miss_count, stats.evicted_count) == (1, 1, 0)
    assert (stats.block_count, stats.used_bytes) == (2, 200)


async def test_a_kvstore_drains_on_sigterm(client: KvStoreClient, kvstore: ServiceProcess) -> None:
    await client.put([OfferedBlock(key_of(1), bytes(100))], "ns")

    kvstore.signal(signal.SIGTERM)

    assert await asyncio.to_thread(kvstore.wait) == 0
    assert '"event": "stopped"' in kvstore.output


class _Context:
    """As much of a servicer context as a Get needs."""

    async def write(self, message: Any) -> None:
        """Never goes on."""
        await asyncio.Event().wait()


async def test_too_many_calls_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PUTS", 1)
    service = KvStoreService(make_tiers(1 << 20))

    async def silent() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    running = asyncio.create_task(service.Put(silent(), None))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="the limit is 1") as refusal:
        await service.Put(silent(), None)
    running.cancel()
    await asyncio.wait([running])
    after = await service.Put(stream(piece(1)), None)

    assert refusal.value.retry_after_s == 1.0
    assert after.stored_count == 1


async def test_a_call_may_not_run_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_S", 0.05)
    tiers = make_tiers(1 << 20)
    service = KvStoreService(tiers)

    async def slow() -> AsyncIterator[Any]:
        yield piece(1, 1000, data=bytes(10))
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        await service.Put(slow(), None)
    await service.Put(stream(piece(2)), None)
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        await service.Get(pb.GetRequest(keys=key_of(2), namespace="ns"), _Context())

    assert tiers.store.used_bytes == 100


def test_help_tells_the_settings_and_nothing_heavy_is_loaded() -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "services.kvstore", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "--capacity-bytes" in shown.stdout
    assert "(default: 1GiB)" in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert not loaded & {"torch", "baton.engine", "kernels"}


async def test_the_store_shows_in_the_metrics(stub: Any) -> None:
    await stub.Put(stream(piece(1), piece(2, checksum=1)), timeout=5)
    call = stub.Get(pb.GetRequest(keys=key_of(1) + key_of(9), namespace="ns"), timeout=5)
    _ = [answer async for answer in call]

    shown = metrics.render().decode()

    assert 'baton_kvstore_blocks{tier="dram"} 1.0' in shown
    assert 'baton_kvstore_used_bytes{tier="dram"} 100.0' in shown
    assert 'baton_kvstore_hits_total{tier="dram"} 1.0' in shown
    assert "baton_kvstore_misses_total 1.0" in shown
    assert 'baton_kvstore_refused_blocks_total{reason="checksum"}' in shown
