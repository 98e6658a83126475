"""The glue to the sample kernel: what each row carries."""

from __future__ import annotations

from array import array

import torch
from fake_model import greedy, spec_of

from baton.engine.exchange import Exchange
from baton.engine.sampling import Sampler
from baton.engine.sequence import Sequence
from baton.request import SamplingParams, TokenLogprobs
from kernels.sample import Sampled, SampleRows


class Recorder:
    """A sample op that records its rows and draws the row's number."""

    def __init__(self) -> None:
        self.rows: SampleRows | None = None

    def __call__(self, logits: torch.Tensor, rows: SampleRows) -> Sampled:
        self.rows = rows
        logprobs = tuple(
            None if n is None else (-1.5, ((3, -0.5),) * n) for n in rows.logprobs_count
        )
        return Sampled(tuple(range(logits.shape[0])), logprobs)


def sequence(sampling: SamplingParams, output: tuple[int, ...] = (), **rest: object) -> Sequence:
    spec = spec_of("s", (5, 6, 5), sampling, **rest)
    return Sequence(spec, (0, 0), b"", frozenset({1, 9}), 0, array("I", [*spec.token_ids, *output]))


def rows_of(*sequences: Sequence, sampler: Sampler | None = None) -> SampleRows:
    recorder = Recorder()
    sampler = sampler or Sampler(recorder, 64, frozenset(), Exchange(torch.device("cpu")))
    sampler._sample = recorder
    sampler.draw(torch.zeros(len(sequences), 64), sequences)
    assert recorder.rows is not None
    return recorder.rows


def test_numbers_reach_their_rows() -> None:
    sampling = SamplingParams(0.5, 0.75, 7, 0.25, 1.5, 0.125, 2.0, seed=(1 << 64) - 3)

    rows = rows_of(sequence(greedy()), sequence(sampling, (4, 4), sample_index=2))

    assert rows.temperature.tolist() == [0.0, 0.5]
    assert rows.top_p.tolist() == [1.0, 0.75]
    assert rows.top_k.tolist() == [0, 7]
    assert rows.min_p.tolist() == [0.0, 0.25]
    assert rows.repetition_penalty.tolist() == [1.0, 1.5]
    assert rows.presence_penalty.tolist() == [0.0, 0.125]
    assert rows.frequency_penalty.tolist() == [0.0, 2.0]
    assert rows.seed.tolist() == [0, -3]
    assert rows.sample_index.tolist() == [0, 2]
    assert rows.output_position.tolist() == [0, 2]
    assert rows.temperature.dtype is torch.float32
    assert rows.seed.dtype is torch.int64


def test_rows_without_penalties_carry_no_tokens() -> None:
    rows = rows_of(sequence(greedy(), (4,)), sequence(greedy(presence_penalty=1.0), (4,)))

    assert rows.prompt_tokens == (None, None)
    assert rows.output_tokens[0] is None
    assert rows.output_tokens[1] is not None
    assert rows.bias_tokens == (None, None)


def test_output_tokens_grow_with_the_sequence() -> None:
    sampler = Sampler(Recorder(), 64, frozenset(), Exchange(torch.device("cpu")))
    made = sequence(greedy(repetition_penalty=2.0))
    for length in range(150):
        rows = rows_of(made, sampler=sampler)

        assert rows.prompt_tokens[0].tolist() == [5, 6, 5]
        assert rows.output_tokens[0].tolist() == [token % 64 for token in range(length)]
        made.token_ids.append(length % 64)


def test_stop_ids_are_forbidden_until_min_tokens_are_there() -> None:
    sampler = Sampler(Recorder(), 64, frozenset(), Exchange(torch.device("cpu")))
    made = sequence(greedy(min_tokens=2, logit_bias={9: 5.0, 3: -1.0}))

    first = rows_of(made, sampler=sampler)
    made.token_ids.extend([7, 7])
    third = rows_of(made, sampler=sampler)

    inf = float("inf")
    found = zip(first.bias_tokens[0].tolist(), first.bias_values[0].tolist(), strict=True)
    assert dict(found) == {9: -inf, 3: -1.0, 1: -inf}
    found = zip(third.bias_tokens[0].tolist(), third.bias_values[0].tolist(), strict=True)
    assert dict(found) == {9: 5.0, 3: -1.0}


def test_log_probabilities_come_with_their_token() -> None:
    sampler = Sampler(Recorder(), 64, frozenset(), Exchange(torch.device("cpu")))
    rows = [sequence(greedy()), sequence(greedy(logprobs_count=2))]

    plain, detailed = sampler.draw(torch.zeros(2, 64), rows).read()

    assert plain.logprobs is None
    assert detailed.logprobs == TokenLogprobs(1, -1.5, ((3, -0.5), (3, -0.5)))


def test_no_more_log_probabilities_are_asked_for_than_there_are_tokens() -> None:
    assert rows_of(sequence(greedy(logprobs_count=99))).logprobs_count == (64,)
