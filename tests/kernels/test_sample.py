"""Sampling: fair draws, rows that do not see each other, and each filter by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels.case import normal
from kernels.sample import Sampled, SampleRows
from kernels.sample.cases import Row, make_rows

NUM_DRAWS = 600


def _on_gpu(rows: SampleRows) -> SampleRows:
    def moved(value: Any) -> Any:
        return value.cuda() if isinstance(value, Tensor) else value

    fields = {field: getattr(rows, field) for field in SampleRows.__dataclass_fields__}
    return SampleRows(
        **{
            name: tuple(map(moved, value)) if isinstance(value, tuple) else moved(value)
            for name, value in fields.items()
        }
    )


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.gpu) if name == "cuda" else name
        for name in kernels.IMPLEMENTATIONS["sample"]
    ]
)
def run(request: pytest.FixtureRequest) -> Any:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    run = import_module(f"kernels.sample.{request.param}").run
    if request.param != "cuda":
        return run
    return lambda logits, rows: run(logits.cuda(), _on_gpu(rows))


@pytest.fixture(params=[1, 2])
def _num_threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def draw(run: Any, logits: list[float] | Tensor, *rows: Row) -> Sampled:
    values = torch.as_tensor(logits, dtype=torch.float32)
    return run(values.expand(len(rows), -1), make_rows(rows, "cpu", values.shape[-1]))


@pytest.mark.usefixtures("_num_threads")
@pytest.mark.parametrize("size", [1, 7, 31, 64, 2047, 2048, 2049, 4097, 20_001])
def test_greedy_takes_the_first_of_equals_wherever_they_stand(run: Any, size: int) -> None:
    places = sorted({0, size // 3, min(2048, size - 1), size - 1})
    logits = normal((len(places) + 1, size), seed=size)
    logits[-1] = -torch.inf  # all but the last
    logits[-1, -1] = -1e30
    for row, place in enumerate(places):
        logits[row, place:] = logits[row, place:].clamp(max=5.0)
        logits[row, [place, size - 1]] = 5.0

    rows = make_rows((Row(temperature=0.0),) * len(logits), "cpu", size)

    assert run(logits, rows).token_ids == (*places, size - 1)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_rows_of_a_broken_model_give_some_token_and_leave_the_others_alone(
    run: Any, bad: float
) -> None:
    logits = torch.tensor([[bad] * 70, [0.0] * 69 + [1.0]])
    rows = make_rows((Row(temperature=0.0),) * 2, "cpu", 70)

    broken, sound = run(logits, rows).token_ids

    assert 0 <= broken < 70
    assert sound == 69


MIXED = (
    Row(temperature=0.0, logprobs_count=3),
    Row(seed=1),
    Row(seed=2, temperature=0.7, logprobs_count=0),
    Row(seed=3, top_k=3),
    Row(seed=3, top_k=40, top_p=0.9),
    Row(seed=4, top_p=0.9, logprobs_count=20),
    Row(seed=5, top_p=0.999),
    Row(seed=6, min_p=0.1),
    Row(seed=7, top_k=1500, min_p=0.01, top_p=0.5),
    Row(seed=-8, bias=((5, 9.0), (7, -torch.inf))),
    Row(seed=9, repetition_penalty=1.3, prompt_tokens=(1, 2, 3), output_tokens=(5, 5)),
    Row(seed=10, temperature=0.0, presence_penalty=1.0, output_tokens=(4, 8)),
    Row(seed=11, frequency_penalty=1.0, output_tokens=(4, 8), top_p=0.7),
)


@pytest.mark.usefixtures("_num_threads")
@pytest.mark.parametrize("vocab_size", [9, 1003, 5000])
def test_a_row_alone_gets_bit_for_bit_what_it_gets_in_a_batch(run: Any, vocab_size: int) -> None:
    logits = normal((len(MIXED), vocab_size), seed=3) * 2

    together = run(logits, make_rows(MIXED, "cpu", logits.shape[1]))

    for index, row in enumerate(MIXED):
        alone = run(logits[index : index + 1], make_rows((row,), "cpu", logits.shape[1]))
        assert alone.token_ids[0] == together.token_ids[index]
        assert alone.logprobs[0] == together.logprobs[index]


def test_a_draw_is_told_by_seed_position_and_sample(run: Any) -> None:
    logits = torch.zeros(50_000)
    row = Row(seed=5, output_position=3, sample_index=1)
    others = (
        replace(row, seed=6),
        replace(row, seed=5 + 2**32),
        replace(row, output_position=4),
        replace(row, sample_index=2),
    )

    first, again, *different = draw(run, logits, row, row, *others).token_ids

    assert first == again
    assert len({first, *different}) == 1 + len(others)


def _assert_fair(token_ids: tuple[int, ...], shares: list[float]) -> None:
    """Chi-squared within six standard deviations; tokens without a share never drawn."""
    counts = [token_ids.count(token) for token in range(len(shares))]
    statistic, freedom = 0.0, -1
    for count, share in zip(counts, shares, strict=True):
        if share == 0:
            assert count == 0
            continue
        expected = share * len(token_ids)
        statistic += (count - expected) ** 2 / expected
        freedom += 1
    assert statistic <= freedom + 6 * math.sqrt(2 * freedom)


def _shares(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(logit / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


LOGITS = [0.0, 1.0, -1.0, 2.0, 0.5, 1.5, -2.0, 0.3, 1.0]


@pytest.mark.parametrize(
    "vary",
    [
        lambda i: Row(seed=i),
        lambda i: Row(seed=i << 32),
        lambda i: Row(seed=-i),
        lambda i: Row(output_position=i),
        lambda i: Row(sample_index=i),
    ],
    ids=["seed", "high bits of the seed", "negative seed", "position", "sample"],
)
def test_draws_follow_the_softmax(run: Any, vary: Any) -> None:
    sampled = draw(run, LOGITS, *(vary(index) for index in range(NUM_DRAWS)))

    _assert_fair(sampled.token_ids, _shares(LOGITS))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_temperature_sharpens_and_flattens(run: Any, temperature: float) -> None:
    rows = [Row(seed=index, temperature=temperature) for index in range(NUM_DRAWS)]

    sampled = draw(run, LOGITS, *rows)

    _assert_fair(sampled.token_ids, _shares(LOGITS, temperature))


# Shares of 0.4, 0.3, 0.2 and 0.1 in another order than the ids.
TENTHS = [math.log(0.2), math.log(0.4), math.log(0.1), math.log(0.3)]


@pytest.mark.parametrize(
    ("filters", "shares"),
    [
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 4}, [0.2, 0.4, 0.1, 0.3]),
        ({"top_p": 0.35}, [0, 1, 0, 0]),
        ({"top_p": 0.45}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.75}, [2 / 9, 4 / 9, 0, 3 / 9]),
        ({"min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"min_p": 0.2}, [0.2, 0.4, 0.1, 0.3]),
        # Among three kept, 0.4 of 0.9 and 0.3 of 0.9 reach 0.7: top-p counts renormalised shares.
        ({"top_k": 3, "top_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 3, "top_p": 0.9, "min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_filters_keep_what_they_say(run: Any, filters: dict[str, Any], shares: list[float]) -> None:
    rows = [Row(seed=index, **filters) for index in range(NUM_DRAWS)]

    sampled = draw(run, TENTHS, *rows)

    _assert_fair(sampled.token_ids, shares)


def test_filters_see_logits_after_the_temperature(run: Any) -> None:
    # At temperature 0.5 the shares are 16, 9, 4 and 1 of 30: the first alone reaches 0.53.
    rows = [Row(seed=index, temperature=0.5, top_p=0.53) for index in range(100)]

    assert set(draw(run, TENTHS, *rows).token_ids) == {1}


def test_equal_logits_are_kept_by_lower_id(run: Any) -> None:
    rows = [Row(seed=index, top_k=2) for index in range(200)]

    assert set(draw(run, [0.0, 1.0, 1.0, 1.0], *rows).token_ids) == {1, 2}
    assert draw(run, [0.0, 1.0, 1.0], Row(temperature=0.0)).token_ids == (1,)


def test_penalties_by_hand(run: Any) -> None:
    greedy = Row(temperature=0.0)
    rows = (
        greedy,
        # 4 / 1.5 < 3: a positive logit is divided, be the token in the prompt or the output.
        replace(greedy, repetition_penalty=1.5, prompt_tokens=(0, 0)),
        replace(greedy, repetition_penalty=1.5, output_tokens=(0,)),
        # Presence counts once: 4 - 0.9 > 3. Frequency counts each: 4 - 2 * 0.9 < 3.
        replace(greedy, presence_penalty=0.9, output_tokens=(0, 0)),
        replace(greedy, frequency_penalty=0.9, output_tokens=(0, 0)),
        # The prompt counts for neither.
        replace(greedy, presence_penalty=2.0, frequency_penalty=2.0, prompt_tokens=(0,)),
        replace(greedy, bias=((2, 10.0),)),
        # Bias comes first: (4 + 4) / 2 is not less than 3.
        replace(greedy, bias=((0, 4.0),), repetition_penalty=2.0, output_tokens=(0,)),
    )

    assert draw(run, [4.0, 3.0, -1.0], *rows).token_ids == (0, 1, 1, 0, 1, 0, 2, 0)


def test_a_negative_logit_is_multiplied_by_the_repetition_penalty(run: Any) -> None:
    row = Row(temperature=0.0, repetition_penalty=1.5, output_tokens=(0,))

    assert draw(run, [-2.0, -2.5], row).token_ids == (1,)


def test_a_forbidden_token_is_never_drawn(run: Any) -> None:
    rows = [
        Row(seed=index, temperature=temperature, bias=((3, -torch.inf),), **filters)
        for index in range(100)
        for temperature in (0.0, 2.0)
        for filters in ({}, {"top_k": 9}, {"top_p": 0.999999})
    ]

    assert 3 not in draw(run, LOGITS, *rows).token_ids


def test_logprobs_are_those_before_bias_temperature_and_penalties(run: Any) -> None:
    row = Row(
        temperature=0.5,
        top_k=1,
        bias=((2, 50.0),),
        presence_penalty=1.0,
        output_tokens=(1,),
        logprobs_count=2,
    )

    sampled = draw(run, TENTHS, row)

    assert sampled.token_ids == (2,)
    assert sampled.logprobs[0] is not None
    logprob, top = sampled.logprobs[0]
    assert logprob == pytest.approx(math.log(0.1), abs=1e-5)
    assert [token for token, _ in top] == [1, 3]
    assert [value for _, value in top] == pytest.approx([math.log(0.4), math.log(0.3)], abs=1e-5)


def test_rows_without_logprobs_report_none(run: Any) -> None:
    sampled = draw(run, TENTHS, Row(), Row(logprobs_count=0), Row())

    assert sampled.logprobs[0] is None
    assert sampled.logprobs[1] is not None
    assert sampled.logprobs[1][1] == ()
    assert sampled.logprobs[2] is None


def test_results_are_plain_numbers(run: Any) -> None:
    sampled = draw(run, TENTHS, Row(logprobs_count=1))

    assert sampled.logprobs[0] is not None
    assert type(sampled.token_ids[0]) is int
    assert type(sampled.logprobs[0][0]) is float
    assert type(sampled.logprobs[0][1][0][0]) is int
