"""How long a start takes after kill -9 with a full disk, and how fast the disk is read."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from baton.blocks import BlockKey
from baton.rpc.channels import open_channel
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_memory import OfferedBlock
from baton.transfer.shm import SharedSegment
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc
from bench.failure import BenchFailed
from bench.kvstore.blocks import PATIENT, fresh_keys
from bench.kvstore.process import StoreProcess
from bench.options import Run
from bench.report import Table

BLOCK_BYTES = 1 << 20
CHAIN_BLOCKS = 32
READ_CHAINS = 64
COLUMNS = (
    "GB on disk",
    "blocks before",
    "blocks recovered",
    "recovery s",
    "process start to ready s",
    "filled at GB/s",
    "read at GB/s",
    "blocks read and right",
)
NOTES = (
    f"Blocks of {BLOCK_BYTES >> 20} MB in segments of 64 MB; killed while writing: blocks in "
    "memory only, and those on their way to the file, are lost.",
    "Read chain by chain through leases; the system's cache was told to drop what is sealed.",
)


async def measure_recovery(run: Run, disk_bytes: int, folder: Path | None) -> list[Table]:
    """Fills a disk tier, kills the process in the middle of writing, starts it again."""
    run.steps.begin("recovery", 3)
    work = Path(tempfile.mkdtemp(prefix="baton-bench-", dir=folder))
    free = shutil.disk_usage(work).free
    try:
        if free < 1.2 * disk_bytes:
            raise BenchFailed(f"{work} has {free >> 30} GiB free; give less with --disk-gb")
        return await _measure(run, disk_bytes, work / "store")
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _measure(run: Run, disk_bytes: int, folder: Path) -> list[Table]:
    memory = ("--capacity-bytes", run.size("256MiB", "64MiB"), "--no-admission")
    flags = (*memory, "--disk", str(folder), "--disk-bytes", str(disk_bytes))
    run.steps.next(f"filling {disk_bytes / 1e9:.1f} GB")
    began = time.monotonic()
    with StoreProcess(*flags) as store:
        chains, stats = await _fill(store.address, disk_bytes)
        fill_s = time.monotonic() - began
        run.steps.next("kill -9 and start")
        store.kill()
    with StoreProcess(*flags) as store:
        recovered = await asyncio.to_thread(store.event, "disk tier recovered")
        ready_s = store.event("ready")["at_s"]
        run.steps.next("reading")
        read_rate, num_read = await _read(store.address, chains)
    row = (
        recovered["bytes"] / 1e9,
        stats.disk_block_count,
        recovered["blocks"],
        recovered["seconds"],
        ready_s,
        stats.disk_write_count * BLOCK_BYTES / 1e9 / fill_s,
        read_rate,
        num_read,
    )
    return [Table("Recovery after kill -9", COLUMNS, (row,), NOTES)]


async def _fill(address: str, disk_bytes: int) -> tuple[list[list[BlockKey]], Any]:
    """Puts chains until the disk is nearly full; what was put, and the last statistics."""
    chains: list[list[BlockKey]] = []
    segment = SharedSegment.create(CHAIN_BLOCKS * BLOCK_BYTES)
    views = [
        segment.buffer[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES] for at in range(CHAIN_BLOCKS)
    ]
    client = KvStoreClient([address], timeouts=PATIENT, arena=segment)
    try:
        while (stats := await _stats(address)).disk_used_bytes < disk_bytes * 0.97:
            keys = fresh_keys(CHAIN_BLOCKS)
            parents = [None, *keys[:-1]]
            blocks = [
                OfferedBlock(key, view, parent, keys[0])
                for key, view, parent in zip(keys, views, parents, strict=True)
            ]
            await client.put(blocks, "bench")
            chains.append(keys)
    finally:
        await client.close()
        segment.close()
    return chains, stats


async def _read(address: str, chains: list[list[BlockKey]]) -> tuple[float, int]:
    client = KvStoreClient([address], timeouts=PATIENT)
    target = memoryview(bytearray(CHAIN_BLOCKS * BLOCK_BYTES))

    def write(index: int, data: bytes | memoryview) -> None:
        target[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] = data

    count, began = 0, time.monotonic()
    step = max(1, len(chains) // READ_CHAINS)
    for keys in chains[::step]:
        count += await client.get(keys, "bench", BLOCK_BYTES, write)
    seconds = time.monotonic() - began
    await client.close()
    return count * BLOCK_BYTES / 1e9 / seconds, count


async def _stats(address: str) -> Any:
    async with open_channel(address) as channel:
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        return await stub(channel).GetStats(pb.GetStatsRequest(), timeout=30)
