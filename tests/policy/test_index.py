"""The block index against the obvious model: one set of keys per worker."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.blocks import BlockKey
from baton.policy.index import BlockIndex

WORKERS = st.sampled_from([f"w{number}" for number in range(5)])
NUMBERS = st.integers(0, 12)
CHAINS = st.lists(NUMBERS, max_size=10, unique=True)


def key(number: int) -> BlockKey:
    """A key that is easy to tell from others."""
    return BlockKey(number.to_bytes(16, "big"))


class IndexMachine(RuleBasedStateMachine):
    """Does the same to the index and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.index = BlockIndex()
        self.model: dict[str, set[int]] = defaultdict(set)

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
        self.index.replace(worker, [key(number) for number in numbers])
        self.model[worker] = set(numbers)

    @rule(chain=CHAINS)
    def match(self, chain: list[int]) -> None:
        expected = {}
        for worker, numbers in self.model.items():
            depth = 0
            while depth < len(chain) and chain[depth] in numbers:
                depth += 1
            if depth:
                expected[worker] = depth

        assert self.index.match([key(number) for number in chain]) == expected

    @rule(most=st.integers(1, 5))
    def sweep(self, most: int) -> None:
        self.index.sweep(most)

    @invariant()
    def holds_the_same(self) -> None:
        for worker, numbers in self.model.items():
            assert self.index.keys_of(worker) == {key(number) for number in numbers}
            assert self.index.num_blocks(worker) == len(numbers)
        assert len(self.index) >= len(set().union(*self.model.values()))

    def teardown(self) -> None:
        self.index.sweep(10_000)
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
    assert max(index._holders.values()) <= 2


@given(st.integers(1, 200))
def test_any_number_of_workers_may_hold_one_block(count: int) -> None:
    index = BlockIndex()

    for number in range(count):
        index.store(f"w{number}", key(1))

    assert index.match([key(1), key(2)]) == {f"w{number}": 1 for number in range(count)}


def test_sharing_is_forgotten_before_it_costs_more_than_it_saves() -> None:
    index = BlockIndex()

    for number in range(20_000):
        for bit in range(15):
            if number >> bit & 1:
                index.store(f"w{bit}", key(number))

    assert len(index._masks) <= 4096
    assert index.match([key(0b101)]) == {"w0": 1, "w2": 1}


def test_a_cleared_worker_is_gone_before_its_memory_is() -> None:
    index = BlockIndex()
    index.replace("w", [key(number) for number in range(100)])

    index.clear("w")
    assert index.match([key(1)]) == {}
    index.store("w", key(1))
    index.sweep(50)

    assert index.match([key(1), key(2)]) == {"w": 1}
    assert 50 <= len(index) <= 51
    index.sweep(50)
    assert len(index) == 1


def test_nothing_matches_an_empty_chain_or_an_empty_index() -> None:
    index = BlockIndex()

    assert index.match([]) == {}
    assert index.match([key(1)]) == {}


def test_many_at_once_are_as_many_one_by_one():
    one_by_one, at_once = BlockIndex(), BlockIndex()
    keys = [BlockKey(bytes([number] * 16)) for number in range(40)]
    for index in (one_by_one, at_once):
        index.store("other", keys[3])
        index.store("w", keys[5])

    for key in keys:
        one_by_one.store("w", key)
    at_once.store_all("w", keys)

    assert at_once.match(keys) == one_by_one.match(keys) == {"w": 40}
    assert at_once.match(keys[3:]) == one_by_one.match(keys[3:]) == {"other": 1, "w": 37}
    assert at_once.keys_of("w") == set(keys)


def test_many_removed_at_once_are_as_many_one_by_one():
    one_by_one, at_once = BlockIndex(), BlockIndex()
    keys = [BlockKey(bytes([number] * 16)) for number in range(10)]
    for index in (one_by_one, at_once):
        index.store_all("w", keys)
        index.store_all("other", keys[:5])
    gone = [keys[7], keys[2], BlockKey(b"x" * 16), keys[7]]

    for key in gone:
        one_by_one.remove("w", key)
    at_once.remove_all("w", gone)
    at_once.remove_all("unknown", gone)

    assert at_once.keys_of("w") == one_by_one.keys_of("w") == set(keys) - {keys[7], keys[2]}
    assert at_once.match(keys) == one_by_one.match(keys) == {"w": 2, "other": 5}
    assert len(at_once) == len(one_by_one)
