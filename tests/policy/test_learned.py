"""What a worker publishes of what it has learnt."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.learned import MAX_ROADS, NOTHING_LEARNED, Learned, Road, WorkerLearner


def test_roads_are_learnt_by_pair() -> None:
    learner = WorkerLearner()
    for _ in range(100):
        learner.observe_handoff("near", 500.0, 1_000_000, 100.0)
        learner.observe_handoff("far", 5000.0, 1_000_000, 10_000.0)

    learned = learner.learned()

    assert learned.road("near").us(10_000_000) == pytest.approx(1500, rel=0.1)
    assert learned.road("far").us(10_000_000) == pytest.approx(105_000, rel=0.1)
    assert 1500 < learned.road("a stranger").us(10_000_000) < 105_000


def test_one_hand_off_that_hung_hardly_changes_a_road() -> None:
    learner = WorkerLearner()
    for _ in range(100):
        learner.observe_handoff("near", 500.0, 1_000_000, 1000.0)

    learner.observe_handoff("near", 60e6, 1_000_000, 1000.0)

    assert learner.learned().road("near").setup_us < 700


def test_only_the_roads_used_last_are_published() -> None:
    learner = WorkerLearner()
    for number in range(MAX_ROADS + 5):
        learner.observe_handoff(f"p{number}", 500.0, 1000, 10.0)

    roads = learner.learned().roads

    assert len(roads) == MAX_ROADS
    assert "p4" not in roads
    assert "p5" in roads


def test_the_measured_time_between_tokens_counts_steps_with_prompts() -> None:
    learner = WorkerLearner()
    for _ in range(300):
        learner.observe_step(0, 4, 1000, 10_000)
        learner.observe_step(512, 4, 1500, 50_000)

    assert learner.learned().itl_us == pytest.approx(30_000, rel=0.05)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["p0", "p1"]),
            st.floats(0, 1e9),
            st.integers(0, 1 << 40),
            st.floats(0, 1e9),
        ),
        max_size=20,
    ),
    st.integers(1, 1 << 20),
)
def test_it_comes_back_as_it_was_written(
    handoffs: list[tuple[str, float, int, float]], size: int
) -> None:
    learner = WorkerLearner(max_batch_tokens=size)
    learner.observe_step(100, 3, 200, 1234)
    learner.fetch = Road(20.0, 3.0) if size % 2 else None
    for handoff in handoffs:
        learner.observe_handoff(*handoff)

    values = json.loads(json.dumps(learner.learned().to_values()))

    assert Learned.from_values(values).to_values() == values


def test_what_is_missing_is_the_prior() -> None:
    assert Learned.from_values({}) == NOTHING_LEARNED
    assert Learned.from_values({"of": "a newer version"}) == NOTHING_LEARNED


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 3},
        {"itl_us": -1},
        {"itl_us": "x"},
        {"max_batch_tokens": 0},
        {"fetch": [1]},
        {"common": [1, 0]},
        {"roads": [1]},
        {"roads": {"p": [1, -1]}},
    ],
)
def test_another_form_is_a_value_error(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Learned.from_values(values)


def test_a_road_is_set_up_and_bytes() -> None:
    assert Road(100.0, 50.0).us(5000) == 200.0
