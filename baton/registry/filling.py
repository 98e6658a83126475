"""Brings a worker's snapshot into the index, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from baton.blocks import KEY_BYTES
from baton.policy.index import BlockIndex
from baton.registry.records import SnapshotPart, WorkerRecord

SnapshotSource = Callable[[WorkerRecord], AsyncIterator[SnapshotPart]]
"""Asks a worker for its blocks; fails as it likes."""

_PIECE_BYTES = 4096 * KEY_BYTES
"""Taken in at once: the event loop stands still for about two milliseconds."""


async def fill(index: BlockIndex, record: WorkerRecord, parts: AsyncIterator[SnapshotPart]) -> int:
    """Replaces a worker's blocks; the old ones count until all parts are there.

    Returns the number of the last event that they contain. Raises ValueError for parts of another
    epoch, and whatever the source raises; then nothing has changed.
    """
    event_seq = 0
    refill = index.refill(record.worker_id)
    try:
        async for part in parts:
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
