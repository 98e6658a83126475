"""Fetching blocks must beat computing them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.fetch import FetchPolicy, FetchRates, Rate, should_fetch

BLOCK_BYTES = 1 << 20
POSITIVE = st.floats(1e-3, 1e9)


def test_fetches_when_the_network_beats_the_device() -> None:
    fast_net = FetchRates(fetch_bytes_per_s=1e9, fetch_latency_s=0.002, compute_tokens_per_s=1000)
    fast_device = FetchRates(
        fetch_bytes_per_s=1e7, fetch_latency_s=0.002, compute_tokens_per_s=50_000
    )

    assert should_fetch(10, BLOCK_BYTES, 16, fast_net).should_fetch
    assert not should_fetch(10, BLOCK_BYTES, 16, fast_device).should_fetch


def test_latency_makes_few_blocks_not_worth_it() -> None:
    rates = FetchRates(fetch_bytes_per_s=1e10, fetch_latency_s=0.05, compute_tokens_per_s=1000)

    assert not should_fetch(1, BLOCK_BYTES, 16, rates).should_fetch
    assert should_fetch(10, BLOCK_BYTES, 16, rates).should_fetch


def test_predictions_are_in_milliseconds() -> None:
    rates = FetchRates(fetch_bytes_per_s=1e6, fetch_latency_s=0.5, compute_tokens_per_s=100)

    decision = should_fetch(2, 1_000_000, 16, rates)

    assert decision.fetch_ms == pytest.approx(2500)
    assert decision.compute_ms == pytest.approx(320)


def test_nothing_missing_is_nothing_to_fetch() -> None:
    policy = FetchPolicy()

    assert not policy.decide(0, BLOCK_BYTES, 16).should_fetch


@given(st.integers(1, 1000), st.integers(1, 1 << 24), POSITIVE, POSITIVE, POSITIVE)
def test_decision_is_the_smaller_prediction(
    num_blocks: int, block_bytes: int, bytes_per_s: float, latency_s: float, tokens_per_s: float
) -> None:
    rates = FetchRates(bytes_per_s, latency_s, tokens_per_s)

    decision = should_fetch(num_blocks, block_bytes, 16, rates)

    assert decision.should_fetch == (decision.fetch_ms < decision.compute_ms)


@given(POSITIVE, st.lists(st.tuples(POSITIVE, st.floats(1e-6, 1e3)), min_size=1))
def test_rate_stays_between_its_extremes(prior: float, samples: list[tuple[float, float]]) -> None:
    rate = Rate(prior)

    for amount, seconds in samples:
        rate.observe(amount, seconds)

    seen = [prior, *(amount / seconds for amount, seconds in samples)]
    assert min(seen) * 0.999 <= rate.per_second <= max(seen) * 1.001


def test_rate_follows_what_is_measured() -> None:
    rate = Rate(5000)

    for _ in range(30):
        rate.observe(100, 1.0)

    assert rate.per_second == pytest.approx(100, rel=0.01)


def test_long_measurements_weigh_more_than_short_ones() -> None:
    rate = Rate(100)

    rate.observe(1000, 10.0)
    rate.observe(0.001, 1e-7)  # a lucky blink: 10,000 per second

    assert rate.per_second < 110


@pytest.mark.parametrize(("amount", "seconds"), [(0, 1.0), (1, 0.0), (-1, 1.0), (1, -1.0)])
def test_senseless_measurements_teach_nothing(amount: float, seconds: float) -> None:
    rate = Rate(100)

    rate.observe(amount, seconds)

    assert rate.per_second == 100


@pytest.mark.parametrize(("prior", "prior_s"), [(0, 1), (-1, 1), (1, 0)])
def test_a_prior_is_positive(prior: float, prior_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Rate(prior, prior_s)


def test_policy_learns_from_both_sides() -> None:
    policy = FetchPolicy()
    assert policy.decide(10, BLOCK_BYTES, 16).should_fetch

    policy.observe_compute(100_000, 1.0)

    assert not policy.decide(10, BLOCK_BYTES, 16).should_fetch


def test_one_slow_fetch_is_not_the_last() -> None:
    policy = FetchPolicy()
    policy.observe_fetch(BLOCK_BYTES, 30.0)
    assert not policy.decide(10, BLOCK_BYTES, 16).should_fetch

    num_refusals = 1
    while not policy.decide(10, BLOCK_BYTES, 16).should_fetch:
        num_refusals += 1
        assert num_refusals < 500

    assert num_refusals > 50
