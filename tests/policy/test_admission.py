"""Room, predictions and what is too late."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.admission import (
    MAX_FLOWS,
    MAX_RETRY_S,
    TARGET_SHARE,
    Demand,
    Forecast,
    Occupancy,
    Patience,
    Pool,
    retry_after_s,
)
from baton.policy.drain import DRAIN_REQUESTS

POOL = Pool(num_workers=2, num_sequences=8, num_tokens=1000)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3000)), max_size=60),
    st.integers(1, 8),
    st.integers(1, 2000),
)
def test_room_is_never_exceeded_but_by_what_no_pool_could_hold(demands, num_sequences, num_tokens):
    pool = Pool(num_workers=2, num_sequences=num_sequences, num_tokens=num_tokens)
    inside = Occupancy()
    for count, tokens in demands:
        demand = Demand(count, tokens, 1.0)
        if not inside.fits(demand, pool):
            continue
        assert inside.num_sequences == 0 or inside.num_sequences + count <= num_sequences
        # A worker without a prompt gets one of any length.
        assert inside.num_starting < 2 or inside.num_tokens + tokens <= num_tokens
        inside.num_sequences += count
        inside.num_starting += 1
        inside.num_tokens += tokens
    assert not demands or inside.num_sequences > 0


def test_nobody_is_refused_on_a_guess():
    forecast = Forecast()

    assert forecast.start_s(100_000, 1e6, 1) == 0
    assert forecast.wait_s("ann", 0, 1e9) == 0


def test_what_workers_have_learnt_counts_until_something_was_measured():
    forecast = Forecast()
    forecast.told(0.0)
    forecast.told(1000.0)
    assert forecast.start_s(936, 0, 1) == pytest.approx(1.0)
    for _ in range(30):
        forecast.started(936, 0, 1, 0.5)
    forecast.told(1.0)

    assert 0.5 <= forecast.start_s(936, 0, 1) <= 0.8


def test_starts_are_learnt_behind_others_and_alone():
    forecast = Forecast()
    for _ in range(200):
        forecast.started(436, 1000, 2, 1.0)  # 64 + 436 + 500 tokens

    assert forecast.start_s(436, 1000, 2) == pytest.approx(1.0, rel=0.05)
    assert forecast.start_s(436, 0, 2) == pytest.approx(0.5, rel=0.05)


@given(
    st.lists(st.floats(0, 10_000), min_size=1, max_size=50),
    st.floats(0, 10_000),
    st.floats(0, 10),
)
def test_where_lines_are_always_full_short_requests_leave_what_long_ones_need(longs, own, wait_s):
    forecast = Forecast()
    forecast.told(1000.0)
    for num_tokens in longs:
        forecast.judged(num_tokens, False)
    assert forecast.reserve_s(own, wait_s) == 0
    for _ in range(3):
        forecast.judged(max(longs), True)
    later_s = forecast.start_s(max(longs), 0, 1) - forecast.start_s(own, 0, 1)

    assert 0 <= forecast.reserve_s(own, wait_s) <= min(max(later_s, 0), wait_s) + 1e-9
    assert forecast.reserve_s(own, 100.0) == pytest.approx(max(later_s, 0))


def test_the_longest_prompt_of_long_ago_is_forgotten():
    forecast = Forecast()
    forecast.told(1000.0)
    forecast.judged(10_000, True)
    for _ in range(1000):
        forecast.judged(100, True)

    assert forecast.reserve_s(50, 100.0) < 0.3


def draining(per_second: float) -> Forecast:
    """One whose line has drained at this rate."""
    forecast = Forecast()
    forecast.drain.formed(0.0)
    for _ in range(DRAIN_REQUESTS):
        forecast.drain.let_in(per_second / DRAIN_REQUESTS)
    forecast.drain.measure(1.0)
    return forecast


def test_waits_follow_the_rate_at_which_the_line_drains():
    forecast = draining(2000.0)

    assert forecast.wait_s("ann", 0, 4000) == pytest.approx(2.0)


def test_waits_that_were_longer_than_predicted_are_predicted_longer_for_that_tenant_alone():
    forecast = draining(1000.0)
    for _ in range(100):
        forecast.waited("ann", 0, 1.0, 3.0)
    forecast.waited("ben", 0, 0.01, 5.0)  # too short to teach anything

    assert 2.5 <= forecast.wait_s("ann", 0, 1000) <= 4.0
    assert forecast.wait_s("ann", 1, 1000) == forecast.wait_s("ben", 0, 1000) == 1.0


def test_tenants_that_came_once_are_forgotten():
    forecast = draining(1000.0)
    for number in range(MAX_FLOWS + 1):
        forecast.waited(f"tenant-{number}", 0, 1.0, 4.0)

    assert forecast.wait_s("tenant-0", 0, 1000) == 1.0
    assert forecast.wait_s("tenant-1", 0, 1000) > 1.0


def test_refusing_all_does_not_last_for_ever():
    forecast = Forecast()
    forecast.told(1000.0)
    for _ in range(20):
        forecast.started(936, 0, 1, 100.0)
    before = forecast.start_s(936, 0, 1)
    for _ in range(300):
        forecast.refused()

    assert forecast.start_s(936, 0, 1) < before / 10


def test_demand_is_what_is_uncached_and_what_answers_have_been_like():
    forecast = Forecast()
    assert forecast.demand(100, 2, 50) == Demand(2, 100, 100)
    for _ in range(200):
        forecast.placed(100, 25)
        forecast.ended(10)
    seen = forecast.demand(100, 2, 50)

    assert seen.num_tokens == pytest.approx(25, rel=0.01)
    assert seen.num_outputs == pytest.approx(20)
    assert forecast.demand(100, 1, 5).num_outputs == 5
    assert forecast.demand(100, 1, 50, expected=30).num_outputs == 30
    assert seen.cost == pytest.approx(25 + 2 * 20, rel=0.01)


@pytest.mark.parametrize(
    ("target_s", "default_s", "alone_s", "limit_s"),
    [
        (1.0, 10.0, 0.5, TARGET_SHARE * 1.0),
        (1.0, 10.0, 2.0, TARGET_SHARE * 10.0),  # its own can't be met: it is as one without
        (1.0, 10.0, 20.0, 40.0),
        (inf, inf, 20.0, inf),
    ],
)
def test_a_target_that_an_idle_pool_would_miss_refuses_nobody(
    target_s, default_s, alone_s, limit_s
):
    assert Patience(target_s, default_s).limit_s(alone_s) == limit_s


@given(st.floats(-10, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_retry_delay_is_positive_and_bounded(excess_s, draw):
    assert 0.25 <= retry_after_s(excess_s, draw) <= 1.25 * MAX_RETRY_S
