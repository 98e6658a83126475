"""A table from block keys to small numbers: 12 bytes a slot, many keys at once at C speed."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from baton.blocks import KEY_BYTES, BlockKey

SLOTS = 8
"""Slots in a bucket: its keys fill one cache line."""
MAX_LOAD = 0.6
_FIRST_BUCKETS = 64
_SPLIT_BUCKETS = 64
"""Buckets split at a time when one key needs room: about 40 us."""
_ROUNDS, _FEW = 8, 4
"""Tries to place keys side by side, and how many left are sooner placed one by one."""

# Odd, so that multiplying by it only shuffles; its bits are those of the golden ratio.
_MIX = 0x9E3779B97F4A7C15
_ROW = Struct(f"{SLOTS}Q")
_PRINT = Struct(f">{KEY_BYTES - 8}xQ")
_WORD = (1 << 64) - 1
_HALF = 32
_LOW_HALF = (1 << _HALF) - 1

Prints = NDArray[np.uint64]
"""[n] 64 bits of each key, mixed. 0 stands for an empty slot and is nobody's."""
Slots = NDArray[np.int64]
"""[n] places in the table, -1 for none; valid until the table's `version` changes."""


def print_of(key: BlockKey) -> int:
    """The 64 bits that stand for a key."""
    return int.from_bytes(key[8:], "big") * _MIX & _WORD or 1


def few_prints_of(packed: bytes) -> list[int]:
    """The same for some keys, one behind the other: whole ones only."""
    return [word * _MIX & _WORD or 1 for (word,) in _PRINT.iter_unpack(packed)]


def prints_of(packed: bytes) -> Prints:
    """The same for keys that stand one behind the other. Raises ValueError on half a key."""
    if len(packed) % KEY_BYTES:
        raise ValueError(f"{len(packed)} bytes are not a whole number of {KEY_BYTES}-byte keys")
    words = np.frombuffer(packed, ">u8")[1::2].astype(np.uint64)
    words *= np.uint64(_MIX)
    return np.maximum(words, np.uint64(1))


class KeyTable:
    """Open addressing with two buckets of eight slots for each key.

    A key is one of its two buckets' or it is not there: no probing, and a removed key leaves
    nothing behind. It grows bucket by bucket (linear hashing: addresses below `_split` use one more
    bit), so no batch waits for a copy of everything but when the arrays double. A full pair of
    buckets moves one of its keys to that one's other bucket, as a cuckoo does.

    Keys count as equal when 64 of their 128 bits are. Among ten million blocks the chance that
    any two are is three in a million; then one is taken for the other.
    """

    def __init__(self) -> None:
        self.num_keys = 0
        self.num_moved = 0
        """Keys moved to their other bucket to make room."""
        self.version = 0
        self._low = _FIRST_BUCKETS
        """Buckets at the last doubling, a power of two."""
        self._num_buckets = _FIRST_BUCKETS
        first = _FIRST_BUCKETS * SLOTS
        self._use(np.zeros((_FIRST_BUCKETS, SLOTS), np.uint64), np.zeros(first, np.uint32))

    @property
    def num_slots(self) -> int:
        """Slots, empty ones included."""
        return self._num_buckets * SLOTS

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values; arrays are larger, but nobody has touched the rest."""
        return self.num_slots * (self._keys.itemsize + self.values.itemsize)

    def reserve(self, num_new: int) -> None:
        """Makes room for this many more keys; changes `version` if anything moved."""
        if self.num_keys + num_new <= MAX_LOAD * SLOTS * self._num_buckets:
            return
        wanted = -(-(self.num_keys + num_new) * 10 // int(MAX_LOAD * SLOTS * 10))
        while self._num_buckets < wanted:
            self._split(max(_SPLIT_BUCKETS, min(wanted - self._num_buckets, 4096)))

    def find(self, prints: Prints) -> Slots:
        """Where keys are."""
        buckets = self._address(prints >> np.uint64(_HALF))
        slots = np.full(len(prints), -1, np.int64)
        missing = self._look(prints, buckets, slots, None)
        if len(missing):
            absent = prints[missing]
            buckets = self._address(absent & np.uint64(_LOW_HALF))
            self._look(absent, buckets, slots, missing)
        return slots

    def insert(self, prints: Prints) -> Slots:
        """Takes in different keys that are not there, each with value 0; `reserve` first."""
        slots = np.empty(len(prints), np.int64)
        left = np.arange(len(prints))
        for _ in range(_ROUNDS):
            if len(left) <= _FEW:
                break
            chosen = prints[left]
            places = self._free_slots(chosen)
            fits = places >= 0
            self._keys[places[fits]] = chosen[fits]
            # Where several chose one slot, the last one has it.
            won = fits & (self._keys[places] == chosen)
            slots[left[won]] = places[won]
            left = left[~won]
        self.num_keys += len(prints) - len(left)
        for at in left.tolist():
            slots[at] = self.insert_one(int(prints[at]))
        return slots

    def remove(self, slots: Slots) -> None:
        """Forgets the keys in different slots."""
        self._keys[slots] = 0
        self.values[slots] = 0
        self.num_keys -= len(slots)

    def find_few(self, prints: Iterable[int]) -> list[int]:
        """As `find`, one by one: sooner done for up to some sixty keys."""
        wide, narrow, end = 2 * self._low - 1, self._low - 1, self._num_buckets
        unpack, keys, size = _ROW.unpack_from, self._key_view, _ROW.size
        slots = []
        # All written out: a call for each key would double its time.
        for print_ in prints:
            bucket = print_ >> _HALF & wide
            if bucket >= end:
                bucket &= narrow
            row = unpack(keys, bucket * size)
            if print_ not in row:
                bucket = print_ & wide
                if bucket >= end:
                    bucket &= narrow
                row = unpack(keys, bucket * size)
                if print_ not in row:
                    slots.append(-1)
                    continue
            slots.append(bucket * SLOTS + row.index(print_))
        return slots

    def find_one(self, print_: int) -> int:
        """As `find` for one key."""
        return self.find_few((print_,))[0]

    def insert_one(self, print_: int) -> int:
        """As `insert` for one key; makes its own room."""
        self.reserve(1)
        while True:
            pair = first, second = self._pair(print_)
            row, other = self._row(first), self._row(second)
            num_free, num_other = row.count(0), other.count(0)
            if num_other > num_free:
                slot = second * SLOTS + other.index(0)
                break
            if num_free:
                slot = first * SLOTS + row.index(0)
                break
            slot = self._make_room(row + other, pair)
            if slot >= 0:
                break
            self._split(_SPLIT_BUCKETS)
        self._key_view[slot] = print_
        self.num_keys += 1
        return slot

    def remove_one(self, slot: int) -> None:
        """Forgets the key in a slot."""
        self._key_view[slot] = 0
        self.value_view[slot] = 0
        self.num_keys -= 1

    def _look(
        self, prints: Prints, buckets: Slots, slots: Slots, who: Slots | None
    ) -> NDArray[np.int64]:
        """Notes the slots of keys found in these buckets; returns the places of all others."""
        rows = self._rows.take(buckets, axis=0)
        hits = np.flatnonzero(rows == prints[:, None])
        found = hits >> 3
        places = (buckets[found] << 3) | (hits & 7)
        slots[found if who is None else who[found]] = places
        if who is not None or len(found) == len(prints):
            return hits[:0]
        return np.flatnonzero(slots < 0)

    def _free_slots(self, prints: Prints) -> Slots:
        """A free slot in the emptier of each key's two buckets; negative where both are full."""
        first = self._address(prints >> np.uint64(_HALF))
        second = self._address(prints & np.uint64(_LOW_HALF))
        # Eight booleans are one word with a bit for each free slot.
        free = (self._rows.take(first, axis=0) == 0).view(np.uint64).ravel()
        other = (self._rows.take(second, axis=0) == 0).view(np.uint64).ravel()
        # All ones where the second is emptier.
        swap = -(np.bitwise_count(other) > np.bitwise_count(free)).astype(np.int64)
        free ^= (free ^ other) & swap.view(np.uint64)
        first ^= (first ^ second) & swap
        lowest = np.bitwise_count((free & -free) - np.uint64(1)) >> 3
        places: Slots = (first << 3) + lowest
        places[lowest == SLOTS] = -1
        return places

    def _row(self, bucket: int) -> tuple[int, ...]:
        """The prints in a bucket's slots; quicker than numpy for a single one."""
        return _ROW.unpack_from(self._key_view, bucket * _ROW.size)

    def _make_room(self, row: tuple[int, ...], pair: tuple[int, int]) -> int:
        """Moves one of the keys in a full pair of buckets to its other bucket; -1 if none fits."""
        for at, print_ in enumerate(row):
            slot = pair[at // SLOTS] * SLOTS + at % SLOTS
            for bucket in self._pair(print_):
                other = self._row(bucket)
                if bucket not in pair and 0 in other:
                    target = bucket * SLOTS + other.index(0)
                    self._key_view[target] = print_
                    self.value_view[target] = self.value_view[slot]
                    self.value_view[slot] = 0
                    self.num_moved += 1
                    self.version += 1
                    return slot
        return -1

    def _address(self, halves: Prints) -> Slots:
        """[n] buckets that halves of prints point at."""
        wide = halves.view(np.int64) & (2 * self._low - 1)
        if self._num_buckets > self._low:
            # Those behind the end lose the topmost bit: all ones, once shifted, where that is so.
            wide -= ((self._num_buckets - 1 - wide) >> 63) & self._low
            return wide
        return wide & (self._low - 1)

    def _pair(self, print_: int) -> tuple[int, int]:
        wide, narrow = 2 * self._low - 1, self._low - 1
        first, second = print_ >> _HALF & wide, print_ & wide
        end = self._num_buckets
        return (first if first < end else first & narrow), (
            second if second < end else second & narrow
        )

    def _split(self, num: int) -> None:
        """Gives the next `num` buckets a second one each, and moves the keys that belong there."""
        low, start = self._low, self._num_buckets - self._low
        num = min(num, low - start)
        if self._num_buckets + num > len(self._rows):
            self._allocate(2 * len(self._rows))
        old = slice(start, start + num)
        new = slice(self._num_buckets, self._num_buckets + num)
        keys, values = self._rows[old], self.values.reshape(-1, SLOTS)
        here = np.arange(start, start + num, dtype=np.uint64)[:, None]
        is_first = (keys >> np.uint64(_HALF)) & np.uint64(low - 1) == here
        half = np.where(is_first, keys >> np.uint64(_HALF), keys)
        goes = half & np.uint64(low) != 0
        self._rows[new] = np.where(goes, keys, 0)
        values[new] = np.where(goes, values[old], 0)
        keys[goes] = 0
        values[old][goes] = 0
        self._num_buckets += num
        if self._num_buckets == 2 * low:
            self._low = self._num_buckets
        self.version += 1

    def _allocate(self, num_buckets: int) -> None:
        """Arrays of this many buckets with what was in the old ones; nobody pays for the rest."""
        keys = np.zeros((num_buckets, SLOTS), np.uint64)
        values = np.zeros(num_buckets * SLOTS, np.uint32)
        keys[: self._num_buckets] = self._rows[: self._num_buckets]
        values[: self.num_slots] = self.values[: self.num_slots]
        self._use(keys, values)

    def _use(self, rows: Prints, values: NDArray[np.uint32]) -> None:
        self._rows = rows
        """[buckets, 8]"""
        self._keys = rows.reshape(-1)
        self.values = values
        """[slots] what is known of each key; 0 in empty slots."""
        self._key_view, self.value_view = self._keys.data, values.data
