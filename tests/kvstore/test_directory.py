"""What a kvstore process tells a real Redis."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from kvstore_blocks import blocks_of, key_of
from redis.asyncio import Redis
from service_process import ServiceProcess

from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.records import BlockRecord, WorkerRecord
from baton.request import Role
from baton.transfer.kvstore import KvStoreClient

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


async def eventually(claim: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await claim():
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


async def test_blocks_have_records_while_they_are_held(
    announced: ServiceProcess, redis: Redis
) -> None:
    client = KvStoreClient([announced.address])
    blocks = blocks_of(range(12), SIZE)

    await client.put(blocks[:10], "ns")
    await eventually(lambda: _has(redis, 0))
    raw: Any = await redis.hgetall(Keys().block(key_of(0)))
    record = BlockRecord.from_fields(key_of(0), raw)
    await client.put(blocks[10:], "ns")  # evicts 9 and 8
    await eventually(lambda: _has(redis, 11))
    await eventually(lambda: _has_not(redis, 9))
    held = [number for number in range(12) if await _has(redis, number)]
    await client.close()

    assert (record.node, record.tier, record.size_bytes) == ("kvstore-7", "dram", SIZE)
    assert held == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]


async def _has(redis: Redis, number: int) -> bool:
    return bool(await redis.exists(Keys().block(key_of(number))))


async def _has_not(redis: Redis, number: int) -> bool:
    return not await _has(redis, number)


async def test_a_kvstore_serves_while_redis_is_away(
    announced: ServiceProcess, redis_server: EmbeddedRedis
) -> None:
    client = KvStoreClient([announced.address])
    redis_server.kill()

    stored = await client.put(blocks_of(range(3), SIZE), "ns")
    missing = await client.find_missing([key_of(number) for number in range(3)])
    await client.close()

    assert (stored, missing) == (3, [])
