"""Query and key norm, rotation and cache write: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots


def run(qkv: Tensor, norm: QkNorm | None, rotary: Rotary, kv: Tensor, slots: Slots) -> Tensor:
    """See the contract."""
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    num_all = qkv.shape[1] // head_dim  # num_heads + 2 * num_kv_heads
    num_rotated = num_all - num_kv_heads
    heads = qkv.view(qkv.shape[0], num_all, head_dim)
    rotated, values = heads[:, :num_rotated].float(), heads[:, num_rotated:]
    if norm is not None:
        scale = torch.rsqrt(rotated.pow(2).mean(-1, keepdim=True) + norm.eps)
        rotated = rotated * scale * norm.weight.float()
    turning, staying = rotated.tensor_split((rotary.cos.shape[1],), dim=-1)
    low, high = turning.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    turning = turning * rotary.cos[:, None] + turned * rotary.sin[:, None]
    rotated = torch.cat((turning, staying), dim=-1).to(qkv.dtype)
    queries, keys = rotated[:, :-num_kv_heads], rotated[:, -num_kv_heads:]
    kv[slots.blocks, 0, :, slots.offsets] = keys.to(kv.dtype)
    kv[slots.blocks, 1, :, slots.offsets] = values.to(kv.dtype)
    return queries
