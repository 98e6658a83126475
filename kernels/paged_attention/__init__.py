"""Causal attention of chunks of several sequences over their blocks: the contract."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which tokens attend to which blocks: the same for all layers of a step."""

    block_tables: Tensor
    """[B, max_blocks] int32: a sequence's blocks in order; ids behind its context are not read."""
    query_start: Tensor
    """[B + 1] int32: where each sequence's chunk starts in T."""
    context_lens: Tensor
    """[B] int32: tokens of each sequence, its chunk (the last of them) included."""
    query_lens: tuple[int, ...]
    """Chunk lengths on the host; they add up to T."""
    host_context_lens: tuple[int, ...]
    """`context_lens` on the host."""
    piece_len: int | None = None
    """None: an implementation adds up in the order that suits the batch. Else a token's result is
    the same, bit for bit, whatever else is in the batch and however its prompt was cut into chunks:
    contexts are taken in pieces of this many keys, a multiple of 64, and merged in order."""
    plans: dict[Hashable, object] = field(default_factory=dict, compare=False, repr=False)
    """What an implementation worked out for the first layer and keeps for the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """How a layer departs from plain causal attention. Kernels are compiled for each kind."""

    window: int | None = None
    """A token sees itself and the `window - 1` tokens before it; at least 1. None: all of them."""
    soft_cap: float | None = None
    """Scaled scores s become `soft_cap * tanh(s / soft_cap)`; positive. None: they stay."""
    sinks: Tensor | None = None
    """[num_heads] float32: a score per query head that takes part in the softmax and has no value.
    Not scaled, not capped. None: there is none."""


PLAIN = Variant()
"""Causal attention and nothing else."""


class PagedAttention(Protocol):
    """`run(q [T, num_heads, head_dim], kv, batch, scale, variant) -> [T, num_heads, head_dim]`.

    `kv` is one layer's view of the arena `[num_blocks, 2, num_kv_heads, block_size, head_dim]`,
    keys at 0 and values at 1 of the second dimension. It and `q` are strided as they like, but for
    heads, which are contiguous. A chunk's keys and values are in it already. Token i of a chunk of
    n in a context of m attends to the first m - n + i + 1 tokens, or as `variant` says. Query head
    h reads key head `h // (num_heads / num_kv_heads)`. Chunks of length 0 give no rows; chunks of
    any lengths mix. A new contiguous tensor of q's dtype. The result depends neither on which
    blocks hold a sequence, nor on what lies in slots behind its context, be it NaN, nor on the
    padding of the tables.
    """

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        batch: AttentionBatch,
        scale: float,
        variant: Variant = PLAIN,
        /,
    ) -> Tensor: ...


class StaticAttentionPlan(Protocol):
    """An implementation's plan for steps of single tokens, in tensors that stay where they are."""

    @property
    def plans(self) -> dict[Hashable, object]:
        """For `AttentionBatch.plans`; always the same."""

    def update(self, context_lens: tuple[int, ...]) -> None:
        """Plans a step. Ordered with the device's current stream."""
