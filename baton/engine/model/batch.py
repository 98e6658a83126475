"""The work of one engine step, as tensors on the engine's device."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Chunks of several sequences laid end to end: T tokens of B sequences, S rows to draw from."""

    token_ids: Tensor
    """[T] int64: tokens to compute."""
    positions: Tensor
    """[T] int64: each token's position in its sequence, from 0."""
    slot_blocks: Tensor
    """[T] int64: block that takes each token's key and value."""
    slot_offsets: Tensor
    """[T] int64: place in that block."""
    block_tables: Tensor
    """[B, max_blocks] int32: each sequence's blocks in order, padded with 0."""
    query_start: Tensor
    """[B + 1] int32: where each sequence's chunk starts in T."""
    context_lens: Tensor
    """[B] int32: tokens of each sequence with this chunk included."""
    sample_rows: Tensor
    """[S] int64: rows of T whose logits are wanted."""
    query_lens: tuple[int, ...]
    """Chunk lengths on the host, so that no kernel waits for the device to learn them."""
    host_context_lens: tuple[int, ...]
    """`context_lens` on the host."""
    plans: dict[Hashable, object] = field(default_factory=dict, compare=False, repr=False)
    """See `AttentionBatch.plans`; one that was made ahead for buffers that stay."""
