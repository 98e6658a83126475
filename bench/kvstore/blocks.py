"""Bytes per second in and out, by size of block and by path."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from baton.blocks import BlockKey, checksum
from baton.registry.embedded import EmbeddedRedis
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_memory import OfferedBlock
from baton.transfer.kvstore_node import Timeouts
from baton.transfer.shm import SharedSegment
from bench.failure import BenchFailed
from bench.kvstore.process import StoreProcess
from bench.options import Run
from bench.report import Table

SIZES = (8 << 10, 64 << 10, 512 << 10, 2 << 20)
BATCH_BYTES = 32 << 20
WARM_BYTES = 2 << 20
PATIENT = Timeouts(find_s=30.0, put_s=60.0, get_s=60.0, stall_s=30.0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks in shared memory, as in a worker's arena, and memory to read them into."""

    segment: SharedSegment
    target: memoryview
    block_bytes: int
    keys: Sequence[BlockKey]

    @property
    def num_bytes(self) -> int:
        """All blocks together."""
        return self.block_bytes * len(self.keys)

    def view(self, index: int) -> memoryview:
        """A block."""
        return self.segment.buffer[index * self.block_bytes : (index + 1) * self.block_bytes]

    def write(self, index: int, data: bytes | memoryview) -> None:
        """Takes a block that was read."""
        self.target[index * self.block_bytes : (index + 1) * self.block_bytes] = data

    def blocks(self) -> list[OfferedBlock]:
        """As a worker offers them."""
        parents: list[BlockKey | None] = [None, *self.keys[:-1]]
        return [
            OfferedBlock(key, self.view(index), parents[index], self.keys[0])
            for index, key in enumerate(self.keys)
        ]


def fresh_keys(count: int) -> list[BlockKey]:
    """Keys nobody holds."""
    seed = os.urandom(8)
    return [
        BlockKey(hashlib.blake2b(seed + index.to_bytes(4, "big"), digest_size=16).digest())
        for index in range(count)
    ]


async def measure_blocks(
    run: Run, sizes: Sequence[int] = SIZES, batch_bytes: int = BATCH_BYTES
) -> list[Table]:
    """Medians of several rounds; each path runs in each round, in turn."""
    rounds = run.size(7, 1)
    run.steps.begin("bytes", len(sizes))
    rows: list[tuple[str | int | float | None, ...]] = []
    segment = SharedSegment.create(batch_bytes)
    segment.buffer[:] = os.urandom(batch_bytes)
    target = memoryview(bytearray(batch_bytes))
    # Small enough that its pages have all been written before the first blocks are measured.
    flags = ("--capacity-bytes", "256MiB", "--no-admission")
    try:
        with StoreProcess(*flags) as store, EmbeddedRedis() as server:
            memory = KvStoreClient([store.address], timeouts=PATIENT, arena=segment)
            staged = KvStoreClient([store.address], timeouts=PATIENT)
            stream = KvStoreClient([store.address], timeouts=PATIENT, share_memory=False)
            async with Redis.from_url(server.url) as redis:
                await _warm_up(memory, segment, target)
                for size in sizes:
                    run.steps.next(f"{size >> 10} KB")
                    clients = {"memory": memory, "staged": staged, "stream": stream}
                    rows.append(await _measure_size(size, rounds, segment, target, clients, redis))
            for client in (memory, staged, stream):
                await client.close()
    finally:
        segment.close()
    columns = (
        "block KB",
        "memcpy GB/s",
        "XXH3 + memcpy GB/s",
        "put memory",
        "put staged",
        "put stream",
        "put Redis",
        "get memory",
        "get stream",
        "get Redis",
    )
    notes = (
        f"GB/s of batches of {batch_bytes >> 20} MB, medians of {rounds} rounds, all ways in turn.",
        "memcpy: the same blocks copied one by one in this process. A put is checksummed here, "
        "copied and verified in the store; a get is verified and copied here.",
        "memory: blocks lie in shared memory, as on a CPU; staged: copied there first, as from a "
        "GPU; stream: gRPC.",
        "Redis: the embedded server as a blob store, SET in pipelines, MGET, 4 MB at a time.",
    )
    return [Table("Put and get by size of block", columns, tuple(rows), notes)]


async def _warm_up(client: KvStoreClient, segment: SharedSegment, target: memoryview) -> None:
    num_bytes = len(target)
    for _ in range(9):
        keys = fresh_keys(num_bytes // WARM_BYTES)
        await _put(client, Batch(segment, target, WARM_BYTES, keys), "warm")


async def _measure_size(
    size: int,
    rounds: int,
    segment: SharedSegment,
    target: memoryview,
    clients: dict[str, KvStoreClient],
    redis: Redis,
) -> tuple[float | int, ...]:
    count = len(target) // size
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        batch = Batch(segment, target, size, fresh_keys(count))
        await _time(times, "memcpy", lambda batch=batch: _copy(batch, verify=False))  # type: ignore[misc]
        await _time(times, "verified", lambda batch=batch: _copy(batch, verify=True))  # type: ignore[misc]
        for name, client in clients.items():
            batch = Batch(segment, target, size, fresh_keys(count))
            namespace = f"{name}-{size}"
            await _time(times, f"put {name}", lambda c=client, b=batch, n=namespace: _put(c, b, n))  # type: ignore[misc]
            if name != "staged":
                await _time(
                    times,
                    f"get {name}",
                    lambda c=client, b=batch, n=namespace: _get(c, b, n),  # type: ignore[misc]
                )
        await _time(times, "put Redis", lambda b=batch: _redis_put(redis, b))  # type: ignore[misc]
        await _time(times, "get Redis", lambda b=batch: _redis_get(redis, b))  # type: ignore[misc]
        await redis.flushall()
    order: tuple[str, ...] = (
        "memcpy",
        "verified",
        "put memory",
        "put staged",
        "put stream",
        "put Redis",
    )
    order += ("get memory", "get stream", "get Redis")
    medians = (sorted(times[name])[len(times[name]) // 2] for name in order)
    return (size >> 10, *(len(target) / 1e9 / median for median in medians))


async def _time(
    times: dict[str, list[float]], name: str, work: Callable[[], Awaitable[None]]
) -> None:
    began = time.perf_counter()
    await work()
    times.setdefault(name, []).append(time.perf_counter() - began)


async def _copy(batch: Batch, *, verify: bool) -> None:
    for index in range(len(batch.keys)):
        view = batch.view(index)
        if verify:
            checksum(view)
        batch.write(index, view)


async def _put(client: KvStoreClient, batch: Batch, namespace: str) -> None:
    held = await client.put(batch.blocks(), namespace)
    if held != len(batch.keys):
        raise BenchFailed(f"{held} of {len(batch.keys)} blocks were stored")


async def _get(client: KvStoreClient, batch: Batch, namespace: str) -> None:
    count = await client.get(batch.keys, namespace, batch.block_bytes, batch.write)
    if count != len(batch.keys):
        raise BenchFailed(f"{count} of {len(batch.keys)} blocks came back")


async def _redis_put(redis: Redis, batch: Batch) -> None:
    per_pipe = max(1, (4 << 20) // batch.block_bytes)
    for first in range(0, len(batch.keys), per_pipe):
        pipe = redis.pipeline(transaction=False)
        for index in range(first, min(first + per_pipe, len(batch.keys))):
            pipe.set(batch.keys[index], batch.view(index))
        await pipe.execute()
        await asyncio.sleep(0)


async def _redis_get(redis: Redis, batch: Batch) -> None:
    per_pipe = max(1, (4 << 20) // batch.block_bytes)
    for first in range(0, len(batch.keys), per_pipe):
        values: list[Any] = await redis.mget(batch.keys[first : first + per_pipe])
        for at, value in enumerate(values):
            batch.write(first + at, value)
