"""Draws one token per row: the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SampleRows:
    """How to draw from each of S rows. Tensors lie on the logits' device."""

    temperature: Tensor
    """[S] float32; 0 is greedy."""
    top_k: Tensor
    """[S] int64; 0 keeps all."""
    top_p: Tensor
    """[S] float32; 1 keeps all."""
    min_p: Tensor
    """[S] float32; 0 keeps all."""
    seed: Tensor
    """[S] int64: the 64 bits of the seed, reinterpreted as signed."""
    sample_index: Tensor
    """[S] int64."""
    output_position: Tensor
    """[S] int64: tokens behind the prompt before this one."""
    repetition_penalty: Tensor
    """[S] float32; 1 is off. Applies to tokens of prompt and output."""
    presence_penalty: Tensor
    """[S] float32; 0 is off. Applies to tokens of the output."""
    frequency_penalty: Tensor
    """[S] float32; 0 is off. Applies to tokens of the output."""
    prompt_tokens: tuple[Tensor | None, ...]
    """Per row [n] int64 prompt token ids, repeats allowed; None where no penalty needs them."""
    output_tokens: tuple[Tensor | None, ...]
    """Per row [n] int64 output token ids so far; None where no penalty needs them."""
    bias_tokens: tuple[Tensor | None, ...]
    """Per row [n] int64 ids, each at most once; None without bias."""
    bias_values: tuple[Tensor | None, ...]
    """Per row [n] float32 added to the logits of `bias_tokens`; -inf forbids."""
    allowed: tuple[Tensor | None, ...]
    """Per row [ceil(V / 32)] int32: token v may be drawn if bit v % 32 of word v // 32 is set. Bits
    beyond the vocabulary mean nothing. None: all may."""
    logprobs_count: tuple[int | None, ...]
    """Per row: how many likeliest tokens to report beside the drawn one; None: none at all."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was drawn, on the host."""

    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]] | None, ...]
    """Per row that wants them: the drawn token's, then (id, log-probability) of the likeliest."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """`SampleRows` in a fixed number of tensors on the logits' device, for S rows."""

    floats: Tensor
    """[6, S] float32: temperature, top-p, min-p, repetition, presence, frequency penalty."""
    counts: Tensor
    """[4, S] int64: top-k, seed, sample index, output position."""
    places: Tensor
    """[2, S] int32: each row's place in `masks` and in the tables of lists; -1 without."""
    masks: Tensor | None
    """[M, ceil(V / 32)] int32 in the contract's form."""
    listed: Tensor | None
    """[L, ceil(V / 32)] int32: tokens of prompt, output or bias that a row lists, one bit each."""
    occurrences: Tensor | None
    """[L, V] int32 of listed tokens: how often in the output, and 2**30 if in the prompt."""
    bias: Tensor | None
    """[L, V] float32 of listed tokens."""


class DeviceSample(Protocol):
    """Sampling that leaves its results on the device and waits for nothing there."""

    def pack(self, rows: SampleRows, vocab_size: int, /) -> PackedRows:
        """The rows as `draw` takes them."""

    def draw(self, logits: Tensor, rows: PackedRows, /) -> Tensor:
        """Token ids [S] int64 for `logits [S, V]` float32 with dense rows; S > 0.

        Fits into a CUDA graph: it reads nothing on the host.
        """

    def likeliest(
        self, logits: Tensor, sources: Tensor, token_ids: Tensor, num_top: int, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities under the logits as given, for the rows `sources` [R] int64.

        Of the token in `token_ids` [S], [R] float32; of the `num_top` likeliest, [R, num_top]
        float32 in falling order, and their ids, [R, num_top] int64.
        """


Sample: TypeAlias = Callable[[Tensor, SampleRows], Sampled]
"""`run(logits [S, V] float32, rows) -> Sampled`; the logits are not written.

In order: forbidden tokens become -inf; bias is added; repetition penalty divides positive and
multiplies negative logits of seen tokens; presence and frequency penalties are subtracted;
temperature divides; top-k keeps the k likeliest (equal ones by lower id), top-p the fewest of those
whose renormalised probabilities reach it, min-p those at least that share of the likeliest. Among
the kept, the largest sum of logit and Gumbel noise wins: an exact draw. Greedy rows take the
largest penalised logit, the lowest id of equals. A row has at least one token above -inf.

The noise of token v is word v % 4 of Philox 4x32-10 with the seed's low and high 32 bits as key and
(output_position, sample_index, v // 4, 0) as counter: a row's result depends on that row alone, bit
for bit. Log-probabilities are those of the logits as given, forbidden tokens included. Logits may
be -inf, not NaN; S may be 0.
"""
