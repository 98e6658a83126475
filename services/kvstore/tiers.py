"""Memory and disk as one: what leaves memory goes to disk, what is asked for comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from baton.blocks import BlockKey
from baton.policy.sketch import FrequencySketch
from services.kvstore.disk import DiskTier
from services.kvstore.records import Record
from services.kvstore.store import MIN_PERIOD, USES_PER_BLOCK, BlockStore, Offer, StoredBlock, Use

LOAD_BLOCKS = 16
LOAD_BYTES = 64 << 20
"""Read from disk at a time for one reader."""


class Listener(Protocol):
    """Who wants to know which blocks are held. Called at once; must not raise."""

    def note_held(self, key: BlockKey) -> None:
        """The first tier holds the block."""

    def note_gone(self, key: BlockKey) -> None:
        """No tier holds the block any more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks for."""

    keys: Sequence[BlockKey]
    namespace: str
    max_blocks: int
    max_bytes: int


class Tiers:
    """A store with or without a disk behind it."""

    def __init__(self, disk_uses: int = 2, listener: Listener | None = None) -> None:
        """`disk_uses`: as often a block must have been used lately to be written to a full disk."""
        self._disk_uses = disk_uses
        self._listener = listener
        self._sketch = FrequencySketch()
        """Of uses as the disk sees them: it remembers longer than memory does."""
        self._loads: dict[BlockKey, asyncio.Task[int]] = {}
        self.store: BlockStore
        self.disk: DiskTier | None = None

    def find_missing(self, keys: Sequence[BlockKey]) -> list[int]:
        """Indexes of the keys that no tier holds. Those in memory have been used."""
        missing = self.store.find_missing(keys)
        if self.disk is None:
            return missing
        return [index for index in missing if keys[index] not in self.disk]

    def holds(self, key: BlockKey, namespace: str) -> bool:
        """Whether any tier has a block of this namespace."""
        if self.store.peek(key, namespace) is not None:
            return True
        return self.disk is not None and self.disk.find(key, namespace) is not None

    def keys(self) -> list[BlockKey]:
        """Of all blocks held; those that both tiers hold are there twice."""
        return [*self.store.keys(), *(self.disk.keys() if self.disk is not None else ())]

    def note_uses(self, keys: Sequence[BlockKey]) -> None:
        """A reader asks for these blocks, held or not."""
        for key in keys:
            self.store.sketch.add(key)
        if self.disk is not None:
            self._sketch.period = max(MIN_PERIOD, USES_PER_BLOCK * len(self.disk))
            for key in keys:
                self._sketch.add(key)

    def note_misses(self, keys: Sequence[BlockKey], namespace: str) -> None:
        """Counts those of the keys asked for that no tier holds."""
        self.store.stats.num_misses += sum(not self.holds(key, namespace) for key in keys)

    async def run(self, wanted: Wanted) -> list[StoredBlock]:
        """The leading held blocks, in memory and pinned; the caller unpins them."""
        use = self.store.new_use()
        blocks: list[StoredBlock] = []
        room = wanted.max_bytes
        try:
            while len(blocks) < min(wanted.max_blocks, len(wanted.keys)):
                block = await self._bring(wanted, len(blocks), use)
                if block is None or block.offer.size_bytes > room:
                    break
                room -= block.offer.size_bytes
                self.store.pin(block.offer.key)
                blocks.append(block)
        except BaseException:
            self.unpin(blocks)
            raise
        return blocks

    def unpin(self, blocks: Sequence[StoredBlock]) -> None:
        """Takes back the pins of `run`."""
        for block in blocks:
            self.store.unpin(block)

    def read_ahead(self, keys: Sequence[BlockKey], namespace: str) -> None:
        """Begins to bring the next blocks from disk; nobody waits for them."""
        ahead = keys[:LOAD_BLOCKS]
        first = next((at for at, key in enumerate(ahead) if key not in self.store), len(ahead))
        if first < len(ahead):
            self._load(ahead[first:], namespace, self.store.new_use(), 0)

    async def spill(self) -> None:
        """Writes what memory holds to disk, as far as it takes it: for a stop."""
        if self.disk is None:
            return
        for key in self.store.newest_first():
            block = self.store.held(key)
            if block is not None and key not in self.disk:
                if not self.disk.append(_record(block), self.store.view(block)):
                    await self.disk.flush()
                    if not self.disk.append(_record(block), self.store.view(block)):
                        return
                await asyncio.sleep(0)

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`."""
        if self._listener is not None and not self.holds_elsewhere(key):
            self._listener.note_held(key)

    def note_evicted(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`. Writes the block to disk if there is room, or if it has earned some."""
        disk = self.disk
        if disk is None or key in disk:
            return
        if disk.has_free_segment or self._sketch.estimate(key) >= self._disk_uses:
            disk.append(_record(block), self.store.view(block))
        else:
            disk.stats.num_unwanted += 1

    def note_removed(self, key: BlockKey) -> None:
        """See `Observer`."""
        if self._listener is not None and not self.holds_elsewhere(key):
            self._listener.note_gone(key)

    def holds_elsewhere(self, key: BlockKey) -> bool:
        """See `Observer`."""
        return self.disk is not None and key in self.disk

    def note_left_disk(self, key: BlockKey) -> None:
        """The disk tier has dropped a block."""
        if self._listener is not None and key not in self.store:
            self._listener.note_gone(key)

    async def _bring(self, wanted: Wanted, index: int, use: Use) -> StoredBlock | None:
        key = wanted.keys[index]
        block = self.store.peek(key, wanted.namespace)
        if block is None and self.disk is not None:
            load = self._loads.get(key) or self._load(
                wanted.keys[index : index + LOAD_BLOCKS], wanted.namespace, use, index
            )
            if load is not None:
                # A reader that leaves does not stop it: threads write into the blocks' places.
                await asyncio.shield(load)
                block = self.store.peek(key, wanted.namespace)
        if block is not None:
            self.store.touch(key, use, index)
            self.store.stats.num_hits += 1
        return block

    def _load(
        self, keys: Sequence[BlockKey], namespace: str, use: Use, index: int
    ) -> asyncio.Task[int] | None:
        """Starts to read the leading keys that are on disk only."""
        if self.disk is None:
            return None
        rooms: list[tuple[StoredBlock, Record]] = []
        num_bytes = 0
        for at, key in enumerate(keys):
            found = self.disk.find(key, namespace)
            if found is None or key in self.store or key in self._loads:
                break
            record = found.placed.record
            num_bytes += record.size_bytes
            if rooms and num_bytes > LOAD_BYTES:
                break
            rank = (use, -index - at)
            size, tenant = record.size_bytes, record.tenant
            offer = Offer(key, namespace, size, rank, record.parent, tenant, is_wanted=True)
            room = self.store.reserve(offer)
            if room is None:
                break
            rooms.append((room, record))
        if not rooms:
            return None
        task = asyncio.create_task(self._fill(rooms))
        for room, _ in rooms:
            self._loads[room.offer.key] = task
        return task

    async def _fill(self, rooms: Sequence[tuple[StoredBlock, Record]]) -> int:
        """Reads blocks into their places; returns how many came."""
        disk = self.disk
        assert disk is not None

        async def read(room: StoredBlock, record: Record) -> bool:
            block = disk.find(record.key, record.namespace)
            return block is not None and await disk.read(block, self.store.view(room))

        results = await asyncio.gather(
            *(read(room, record) for room, record in rooms), return_exceptions=True
        )
        num_read = 0
        for (room, record), result in zip(rooms, results, strict=True):
            del self._loads[room.offer.key]
            if result is True:
                self.store.commit(room, record.checksum)
                num_read += 1
            else:
                self.store.abandon(room)
        return num_read


def _record(block: StoredBlock) -> Record:
    offer = block.offer
    return Record(
        offer.key, offer.namespace, offer.size_bytes, block.checksum, offer.parent, offer.tenant
    )
