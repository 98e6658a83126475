"""The block index against the obvious model: one set of keys per worker."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.blocks import BlockKey, split_keys
from baton.policy.index import BlockIndex, Changes
from baton.policy.rendezvous import GROUP_BLOCKS, choose, group_keys, node_seed

WORKERS = st.sampled_from([f"w{number}" for number in range(5)])
NUMBERS = st.integers(0, 40)
MANY = st.lists(NUMBERS, max_size=30)
CHAINS = st.lists(NUMBERS, max_size=30, unique=True)


def key(number: int) -> BlockKey:
    """A key that is easy to tell from others."""
    return BlockKey(number.to_bytes(16, "big"))


def packed(numbers: Iterable[int]) -> bytes:
    """Keys as they travel."""
    return b"".join(key(number) for number in numbers)


def run_of(chain: list[int], numbers: set[int]) -> int:
    """How many leading blocks are among the numbers."""
    return next((depth for depth, number in enumerate(chain) if number not in numbers), len(chain))


class IndexMachine(RuleBasedStateMachine):
    """Does the same to the index and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex()
        self.model: dict[str, set[int]] = defaultdict(set)
        self.stores: set[str] = set()

    @rule(worker=WORKERS, number=NUMBERS)
    def store(self, worker: str, number: int) -> None:
        self.index.store(worker, key(number))
        self.model[worker].add(number)

    @rule(worker=WORKERS, number=NUMBERS)
    def remove(self, worker: str, number: int) -> None:
        self.index.remove(worker, key(number))
        self.model[worker].discard(number)

    @rule(worker=WORKERS)
    def clear(self, worker: str) -> None:
        self.index.clear(worker)
        self.model[worker].clear()

    @rule(worker=WORKERS, numbers=st.lists(NUMBERS, max_size=8))
    def replace(self, worker: str, numbers: list[int]) -> None:
        self.index.replace(worker, packed(numbers))
        self.model[worker] = set(numbers)

    @rule(worker=WORKERS, numbers=MANY)
    def store_many(self, worker: str, numbers: list[int]) -> None:
        self.index.store_all(worker, packed(numbers))
        self.model[worker] |= set(numbers)

    @rule(worker=WORKERS, numbers=MANY)
    def remove_many(self, worker: str, numbers: list[int]) -> None:
        self.index.remove_all(worker, packed(numbers))
        self.model[worker] -= set(numbers)

    @rule(worker=WORKERS, events=st.lists(st.tuples(st.booleans(), NUMBERS), max_size=40))
    def apply(self, worker: str, events: list[tuple[bool, int]]) -> None:
        is_stored = np.array([stores for stores, _ in events], np.bool_)
        keys = packed([number for _, number in events])
        self.index.apply([Changes(worker, is_stored, keys), Changes("w0", ~is_stored, keys)])
        for stores, number in events:
            (self.model[worker].add if stores else self.model[worker].discard)(number)
        for stores, number in events:
            (self.model["w0"].discard if stores else self.model["w0"].add)(number)

    @rule(worker=WORKERS, parts=st.lists(MANY, max_size=3), ends_well=st.booleans())
    def refill(self, worker: str, parts: list[list[int]], ends_well: bool) -> None:
        refill = self.index.refill(worker)
        for part in parts:
            refill.add(packed(part))
            self.holds_the_same()
        if ends_well:
            refill.commit()
            self.model[worker] = {number for part in parts for number in part}
        else:
            refill.abandon()

    @rule(workers=st.sets(WORKERS, max_size=3))
    def set_stores(self, workers: set[str]) -> None:
        self.index.set_stores(workers)
        self.stores = workers

    @rule(chain=CHAINS)
    def walk(self, chain: list[int]) -> None:
        expected = {}
        for worker, numbers in self.model.items():
            depth = run_of(chain, numbers)
            if depth and worker not in self.stores:
                expected[worker] = depth
        stored = set().union(*(self.model[worker] for worker in self.stores))
        walk = self.index.walk([key(number) for number in chain])

        assert walk.matched == expected
        assert walk.num_stored == run_of(chain, stored)
        assert self.index.num_stored == sum(len(self.model[worker]) for worker in self.stores)
        assert walk.has_begun == bool(expected or run_of(chain, stored))

    @rule(num_slots=st.integers(1, 500))
    def sweep(self, num_slots: int) -> None:
        self.index.sweep(num_slots)

    @invariant()
    def holds_the_same(self) -> None:
        for worker, numbers in self.model.items():
            held = {number for number in range(41) if self.index.holds(worker, key(number))}
            assert held == numbers
            assert self.index.num_blocks(worker) == len(numbers)
        assert len(self.index) >= len(set().union(*self.model.values()))

    def teardown(self) -> None:
        self.index.sweep()
        self.index.sweep()  # the first may have begun in the middle
        assert len(self.index) == len(set().union(*self.model.values()))


TestIndexAgainstModel = IndexMachine.TestCase
TestIndexAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_workers_that_come_and_go_do_not_widen_the_masks() -> None:
    index = BlockIndex()

    for number in range(1000):
        index.store(f"w{number}", key(1))
        index.store("stays", key(1))
        index.clear(f"w{number}")
        index.sweep()

    assert index.match([key(1)]) == {"stays": 1}
    assert max(index._holders.masks) <= 2
    assert len(index._holders.masks) <= 5


@given(st.integers(1, 200))
def test_any_number_of_workers_may_hold_one_block(count: int) -> None:
    index = BlockIndex()

    for number in range(count):
        index.store(f"w{number}", key(1))

    assert index.match([key(1), key(2)]) == {f"w{number}": 1 for number in range(count)}


def test_sets_of_holders_that_stand_for_no_block_are_forgotten() -> None:
    index = BlockIndex()

    for number in range(5000):
        for bit in range(13):
            if number >> bit & 1:
                index.store(f"w{bit}", key(number))
    num_sets = len(index._holders.masks)
    for bit in range(13):
        index.remove_all(f"w{bit}", packed(range(5000)))
    index.store_all("w0", packed(range(5000)))

    assert num_sets > 4000
    assert len(index._holders.masks) - len(index._holders._free) == 2
    assert index.match([key(0b101)]) == {"w0": 1}


def test_a_cleared_worker_is_gone_before_its_memory_is() -> None:
    index = BlockIndex()
    index.replace("w", packed(range(100)))

    index.clear("w")
    assert index.match([key(1)]) == {}
    assert index.num_blocks("w") == 0
    index.store("w", key(1))
    assert len(index) == 100
    index.sweep()

    assert index.match([key(1), key(2)]) == {"w": 1}
    assert len(index) == 1


def test_nothing_matches_an_empty_chain_or_an_empty_index() -> None:
    index = BlockIndex()

    assert index.match([]) == {}
    assert index.match([key(1)]) == {}
    assert index.match([key(number) for number in range(100)]) == {}


def test_a_long_chain_ends_for_each_worker_where_its_hole_is() -> None:
    index = BlockIndex()
    chain = [key(number) for number in range(1000)]
    for worker, hole in (("a", 1), ("b", 16), ("c", 17), ("d", 500), ("e", 1000)):
        index.store_all(worker, packed([n for n in range(1000) if n != hole]))

    assert index.match(chain) == {"a": 1, "b": 16, "c": 17, "d": 500, "e": 1000}
    index.set_stores(["c", "e"])
    assert index.match(chain) == {"a": 1, "b": 16, "d": 500}
    assert index.walk(chain).num_stored == 1000
    assert index.walk([*chain, key(5000)]).num_stored == 1000
    index.set_stores([])
    assert index.match([*chain, key(5000)]) == {"a": 1, "b": 16, "c": 17, "d": 500, "e": 1000}


STORES = {f"s{number}": f"host-{number}:8503" for number in range(3)}


@settings(max_examples=60)
@given(
    st.integers(1, 5 * GROUP_BLOCKS),
    st.lists(st.lists(st.sampled_from([*STORES, "w"]), max_size=3), min_size=5, max_size=5),
    st.sets(st.integers(0, 5 * GROUP_BLOCKS), max_size=2),
    st.integers(0, 3),
)
def test_a_stored_block_counts_where_it_is_looked_for(
    length: int, holders: list[list[str]], holes: set[int], right: int
) -> None:
    index, chain = BlockIndex(), [key(number) for number in range(length)]
    index.set_stores(STORES, STORES)
    seeds = [node_seed(address) for address in STORES.values()]
    places = [list(STORES)[choose(group, seeds)] for group in group_keys(chain)]
    # The first groups lie at their place, the others with whoever it is.
    held = defaultdict(set)
    for at in set(range(length)) - holes:
        group = at // GROUP_BLOCKS
        for worker in [*holders[group], places[at]] if group < right else holders[group]:
            held[worker].add(at)
    for worker, numbers in held.items():
        index.store_all(worker, packed(sorted(numbers)))

    walk = index.walk(chain)

    reached = (at for at in range(length) if at not in held[places[at]])
    assert walk.num_stored == next(reached, length)
    assert walk.matched == ({"w": run} if (run := run_of(list(range(length)), held["w"])) else {})


def test_a_million_blocks_grow_the_table_without_losing_one() -> None:
    index = BlockIndex()
    rng = random.Random(3)
    chunks = [rng.randbytes(16 * 50_000) for _ in range(20)]
    for number, chunk in enumerate(chunks):
        index.store_all(f"w{number % 3}", chunk)

    for number, chunk in enumerate(chunks):
        keys = split_keys(chunk)
        assert index.match(keys) == {f"w{number % 3}": 50_000}
    index.remove_all("w0", b"".join(chunks))
    assert len(index) == 13 * 50_000
    assert index.num_blocks("w1") == 7 * 50_000
    assert index.num_bytes < 30 * 1_000_000


def test_keys_that_all_want_the_same_buckets_find_room_in_others() -> None:
    # Their stored halves pick the same buckets until the table has split often enough.
    unmix = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    words = [(((n << 12) << 32) | (n << 12)) * unmix % (1 << 64) for n in range(1, 60)]
    keys = [BlockKey(bytes(8) + word.to_bytes(8, "big")) for word in words]
    index = BlockIndex()

    index.store_all("w", b"".join(keys))

    assert index.match(keys) == {"w": 59}
    assert index.num_blocks("w") == len(index) == 59


def test_half_a_key_is_refused() -> None:
    index = BlockIndex()

    with pytest.raises(ValueError, match="whole number"):
        index.store_all("w", bytes(24))
    assert len(index) == 0
