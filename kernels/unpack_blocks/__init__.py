"""Scatters packed blocks into an arena: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from kernels.packed import Form

UnpackBlocks: TypeAlias = Callable[[Tensor, Tensor, Form, Tensor], None]
"""`run(packed, block_ids, form, arena)`.

`packed [n, block_bytes(arena, form)] uint8` is what `pack_blocks` wrote, of any worker. `arena
[num_blocks, layers, 2, heads, block_size, head_dim]` is the whole arena or any view of some layers
and some heads: what several workers sent of one block is merged by unpacking each into its slice of
heads. Only a head's `[block_size, head_dim]` must be contiguous. `block_ids [n] int64`, no two
equal. All slots of those blocks are written, nothing else. Plain blocks come back bit for bit,
others as stored number times scale in float32, rounded to the arena's type.
"""
