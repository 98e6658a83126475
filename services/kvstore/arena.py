"""Where blocks lie in memory: one range of a fixed size, cut into slabs of slots of equal size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

SLOT_ALIGNMENT = 64
"""A cache line."""
MAX_SLAB_BYTES = 4 << 20
_WASTE = 1 / 16
"""Share of slots given up for short slabs, which serve other sizes again sooner."""
_MOST_RUN = 32


@dataclass(slots=True)
class _SizeClass:
    """Slots of one size. Mutable: the free list is the hot path."""

    slot_bytes: int
    run_len: int
    """Base slabs that lie side by side as one slab of this class."""
    slots_per_slab: int
    free: dict[int, list[int]] = field(default_factory=dict)
    """Free offsets of each slab that has any, by its first base slab."""


class Arena:
    """Slots for blocks in `num_bytes` of memory. Knows offsets only; whoever has a slot fills it.

    A namespace's blocks have one size, so a size's slots are cut from slabs of its own. A slab
    whose slots are all free serves any size again. Slabs are a 64th of the memory, at most 4 MB;
    sizes that fit badly take several side by side.
    """

    def __init__(self, num_bytes: int, back: Callable[[int, int], bool] | None = None) -> None:
        """`back(offset, num_bytes)` sees to it that a range has memory; False: there is none."""
        self._back = back
        wanted = min(MAX_SLAB_BYTES, num_bytes // 64) // SLOT_ALIGNMENT * SLOT_ALIGNMENT
        self._slab_bytes = max(SLOT_ALIGNMENT, wanted)
        self._num_slabs = num_bytes // self._slab_bytes
        self._taken = bytearray(self._num_slabs)
        self._owners: dict[int, _SizeClass] = {}
        self._classes: dict[int, _SizeClass] = {}
        """By size of block, and by size of slot."""

    def fits(self, num_bytes: int) -> bool:
        """Whether a block of this size would fit into the empty arena."""
        return self._class(num_bytes).run_len <= self._num_slabs

    def allocate(self, num_bytes: int) -> int | None:
        """Offset of a free slot for a block; None where there is none."""
        sizes = self._class(num_bytes)
        if not sizes.free and not self._take_slab(sizes):
            return None
        first, offsets = next(iter(sizes.free.items()))
        offset = offsets.pop()
        if not offsets:
            del sizes.free[first]
        return offset

    def free(self, offset: int, num_bytes: int) -> None:
        """Gives a slot back."""
        sizes = self._class(num_bytes)
        first = self._first_slab(offset, sizes)
        offsets = sizes.free.get(first)
        if offsets is None:
            offsets = sizes.free[first] = []
        offsets.append(offset)
        if len(offsets) == sizes.slots_per_slab:
            del sizes.free[first]
            del self._owners[first]
            self._taken[first : first + sizes.run_len] = bytes(sizes.run_len)

    def _class(self, num_bytes: int) -> _SizeClass:
        known = self._classes.get(num_bytes)
        if known is not None:
            return known
        slot = -(-num_bytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT
        found = self._classes.get(slot)
        if found is None:
            least = -(-slot // self._slab_bytes)
            runs = range(least, max(least, min(_MOST_RUN, self._num_slabs)) + 1)
            enough = (1 - _WASTE) * max(self._num_slots(run, slot) for run in runs)
            run_len = next(run for run in runs if self._num_slots(run, slot) >= enough)
            per_slab = run_len * self._slab_bytes // slot
            found = self._classes[slot] = _SizeClass(slot, run_len, per_slab)
        self._classes[num_bytes] = found
        return found

    def _num_slots(self, run_len: int, slot: int) -> int:
        """Slots in the whole arena, cut in slabs of this length."""
        return self._num_slabs // run_len * (run_len * self._slab_bytes // slot)

    def _take_slab(self, sizes: _SizeClass) -> bool:
        first = self._taken.find(bytes(sizes.run_len))
        if first < 0:
            return False
        begin = first * self._slab_bytes
        if self._back is not None and not self._back(begin, sizes.run_len * self._slab_bytes):
            return False
        self._taken[first : first + sizes.run_len] = b"\x01" * sizes.run_len
        self._owners[first] = sizes
        # Popped from the end: slots are handed out in the order of their addresses.
        last = begin + (sizes.slots_per_slab - 1) * sizes.slot_bytes
        sizes.free[first] = list(range(last, begin - 1, -sizes.slot_bytes))
        return True

    def _first_slab(self, offset: int, sizes: _SizeClass) -> int:
        slab = offset // self._slab_bytes
        # A slab of this class begins at most a run before.
        for first in range(slab, slab - sizes.run_len, -1):
            if self._owners.get(first) is sizes:
                return first
        raise AssertionError(f"offset {offset} lies in no slab of {sizes.slot_bytes}-byte slots")
