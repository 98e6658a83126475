"""Brings a worker's snapshot into the index, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from baton.blocks import KEY_BYTES
from baton.policy.index import BlockIndex
from baton.registry.records import SnapshotPart, WorkerRecord

SnapshotSource = Callable[[WorkerRecord], AsyncGenerator[SnapshotPart, None]]
"""Asks a worker for its blocks; fails as it likes."""

PART_TIMEOUT_S = 10.0
"""Longest wait for one part; all of them together may take longer."""
_PIECE_BYTES = 1024 * KEY_BYTES
"""Taken in at once: the event loop stands still for one or two milliseconds."""


async def fill(
    index: BlockIndex,
    record: WorkerRecord,
    parts: AsyncGenerator[SnapshotPart, None],
    part_timeout_s: float = PART_TIMEOUT_S,
) -> int:
    """Replaces a worker's blocks; the old ones count until all parts are there.

    Returns the number of the last event that they contain. Raises ValueError for parts of another
    epoch, TimeoutError, and whatever the source raises; then nothing has changed.
    """
    event_seq = 0
    refill = index.refill(record.worker_id)
    try:
        async with aclosing(parts):
            while True:
                async with asyncio.timeout(part_timeout_s):
                    part = await anext(parts, None)
                if part is None:
                    break
                if part.epoch != record.epoch:
                    raise ValueError(f"the snapshot is of epoch {part.epoch}, not {record.epoch}")
                event_seq = part.event_seq
                for at in range(0, len(part.keys), _PIECE_BYTES):
                    refill.add(part.keys[at : at + _PIECE_BYTES])
                    await asyncio.sleep(0)
    except BaseException:
        refill.abandon()
        raise
    refill.commit()
    return event_seq
