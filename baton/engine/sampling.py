"""Glue to `kernels.sample`: sequences in, drawn tokens out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.engine.masks import GuideMasks
from baton.engine.sequence import Sequence
from baton.engine.types import NewToken
from baton.request import SamplingParams, TokenLogprobs
from kernels.sample import Sample, SampleRows


class DrawState:
    """What a sequence's draws need that does not change from token to token, or only grows."""

    __slots__ = (
        "_bias",
        "_bias_below_min",
        "_device",
        "_min_tokens",
        "_output",
        "_prompt_len",
        "counts",
        "floats",
        "logprobs_count",
        "prompt",
    )

    def __init__(self, sequence: Sequence, vocab_size: int, device: torch.device) -> None:
        sampling = sequence.spec.sampling
        self._device = device
        self._prompt_len = sequence.spec.prompt_len
        self._min_tokens = sampling.min_tokens
        # temperature, top-p, min-p, repetition, presence, frequency
        self.floats = (
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        )
        self.counts = (sampling.top_k, _as_signed(sampling.seed), sequence.spec.sample_index)
        count = sampling.logprobs_count
        self.logprobs_count = None if count is None else min(count, vocab_size)
        repeats = sampling.repetition_penalty != 1.0
        self.prompt = (
            self._ids(sequence.token_ids[: self._prompt_len].tolist()) if repeats else None
        )
        grows = repeats or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._output = _GrowingIds(device) if grows else None
        # A guided sequence's mask sees to `min_tokens`: it knows what else there is to draw.
        is_bound = sampling.min_tokens > 0 and sequence.spec.matcher is None
        forbidden = sequence.stop_ids if is_bound else frozenset[int]()
        self._bias = self._bias_pair(sampling, frozenset())
        self._bias_below_min = self._bias_pair(sampling, forbidden)

    def output(self, sequence: Sequence) -> Tensor | None:
        """Ids behind the prompt, if a penalty needs them."""
        if self._output is None:
            return None
        return self._output.extended(sequence.token_ids, self._prompt_len)

    def bias(self, num_output: int) -> tuple[Tensor | None, Tensor | None]:
        """Ids and values of the logit bias; stop ids are forbidden below `min_tokens`."""
        return self._bias_below_min if num_output < self._min_tokens else self._bias

    def _bias_pair(
        self, sampling: SamplingParams, forbidden: frozenset[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        bias = {**sampling.logit_bias, **dict.fromkeys(sorted(forbidden), float("-inf"))}
        if not bias:
            return None, None
        values = torch.tensor(list(bias.values()), dtype=torch.float32, device=self._device)
        return self._ids(list(bias)), values

    def _ids(self, ids: list[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self._device)


class _GrowingIds:
    """A tensor of ids that grows in place, so that no step copies all of a long output."""

    def __init__(self, device: torch.device) -> None:
        self._tensor = torch.empty(64, dtype=torch.int64, device=device)
        self._len = 0

    def extended(self, token_ids: array[int], skip: int) -> Tensor:
        """Catches up with `token_ids[skip:]`."""
        size = len(token_ids) - skip
        if size > len(self._tensor):
            grown = torch.empty(2 * size, dtype=torch.int64, device=self._tensor.device)
            grown[: self._len] = self._tensor[: self._len]
            self._tensor = grown
        if size > self._len:
            self._tensor[self._len : size] = torch.tensor(token_ids[skip + self._len :].tolist())
            self._len = size
        return self._tensor[:size]


class Sampler:
    """Draws the next token of each sequence; a row's result depends on its own sequence only."""

    def __init__(
        self, sample: Sample, vocab_size: int, eos_token_ids: frozenset[int], device: torch.device
    ) -> None:
        self._sample = sample
        self._masks = GuideMasks(vocab_size, eos_token_ids)
        self._vocab_size = vocab_size
        self._device = device

    def draw(self, logits: Tensor, sequences: Rows[Sequence]) -> list[NewToken]:
        """One token per row of `logits` [S, vocab]; void for a sequence whose guide fails."""
        sampled = self._sample(logits, self._rows(sequences))
        drawn = zip(sequences, sampled.token_ids, sampled.logprobs, strict=True)
        return [_new_token(sequence, token_id, found) for sequence, token_id, found in drawn]

    def _rows(self, sequences: Rows[Sequence]) -> SampleRows:
        states = [self._state(sequence) for sequence in sequences]
        floats = self._to_device(np.array([state.floats for state in states], dtype=np.float32).T)
        pairs = zip(sequences, states, strict=True)
        counts = self._to_device(
            np.array([(*s.counts, sequence.num_output) for sequence, s in pairs], dtype=np.int64).T
        )
        pairs = zip(sequences, states, strict=True)
        biases = [state.bias(sequence.num_output) for sequence, state in pairs]
        return SampleRows(
            temperature=floats[0],
            top_p=floats[1],
            min_p=floats[2],
            repetition_penalty=floats[3],
            presence_penalty=floats[4],
            frequency_penalty=floats[5],
            top_k=counts[0],
            seed=counts[1],
            sample_index=counts[2],
            output_position=counts[3],
            prompt_tokens=tuple(state.prompt for state in states),
            output_tokens=tuple(
                state.output(sequence) for sequence, state in zip(sequences, states, strict=True)
            ),
            bias_tokens=tuple(ids for ids, _ in biases),
            bias_values=tuple(values for _, values in biases),
            allowed=tuple(
                None if mask is None else self._to_device(mask)
                for mask in self._masks.fill(sequences)
            ),
            logprobs_count=tuple(state.logprobs_count for state in states),
        )

    def _state(self, sequence: Sequence) -> DrawState:
        if sequence.draw_state is None:
            sequence.draw_state = DrawState(sequence, self._vocab_size, self._device)
        return sequence.draw_state

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _as_signed(seed: int) -> int:
    """The low 64 bits of a seed, reinterpreted as signed."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def _new_token(
    sequence: Sequence,
    token_id: int,
    found: tuple[float, tuple[tuple[int, float], ...]] | None,
) -> NewToken:
    if found is None:
        return NewToken(sequence.sequence_id, token_id)
    return NewToken(sequence.sequence_id, token_id, TokenLogprobs(token_id, *found))
