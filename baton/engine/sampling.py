"""Glue to `kernels.sample`: sequences in, drawn tokens out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.engine.drawn import DeviceDraw, Drawn, HostDraw
from baton.engine.exchange import Exchange
from baton.engine.masks import GuideMasks
from baton.engine.sequence import Sequence
from baton.request import SamplingParams
from kernels.sample import DeviceSample, Sample, SampleRows


class DrawState:
    """What a sequence's draws need that does not change from token to token, or only grows."""

    __slots__ = (
        "_bias",
        "_bias_below_min",
        "_min_tokens",
        "_output",
        "_prompt_len",
        "_up",
        "counts",
        "floats",
        "logprobs_count",
        "prompt",
    )

    def __init__(self, sequence: Sequence, vocab_size: int, exchange: Exchange) -> None:
        sampling = sequence.spec.sampling
        self._up = exchange.up
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
        self._output = _GrowingIds(exchange) if grows else None
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

    def is_plain(self, num_output: int) -> bool:
        """Whether the draw behind so many output tokens lists no tokens."""
        has_lists = self._output is not None or self.prompt is not None
        return not has_lists and self.bias(num_output)[0] is None

    def bias(self, num_output: int) -> tuple[Tensor | None, Tensor | None]:
        """Ids and values of the logit bias; stop ids are forbidden below `min_tokens`."""
        return self._bias_below_min if num_output < self._min_tokens else self._bias

    def _bias_pair(
        self, sampling: SamplingParams, forbidden: frozenset[int]
    ) -> tuple[Tensor | None, Tensor | None]:
        bias = {**sampling.logit_bias, **dict.fromkeys(sorted(forbidden), float("-inf"))}
        if not bias:
            return None, None
        values = self._up(np.array(list(bias.values()), dtype=np.float32))
        return self._ids(list(bias)), values

    def _ids(self, ids: list[int]) -> Tensor:
        return self._up(np.array(ids, dtype=np.int64))


class _GrowingIds:
    """A tensor of ids that grows in place, so that no step copies all of a long output."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._tensor = torch.empty(64, dtype=torch.int64, device=exchange.device)
        self._len = 0

    def extended(self, token_ids: array[int], skip: int) -> Tensor:
        """Catches up with `token_ids[skip:]`."""
        size = len(token_ids) - skip
        if size > len(self._tensor):
            grown = torch.empty(2 * size, dtype=torch.int64, device=self._tensor.device)
            grown[: self._len] = self._tensor[: self._len]
            self._tensor = grown
        if size > self._len:
            news = np.array(token_ids[skip + self._len :], dtype=np.int64)
            self._exchange.up_into(self._tensor[self._len : size], news)
            self._len = size
        return self._tensor[:size]


class StaticStep(Protocol):
    """A step's logits in buffers that stay, with the plain draw behind them."""

    def draw(self, floats: NDArray[np.float32], counts: NDArray[np.int64]) -> Tensor:
        """Token ids [S] of rows without masks and lists, as `PackedRows` has its numbers."""


class Sampler:
    """Draws the next token of each sequence; a row's result depends on its own sequence only."""

    def __init__(
        self,
        sample: Sample,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        exchange: Exchange,
        device_sample: DeviceSample | None = None,
    ) -> None:
        """With `device_sample` tokens stay on the device until they are read."""
        self._sample = sample
        self._device_sample = device_sample
        self._masks = GuideMasks(vocab_size, eos_token_ids)
        self._vocab_size = vocab_size
        self._exchange = exchange

    def draw(
        self, logits: Tensor, sequences: Rows[Sequence], static: StaticStep | None = None
    ) -> Drawn:
        """One token per row of `logits` [S, vocab]; void for a sequence whose guide fails.

        `static`: where these logits lie, if in buffers that stay.
        """
        rows = _Rows(sequences, [self._state(sequence) for sequence in sequences])
        if self._device_sample is None or not sequences:
            sampled = self._sample(logits, self._sample_rows(rows))
            return HostDraw(sequences, sampled, self._exchange.device)
        if static is not None and rows.are_plain:
            token_ids = static.draw(rows.floats(), rows.counts())
        else:
            packed = self._device_sample.pack(self._sample_rows(rows), self._vocab_size)
            token_ids = self._device_sample.draw(logits, packed)
        logprobs = self._logprobs(self._device_sample, logits, rows, token_ids)
        return DeviceDraw(sequences, token_ids, self._exchange.down, logprobs)

    def _logprobs(
        self, device_sample: DeviceSample, logits: Tensor, rows: _Rows, token_ids: Tensor
    ) -> tuple[dict[int, int], tuple[Tensor, Tensor, Tensor]] | None:
        counts = {
            row: state.logprobs_count
            for row, state in enumerate(rows.states)
            if state.logprobs_count is not None
        }
        if not counts:
            return None
        sources = self._exchange.up(np.array(list(counts), dtype=np.int64))
        found = device_sample.likeliest(logits, sources, token_ids, max(counts.values()))
        return counts, found

    def _sample_rows(self, rows: _Rows) -> SampleRows:
        floats, counts = self._exchange.up(rows.floats()), self._exchange.up(rows.counts())
        sequences, states = rows.sequences, rows.states
        biases = [
            state.bias(sequence.num_output)
            for sequence, state in zip(sequences, states, strict=True)
        ]
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
                None if mask is None else self._exchange.up(mask)
                for mask in self._masks.fill(sequences)
            ),
            logprobs_count=tuple(state.logprobs_count for state in states),
        )

    def _state(self, sequence: Sequence) -> DrawState:
        if sequence.draw_state is None:
            sequence.draw_state = DrawState(sequence, self._vocab_size, self._exchange)
        return sequence.draw_state


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of a draw."""

    sequences: Rows[Sequence]
    states: list[DrawState]

    @property
    def are_plain(self) -> bool:
        """Whether numbers say all: no row has a mask or lists tokens."""
        return all(
            sequence.spec.matcher is None and state.is_plain(sequence.num_output)
            for sequence, state in zip(self.sequences, self.states, strict=True)
        )

    def floats(self) -> NDArray[np.float32]:
        """[6, S], see `PackedRows`."""
        rows = np.array([state.floats for state in self.states], dtype=np.float32)
        return np.ascontiguousarray(rows.reshape(-1, 6).T)

    def counts(self) -> NDArray[np.int64]:
        """[4, S], see `PackedRows`."""
        pairs = zip(self.sequences, self.states, strict=True)
        rows = [(*state.counts, sequence.num_output) for sequence, state in pairs]
        return np.ascontiguousarray(np.array(rows, dtype=np.int64).reshape(-1, 4).T)


def _as_signed(seed: int) -> int:
    """The low 64 bits of a seed, reinterpreted as signed."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed
