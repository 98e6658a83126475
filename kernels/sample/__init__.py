"""Draws one token per row: the contract."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SampleRows:
    """How to draw from each of S rows. Tensors lie on the logits' device; a row's result depends on its row only."""

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
    logprobs_count: tuple[int | None, ...]
    """Per row: how many likeliest tokens to report beside the drawn one; None: none at all."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was drawn, on the host."""

    token_ids: tuple[int, ...]
    logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]] | None, ...]
    """Per row with log-probabilities: the drawn token's, then (id, log-probability) of the likeliest."""
