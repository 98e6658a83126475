"""How fast a line drains: what is measured, and what is kept of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.drain import DRAIN_REQUESTS, DRAIN_WINDOW_S, KEEP_S, Drain

RATES = st.floats(1.0, 1e5)
GAPS = st.floats(0.001, 0.2)


def drain_steadily(drain: Drain, per_second: float, begin: float, seconds: float = 2.0) -> float:
    """A line that is served at this rate, 32 requests a second; returns when it ends."""
    drain.formed(begin)
    num = round(seconds * 32)
    for number in range(1, num + 1):
        drain.let_in(per_second / 32)
        drain.measure(begin + number / 32)
    return begin + num / 32


@given(st.lists(st.tuples(st.floats(0, 1e4), GAPS), max_size=DRAIN_REQUESTS - 1))
def test_too_few_requests_say_nothing_however_long_they_took(served):
    drain = Drain()
    drain.formed(0.0)
    now = 0.0
    for cost, gap in served:
        now += 100 * gap
        drain.let_in(cost)
        drain.measure(now)

    assert drain.per_second == 0.0


@given(st.integers(DRAIN_REQUESTS, 200), st.floats(1.0, 1e4))
def test_a_burst_says_nothing_before_a_window_is_over(count, cost):
    drain = Drain()
    drain.formed(5.0)
    for _ in range(count):
        drain.let_in(cost)
    drain.measure(5.0 + 0.99 * DRAIN_WINDOW_S)
    assert drain.per_second == 0.0
    drain.measure(6.0)

    assert drain.per_second == pytest.approx(count * cost)


@given(st.lists(st.tuples(st.floats(1.0, 1e4), GAPS), min_size=DRAIN_REQUESTS, max_size=150))
def test_the_rate_lies_between_the_slowest_and_the_fastest_request(served):
    drain = Drain()
    drain.formed(0.0)
    now = 0.0
    for cost, gap in served:
        now += gap
        drain.let_in(cost)
        drain.measure(now)
    singles = [cost / gap for cost, gap in served]

    rate = drain.per_second
    assert rate == 0.0 or 0.999 * min(singles) <= rate <= 1.001 * max(singles)


@given(RATES, RATES)
def test_a_rate_of_long_ago_is_forgotten(before, after):
    drain = Drain()
    ended_at = drain_steadily(drain, before, 0.0)
    assert drain.per_second == pytest.approx(before)
    again_at = ended_at + 1.01 * KEEP_S
    drain.formed(again_at)

    assert drain.per_second == 0.0
    drain_steadily(drain, after, again_at)
    assert drain.per_second == pytest.approx(after)


@given(RATES, st.floats(0.0, 0.99 * KEEP_S))
def test_a_rate_of_a_moment_ago_still_counts(per_second, absent_s):
    drain = Drain()
    drain.formed(drain_steadily(drain, per_second, 0.0) + absent_s)

    assert drain.per_second == pytest.approx(per_second)


@given(st.floats(0.0, 4.0), st.floats(5.0, 9.0))
def test_the_longer_the_line_was_gone_the_sooner_its_rate_gives_way(short_s, long_s):
    rates = []
    for absent_s in (short_s, long_s):
        drain = Drain()
        ended_at = drain_steadily(drain, 1000.0, 0.0)
        drain_steadily(drain, 9000.0, ended_at + absent_s, seconds=0.5)
        rates.append(drain.per_second)

    assert 1000.0 < rates[0] < rates[1] < 9000.0


@given(st.floats(0.1, 5.0))
def test_time_without_a_line_is_in_no_window(absent_s):
    """Half a window, a pause, another half: the second line is measured alone."""
    drain = Drain()
    drain.formed(0.0)
    for _ in range(DRAIN_REQUESTS - 1):
        drain.let_in(1e6)
    drain.measure(0.2)
    drain_steadily(drain, 3200.0, 0.2 + absent_s)

    assert drain.per_second == pytest.approx(3200.0)
