"""The block index alone: bytes a block, how fast it follows events and answers (no Redis)."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console

from baton.blocks import KEY_BYTES, BlockKey, split_keys
from baton.policy.index import BlockIndex, Changes
from baton.registry.events import MAX_BATCH_EVENTS, REMOVED, STORED, EventBatch
from bench.report import PartResult, Table, to_terminal

_PIECE = 4096
_WORKERS = 8
_ROUNDS = 7


def main() -> None:
    """Prints one table per size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1_000_000, 10_000_000])
    for num_blocks in parser.parse_args().blocks:
        before, started = os.getloadavg()[0], time.monotonic()
        table = measure(num_blocks)
        took_s = time.monotonic() - started
        part = PartResult("block index", took_s, before, os.getloadavg()[0], (table,))
        Console().print(to_terminal(part))


def measure(num_blocks: int) -> Table:
    """Fills an index with blocks of eight workers, then follows and asks it."""
    before = _resident()
    index = BlockIndex()
    started, longest_s = time.perf_counter(), 0.0
    chains = []
    for at in range(0, num_blocks, _PIECE):
        packed = os.urandom(_PIECE * KEY_BYTES)
        if at % (64 * _PIECE) == 0:
            chains.append(split_keys(packed))
        began = time.perf_counter()
        index.store_all(f"w{at // _PIECE % _WORKERS}", packed)
        longest_s = max(longest_s, time.perf_counter() - began)
    rate = num_blocks / (time.perf_counter() - started)
    rows = [
        ("bytes a block, resident", (_resident() - before) / num_blocks),
        ("bytes a block, counted", index.num_bytes / num_blocks),
        ("stored in pieces of 4,096: blocks/s, keys made anew included", rate),
        ("longest of these pieces, ms", longest_s * 1e3),
    ]
    for length in (8, 128, 1024):
        hits = [chain[:length] for chain in chains]
        misses = [split_keys(os.urandom(length * KEY_BYTES)) for _ in range(16)]
        rows.append((f"match {length} blocks, all cached, us", _match_us(index, hits)))
        rows.append((f"match {length} blocks, none cached, us", _match_us(index, misses)))
    for size in (1, 16, 128, MAX_BATCH_EVENTS):
        rows.append((f"entry of {size} stored + one of {size} removed, us", _turn_us(index, size)))
    title = f"{num_blocks:,} blocks of {_WORKERS} workers"
    return Table(title, ("what", "value"), tuple((name, round(value, 2)) for name, value in rows))


def _match_us(index: BlockIndex, chains: list[list[BlockKey]]) -> float:
    def once() -> None:
        index.match(random.choice(chains))

    return _best_us(once, 200)


def _turn_us(index: BlockIndex, size: int) -> float:
    """As a gateway takes them: from stream entries to the index."""
    fresh = [os.urandom(size * KEY_BYTES) for _ in range(64)]

    def once() -> None:
        keys = random.choice(fresh)
        for kind in (STORED, REMOVED):
            entry = EventBatch("epoch", 1, bytes([kind]) * size, keys).to_fields()
            raw = {
                name.encode(): v if isinstance(v, bytes) else str(v).encode()
                for name, v in entry.items()
            }
            batch = EventBatch.from_fields(raw)
            is_stored = np.frombuffer(batch.kinds, np.uint8) == STORED
            index.apply([Changes("w0", is_stored, batch.joined_keys)])

    return _best_us(once, 100)


def _best_us(once: Callable[[], None], times: int) -> float:
    """Microseconds a call: the median of several rounds."""
    rounds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        for _ in range(times):
            once()
        rounds.append((time.process_time() - started) / times * 1e6)
    return sorted(rounds)[_ROUNDS // 2]


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
