"""Attention over compressed keys and values, absorbed (MLA of DeepSeek): the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from kernels.paged_attention import AttentionBatch

MlaDecode: TypeAlias = Callable[[Tensor, Tensor, AttentionBatch, float, int], Tensor]
"""`run(q [T, num_heads, latent_dim + rotated_dim], kv, batch, scale, latent_dim)`.

Returns `[T, num_heads, latent_dim]`, still compressed. `kv [num_blocks, block_size, latent_dim +
rotated_dim]` is one layer's view of an arena of one vector a token, strided as it likes but for
the vector: its first `latent_dim` numbers are key and value of all heads, the others are rotated
and belong to the key alone. Queries have been multiplied by the key's expansion, the result is yet
to be by the value's. Otherwise as `paged_attention` with one key head and chunks of a token or a
few: causal, lengths mix, slots behind the context may be NaN. `latent_dim` is a power of two from
16 on.
"""
