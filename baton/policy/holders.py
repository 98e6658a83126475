"""Sets of workers that hold the same blocks, each known by a small number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from baton.blocks import BlockKey
from baton.policy.rendezvous import GROUP_BLOCKS, choose, node_seed

Values = NDArray[np.uint32]
"""[n] numbers of sets, one a block; 0 is the set of nobody."""


class HolderSets:
    """The sets, how many blocks each one stands for, and the workers by name.

    A worker is one bit, a set one integer. A set that stands for no block is forgotten and its
    number given to the next one. A set that all workers have left stays until its blocks are gone:
    an orphan.
    """

    def __init__(self) -> None:
        self.masks: list[int] = [0]
        """Set to the bits of its workers. Bits that `rename` or `join` did not name may be among
        them."""
        self._counts: list[int] = [0]
        self._numbers: dict[int, int] = {0: 0}
        self._free: list[int] = []
        self._orphans: set[int] = set()
        self._bits: dict[str, int] = {}
        self._names: dict[int, str | None] = {}
        self._sizes: dict[int, int] = {}
        self._stores: frozenset[str] = frozenset()
        self._store_bits = 0
        self._place_names: tuple[str, ...] = ()
        """Stores, where a group's place is known; empty: any store will do."""
        self._place_seeds: tuple[int, ...] = ()

    @property
    def has_orphans(self) -> bool:
        """Whether blocks without a worker are left."""
        return bool(self._orphans)

    def bit(self, worker_id: str) -> int:
        """The bit of a worker; 0 if it has none."""
        return self._bits.get(worker_id, 0)

    def set_stores(
        self, worker_ids: Collection[str], places: Mapping[str, str] | None = None
    ) -> None:
        """These are kvstores, no others are; some may hold nothing yet.

        `places`: their addresses, where a group of blocks is looked for at the store only that
        hashing these addresses gives it.
        """
        self._stores = frozenset(worker_ids)
        # One of one is the place of all.
        known = places if places is not None and len(places) > 1 else {}
        self._place_names = tuple(known)
        self._place_seeds = tuple(map(node_seed, known.values()))
        self._store_bits = 0
        for worker_id in self._stores:
            self._store_bits |= self.bit(worker_id)

    @property
    def num_stored(self) -> int:
        """Blocks that stores hold; those in two of them count twice."""
        return sum(self.num_blocks(worker_id) for worker_id in self._stores)

    def num_blocks(self, worker_id: str) -> int:
        """Blocks that a worker holds."""
        return self._sizes.get(self.bit(worker_id), 0)

    def join(self, worker_id: str) -> int:
        """The bit of a worker, a new one if need be."""
        bit = self._bits.get(worker_id)
        if bit is None:
            bit = self._take_bit(worker_id)
            self._name(bit, worker_id)
        return bit

    def join_unnamed(self) -> int:
        """A bit that no walk tells of."""
        return self._take_bit(None)

    def rename(self, bit: int, worker_id: str) -> None:
        """An unnamed bit is the worker's now; the one that it had leaves."""
        self.leave(worker_id)
        self._name(bit, worker_id)

    def leave(self, worker_id: str) -> None:
        """The worker holds nothing any more and has no bit."""
        bit = self._bits.pop(worker_id, 0)
        if bit:
            self.leave_unnamed(bit)

    def leave_unnamed(self, bit: int) -> None:
        """Takes a bit out of all sets: a step for each set, not for each block."""
        del self._names[bit], self._sizes[bit]
        self._store_bits &= ~bit
        for number, mask in enumerate(self.masks):
            if mask & bit:
                if self._numbers.get(mask) == number:
                    del self._numbers[mask]
                left = self.masks[number] = mask ^ bit
                # Another set may be the same now; the two live side by side from here on.
                self._numbers.setdefault(left, number)
                if not left:
                    self._orphans.add(number)

    def add_some(self, number: int, bit: int, count: int) -> int:
        """The set that so many blocks of set `number` belong to with one worker more."""
        return self._move(number, self.masks[number] | bit, bit, count)

    def drop_some(self, number: int, bit: int, count: int) -> int:
        """The set that so many blocks of set `number` belong to with one worker less."""
        return self._move(number, self.masks[number] & ~bit, bit, count)

    def add(self, values: Values, bit: int) -> Values:
        """As `add_some` for blocks of different sets."""
        return self._move_all(values, bit, True)

    def drop(self, values: Values, bit: int) -> Values:
        """As `drop_some` for blocks of different sets."""
        return self._move_all(values, bit, False)

    def are_orphans(self, values: Values) -> NDArray[np.bool_]:
        """[n] whether nobody holds these blocks any more."""
        is_orphan = np.zeros(len(self.masks), np.bool_)
        is_orphan[list(self._orphans)] = True
        return is_orphan[values]

    def forget(self, values: Values) -> None:
        """Blocks of orphaned sets are gone."""
        for number, count in enumerate(np.bincount(values).tolist()):
            if count:
                self._leave(number, count)

    def walk(self, keys: Sequence[BlockKey]) -> Walk:
        """Starts along a chain of blocks."""
        names, seeds = self._place_names, self._place_seeds
        if not names or not self._store_bits:
            return Walk(self.masks, self._names, self._store_bits)

        def place(depth: int) -> int:
            return self.bit(names[choose(keys[depth], seeds)])

        return Walk(self.masks, self._names, self._store_bits, place)

    def _name(self, bit: int, worker_id: str) -> None:
        self._bits[worker_id], self._names[bit] = bit, worker_id
        if worker_id in self._stores:
            self._store_bits |= bit

    def _move_all(self, values: Values, bit: int, adds: bool) -> Values:
        first = int(values[0])
        if (values == first).all():
            target = self.masks[first] | bit if adds else self.masks[first] & ~bit
            return np.full_like(values, self._move(first, target, bit, len(values)))
        numbers, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        moved = [
            self._move(n, self.masks[n] | bit if adds else self.masks[n] & ~bit, bit, count)
            for n, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        ]
        return np.array(moved, np.uint32)[which]

    def _move(self, number: int, mask: int, bit: int, count: int) -> int:
        """Moves blocks from one set to the one with this mask; `bit` is the difference, if any."""
        before = self.masks[number]
        if mask == before:
            return number
        self._sizes[bit] += count if mask & bit else -count
        # First the new one: the old one may go, and its number with it.
        target = self._number(mask)
        if target:
            self._counts[target] += count
        if number:
            self._leave(number, count)
        return target

    def _leave(self, number: int, count: int) -> None:
        self._counts[number] -= count
        if not self._counts[number]:
            mask = self.masks[number]
            if self._numbers.get(mask) == number:
                del self._numbers[mask]
            self.masks[number] = 0
            self._orphans.discard(number)
            self._free.append(number)

    def _number(self, mask: int) -> int:
        number = self._numbers.get(mask)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.masks[number] = mask
            else:
                number = len(self.masks)
                self.masks.append(mask)
                self._counts.append(0)
            self._numbers[mask] = number
        return number

    def _take_bit(self, name: str | None) -> int:
        # The lowest bit that nobody owns: integers stay small while workers come and go.
        bit = 1
        while bit in self._names:
            bit <<= 1
        self._names[bit], self._sizes[bit] = name, 0
        return bit


class Walk:
    """How far each worker, and all stores together, come along a chain of blocks."""

    def __init__(
        self,
        masks: list[int],
        names: dict[int, str | None],
        store_bits: int,
        place: Callable[[int], int] | None = None,
    ) -> None:
        """`place`: the bit of the one store that is asked for the group that begins at a depth;
        None: what any store holds counts. With it, `step` must come to every group's first block.
        """
        self.matched: dict[str, int] = {}
        """Per worker: leading blocks that it caches without a hole; at least 1."""
        self.num_stored = 0
        """Leading blocks that stores hold, each where it is looked for."""
        self._masks = masks
        self._names = names
        self._left = ~store_bits
        self._stores = store_bits
        """Those that count here; 0 behind the first block that none of them holds."""
        self._place = place

    @property
    def has_places(self) -> bool:
        """Whether a group's store is known."""
        return self._place is not None

    @property
    def has_begun(self) -> bool:
        """Whether anybody holds the first block."""
        return bool(self.matched or self.num_stored)

    def step(self, depth: int, number: int) -> bool:
        """The block at this depth has this set of holders; False once nobody is left."""
        mask = self._masks[number]
        if self._stores:
            if self._place is not None and not depth % GROUP_BLOCKS:
                self._stores = self._place(depth)
            if not mask & self._stores:
                self.num_stored, self._stores = depth, 0
        still = self._left & mask
        if self._left != still:
            if depth:
                self._note(self._left ^ still, depth)
            self._left = still
        return bool(still or self._stores)

    def end(self, depth: int) -> None:
        """The chain ends here."""
        if self._stores:
            self.num_stored = depth
        if depth:
            self._note(self._left, depth)

    def _note(self, mask: int, depth: int) -> None:
        while mask:
            bit = mask & -mask
            name = self._names[bit]
            if name is not None:
                self.matched[name] = depth
            mask ^= bit
