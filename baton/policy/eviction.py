"""Which block goes first: the least recently used one that no held block builds upon."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from baton.blocks import BlockKey

Rank = tuple[int, int]
"""(use, minus the block's place in that use): of blocks used together the deepest ranks lowest."""


@dataclass(slots=True)
class _Node:
    """A held block. Mutable: touching is the hot path."""

    parent: BlockKey | None
    owner: str
    rank: Rank
    num_pins: int = 0


class LeafQueue:
    """Held blocks in the order in which they may go, an order of its own for each owner.

    A block with held children is no leaf, one that is pinned is in use: neither is ever a victim.
    A parent may be unknown, not held, or come after its children.
    """

    def __init__(self) -> None:
        self._nodes: dict[BlockKey, _Node] = {}
        self._num_children: dict[BlockKey, int] = {}
        # Every rank a block had while it could go; only the present one counts.
        self._heaps: dict[str, list[tuple[Rank, BlockKey]]] = {}
        self._num_owned: dict[str, int] = {}
        self._newest: BlockKey | None = None
        """Not in a heap yet: the next block of its chain mostly comes before anybody asks."""

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._nodes

    def add(self, key: BlockKey, parent: BlockKey | None, owner: str, rank: Rank) -> None:
        """Takes in a block that is not held yet."""
        parent = None if parent == key else parent
        self._nodes[key] = _Node(parent, owner, rank)
        self._num_owned[owner] = self._num_owned.get(owner, 0) + 1
        if parent is not None:
            self._num_children[parent] = self._num_children.get(parent, 0) + 1
        if self._newest != parent:
            self._offer_newest()
        self._newest = key

    def touch(self, key: BlockKey, rank: Rank) -> None:
        """The held block was used."""
        self._nodes[key].rank = rank
        self._offer(key)

    def pin(self, key: BlockKey) -> None:
        """The held block stays until it is unpinned as often."""
        self._nodes[key].num_pins += 1

    def unpin(self, key: BlockKey) -> None:
        """Takes a pin back."""
        node = self._nodes[key]
        node.num_pins -= 1
        if not node.num_pins:
            self._offer(key)

    def num_pins(self, key: BlockKey) -> int:
        """Pins of a held block."""
        return self._nodes[key].num_pins

    def remove(self, key: BlockKey) -> None:
        """Forgets a held block, leaf or not."""
        node = self._nodes.pop(key)
        if key == self._newest:
            self._newest = None
        left = self._num_owned[node.owner] - 1
        if left:
            self._num_owned[node.owner] = left
        else:
            del self._num_owned[node.owner]
            self._heaps.pop(node.owner, None)
        parent = node.parent
        if parent is None:
            return
        num_left = self._num_children[parent] - 1
        if num_left:
            self._num_children[parent] = num_left
        else:
            del self._num_children[parent]
            if parent in self._nodes:
                self._offer(parent)

    def victim(self, owner: str, protected: BlockKey | None = None) -> BlockKey | None:
        """The owner's block to go next, which stays held; None if it has none that may go.

        `protected` may not: a chain never loses its end to its own next block.
        """
        if self._newest != protected:
            self._offer_newest()
        heap = self._heaps.get(owner, [])
        aside = None
        found = None
        nodes, children = self._nodes, self._num_children
        while heap:
            rank, key = heap[0]
            node = nodes.get(key)
            # As `_may_go`, without the call.
            if node is None or node.rank != rank or node.num_pins or key in children:
                heapq.heappop(heap)
            elif key == protected:
                aside = heapq.heappop(heap)
            else:
                found = key
                break
        if aside is not None:
            heapq.heappush(heap, aside)
        return found

    def newest_first(self) -> list[BlockKey]:
        """All keys, the highest rank first."""
        return sorted(self._nodes, key=lambda key: self._nodes[key].rank, reverse=True)

    def _offer_newest(self) -> None:
        newest, self._newest = self._newest, None
        if newest is not None:
            self._offer(newest)

    def _may_go(self, rank: Rank, key: BlockKey) -> bool:
        node = self._nodes.get(key)
        if node is None or node.rank != rank or node.num_pins:
            return False
        return key not in self._num_children

    def _offer(self, key: BlockKey) -> None:
        node = self._nodes[key]
        if node.num_pins or key in self._num_children:
            return
        heap = self._heaps.get(node.owner)
        if heap is None:
            heap = self._heaps[node.owner] = []
        heapq.heappush(heap, (node.rank, key))
        # Old ranks may not outgrow the blocks themselves.
        if len(heap) > 4 * self._num_owned[node.owner] + 64:
            heap[:] = [entry for entry in set(heap) if self._may_go(*entry)]
            heapq.heapify(heap)
