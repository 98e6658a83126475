"""Which worker or store has which blocks: a hint, kept from events, asked on every request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from baton.blocks import KEY_BYTES, BlockKey
from baton.policy.holders import HolderSets, Walk
from baton.policy.keytable import KeyTable, Prints, Slots, few_prints_of, print_of, prints_of
from baton.policy.rendezvous import GROUP_BLOCKS

Number = TypeVar("Number", np.uint64, np.int64)

_FIRST_KEYS = 2
FEW_KEYS = 64
"""So many keys are sooner looked up one by one than all at once; not more than a group of them."""
FEW_CHANGES = 48
"""The same for keys that come and go."""
_PIECE = 16_384
"""Keys taken at once at the most: 20 ms at 1 us each, and 3 MB while it lasts."""
_SWEEP_SLOTS = 65_536


class BlockIndex:
    """Block key to the workers that cache it.

    A table holds each block once, with the number of its set of holders; sets are few, because
    blocks of one prompt are held by the same workers. A worker that goes only leaves those sets: no
    block is touched before `sweep` passes by. Bulk methods take keys one behind the other, 16 bytes
    each, as they travel; they raise ValueError on half a key.
    """

    def __init__(self) -> None:
        self._table = KeyTable()
        self._holders = HolderSets()
        self._cursor = 0
        """The slot where `sweep` goes on."""

    def __len__(self) -> int:
        """Different blocks known, those that `sweep` has yet to forget included."""
        return self._table.num_keys

    @property
    def num_bytes(self) -> int:
        """Bytes of the table, touched ones only."""
        return self._table.num_bytes

    @property
    def num_stored(self) -> int:
        """Blocks that stores hold; those in two of them count twice."""
        return self._holders.num_stored

    def num_blocks(self, worker_id: str) -> int:
        """Blocks that a worker caches."""
        return self._holders.num_blocks(worker_id)

    def holds(self, worker_id: str, key: BlockKey) -> bool:
        """Whether a worker caches a block."""
        slot = self._table.find_one(print_of(key))
        bit = self._holders.bit(worker_id)
        return slot >= 0 and bool(self._holders.masks[self._table.value_view[slot]] & bit)

    def store(self, worker_id: str, key: BlockKey) -> None:
        """The worker caches the block now. Idempotent."""
        self._change_few(self._holders.join(worker_id), (print_of(key),), True)

    def store_all(self, worker_id: str, packed: bytes) -> None:
        """As `store` for many keys."""
        self._store_all(self._holders.join(worker_id), packed)

    def remove(self, worker_id: str, key: BlockKey) -> None:
        """The worker does not cache the block any more. Idempotent."""
        self._change_few(self._holders.bit(worker_id), (print_of(key),), False)

    def remove_all(self, worker_id: str, packed: bytes) -> None:
        """As `remove` for many keys."""
        self.apply([Changes(worker_id, np.zeros(len(packed) // KEY_BYTES, np.bool_), packed)])

    def apply(self, changes: Sequence[Changes]) -> None:
        """What happened to several caches: half a microsecond a block, from some hundred on."""
        batches = [
            _Batch(self._holders.join(one.worker_id), prints_of(one.packed), one.is_stored)
            for one in changes
        ]
        if sum(len(batch.prints) for batch in batches) > FEW_CHANGES:
            self._apply(batches)
            return
        for batch in batches:  # none at all included
            events = zip(batch.is_stored.tolist(), batch.prints.tolist(), strict=True)
            for stores, run in groupby(events, itemgetter(0)):
                self._change_few(batch.bit, [print_ for _, print_ in run], stores)

    def clear(self, worker_id: str) -> None:
        """The worker caches nothing, from now on; `sweep` gives the memory back in small steps."""
        self._holders.leave(worker_id)

    def refill(self, worker_id: str) -> Refill:
        """Begins to replace all of a worker's blocks; until it is committed the old ones count."""
        return Refill(self, worker_id)

    def replace(self, worker_id: str, packed: bytes) -> None:
        """The worker caches exactly these blocks."""
        refill = self.refill(worker_id)
        refill.add(packed)
        refill.commit()

    def sweep(self, num_slots: int = _SWEEP_SLOTS) -> None:
        """Looks at this many slots for blocks of cleared workers, about a nanosecond each."""
        if not self._holders.has_orphans:
            return
        table, end = self._table, self._cursor + num_slots
        values = table.values[self._cursor : min(end, table.num_slots)]
        slots = np.flatnonzero(self._holders.are_orphans(values)) + self._cursor
        if len(slots):
            self._holders.forget(table.values[slots])
            table.remove(slots)
        self._cursor = end if end < table.num_slots else 0

    def set_stores(
        self, worker_ids: Collection[str], places: Mapping[str, str] | None = None
    ) -> None:
        """These holders are kvstores, no others are: `walk` counts what they hold together.

        `places`: their addresses, if a group of blocks counts at the store only that hashing gives
        it (`baton.policy.rendezvous`); None: at any.
        """
        self._holders.set_stores(worker_ids, places)

    def match(self, keys: Sequence[BlockKey]) -> dict[str, int]:
        """Per worker: how many leading blocks of the chain it caches without a hole; at least 1."""
        return self.walk(keys).matched

    def walk(self, keys: Sequence[BlockKey]) -> Walk:
        """How far each worker, and all stores together, come along the chain."""
        walk, table = self._holders.walk(keys), self._table
        # In growing pieces: keys may be made when they are asked for.
        start, end, num_few = 0, _FIRST_KEYS, min(len(keys), FEW_KEYS)
        while start < num_few:
            slots = table.find_few(few_prints_of(b"".join(keys[start:end])))
            values, last = table.value_view, -1
            for depth, slot in enumerate(slots, start):
                number = values[slot] if slot >= 0 else 0
                if number != last and not walk.step(depth, number):
                    return walk
                last = number
            start, end = end, min(8 * end, FEW_KEYS)
        start, end = FEW_KEYS, 4 * FEW_KEYS
        while start < len(keys):
            places = table.find(prints_of(b"".join(keys[start:end])))
            found = np.where(places >= 0, table.values[places], 0)
            changes = np.flatnonzero(found[1:] != found[:-1]) + 1
            stops = [0, *changes.tolist()]
            if walk.has_places:
                groups = range(-start % GROUP_BLOCKS, len(found), GROUP_BLOCKS)
                stops = sorted({*stops, *groups})
            for at in stops:
                if not walk.step(start + at, int(found[at])):
                    return walk
            start, end = end, 16 * end
        walk.end(len(keys))
        return walk

    def _store_all(self, bit: int, packed: bytes) -> None:
        prints = prints_of(packed)
        if len(prints) <= FEW_CHANGES:
            self._change_few(bit, prints.tolist(), True)
            return
        for at in range(0, len(prints), _PIECE):
            piece = prints[at : at + _PIECE]
            self._apply([_Batch(bit, piece, np.ones(len(piece), np.bool_))])

    def _change_few(self, bit: int, prints: Sequence[int], stores: bool) -> None:
        """Key by key, but sets of holders by the run: blocks of one prompt change alike."""
        table, holders = self._table, self._holders
        if stores:
            table.reserve(len(prints))
        version, values = table.version, table.value_view
        prints = list(dict.fromkeys(prints))
        alike: dict[int, list[int]] = {}
        for print_, slot in zip(prints, table.find_few(prints), strict=True):
            if slot < 0:
                if not stores:
                    continue
                slot = table.insert_one(print_)
            alike.setdefault(values[slot], []).append(slot)
        if table.version != version:  # a key had to make room, and may be one of these
            for print_ in prints:
                slot = table.find_one(print_)
                table.value_view[slot] = holders.add_some(table.value_view[slot], bit, 1)
            return
        for value, slots in alike.items():
            count = len(slots)
            moved = (holders.add_some if stores else holders.drop_some)(value, bit, count)
            for slot in slots:
                if moved:
                    values[slot] = moved
                else:
                    table.remove_one(slot)

    def _apply(self, batches: Sequence[_Batch]) -> None:
        """Looks all keys up together; only sets of holders are moved batch by batch."""
        batches = [batch.settled() for batch in batches]
        prints = np.concatenate([batch.prints for batch in batches])
        slots = self._slots(prints, np.concatenate([batch.is_stored for batch in batches]))
        table, start = self._table, 0
        left = []
        for batch in batches:
            own = slots[start : (start := start + len(batch.prints))]
            gone = own[~batch.is_stored & (own >= 0)]
            if len(gone):
                table.values[gone] = self._holders.drop(table.values[gone], batch.bit)
                left.append(gone)
            held = own[batch.is_stored]
            if len(held):
                table.values[held] = self._holders.add(table.values[held], batch.bit)
        if left:
            gone = np.concatenate(left)
            gone = gone[table.values[gone] == 0]
            table.remove(gone if len(left) == 1 else _different(gone))

    def _slots(self, prints: Prints, is_stored: NDArray[np.bool_]) -> Slots:
        """Where the keys are; those to be stored get a slot if they have none."""
        table = self._table
        table.reserve(int(np.count_nonzero(is_stored)))
        slots = table.find(prints)
        absent = np.flatnonzero(is_stored & (slots < 0))
        if len(absent):
            version, missing = table.version, prints[absent]
            fresh = _different(missing)
            found = table.insert(fresh)
            slots[absent] = found[np.searchsorted(fresh, missing)]
            if table.version != version:
                return table.find(prints)
            # Stored by one worker, removed by another.
            absent = np.flatnonzero(slots < 0)
            slots[absent] = table.find(prints[absent])
        return slots


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to one worker's cache, in order."""

    worker_id: str
    is_stored: NDArray[np.bool_]
    """[number of keys] whether the block was stored; else it was removed."""
    packed: bytes
    """The keys, one behind the other."""


@dataclass(frozen=True, slots=True)
class _Batch:
    bit: int
    prints: Prints
    is_stored: NDArray[np.bool_]

    def settled(self) -> _Batch:
        """Each key once: its last event decides."""
        ordered = np.sort(self.prints)
        if not (ordered[1:] == ordered[:-1]).any():
            return self
        _, last = np.unique(self.prints[::-1], return_index=True)
        last = len(self.prints) - 1 - last
        return _Batch(self.bit, self.prints[last], self.is_stored[last])


class Refill:
    """A worker's blocks from a snapshot that comes in parts: `add` each, then `commit`.

    The parts are in the index at once, under a name that nobody is told; one that is given up
    must be abandoned.
    """

    def __init__(self, index: BlockIndex, worker_id: str) -> None:
        self._index = index
        self._worker_id = worker_id
        self._bit = index._holders.join_unnamed()

    def add(self, packed: bytes) -> None:
        """More keys, one behind the other."""
        self._index._store_all(self._bit, packed)

    def commit(self) -> None:
        """From now on the worker caches what was added and nothing else."""
        self._index._holders.rename(self._bit, self._worker_id)

    def abandon(self) -> None:
        """Forgets what was added."""
        self._index._holders.leave_unnamed(self._bit)


def _different(prints: NDArray[Number]) -> NDArray[Number]:
    """Each once, in any order. `np.unique` takes six times as long."""
    prints = np.sort(prints)
    fresh = np.empty(len(prints), np.bool_)
    fresh[:1] = True
    np.not_equal(prints[1:], prints[:-1], out=fresh[1:])
    return prints[fresh]
