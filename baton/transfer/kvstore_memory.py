"""Shared memory with one kvstore: its blocks mapped for reading, ours offered to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baton.blocks import BlockKey
from baton.rpc import logs
from baton.transfer.shm import SharedSegment
from baton.v1 import kvstore_pb2 as pb

Buffer = bytes | bytearray | memoryview

STAGE_BYTES = 32 << 20
"""Memory for blocks on their way to a store, where they don't lie in shared memory already."""

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OfferedBlock:
    """A block to store."""

    key: BlockKey
    data: Buffer
    parent: BlockKey | None = None
    """The block before it in its chain."""
    group: BlockKey | None = None
    """What decides which of several stores keeps it; None: its own key."""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Offered:
    """Blocks in shared memory: whose, and where."""

    memory: pb.SharedMemory
    offsets: list[int]


class Outbox:
    """Our shared memory as stores see it: the worker's arena, or a stage that blocks are copied to.

    One per process; of one event loop. A stage is made when it is first needed.
    """

    def __init__(self, arena: SharedSegment | None = None) -> None:
        self.lock = asyncio.Lock()
        """Held from `offer` until the store has copied what was offered: the stage is one."""
        self._arena = arena
        self._stage: SharedSegment | None = None
        self._is_out_of_memory = False

    def close(self) -> None:
        """Takes the stage away."""
        if self._stage is not None:
            self._stage.close()

    def offer(self, blocks: Sequence[OfferedBlock]) -> tuple[Offered, int] | None:
        """The leading blocks in shared memory, and how many; None: there is none to be had."""
        if self._arena is not None:
            places = [self._arena.offset_of(block.data) for block in blocks]
            if None not in places:
                inside = [place for place in places if place is not None]
                return Offered(_describe(self._arena), inside), len(blocks)
        return self._copy(blocks)

    def _copy(self, blocks: Sequence[OfferedBlock]) -> tuple[Offered, int] | None:
        size = len(blocks[0].data)
        if size > STAGE_BYTES or (stage := self._ready_stage()) is None:
            return None
        count = min(len(blocks), STAGE_BYTES // size)
        offsets = [at * size for at in range(count)]
        for offset, block in zip(offsets, blocks[:count], strict=True):
            stage.buffer[offset : offset + size] = block.data
        return Offered(_describe(stage), offsets), count

    def _ready_stage(self) -> SharedSegment | None:
        if self._stage is None and not self._is_out_of_memory:
            try:
                self._stage = SharedSegment.create(STAGE_BYTES)
            except OSError as error:
                self._is_out_of_memory = True
                _log.warning("no shared memory, kvstore gets blocks by stream", reason=str(error))
        return self._stage


def map_store(answer: Any) -> SharedSegment | None:
    """The memory that a store named, if it is memory of this host."""
    memory = answer.memory
    if not memory.name:
        return None
    try:
        return SharedSegment.open(memory.name, memory.nonce, memory.size_bytes, writable=False)
    except (OSError, ValueError):
        return None


def _describe(segment: SharedSegment) -> pb.SharedMemory:
    return pb.SharedMemory(name=segment.name, nonce=segment.nonce, size_bytes=segment.num_bytes)
