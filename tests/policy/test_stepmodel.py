"""What is learnt of step times: near the truth, whatever noise, bursts and outliers come."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.policy.stepmodel import PRIOR, StepLearner, StepModel

TRUTH = StepModel(
    prompt_step_us=5000,
    prompt_token_us=90,
    prompt_context_us=0.02,
    prompt_sequence_us=15,
    decode_step_us=6000,
    decode_sequence_us=12,
    decode_context_us=0.012,
)
Step = tuple[int, int, int]
PROBES: list[Step] = [(512, 0, 512), (64, 20, 20_000), (0, 1, 500), (0, 40, 40_000)]


def truth_us(step: Step) -> float:
    return TRUTH.prompt_us(*step) if step[0] else TRUTH.decode_us(*step[1:])


def some_steps(rng: random.Random, count: int) -> list[Step]:
    steps = []
    for _ in range(count):
        num_tokens = rng.choice([0, 0, rng.randrange(1, 512), 512])
        num_sequences = rng.randrange(0 if num_tokens else 1, 64)
        num_context = num_tokens + num_sequences * rng.randrange(100, 2000)
        steps.append((num_tokens, num_sequences, num_context))
    return steps


def taught(steps: list[Step], rng: random.Random, noise: float, outliers: float) -> StepLearner:
    learner = StepLearner()
    for step in steps:
        time_us = truth_us(step) * (1 + rng.uniform(-noise, noise))
        if rng.random() < outliers:
            time_us *= 20
        learner.observe(*step, time_us)
    learner.model()
    return learner


@pytest.mark.parametrize("step", PROBES)
def test_without_data_the_prior_holds(step: Step) -> None:
    learner = StepLearner()

    assert learner.model() == PRIOR
    assert learner.predicted_us(*step) > 0


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.03]))
def test_steps_are_predicted_in_spite_of_noise_and_outliers(
    seed: int, noise: float, outliers: float
) -> None:
    rng = random.Random(seed)

    learner = taught(some_steps(rng, 1500), rng, noise, outliers)

    for probe in PROBES:
        assert learner.predicted_us(*probe) == pytest.approx(truth_us(probe), rel=0.25)


def test_what_large_batches_cost_is_not_forgotten_while_small_ones_come() -> None:
    rng = random.Random(1)
    learner = taught(some_steps(rng, 1500), rng, 0.05, 0.0)

    for _ in range(20_000):
        learner.observe(0, 1, 300, truth_us((0, 1, 300)))
    learner.model()

    for probe in PROBES:
        assert learner.predicted_us(*probe) == pytest.approx(truth_us(probe), rel=0.2)


def test_a_machine_that_became_slower_is_noticed() -> None:
    rng = random.Random(2)
    learner = taught(some_steps(rng, 1500), rng, 0.05, 0.0)

    for step in some_steps(rng, 8000):
        learner.observe(*step, 2 * truth_us(step))
    learner.model()

    for probe in PROBES:
        assert learner.predicted_us(*probe) == pytest.approx(2 * truth_us(probe), rel=0.3)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 100_000),
            st.integers(0, 4096),
            st.integers(0, 10**8),
            st.floats(-1, 1e10),
        ),
        max_size=60,
    )
)
def test_no_coefficient_is_ever_negative_or_infinite(
    steps: list[tuple[int, int, int, float]],
) -> None:
    learner = StepLearner()
    for step in steps:
        learner.observe(*step)

    values = learner.model().to_values()

    assert all(0 <= value < 1e12 for value in values)
    assert StepModel.from_values(values).to_values() == values


@pytest.mark.parametrize("values", [None, [], [1.0] * 7, [1.0] * 7 + [-1], ["a"] * 8, [[]] * 8])
def test_another_form_is_a_value_error(values: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        StepModel.from_values(values)
