"""The block pool: who holds which block, which blocks are cached, and which one goes next."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

from baton.blocks import BlockKey
from baton.engine.types import BlockEvent, BlockEventKind


class BlockPool:
    """Reference counts and the prefix cache over block ids `0 .. num_blocks - 1`. Knows no bytes.

    A block is free (no holder, no key), held (at least one holder), or cached without a holder.
    Keys form trees: a key's parent names the block before it. Eviction takes the least recently
    used cached block without cached children, so the cached part of a tree stays connected to its
    root.

    A cached block is *busy* while it is held or has a busy child; all others can be reclaimed, leaf
    first.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._unused = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks
        self._keys: list[BlockKey | None] = [None] * num_blocks
        self._parents: list[int | None] = [None] * num_blocks
        self._cached_children = [0] * num_blocks
        self._busy_children = [0] * num_blocks
        self._last_use = [0] * num_blocks
        self._blocks: dict[BlockKey, int] = {}
        self._pins: Counter[BlockKey] = Counter()
        self._leaves: list[tuple[int, int]] = []  # heap of (last use, block); stale entries stay
        self._events: list[BlockEvent] = []
        self._clock = 0
        self._num_idle = 0  # cached blocks that are not busy
        self._num_held = 0

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can hand out, one after the other."""
        return len(self._unused) + self._num_idle

    @property
    def num_used(self) -> int:
        """Blocks with a holder."""
        return self._num_held

    @property
    def has_events(self) -> bool:
        """Whether the cache changed since the last `take_events`."""
        return bool(self._events)

    def match(self, keys: Iterable[BlockKey]) -> list[int]:
        """Cached blocks of the longest prefix of `keys`. Holds nothing."""
        found: list[int] = []
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def has_room(self, matched: Sequence[int], num_new: int) -> bool:
        """Whether holding `matched` leaves `num_new` blocks to allocate."""
        free = self.num_free
        if free < num_new:
            return False
        return free - sum(not self._is_busy(block) for block in matched) >= num_new

    def hold(self, block_ids: Iterable[int]) -> None:
        """Adds a holder to blocks that are held or cached; parents come before children."""
        for block in block_ids:
            self._holders[block] += 1
            if self._holders[block] == 1:
                assert self._keys[block] is not None, f"block {block} is free"
                self._num_held += 1
                if not self._busy_children[block]:
                    self._num_idle -= 1
                    self._add_busy_child(self._parents[block])

    def allocate(self) -> int:
        """A block with one holder and no key; evicts if it must. Needs `num_free > 0`."""
        block = self._unused.pop() if self._unused else self._evict()
        self._holders[block] = 1
        self._num_held += 1
        return block

    def release(self, block_ids: Iterable[int]) -> None:
        """Takes a holder from each block, in any order."""
        for block in block_ids:
            assert self._holders[block] > 0, f"block {block} has no holder"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            self._num_held -= 1
            if self._keys[block] is None:
                self._unused.append(block)
            elif not self._busy_children[block]:
                self._rest(block)

    def store(self, block_id: int, key: BlockKey, parent: int | None) -> int:
        """Names a held block's content. `parent` is the cached block before it.

        If another block has this key already, the holder moves over to that one. Returns the
        holder's block.
        """
        known = self._blocks.get(key)
        if known is not None:
            if known != block_id:
                self.hold([known])
                self.release([block_id])
            return known
        assert self._holders[block_id] > 0, f"block {block_id} has no holder"
        assert self._keys[block_id] is None, f"block {block_id} has a key"
        self._keys[block_id] = key
        self._blocks[key] = block_id
        self._parents[block_id] = parent
        if parent is not None:
            assert self._keys[parent] is not None, f"parent {parent} is not cached"
            self._cached_children[parent] += 1
            self._add_busy_child(parent)
        self._events.append(BlockEvent(BlockEventKind.STORED, key))
        return block_id

    def pin(self, keys: Iterable[BlockKey]) -> list[tuple[BlockKey, int]]:
        """Holds the cached ones of `keys` until `unpin`."""
        found = [(key, self._blocks[key]) for key in keys if key in self._blocks]
        for key, block in found:
            self.hold([block])
            self._pins[key] += 1
        return found

    def unpin(self, keys: Iterable[BlockKey]) -> None:
        """Lets go of what `pin` returned; keys that are not pinned are skipped."""
        pinned: list[int] = []
        for key in keys:
            if not self._pins[key]:
                del self._pins[key]
                continue
            self._pins[key] -= 1
            pinned.append(self._blocks[key])
        self.release(pinned)

    def cached_keys(self) -> list[BlockKey]:
        """All keys, parents before their children."""
        return list(self._blocks)

    def take_events(self) -> list[BlockEvent]:
        """Changes of the cache since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _is_busy(self, block: int) -> bool:
        return self._holders[block] > 0 or self._busy_children[block] > 0

    def _add_busy_child(self, parent: int | None) -> None:
        while parent is not None:
            was_busy = self._is_busy(parent)
            self._busy_children[parent] += 1
            if was_busy:
                return
            self._num_idle -= 1
            parent = self._parents[parent]

    def _rest(self, block: int | None) -> None:
        """Marks a cached block as no longer busy, then parents that were busy only through it.

        So a parent is always younger than its children, whatever the order of release.
        """
        while block is not None:
            self._num_idle += 1
            self._clock += 1
            self._last_use[block] = self._clock
            if not self._cached_children[block]:
                self._push_leaf(block)
            parent = self._parents[block]
            if parent is not None:
                self._busy_children[parent] -= 1
                if self._is_busy(parent):
                    return
            block = parent

    def _push_leaf(self, block: int) -> None:
        heapq.heappush(self._leaves, (self._last_use[block], block))
        if len(self._leaves) > 2 * self.num_blocks + 64:
            self._leaves = [entry for entry in self._leaves if self._is_leaf(*entry)]
            heapq.heapify(self._leaves)

    def _is_leaf(self, last_use: int, block: int) -> bool:
        return (
            self._keys[block] is not None
            and self._last_use[block] == last_use
            and not self._holders[block]
            and not self._cached_children[block]
        )

    def _evict(self) -> int:
        while True:
            last_use, block = heapq.heappop(self._leaves)
            if self._is_leaf(last_use, block):
                break
        key, parent = self._keys[block], self._parents[block]
        assert key is not None
        del self._blocks[key]
        self._keys[block] = None
        self._parents[block] = None
        self._num_idle -= 1
        self._events.append(BlockEvent(BlockEventKind.REMOVED, key))
        if parent is not None:
            self._cached_children[parent] -= 1
            if not self._cached_children[parent] and not self._holders[parent]:
                self._push_leaf(parent)
        return block
