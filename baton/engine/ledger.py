"""The ledger: what sequences hold of the pool, and what is kept for others after they ended."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from baton.blocks import BlockKey, KvLayout, chain_keys
from baton.engine.pool import BlockPool
from baton.engine.sequence import Sequence


class BlockLedger:
    """Moves blocks between the pool and sequences, and names them as they fill."""

    def __init__(self, layout: KvLayout, pool: BlockPool) -> None:
        self._layout = layout
        self._pool = pool
        self._kept: dict[str, list[int]] = {}

    def shortage(self, sequence: Sequence) -> int:
        """New blocks that a waiting sequence's admission needs."""
        return self._shortage(sequence, self._match(sequence))

    def admit(self, sequence: Sequence, set_aside: int = 0) -> bool:
        """Gives a waiting sequence blocks for its known tokens, cached ones first.

        Does nothing and returns False if that leaves fewer than `set_aside` blocks.
        """
        matched = self._match(sequence)
        if not self._pool.has_room(matched, self._shortage(sequence, matched) + set_aside):
            return False
        if matched:
            self._pool.hold(matched)
        num_new = self._layout.num_blocks(sequence.num_known) - len(matched)
        sequence.table.extend(matched + self._pool.allocate(num_new))
        sequence.num_stored = len(matched)
        sequence.num_computed = len(matched) * self._layout.block_size
        return True

    def fits_arena(self, num_tokens: int) -> bool:
        """Whether the whole arena has blocks for this many tokens."""
        return self._layout.num_blocks(num_tokens) <= self._pool.num_blocks

    def has_capacity(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the sequence's blocks can take this many tokens."""
        return len(sequence.table) * self._layout.block_size >= num_tokens

    def has_blocks_for(self, sequences: Iterable[Sequence]) -> bool:
        """Whether each of these can have the blocks that its uncomputed tokens need."""
        size, missing = self._layout.block_size, 0
        for sequence in sequences:
            missing += max(0, -(-sequence.num_known // size) - len(sequence.table))
        return missing <= self._pool.num_free

    def grow(self, sequence: Sequence) -> bool:
        """Gives a sequence one more block; False if none is free."""
        if not self._pool.num_free:
            return False
        sequence.table.extend(self._pool.allocate(1))
        return True

    def store_full(self, sequence: Sequence) -> None:
        """Puts blocks that have been computed to their end into the prefix cache."""
        num_full = sequence.num_computed // self._layout.block_size
        if num_full <= sequence.num_stored:
            return
        start, table = sequence.num_stored, sequence.table
        keys = self.keys(sequence, num_full)[start:num_full]
        parent = table[start - 1] if start else None
        salt = sequence.spec.cache_salt
        stored = self._pool.store(table[start:num_full], keys, parent, salt)
        table[start:num_full] = array("i", stored)
        sequence.num_stored = num_full

    def keys(self, sequence: Sequence, num_full: int) -> list[BlockKey]:
        """Keys of at least the first `num_full` blocks, all of known tokens."""
        if len(sequence.keys) < num_full:
            size = self._layout.block_size
            # The spec's tokens are packed already, as a rule; drawn ones are few.
            given = sequence.spec.token_ids
            tokens = given if num_full * size <= len(given) else sequence.token_ids
            limit = sequence.num_read // size
            sequence.keys += chain_keys(sequence.root, tokens, size, sequence.keys, limit)
        return sequence.keys

    def free(self, sequence: Sequence) -> None:
        """Takes all blocks from a sequence; its full computed ones stay cached."""
        self._pool.release(sequence.table)
        self._forget(sequence)

    def keep(self, sequence: Sequence) -> None:
        """Keeps all blocks of a sequence that ended, until `release`."""
        self._kept[sequence.sequence_id] = sequence.table.tolist()
        self._forget(sequence)

    def quarantine(self, sequence: Sequence) -> None:
        """Keeps the blocks that bytes may still reach, until `release`; frees the cached ones."""
        self._kept[sequence.sequence_id] = sequence.table[sequence.num_stored :].tolist()
        self._pool.release(sequence.table[: sequence.num_stored])
        self._forget(sequence)

    def release(self, sequence_id: str) -> bool:
        """Frees what was kept for an id; False if nothing was."""
        blocks = self._kept.pop(sequence_id, None)
        if blocks is None:
            return False
        self._pool.release(blocks)
        return True

    def is_kept(self, sequence_id: str) -> bool:
        """Whether blocks are kept for an id."""
        return sequence_id in self._kept

    def _match(self, sequence: Sequence) -> list[int]:
        # At least the last known token is computed, to draw from: its block is never taken from the
        # cache.
        limit = (sequence.num_known - 1) // self._layout.block_size
        return self._pool.match(self.keys(sequence, limit)[:limit])

    def _shortage(self, sequence: Sequence, matched: list[int]) -> int:
        # Room for the next token too, if there will be one, so that admission does not preempt at
        # once.
        headroom = 0 if sequence.spec.prefill_only else 1
        wanted = self._layout.num_blocks(sequence.num_known + headroom)
        return min(wanted, self._pool.num_blocks) - len(matched)

    def _forget(self, sequence: Sequence) -> None:
        del sequence.table[:]
        sequence.num_stored = 0
        sequence.num_computed = 0
