"""The store: budget, order of eviction, integrity."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.blocks import BlockKey, checksum
from baton.errors import InvalidRequest
from services.kvstore.store import BlockStore, StoredBlock


def key_of(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(16, "big"))


def data_of(number: int, size: int = 100) -> bytes:
    return bytes([number % 256]) * size


def put_chain(store: BlockStore, numbers: range | list[int], namespace: str = "ns") -> list[bool]:
    """Stores blocks as one call does; says which of them got in."""
    use = store.new_use()
    results = []
    for index, number in enumerate(numbers):
        data = data_of(number)
        rank = (use, -index)
        if store.touch(key_of(number), use, index):
            results.append(False)
        elif store.reserve(namespace, len(data), rank):
            block = StoredBlock(namespace, data, checksum(data), rank)
            results.append(store.commit(key_of(number), block))
        else:
            results.append(False)
    return results


def read_chain(store: BlockStore, numbers: range | list[int], namespace: str = "ns") -> list[int]:
    """Reads blocks as one call does; returns the leading run."""
    use = store.new_use()
    run = []
    for index, number in enumerate(numbers):
        if store.read(key_of(number), namespace) is None:
            break
        store.touch(key_of(number), use, index)
        run.append(number)
    return run


def held(store: BlockStore, numbers: range) -> list[int]:
    return [number for number in numbers if key_of(number) in store]


def test_a_block_is_read_back_in_its_namespace_only() -> None:
    store = BlockStore(1000)
    put_chain(store, [1])

    block = store.read(key_of(1), "ns")

    assert block is not None
    assert block.data == data_of(1)
    assert store.read(key_of(1), "other") is None
    assert store.read(key_of(2), "ns") is None


def test_the_least_recently_used_chain_is_evicted_first() -> None:
    store = BlockStore(1000)
    put_chain(store, range(0, 5))
    put_chain(store, range(10, 15))
    read_chain(store, range(0, 5))

    put_chain(store, range(20, 23))

    assert held(store, range(30)) == [0, 1, 2, 3, 4, 10, 11, 20, 21, 22]
    assert store.stats.num_evicted == 3


def test_within_a_chain_the_deepest_block_is_evicted_first() -> None:
    store = BlockStore(1000)
    put_chain(store, range(10))

    put_chain(store, [20, 21])

    assert held(store, range(30)) == [0, 1, 2, 3, 4, 5, 6, 7, 20, 21]


def test_a_chain_longer_than_the_budget_keeps_its_beginning() -> None:
    store = BlockStore(1000)

    results = put_chain(store, range(25))

    assert results == [True] * 10 + [False] * 15
    assert read_chain(store, range(25)) == list(range(10))
    assert store.stats.num_evicted == 0


def test_a_look_up_counts_as_use() -> None:
    store = BlockStore(1000)
    put_chain(store, range(0, 5))
    put_chain(store, range(10, 15))

    missing = store.find_missing([key_of(number) for number in (0, 1, 99, 2, 3, 4)])
    put_chain(store, range(20, 25))

    assert missing == [2]
    assert held(store, range(30)) == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]


def test_uploads_in_flight_count_against_the_budget() -> None:
    store = BlockStore(1000)
    rank = (store.new_use(), 0)

    granted = [store.reserve("ns", 400, rank) for _ in range(3)]

    assert granted == [True, True, False]
    assert store.used_bytes == 800
    store.abandon("ns", 400)
    store.abandon("ns", 400)
    assert store.used_bytes == 0


def test_a_block_that_came_in_meanwhile_is_kept_once() -> None:
    store = BlockStore(1000)
    first, second = (store.new_use(), 0), (store.new_use(), 0)
    data = data_of(1)
    store.reserve("ns", 100, first)
    store.reserve("ns", 100, second)

    results = [
        store.commit(key_of(1), StoredBlock("ns", data, checksum(data), rank))
        for rank in (second, first)
    ]

    assert results == [True, False]
    assert (store.used_bytes, len(store)) == (100, 1)


def test_a_corrupt_block_is_dropped_and_counted_at_reading() -> None:
    store = BlockStore(1000)
    use = store.new_use()
    data = bytearray(data_of(1))
    store.reserve("ns", 100, (use, 0))
    store.commit(key_of(1), StoredBlock("ns", data, checksum(data), (use, 0)))

    data[50] ^= 1

    assert store.read(key_of(1), "ns") is None
    assert key_of(1) not in store
    assert store.stats.num_corrupt == 1
    assert store.used_bytes == 0


def test_blocks_of_a_namespace_have_one_size_until_the_last_is_gone() -> None:
    store = BlockStore(250)
    put_chain(store, [1], "a")

    with pytest.raises(InvalidRequest, match=r"size_bytes is 90; .* have 100 bytes") as refusal:
        store.reserve("a", 90, (store.new_use(), 0))
    put_chain(store, [2, 3], "b")
    assert refusal.value.field == "size_bytes"
    assert held(store, range(9)) == [2, 3]
    assert store.reserve("a", 50, (store.new_use(), 0))


def test_misses_are_counted_by_key() -> None:
    store = BlockStore(1000)
    put_chain(store, [1, 2])

    store.note_misses([key_of(number) for number in (1, 5, 2, 6)], "ns")
    store.note_misses([key_of(1)], "other")

    assert store.stats.num_misses == 3


class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.held: dict[BlockKey, int] = {}

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        assert key not in self.held
        self.held[key] = len(block.data)

    def note_read(self, key: BlockKey, block: StoredBlock) -> None:
        assert key in self.held

    def note_removed(self, key: BlockKey) -> None:
        del self.held[key]


NUMBERS = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)


class StoreMachine(RuleBasedStateMachine):
    """Any order of calls keeps the books right and gives back what was put in, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.store = BlockStore(1050, self.recorder)
        self.reserved = 0

    @rule(numbers=NUMBERS)
    def put(self, numbers: list[int]) -> None:
        put_chain(self.store, numbers)

        num_fitting = (self.store.capacity_bytes - self.reserved * 100) // 100
        assert all(key_of(number) in self.store for number in numbers[:num_fitting])

    @rule(numbers=NUMBERS)
    def read(self, numbers: list[int]) -> None:
        for number in read_chain(self.store, numbers):
            block = self.store.read(key_of(number), "ns")
            assert block is not None
            assert block.data == data_of(number)

    @rule(numbers=NUMBERS)
    def find(self, numbers: list[int]) -> None:
        missing = self.store.find_missing([key_of(number) for number in numbers])
        expected = [at for at, number in enumerate(numbers) if key_of(number) not in self.store]
        assert missing == expected

    @rule()
    def begin_upload(self) -> None:
        self.reserved += self.store.reserve("ns", 100, (self.store.new_use(), 0))

    @rule()
    def give_up_upload(self) -> None:
        if self.reserved:
            self.store.abandon("ns", 100)
            self.reserved -= 1

    @invariant()
    def books_are_right(self) -> None:
        assert self.store.used_bytes <= self.store.capacity_bytes
        assert self.store.held_bytes == 100 * len(self.store) == sum(self.recorder.held.values())
        assert self.store.used_bytes == self.store.held_bytes + 100 * self.reserved


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_the_queue_of_old_ranks_stays_short() -> None:
    store = BlockStore(1000)
    put_chain(store, range(5))

    for _ in range(5000):
        read_chain(store, range(5))

    assert len(store._queue) < 2000
