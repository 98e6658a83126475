"""Unpacking blocks: the definition."""

from __future__ import annotations

from torch import Tensor

from kernels.packed import Form, parts


def run(packed: Tensor, block_ids: Tensor, form: Form, arena: Tensor) -> None:
    """See the contract."""
    blocks = parts(packed, arena, form)
    values = blocks.values
    if blocks.scales is not None:
        values = values.float() * blocks.scales[..., None, None]
    arena[block_ids] = values.to(arena.dtype)
