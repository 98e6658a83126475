"""What a kvstore process tells a real Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kvstore_blocks import blocks_of, chain_of, key_of
from redis.asyncio import Redis
from service_process import ServiceProcess

from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.records import WorkerRecord
from baton.registry.watcher import Watcher
from baton.request import Role
from baton.transfer.kvstore import KvStoreClient
from services.gateway.snapshots import WorkerDesk

SIZE = 100 * 1024


@pytest.fixture
def redis_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
async def redis(redis_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def announced(start: Callable[..., ServiceProcess], redis_server: EmbeddedRedis) -> ServiceProcess:
    return start(
        "--redis-url",
        redis_server.url,
        "--worker-id",
        "kvstore-7",
        "--capacity-bytes",
        "1MiB",
        "--metrics-listen",
        "127.0.0.1:0",
    )


async def eventually(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not claim():
            await asyncio.sleep(0.02)


async def test_a_ready_kvstore_has_a_record_and_a_stopped_one_has_none(
    announced: ServiceProcess, redis: Redis
) -> None:
    ready = await asyncio.to_thread(announced.wait_for, "ready")

    raw: Any = await redis.hgetall(Keys().worker("kvstore-7"))
    record = WorkerRecord.from_fields(raw)
    announced.signal(signal.SIGTERM)
    code = await asyncio.to_thread(announced.wait)

    assert (record.role, record.address) == (Role.KVSTORE, ready["address"])
    assert record.metrics_address == ready["metrics"]
    assert record.layout is None
    assert code == 0
    assert not await redis.exists(Keys().worker("kvstore-7"))


async def test_a_gateway_knows_the_blocks_of_a_store_on_whichever_tier_they_are(
    start: Callable[..., ServiceProcess], redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    disk = ("--disk", str(tmp_path), "--disk-bytes", "64MiB")
    kvstore = start("--redis-url", redis_server.url, "--capacity-bytes", "1MiB", *disk)
    client = KvStoreClient([kvstore.address])
    await client.put(chain_of(range(5), SIZE), "ns")
    watcher = Watcher(redis_server.url, WorkerDesk().snapshot)
    await watcher.start()

    await eventually(lambda: _num_stored(watcher) == 5)  # from a snapshot
    for first in range(5, 40, 5):
        # Memory has room for ten: the others go to disk.
        await client.put(chain_of(range(first, first + 5), SIZE), "ns")
    await eventually(lambda: _num_stored(watcher) == 40)
    kvstore.signal(signal.SIGTERM)
    await eventually(lambda: _num_stored(watcher) == 0)
    await client.close()
    await watcher.stop()


async def test_a_gateway_forgets_what_a_store_has_dropped(
    announced: ServiceProcess, redis_server: EmbeddedRedis
) -> None:
    client = KvStoreClient([announced.address])
    watcher = Watcher(redis_server.url, WorkerDesk().snapshot)
    await watcher.start()

    await client.put(blocks_of(range(10), SIZE), "ns")
    await eventually(lambda: _num_stored(watcher) == 10)
    await client.put(blocks_of(range(10, 12), SIZE), "ns")  # evicts 9 and 8
    await eventually(lambda: _num_stored(watcher) == 8)
    await eventually(lambda: watcher.index.holds("kvstore-7", key_of(11)))
    held = [number for number in range(12) if watcher.index.holds("kvstore-7", key_of(number))]
    await client.close()
    await watcher.stop()

    assert held == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]


def _num_stored(watcher: Watcher) -> int:
    return watcher.index.walk([key_of(number) for number in range(40)]).num_stored


async def test_a_kvstore_serves_while_redis_is_away(
    announced: ServiceProcess, redis_server: EmbeddedRedis
) -> None:
    client = KvStoreClient([announced.address])
    redis_server.kill()

    stored = await client.put(blocks_of(range(3), SIZE), "ns")
    missing = await client.find_missing([key_of(number) for number in range(3)])
    await client.close()

    assert (stored, missing) == (3, [])
