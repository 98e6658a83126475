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
    "dropped",
    "blocks recovered",
    "recovery s",
    "process start to ready s",
    "filled at GB/s",
    "read at GB/s",
    "blocks asked for",
    "read and right",
)
NOTES = (
    f"Blocks of {BLOCK_BYTES >> 20} MB in segments of at most 64 MB, put about as fast as the disk "
    "takes them; dropped: left memory while no buffer was free, and cut their chains.",
    "Killed while writing: blocks in memory only, and those on their way to the file, are lost.",
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
    num_held = run.size(256, 64)
    memory = ("--capacity-bytes", f"{num_held * BLOCK_BYTES >> 20}MiB", "--no-admission")
    flags = (*memory, "--disk", str(folder), "--disk-bytes", str(disk_bytes))
    run.steps.next(f"filling {disk_bytes / 1e9:.1f} GB")
    began = time.monotonic()
    with StoreProcess(*flags) as store:
        chains, stats = await _fill(store.address, disk_bytes, num_held)
        fill_s = time.monotonic() - began
        run.steps.next("kill -9 and start")
        store.kill()
    with StoreProcess(*flags) as store:
        recovered = await asyncio.to_thread(store.event, "disk tier recovered")
        ready_s = store.event("ready")["at_s"]
        run.steps.next("reading")
        num_asked, num_read, read_s = await _read(store.address, chains)
    row = (
        recovered["bytes"] / 1e9,
        stats.disk_block_count,
        len(chains) * CHAIN_BLOCKS - stats.disk_block_count - stats.block_count,
        recovered["blocks"],
        recovered["seconds"],
        ready_s,
        stats.disk_write_count * BLOCK_BYTES / 1e9 / fill_s,
        num_read * BLOCK_BYTES / 1e9 / read_s,
        num_asked,
        num_read,
    )
    return [Table("Recovery after kill -9", COLUMNS, (row,), NOTES)]


async def _fill(address: str, disk_bytes: int, num_held: int) -> tuple[list[list[BlockKey]], Any]:
    """Puts chains until the disk is nearly full; what was put, and the last statistics.

    About as fast as the disk writes: when blocks are dropped for want of a buffer it pauses longer.
    `num_held` blocks stay in memory.
    """
    chains: list[list[BlockKey]] = []
    segment = SharedSegment.create(CHAIN_BLOCKS * BLOCK_BYTES)
    views = [
        segment.buffer[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES] for at in range(CHAIN_BLOCKS)
    ]
    client = KvStoreClient([address], timeouts=PATIENT, arena=segment)
    num_written, pause_s = 0, 0.0
    try:
        while (stats := await _stats(address)).disk_used_bytes < disk_bytes * 0.97:
            is_full = len(chains) * CHAIN_BLOCKS > num_held + CHAIN_BLOCKS
            if is_full and stats.disk_write_count < num_written + CHAIN_BLOCKS:
                pause_s = min(max(0.05, 1.5 * pause_s), 2.0)
            else:
                pause_s *= 0.95
            num_written = stats.disk_write_count
            await asyncio.sleep(pause_s)
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


async def _read(address: str, chains: list[list[BlockKey]]) -> tuple[int, int, float]:
    """Blocks asked for, those that came, and the seconds."""
    client = KvStoreClient([address], timeouts=PATIENT)
    target = memoryview(bytearray(CHAIN_BLOCKS * BLOCK_BYTES))

    def write(index: int, data: bytes | memoryview) -> None:
        target[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] = data

    count, began = 0, time.monotonic()
    chosen = chains[:: max(1, len(chains) // READ_CHAINS)]
    for keys in chosen:
        count += await client.get(keys, "bench", BLOCK_BYTES, write)
    seconds = time.monotonic() - began
    await client.close()
    return len(chosen) * CHAIN_BLOCKS, count, seconds


async def _stats(address: str) -> Any:
    async with open_channel(address) as channel:
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        return await stub(channel).GetStats(pb.GetStatsRequest(), timeout=30)
