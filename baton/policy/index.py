"""Which worker caches which blocks: a hint, kept from events, asked on every request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from baton.blocks import BlockKey

MAX_SHARED_MASKS = 4096
"""Different sets of holders that are worth sharing; beyond it they are counted anew."""


class BlockIndex:
    """Block key to the workers that cache it, and back.

    Each worker owns one bit; a block's holders are one integer, so that a walk along a chain of
    keys costs one dictionary look-up and one `and` a block, however many workers hold it. Equal
    integers are shared.
    """

    def __init__(self) -> None:
        self._holders: dict[BlockKey, int] = {}
        self._blocks: dict[str, set[BlockKey]] = {}
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._masks: dict[int, int] = {}
        self._live = 0
        """Bits of the workers that count; the others wait for `sweep`."""
        self._retired: list[tuple[int, set[BlockKey]]] = []

    def __len__(self) -> int:
        """Different blocks known, those that `sweep` has yet to forget included."""
        return len(self._holders)

    def num_blocks(self, worker_id: str) -> int:
        """Blocks that a worker caches."""
        return len(self._blocks.get(worker_id, ()))

    def keys_of(self, worker_id: str) -> set[BlockKey]:
        """A copy of the keys that a worker caches."""
        return set(self._blocks.get(worker_id, ()))

    def store(self, worker_id: str, key: BlockKey) -> None:
        """The worker caches the block now. Idempotent."""
        bit = self._bits.get(worker_id) or self._add_worker(worker_id)
        blocks = self._blocks[worker_id]
        if key not in blocks:
            blocks.add(key)
            mask = self._holders.get(key, 0) | bit
            self._holders[key] = self._share(mask)

    def store_all(self, worker_id: str, keys: Iterable[BlockKey]) -> None:
        """As `store` for each key, in a third of the time."""
        bit = self._bits.get(worker_id) or self._add_worker(worker_id)
        blocks, holders = self._blocks[worker_id], self._holders
        for key in keys:
            if key in blocks:
                continue
            blocks.add(key)
            mask = holders.get(key)
            holders[key] = bit if mask is None else self._share(mask | bit)

    def remove(self, worker_id: str, key: BlockKey) -> None:
        """The worker does not cache the block any more. Idempotent."""
        blocks = self._blocks.get(worker_id)
        if blocks is not None and key in blocks:
            blocks.discard(key)
            self._release(key, self._bits[worker_id])

    def remove_all(self, worker_id: str, keys: Iterable[BlockKey]) -> None:
        """As `remove` for each key, in half of the time."""
        blocks, holders = self._blocks.get(worker_id), self._holders
        if blocks is None:
            return
        bit = self._bits[worker_id]
        for key in keys:
            if key not in blocks:
                continue
            blocks.remove(key)
            mask = holders[key]
            if mask == bit:
                del holders[key]
            else:
                holders[key] = self._share(mask ^ bit)

    def clear(self, worker_id: str) -> None:
        """The worker caches nothing, from now on; `sweep` gives the memory back in small steps."""
        bit = self._bits.pop(worker_id, 0)
        if bit:
            self._live ^= bit
            self._retired.append((bit, self._blocks.pop(worker_id)))

    def sweep(self, most: int = 1024) -> None:
        """Forgets up to this many blocks of cleared workers: about a microsecond each."""
        while self._retired and most > 0:
            bit, blocks = self._retired[-1]
            for _ in range(min(most, len(blocks))):
                self._release(blocks.pop(), bit)
                most -= 1
            if not blocks:
                self._retired.pop()
                del self._names[bit]

    def replace(self, worker_id: str, keys: Iterable[BlockKey]) -> None:
        """The worker caches exactly these blocks."""
        wanted = set(keys)
        held = self._blocks.get(worker_id, set())
        for key in held - wanted:
            self.remove(worker_id, key)
        if fresh := wanted - held:
            self.store_all(worker_id, fresh)

    def match(self, keys: Sequence[BlockKey]) -> dict[str, int]:
        """Per worker: how many leading blocks of the chain it caches without a hole; at least 1."""
        matched: dict[str, int] = {}
        holders = self._holders
        mask = holders.get(keys[0], 0) & self._live if keys else 0
        depth = 0
        for key in keys:
            still = mask & holders.get(key, 0)
            if still != mask:
                self._note(matched, mask ^ still, depth)
                mask = still
            if not mask:
                break
            depth += 1
        self._note(matched, mask, depth)
        return matched

    def _note(self, matched: dict[str, int], mask: int, depth: int) -> None:
        while mask:
            bit = mask & -mask
            matched[self._names[bit]] = depth
            mask ^= bit

    def _share(self, mask: int) -> int:
        if len(self._masks) >= MAX_SHARED_MASKS:
            self._masks.clear()
        return self._masks.setdefault(mask, mask)

    def _add_worker(self, worker_id: str) -> int:
        # The lowest bit that nobody owns: integers stay small while workers come and go.
        bit = 1
        while bit in self._names:
            bit <<= 1
        self._bits[worker_id], self._names[bit] = bit, worker_id
        self._live |= bit
        self._blocks[worker_id] = set()
        return bit

    def _release(self, key: BlockKey, bit: int) -> None:
        mask = self._holders[key] ^ bit
        if mask:
            self._holders[key] = self._share(mask)
        else:
            del self._holders[key]
