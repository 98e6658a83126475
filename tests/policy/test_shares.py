"""Shares over several gateways: what each may take, and whom it serves with that."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.fairness import FairQueue
from baton.policy.shares import MAX_TENANTS, NOBODY, WHOLE, Line, part_of

TENANTS = ("ann", "ben", "cyd")
COSTS = st.dictionaries(st.sampled_from(TENANTS), st.floats(1.0, 1e4), max_size=3)
LINES = st.lists(st.builds(Line, st.integers(-1, 1), COSTS), min_size=2, max_size=4)
WEIGHTS = st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 3.0]) for name in TENANTS})


def parts_of(lines: list[Line], weights: dict[str, float]) -> list:
    """Every gateway's part."""
    return [
        part_of(line, lines[:index] + lines[index + 1 :], weights.__getitem__)
        for index, line in enumerate(lines)
    ]


@given(LINES, WEIGHTS)
def test_parts_are_one_pool_and_tenants_get_their_weights_over_all_gateways(lines, weights):
    if sum(bool(line.backlogs) for line in lines) < 2:
        return
    band = max(line.band for line in lines if line.backlogs)
    waiting = {name for line in lines if line.band == band for name in line.backlogs}
    parts = parts_of(lines, weights)

    assert sum(part.room for part in parts) == pytest.approx(1.0)
    got: dict[str, float] = defaultdict(float)
    for part in parts:
        local = {name: weights[name] * share for name, share in part.tenants.items()}
        for name, weight in local.items():
            got[name] += part.room * weight / sum(local.values())
    for name in waiting:
        assert got[name] == pytest.approx(weights[name] / sum(map(weights.get, waiting)))


@given(LINES, WEIGHTS)
def test_a_lower_band_takes_nothing_while_a_higher_one_waits_anywhere(lines, weights):
    for line, part in zip(lines, parts_of(lines, weights), strict=True):
        others = [other for other in lines if other is not line and other.backlogs]
        if any(other.band > line.band for other in others):
            assert part.room == 0.0


@given(COSTS)
def test_a_gateway_that_waits_alone_has_all(costs):
    assert part_of(Line(0, costs), [NOBODY, NOBODY], lambda _: 1.0) is WHOLE


@pytest.mark.parametrize(
    ("lines", "weights"),
    [
        ((("ann",), ("ben",)), (1.0, 1.0)),
        ((("ann",), ("ben",)), (3.0, 1.0)),
        ((("ann",), ("ann", "ben")), (1.0, 1.0)),
        ((("ann", "ben"), ("ann", "ben")), (2.0, 1.0)),
    ],
)
def test_two_gateways_together_hold_the_shares_within_what_the_pool_holds(lines, weights):
    """Workers that hold 16 requests and end one a step; news of lines is 5 steps old.

    At every moment what two tenants got in all, over their weights, differs by no more than what
    the pool holds, what it ends until the news comes, and a request of each at each gateway.
    """
    by_name = dict(zip(("ann", "ben"), weights, strict=True))
    num_room, num_late = 16, 5
    bound = (num_room + num_late + 2) / min(weights)
    queues = [FairQueue(by_name.__getitem__) for _ in lines]
    for queue, names in zip(queues, lines, strict=True):
        for name in names:
            for number in range(3000):
                queue.push((name, number), name, 0, 10.0)
    inside = [0, 0]
    running: list[tuple[int, str]] = []
    served = dict.fromkeys(by_name, 0)
    told: list[list[Line]] = [[NOBODY, NOBODY]] * num_late
    for step in range(2000):
        known = told[-num_late]
        told.append([Line(*queue.top()) for queue in queues])
        for at in (step % 2, 1 - step % 2):
            part = part_of(told[-1][at], [known[1 - at]], by_name.__getitem__)
            queues[at].reweigh(lambda name, part=part: by_name[name] * part.tenants.get(name, 1.0))
            limit = max(1, round(part.room * num_room))
            while queues[at] and inside[at] < limit and len(running) < num_room:
                name, _ = queues[at].pop()
                running.append((at, name))
                inside[at] += 1
                served[name] += 1
        at, _ = running.pop(0)
        inside[at] -= 1
        assert abs(served["ann"] / weights[0] - served["ben"] / weights[1]) <= bound


def test_a_line_is_written_and_read_again_and_its_longest_tenants_only():
    line = Line(-3, {f"tenant-{number}": float(number + 1) for number in range(MAX_TENANTS + 9)})
    read = Line.from_values(line.to_values())

    assert read.band == -3
    assert len(read.backlogs) == MAX_TENANTS
    assert min(read.backlogs.values()) == 10.0
    for values in ([], [1], ["a", {}], {"band": 1}, [0, {"ann": "much"}]):
        with pytest.raises(ValueError, match=r"a line is|could not convert"):
            Line.from_values(values)
