"""Query and key norm, rotation and cache write: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots


def run(qkv: Tensor, norm: QkNorm | None, rotary: Rotary, kv: Tensor, slots: Slots) -> Tensor:
    """See the contract."""
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    heads = qkv.unflatten(-1, (-1, head_dim))  # [T, num_heads + 2 * num_kv_heads, head_dim]
    num_rotated = heads.shape[1] - num_kv_heads
    rotated, values = heads[:, :num_rotated].float(), heads[:, num_rotated:]
    if norm is not None:
        scale = torch.rsqrt(rotated.pow(2).mean(-1, keepdim=True) + norm.eps)
        rotated = rotated * scale * norm.weight.float()
    low, high = rotated.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    rotated = rotated * rotary.cos[:, None] + turned * rotary.sin[:, None]
    queries, keys = rotated.to(qkv.dtype).split((num_rotated - num_kv_heads, num_kv_heads), dim=1)
    kv[slots.blocks, 0, :, slots.offsets] = keys.to(kv.dtype)
    kv[slots.blocks, 1, :, slots.offsets] = values.to(kv.dtype)
    return queries
