"""Fair queueing: order, shares, no starvation, nothing lost."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.fairness import FairQueue

TENANTS = ("ann", "ben", "cyd")
COSTS = st.integers(1, 100)
WEIGHTS = st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 2.0, 5.0]) for name in TENANTS})
ITEMS = st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(-2, 2), COSTS), max_size=60)


def drain(queue: FairQueue) -> list:
    """All items, in the order of service."""
    return [queue.pop() for _ in range(len(queue))]


def filled(items: list, weights: dict) -> FairQueue:
    """Items named by their number."""
    queue: FairQueue = FairQueue(weights.__getitem__)
    for number, (tenant, band, cost) in enumerate(items):
        queue.push(number, tenant, band, cost)
    return queue


@given(ITEMS, WEIGHTS)
def test_everything_leaves_once_by_band_and_within_a_tenant_in_order(items, weights):
    served = drain(filled(items, weights))

    assert sorted(served) == list(range(len(items)))
    bands = [items[number][1] for number in served]
    assert bands == sorted(bands, reverse=True)
    places = defaultdict(list)
    for number in served:
        places[items[number][:2]].append(number)
    assert all(numbers == sorted(numbers) for numbers in places.values())


@given(
    st.lists(st.tuples(COSTS, COSTS), min_size=1, max_size=80),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_two_that_never_run_out_get_their_shares_at_every_moment(costs, one, two):
    weights = {"ann": one, "ben": two}
    queue = FairQueue(weights.__getitem__)
    for number, (cost, other) in enumerate(costs):
        queue.push(("ann", number, cost), "ann", 0, cost)
        queue.push(("ben", number, other), "ben", 0, other)
    bound = max(cost for cost, _ in costs) / one + max(other for _, other in costs) / two

    given_to = dict.fromkeys(weights, 0.0)
    waiting = dict.fromkeys(weights, len(costs))
    while all(waiting.values()):
        tenant, _, cost = queue.pop()
        waiting[tenant] -= 1
        given_to[tenant] += cost
        shares = [given_to[name] / weights[name] for name in weights]
        assert abs(shares[0] - shares[1]) <= bound + 1e-6


@given(st.lists(COSTS, min_size=1, max_size=50), COSTS, WEIGHTS)
def test_a_newcomer_waits_for_no_backlog_of_others(backlog, cost, weights):
    queue = FairQueue(weights.__getitem__)
    for number, size in enumerate(backlog * 4):
        queue.push(number, "ann", 0, size)
    queue.pop()
    queue.push("new", "ben", 0, cost)

    ahead = 0.0
    while (item := queue.pop()) != "new":
        ahead += (backlog * 4)[item]

    # One item that had started, and one that starts at the same moment.
    assert ahead <= 2 * max(backlog)


@given(ITEMS, WEIGHTS, st.sampled_from(TENANTS), st.integers(-2, 2), st.integers(0, 30))
def test_the_work_ahead_is_what_is_served_first_but_for_one_item_each(
    items, weights, tenant, band, num_served
):
    queue = filled(items, weights)
    for _ in range(min(num_served, len(queue))):
        queue.pop()
    predicted = queue.work_ahead(tenant, band)
    queue.push("new", tenant, band, 1)

    ahead = 0.0
    while (item := queue.pop()) != "new":
        ahead += items[item][2]

    slack = len(TENANTS) * max((cost for _, _, cost in items), default=0)
    assert ahead - slack <= predicted <= ahead + slack


@given(ITEMS, WEIGHTS, st.sets(st.integers(0, 59)))
def test_what_is_removed_never_comes_and_the_rest_does(items, weights, gone):
    queue = filled(items, weights)
    removed = {number for number in gone if queue.remove(number)}

    assert removed == {number for number in gone if number < len(items)}
    assert sorted(drain(queue)) == [n for n in range(len(items)) if n not in removed]
    assert not queue.remove("never there")
    assert queue.work_ahead("ann", -10) == pytest.approx(0)


@given(st.lists(st.tuples(COSTS, COSTS), min_size=30, max_size=60))
def test_settled_costs_count_whatever_was_predicted(costs):
    """Ann's items cost nine times what was said; she gets as much as Ben all the same."""
    queue: FairQueue = FairQueue()
    for number in range(10 * len(costs)):
        queue.push(("ann", number), "ann", 0, 10)
        queue.push(("ben", number), "ben", 0, 10)

    spent = dict.fromkeys(("ann", "ben"), 0)
    for _ in range(10 * len(costs)):
        tenant, _ = queue.pop()
        actual = 90 if tenant == "ann" else 10
        spent[tenant] += actual
        queue.settle(tenant, 0, actual - 10)

    assert abs(spent["ann"] - spent["ben"]) <= 2 * 90


def test_a_tenant_that_was_idle_gets_no_credit_for_it():
    queue: FairQueue = FairQueue()
    numbers = count()
    for _ in range(50):
        queue.push(next(numbers), "ann", 0, 10)
    for _ in range(30):
        queue.pop()
    for _ in range(10):
        queue.push(("ben", next(numbers)), "ben", 0, 10)

    firsts = [queue.pop() for _ in range(10)]

    assert 4 <= sum(isinstance(item, tuple) for item in firsts) <= 6


def test_a_full_room_is_made_for_the_tenant_with_less_in_it():
    queue: FairQueue = FairQueue()
    for number in range(4):
        queue.push(("ann", number), "ann", 0, 1)
    queue.push("ben", "ben", 0, 1)

    assert queue.victim("ben", 0) == ("ann", 3)
    assert queue.victim("ann", 0) is None
    assert queue.victim("ann", 1) == ("ann", 3)
    assert queue.victim("cyd", -1) is None


def test_equals_displace_nobody():
    queue: FairQueue = FairQueue()
    queue.push("ann", "ann", 0, 1)
    queue.push("ben", "ben", 0, 1)

    assert queue.victim("cyd", 0) is None
    assert queue.victim("ben", 0) is None


def test_a_queue_cannot_hold_an_item_twice_and_an_empty_one_has_none():
    queue: FairQueue = FairQueue()
    queue.push("item", "ann", 0, 1)
    with pytest.raises(ValueError, match="waits already"):
        queue.push("item", "ben", 0, 1)
    assert queue.first() == "item"
    assert list(queue) == ["item"]
    assert "item" in queue
    queue.pop()

    assert queue.first() is None
    with pytest.raises(IndexError):
        queue.pop()


def test_tenants_that_came_once_are_forgotten():
    queue: FairQueue = FairQueue()
    for number in range(1500):
        queue.push(number, f"tenant-{number}", 0, 1000 + number)
    queue.push("stays", "ann", 0, 1e9)
    queue.push("too", "ann", 0, 1)
    for _ in range(1501):
        queue.pop()

    assert queue.num_idle <= 1024
