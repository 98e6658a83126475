"""The block pool: counts, cache, eviction order; and its invariants under any history."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.blocks import BlockKey, chain_keys, root_key
from baton.engine.pool import BlockPool
from baton.engine.types import BlockEvent, BlockEventKind

ROOT = root_key("pool")


def keys_of(*token_ids: int) -> list[BlockKey]:
    """Keys of blocks of one token."""
    return chain_keys(ROOT, token_ids, 1)


def cache_chain(pool: BlockPool, *token_ids: int) -> list[int]:
    """Allocates and stores a chain; the caller holds it."""
    blocks: list[int] = []
    for key in keys_of(*token_ids):
        blocks += pool.store(pool.allocate(1), [key], blocks[-1] if blocks else None)
    return blocks


def test_a_released_block_without_a_key_is_free_again() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)

    pool.release([first])

    assert (pool.num_free, pool.num_used) == (1, 1)
    assert pool.allocate(1) == [first] != [second]


def test_a_cached_block_is_found_after_its_holders_left() -> None:
    pool = BlockPool(4)
    blocks = cache_chain(pool, 1, 2, 3)

    pool.release(blocks)

    assert pool.num_free == 4
    assert pool.match(keys_of(1, 2, 9)) == blocks[:2]
    assert pool.match(keys_of(9)) == []


def test_the_least_recently_used_chain_goes_first_and_from_its_leaf() -> None:
    pool = BlockPool(4)
    old, new = cache_chain(pool, 1, 2), cache_chain(pool, 5, 6)
    pool.release(old)
    pool.release(new)

    evicted = pool.allocate(4)

    assert evicted == [old[1], old[0], new[1], new[0]]
    assert pool.take_events()[-1] == BlockEvent(
        BlockEventKind.REMOVED, [*reversed(keys_of(1, 2)), *reversed(keys_of(5, 6))]
    )


def test_a_block_that_was_used_again_is_evicted_last() -> None:
    pool = BlockPool(2)
    one, two = cache_chain(pool, 1), cache_chain(pool, 2)
    pool.release(one)
    pool.release(two)
    pool.hold(one)
    pool.release(one)

    assert pool.allocate(1) == two


def test_a_parent_of_a_held_block_is_neither_free_nor_evicted() -> None:
    pool = BlockPool(3)
    blocks = cache_chain(pool, 1, 2)
    pool.release(blocks)

    pool.pin([keys_of(1, 2)[1]])

    assert pool.num_used == 1
    assert pool.num_free == 1
    assert pool.allocate(1)[0] not in blocks
    assert pool.num_free == 0


def test_a_parent_that_was_a_leaf_once_is_not_evicted_before_its_pinned_child() -> None:
    pool = BlockPool(3)
    parent, other = cache_chain(pool, 1), cache_chain(pool, 5)
    pool.release(parent)
    pool.release(other)
    pool.hold(parent)
    (child,) = pool.store(pool.allocate(1), keys_of(1, 2)[1:], parent[0])
    pool.pin(keys_of(1, 2)[1:])
    pool.release([*parent, child])

    assert (pool.num_free, pool.allocate(1)) == (1, other)
    pool.unpin(keys_of(1, 2)[1:])
    assert pool.allocate(2) == [child, parent[0]]


def test_storing_a_known_key_moves_the_holder_to_the_cached_block() -> None:
    pool = BlockPool(3)
    cached = cache_chain(pool, 1)
    (twin,) = pool.allocate(1)

    (block,) = pool.store([twin], keys_of(1), None)

    assert block == cached[0]
    assert pool.num_used == 1
    pool.release([block])
    assert pool.num_used == 1
    pool.release([block])
    assert pool.num_used == 0


def test_pins_are_counted_and_foreign_keys_skipped() -> None:
    pool = BlockPool(2)
    blocks = cache_chain(pool, 1)
    pool.release(blocks)
    key = keys_of(1)[0]

    assert pool.pin([key, keys_of(7)[0]]) == [(key, blocks[0])]
    pool.pin([key])
    pool.unpin([key, keys_of(7)[0]])

    assert pool.num_used == 1
    pool.unpin([key])
    pool.unpin([key])
    assert pool.num_used == 0


def test_has_room_counts_matched_blocks_that_are_free_only_once() -> None:
    pool = BlockPool(3)
    blocks = cache_chain(pool, 1, 2)
    pool.release(blocks)

    assert pool.has_room(blocks, 1)
    assert not pool.has_room(blocks, 2)


def test_letting_go_of_a_free_block_is_a_defect() -> None:
    pool = BlockPool(1)

    with pytest.raises(AssertionError, match="no holder"):
        pool.release([0])


class PoolMachine(RuleBasedStateMachine):
    """Chains of tokens from a small alphabet: held, extended, dropped, pinned, in any order."""

    NUM_BLOCKS = 6

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(self.NUM_BLOCKS)
        self.chains: list[tuple[list[int], list[int]]] = []  # (token ids, blocks), all stored
        self.loose: list[int] = []  # blocks held without a key
        self.pins: list[BlockKey] = []
        self.replayed: dict[BlockKey, bool] = {}

    def held(self) -> Counter[int]:
        found = Counter(self.loose)
        for _, blocks in self.chains:
            found.update(blocks)
        for key in self.pins:
            found.update([self.pool._blocks[key]])
        return found

    def allocate(self, count: int) -> list[int]:
        held = self.held()
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert not any(held[block] for block in blocks), "a held block was handed out"
        return blocks

    @rule(token_ids=st.lists(st.integers(0, 2), min_size=1, max_size=4))
    def start(self, token_ids: list[int]) -> None:
        blocks = self.pool.match(keys_of(*token_ids))
        assert len(set(blocks)) == len(blocks)
        if self.pool.has_room(blocks, len(token_ids) - len(blocks)):
            self.pool.hold(blocks)
            self.chains.append((token_ids[: len(blocks)], list(blocks)))
            self._extend(len(self.chains) - 1, token_ids[len(blocks) :])

    @precondition(lambda self: self.chains and self.pool.num_free)
    @rule(index=st.integers(0), token_id=st.integers(0, 2))
    def extend(self, index: int, token_id: int) -> None:
        self._extend(index % len(self.chains), [token_id])

    def _extend(self, index: int, more: list[int]) -> None:
        token_ids, blocks = self.chains[index]
        fresh = self.allocate(len(more))
        keys = keys_of(*token_ids, *more)
        # Only its end may be unknown: what is cached of a chain is whole.
        known = self.pool.match(keys)[len(token_ids) :]
        stored = self.pool.store(fresh, keys[len(token_ids) :], blocks[-1] if blocks else None)
        assert stored == known + fresh[len(known) :]
        self.chains[index] = ([*token_ids, *more], [*blocks, *stored])

    @precondition(lambda self: self.pool.num_free)
    @rule()
    def take_loose(self) -> None:
        self.loose += self.allocate(1)

    @rule()
    def take_all_that_is_free(self) -> None:
        taken = self.allocate(self.pool.num_free)
        assert self.pool.num_free == 0
        self.pool.release(taken)

    @precondition(lambda self: self.loose)
    @rule(index=st.integers(0))
    def drop_loose(self, index: int) -> None:
        self.pool.release([self.loose.pop(index % len(self.loose))])

    @precondition(lambda self: self.chains)
    @rule(index=st.integers(0))
    def drop_chain(self, index: int) -> None:
        self.pool.release(self.chains.pop(index % len(self.chains))[1])

    @rule(token_ids=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def pin(self, token_ids: list[int]) -> None:
        keys = keys_of(*token_ids)
        found = self.pool.pin(keys)
        assert [block for _, block in found] == self.pool.match(keys)
        self.pins += [key for key, _ in found]

    @precondition(lambda self: self.pins)
    @rule(index=st.integers(0))
    def unpin(self, index: int) -> None:
        self.pool.unpin([self.pins.pop(index % len(self.pins))])

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.num_used == len(self.held())
        assert self.pool.num_free + self.pool.num_used <= self.NUM_BLOCKS
        if not self.pins:  # a pinned child alone keeps parents that nobody holds
            assert self.pool.num_free + self.pool.num_used == self.NUM_BLOCKS

    @invariant()
    def events_replayed_give_the_cached_keys(self) -> None:
        for event in self.pool.take_events():
            if event.kind is BlockEventKind.STORED:
                assert not self.replayed.keys() & set(event.keys)
                self.replayed.update(dict.fromkeys(event.keys, True))
            else:
                for key in event.keys:
                    del self.replayed[key]
        assert set(self.pool.cached_keys()) == set(self.replayed)
        assert len(self.pool.cached_keys()) == len(self.replayed)

    @invariant()
    def a_cached_block_has_a_cached_parent_and_one_key(self) -> None:
        blocks = self.pool._blocks
        assert len(set(blocks.values())) == len(blocks)
        for block in blocks.values():
            parent = self.pool._parents[block]
            assert parent is None or parent in blocks.values()

    @invariant()
    def chains_are_cached_while_they_are_held(self) -> None:
        for token_ids, blocks in self.chains:
            assert self.pool.match(keys_of(*token_ids)) == blocks

    def teardown(self) -> None:
        for _, blocks in self.chains:
            self.pool.release(blocks)
        self.pool.release(self.loose)
        self.pool.unpin(self.pins)
        assert (self.pool.num_used, self.pool.num_free) == (0, self.NUM_BLOCKS)
        assert sorted(self.pool.allocate(self.NUM_BLOCKS)) == list(range(6))
        assert self.pool.cached_keys() == []


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def test_many_reuses_do_not_grow_the_pool() -> None:
    pool = BlockPool(4)
    blocks = cache_chain(pool, 1, 2, 3)
    pool.release(blocks)

    for _ in range(2000):
        pool.hold(blocks)
        pool.release(blocks)

    assert len(pool._leaves) <= 2 * pool.num_blocks + 64
    assert pool.allocate(4)[1:] == list(reversed(blocks))
    assert pool.take_events()[-1].keys[-1] == keys_of(1)[0]
