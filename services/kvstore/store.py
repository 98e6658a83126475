"""A byte-budgeted, content-addressed store of blocks. One event loop owns it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NewType, Protocol

from baton.blocks import BlockKey, checksum
from baton.errors import InvalidRequest

Use = NewType("Use", int)
"""One call's use of the store; later calls have higher numbers."""
Rank = tuple[int, int]
"""(use, minus the block's place in that call): the lowest rank is evicted first, so of blocks used
together the deepest goes before its parents."""


@dataclass(slots=True)
class StoredBlock:
    """A block as it is held. Its bytes are never changed."""

    namespace: str
    data: bytes | bytearray
    checksum: int
    rank: Rank


@dataclass(slots=True)
class StoreStats:
    """Counts since the start."""

    num_hits: int = 0
    num_misses: int = 0
    num_evicted: int = 0
    num_corrupt: int = 0
    """Blocks whose bytes no longer matched their checksum."""


@dataclass(slots=True)
class _Namespace:
    """Blocks of one namespace have one size; it is forgotten with the last of them."""

    block_bytes: int
    num_users: int = 0


class Observer(Protocol):
    """Who wants to know what the store holds. Called at once; must not raise."""

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        """A block has come in."""

    def note_read(self, key: BlockKey, block: StoredBlock) -> None:
        """A block was read."""

    def note_removed(self, key: BlockKey) -> None:
        """A block is gone."""


class BlockStore:
    """Holds blocks by key within `capacity_bytes`, uploads in flight included.

    A block is taken in by `reserve`, then `commit` or `abandon`. Least recently used blocks make
    room; a block never makes room for one that ranks below it.
    """

    def __init__(self, capacity_bytes: int, observer: Observer | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.stats = StoreStats()
        self._observer = observer
        self._blocks: dict[BlockKey, StoredBlock] = {}
        self._namespaces: dict[str, _Namespace] = {}
        self._held_bytes = 0
        self._reserved_bytes = 0
        self._uses = count(1)
        # Every rank a block ever had, until it is popped: only the current one counts.
        self._queue: list[tuple[Rank, BlockKey]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    @property
    def held_bytes(self) -> int:
        """Bytes of blocks held."""
        return self._held_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks held and of those being uploaded; never above the capacity."""
        return self._held_bytes + self._reserved_bytes

    def new_use(self) -> Use:
        """A use more recent than all before."""
        return Use(next(self._uses))

    def find_missing(self, keys: Sequence[BlockKey]) -> list[int]:
        """Indexes of the keys that are not held. Those that are have been used."""
        use = self.new_use()
        for index, key in enumerate(keys):
            self.touch(key, use, index)
        return [index for index, key in enumerate(keys) if key not in self._blocks]

    def touch(self, key: BlockKey, use: Use, index: int) -> bool:
        """Marks the block as used, `index`-th in its call; says whether it is held."""
        block = self._blocks.get(key)
        if block is not None:
            block.rank = (use, -index)
            self._enqueue(block.rank, key)
        return block is not None

    def read(self, key: BlockKey, namespace: str) -> StoredBlock | None:
        """The block, intact, if it is held in this namespace. A corrupt one is dropped."""
        block = self._blocks.get(key)
        if block is None or block.namespace != namespace:
            return None
        if checksum(block.data) != block.checksum:
            self.stats.num_corrupt += 1
            self._remove(key)
            return None
        self.stats.num_hits += 1
        if self._observer is not None:
            self._observer.note_read(key, block)
        return block

    def note_misses(self, keys: Sequence[BlockKey], namespace: str) -> None:
        """Counts those of the keys asked for that are not held."""
        blocks = self._blocks
        self.stats.num_misses += sum(
            (block := blocks.get(key)) is None or block.namespace != namespace for key in keys
        )

    def reserve(self, namespace: str, num_bytes: int, rank: Rank) -> bool:
        """Makes room for a block that is about to come; False: there is none, or not for this rank.

        Raises InvalidRequest if the namespace's blocks have another size.
        """
        known = self._namespaces.get(namespace)
        if known is not None and known.block_bytes != num_bytes:
            raise InvalidRequest(
                f"size_bytes is {num_bytes}; blocks of namespace {namespace!r} "
                f"have {known.block_bytes} bytes",
                field="size_bytes",
            )
        if num_bytes > self.capacity_bytes - self._reserved_bytes:
            return False
        while self.used_bytes + num_bytes > self.capacity_bytes:
            if not self._evict_below(rank):
                return False
        # Looked up again: the eviction may have ended the namespace.
        self._namespaces.setdefault(namespace, _Namespace(num_bytes)).num_users += 1
        self._reserved_bytes += num_bytes
        return True

    def commit(self, key: BlockKey, block: StoredBlock) -> bool:
        """Keeps a block for which room was reserved; False: it has come in meanwhile."""
        self._reserved_bytes -= len(block.data)
        if key in self._blocks:
            self._leave(block.namespace)
            return False
        self._held_bytes += len(block.data)
        self._blocks[key] = block
        self._enqueue(block.rank, key)
        if self._observer is not None:
            self._observer.note_stored(key, block)
        return True

    def abandon(self, namespace: str, num_bytes: int) -> None:
        """Gives reserved room back."""
        self._reserved_bytes -= num_bytes
        self._leave(namespace)

    def _evict_below(self, rank: Rank) -> bool:
        """Evicts the lowest ranked block, if it ranks below."""
        while self._queue:
            lowest, key = self._queue[0]
            block = self._blocks.get(key)
            if block is not None and block.rank == lowest:
                break
            heapq.heappop(self._queue)
        if not self._queue or self._queue[0][0] >= rank:
            return False
        self._remove(heapq.heappop(self._queue)[1])
        self.stats.num_evicted += 1
        return True

    def _remove(self, key: BlockKey) -> None:
        block = self._blocks.pop(key)
        self._held_bytes -= len(block.data)
        self._leave(block.namespace)
        if self._observer is not None:
            self._observer.note_removed(key)

    def _leave(self, namespace: str) -> None:
        known = self._namespaces[namespace]
        known.num_users -= 1
        if not known.num_users:
            del self._namespaces[namespace]

    def _enqueue(self, rank: Rank, key: BlockKey) -> None:
        heapq.heappush(self._queue, (rank, key))
        # Old ranks may not outgrow the blocks themselves.
        if len(self._queue) > 4 * len(self._blocks) + 1024:
            self._queue = [(block.rank, key) for key, block in self._blocks.items()]
            heapq.heapify(self._queue)
