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
        num_free = self.num_free
        if matched and num_free >= num_new:
            num_free -= sum(not self._is_busy(block) for block in matched)
        return num_free >= num_new

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

    def allocate(self, count: int) -> list[int]:
        """Blocks with one holder and no key; evicts if it must. Needs `num_free >= count`."""
        assert self.num_free >= count, f"{count} blocks of {self.num_free}"
        num_unused = min(count, len(self._unused))
        # From the end of the list, its last one first.
        taken = self._unused[len(self._unused) - num_unused :][::-1]
        del self._unused[len(self._unused) - num_unused :]
        if num_unused < count:
            taken += self._evict(count - num_unused)
        holders = self._holders
        for block in taken:
            holders[block] = 1
        self._num_held += count
        return taken

    def release(self, block_ids: Iterable[int]) -> None:
        """Takes a holder from each block, in any order."""
        holders, keys, busy_children = self._holders, self._keys, self._busy_children
        for block in block_ids:
            num_holders = holders[block] - 1
            assert num_holders >= 0, f"block {block} has no holder"
            holders[block] = num_holders
            if num_holders:
                continue
            self._num_held -= 1
            if keys[block] is None:
                self._unused.append(block)
            elif not busy_children[block]:
                self._rest(block)

    def store(
        self, block_ids: Sequence[int], keys: Sequence[BlockKey], parent: int | None, salt: str = ""
    ) -> list[int]:
        """Names the content of held blocks that follow each other.

        `parent` is the cached block before the first of them. If another block has a key already,
        the holder moves over to that one. Returns the holder's blocks.
        """
        stored: list[int] = []
        named: list[BlockKey] = []
        before = None if parent is None else self._keys[parent]
        blocks, all_keys, parents = self._blocks, self._keys, self._parents
        for block, key in zip(block_ids, keys, strict=True):
            known = blocks.get(key)
            if known is None:
                assert self._holders[block] > 0, f"block {block} has no holder"
                assert all_keys[block] is None, f"block {block} has a key"
                all_keys[block] = key
                blocks[key] = block
                parents[block] = parent
                if parent is not None:
                    assert all_keys[parent] is not None, f"parent {parent} is not cached"
                    self._cached_children[parent] += 1
                    if self._holders[parent]:  # as a rule: then its own parents know already
                        self._busy_children[parent] += 1
                    else:
                        self._add_busy_child(parent)
                named.append(key)
            elif known != block:
                self.hold([known])
                self.release([block])
                block = known
            if known is not None:
                self._note(BlockEventKind.STORED, named, before, salt)
                named, before = [], key
            stored.append(block)
            parent = block
        self._note(BlockEventKind.STORED, named, before, salt)
        return stored

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
        busy_children, holders = self._busy_children, self._holders
        while block is not None:
            self._num_idle += 1
            self._clock += 1
            self._last_use[block] = self._clock
            if not self._cached_children[block]:
                self._push_leaf(block)
            parent = self._parents[block]
            if parent is not None:
                busy_children[parent] -= 1
                if busy_children[parent] or holders[parent]:
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

    def _evict(self, count: int) -> list[int]:
        evicted: list[int] = []
        removed: list[BlockKey] = []
        while len(evicted) < count:
            last_use, block = heapq.heappop(self._leaves)
            if self._is_leaf(last_use, block):
                self._evict_chain(block, count, evicted, removed)
        self._num_idle -= count
        self._note(BlockEventKind.REMOVED, removed)
        return evicted

    def _evict_chain(
        self, leaf: int, count: int, evicted: list[int], removed: list[BlockKey]
    ) -> None:
        """From a leaf towards the root, for as long as no other leaf is older."""
        block = leaf
        while True:
            key, parent = self._keys[block], self._parents[block]
            assert key is not None
            del self._blocks[key]
            self._keys[block] = None
            self._parents[block] = None
            evicted.append(block)
            removed.append(key)
            if parent is None:
                return
            self._cached_children[parent] -= 1
            if self._cached_children[parent] or self._holders[parent]:
                return
            next_use = (self._last_use[parent], parent)
            if len(evicted) == count or (self._leaves and self._leaves[0] < next_use):
                self._push_leaf(parent)
                return
            block = parent

    def _note(
        self,
        kind: BlockEventKind,
        keys: list[BlockKey],
        parent: BlockKey | None = None,
        salt: str = "",
    ) -> None:
        if keys:
            self._events.append(BlockEvent(kind, keys, parent, salt))
