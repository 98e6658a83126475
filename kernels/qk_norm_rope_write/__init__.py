"""Prepares queries and keys and stores keys and values in their blocks: the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True)
class QkNorm:
    """RMS norm over each head of queries and keys."""

    weight: Tensor
    """[num_heads + num_kv_heads, head_dim]: each query head's weight, then each key head's."""
    eps: float


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotation of each of T tokens, any scaling of the model included.

    `rotary_dim` is even and at most head_dim: of each head the first `rotary_dim` dimensions turn,
    those behind them (if any) stay. Llama 3's and YaRN's scalings are in the angles, YaRN's
    attention factor is a factor on both tensors.
    """

    cos: Tensor
    """[T, rotary_dim] float32; both halves alike."""
    sin: Tensor
    """[T, rotary_dim] float32; both halves alike."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Where each of T tokens lies in an arena. No two tokens share a slot."""

    blocks: Tensor
    """[T] int64."""
    offsets: Tensor
    """[T] int64: place in the block."""


QkNormRopeWrite: TypeAlias = Callable[[Tensor, QkNorm | None, Rotary, Tensor, Slots], Tensor]
"""`run(qkv, norm, rotary, kv, slots) -> q [T, num_heads, head_dim]`.

`qkv [T, (num_heads + 2 * num_kv_heads) * head_dim]` holds each token's query heads, key heads,
value heads; its rows may be strided, and it stays. Query and key heads are normalised (unless
`norm` is None), then rotated: with halves a and b of a head's first `rotary_dim` dimensions, `(a *
cos - b * sin, b * cos + a * sin)`. Rotated keys and untouched values are written into `kv`, one
layer's view of the arena `[num_blocks, 2, num_kv_heads, block_size, head_dim]`, strided as it likes
but for head_dim, which is dense; offsets into it may pass 2**31. No other slot is touched.
`num_heads` follows from the shapes. Computed in float32, each result rounded once; T may be 0.
"""
