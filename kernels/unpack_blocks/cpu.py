"""Unpacking blocks on a CPU: one block at a time, so that what lies between stays in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packed import Form, parts


def run(packed: Tensor, block_ids: Tensor, form: Form, arena: Tensor) -> None:
    """See the contract."""
    blocks = parts(packed, arena, form)
    work = torch.empty(arena.shape[1:] if blocks.scales is not None else 0, dtype=torch.float32)
    for row, block in enumerate(block_ids.tolist()):
        if blocks.scales is None:
            arena[block].copy_(blocks.values[row])
            continue
        work.copy_(blocks.values[row]).mul_(blocks.scales[row, ..., None, None])
        arena[block].copy_(work)
