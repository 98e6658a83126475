"""What kvstore decides by: frequency, order of eviction, quotas, placement."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.blocks import BlockKey
from baton.policy.eviction import LeafQueue
from baton.policy.quota import Quotas
from baton.policy.rendezvous import are_places_known, choose, group_keys, node_seed
from baton.policy.sketch import MAX_COUNT, FrequencySketch


def key_of(number: int) -> BlockKey:
    return BlockKey(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest())


@given(st.lists(st.integers(0, 30), max_size=300))
def test_a_sketch_never_counts_too_little_and_hardly_ever_too_much(uses: list[int]) -> None:
    sketch = FrequencySketch(1 << 10)
    for number in uses:
        sketch.add(key_of(number))

    true = Counter(uses)
    assert all(sketch.estimate(key_of(n)) >= min(true[n], MAX_COUNT) for n in range(31))
    assert sum(sketch.estimate(key_of(n)) > true[n] for n in range(1000, 1100)) <= 1


def test_a_sketch_forgets() -> None:
    sketch = FrequencySketch(1 << 10, period=1000)
    for _ in range(12):
        sketch.add(key_of(0))

    for number in range(1, 3000):
        sketch.add(key_of(number))

    assert sketch.estimate(key_of(0)) <= 3


def test_a_sketchs_width_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two, not 1000"):
        FrequencySketch(1000)


class QueueMachine(RuleBasedStateMachine):
    """Against a plain list: a victim is the owner's lowest ranked leaf that is not pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = LeafQueue()
        self.clock = 0
        self.nodes: dict[int, tuple[int | None, str, tuple[int, int], int]] = {}

    def _rank(self) -> tuple[int, int]:
        self.clock += 1
        return (self.clock, 0)

    @rule(
        number=st.integers(0, 20),
        parent=st.none() | st.integers(0, 20),
        owner=st.sampled_from("ab"),
    )
    def add(self, number: int, parent: int | None, owner: str) -> None:
        if number in self.nodes:
            return
        rank = self._rank()
        parent = None if parent == number else parent
        before = None if parent is None else key_of(parent)
        self.queue.add(key_of(number), before, owner, rank)
        self.nodes[number] = (parent, owner, rank, 0)

    @rule(number=st.integers(0, 20))
    def touch(self, number: int) -> None:
        if number in self.nodes:
            parent, owner, _, pins = self.nodes[number]
            rank = self._rank()
            self.queue.touch(key_of(number), rank)
            self.nodes[number] = (parent, owner, rank, pins)

    @rule(number=st.integers(0, 20), by=st.sampled_from([1, -1]))
    def pin(self, number: int, by: int) -> None:
        if number not in self.nodes:
            return
        parent, owner, rank, pins = self.nodes[number]
        if pins + by >= 0:
            (self.queue.pin if by > 0 else self.queue.unpin)(key_of(number))
            self.nodes[number] = (parent, owner, rank, pins + by)

    @rule(number=st.integers(0, 20))
    def remove(self, number: int) -> None:
        if number in self.nodes:
            self.queue.remove(key_of(number))
            del self.nodes[number]

    def _expected(self, owner: str, protected: int) -> BlockKey | None:
        parents = {parent for parent, *_ in self.nodes.values()}
        free = [
            (rank, number)
            for number, (_, whose, rank, pins) in self.nodes.items()
            if whose == owner and not pins and number not in parents and number != protected
        ]
        return key_of(min(free)[1]) if free else None

    @invariant()
    def victims_are_right(self) -> None:
        for owner in "ab":
            for protected in (-1, 3):
                found = self.queue.victim(owner, None if protected < 0 else key_of(protected))
                assert found == self._expected(owner, protected)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 400), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 10)),
    st.sampled_from("abcdefg"),
)
def test_who_gives_is_over_its_share_if_anybody_is(
    used: dict[str, int], weights: dict[str, float], tenant: str
) -> None:
    quotas = Quotas(1000, weights)
    for name, num_bytes in used.items():
        quotas.charge(name, num_bytes)

    givers = list(quotas.givers(tenant, 10))

    over = {name for name in used if used[name] > quotas_share(quotas, used, name, tenant, weights)}
    if used.get(tenant, 0) + 10 > quotas.share(tenant):
        assert givers == [tenant]
    else:
        assert set(givers[: len(over)]) == over
        assert len(givers) == len(set(givers))


def quotas_share(
    quotas: Quotas, used: dict[str, int], name: str, tenant: str, weights: dict[str, float]
) -> float:
    """What the definition says while `tenant` asks."""
    total = sum(weights.get(each, 1.0) for each in {*used, tenant})
    return quotas.capacity_bytes * weights.get(name, 1.0) / total


def test_weights_are_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Quotas(100, {"a": 0.0})


@given(st.integers(2, 6), st.integers(0, 5))
def test_only_the_groups_of_a_store_that_leaves_move(num_nodes: int, gone: int) -> None:
    gone %= num_nodes
    seeds = [node_seed(f"10.0.0.{node}:8503") for node in range(num_nodes)]
    fewer = seeds[:gone] + seeds[gone + 1 :]

    for number in range(200):
        before, after = choose(key_of(number), seeds), choose(key_of(number), fewer)
        if before != gone:
            assert fewer[after] == seeds[before]


def test_groups_spread_evenly() -> None:
    seeds = [node_seed(f"10.0.0.{node}:8503") for node in range(4)]
    counts = Counter(choose(key_of(number), seeds) for number in range(4000))

    assert all(900 < count < 1100 for count in counts.values())


def test_blocks_of_a_chain_lie_together() -> None:
    keys = [key_of(number) for number in range(10)]

    groups = group_keys(keys, 4)

    assert groups == [keys[0]] * 4 + [keys[4]] * 4 + [keys[8]] * 2


@pytest.mark.parametrize(
    ("stores", "spelled", "is_known"),
    [
        (["a", "b"], [["a", "b"], ["b", "a"]], True),
        (["a"], [["a", "b"]], True),  # one of two does not live
        (["10.0.0.1"], [["a"]], False),
        (["a", "b"], [["a", "b"], ["a"]], False),
        (["a", "b"], [], False),
    ],
)
def test_places_are_known_where_all_spell_stores_alike(
    stores: list[str], spelled: list[list[str]], is_known: bool
) -> None:
    assert are_places_known(stores, map(frozenset, spelled)) is is_known
