"""Gathers blocks of an arena into runs of bytes: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from kernels.packed import Form

PackBlocks: TypeAlias = Callable[[Tensor, Tensor, Tensor, Form, Tensor], None]
"""`run(arena, block_ids, filled, form, out)`.

`arena [num_blocks, layers, 2, heads, block_size, head_dim]` is the whole arena or any view of
some layers and some heads: a worker of another tensor parallelism is sent its slice of the heads.
Only a head's `[block_size, head_dim]` must be contiguous. `block_ids [n] int64` may repeat; `filled
[n] int32` says how many slots of each block count: those behind pack as zeros, be they NaN.
`out [n, block_bytes(arena, form)] uint8` is written whole, byte for byte the same by every
implementation; the form is described in `kernels/packed.py`. A tile whose counting slots hold a NaN
or an infinity gets NaN as its scale and zeros as values, so it comes back as NaN throughout.
"""
